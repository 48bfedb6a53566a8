//! The functions of NVIDIA's driver (libcuda) and of cuBLAS that the GPU engine calls.
//!
//! Both libraries are loaded when the first model asks for a GPU. So nothing of CUDA is needed to build the crate, and
//! the same program runs on machines with and without a GPU. These few declarations replace the crate `cudarc`, which
//! takes ten seconds to compile, on every reader's machine.

use super::device::NoGpu;
use libloading::Library;
use std::ffi::{c_char, c_void};

/// A handle that belongs to the driver or to cuBLAS.
pub type Handle = *mut c_void;

/// The result of every call: 0 means success.
pub type Code = i32;

/// Declares a struct of functions, and how to load them from a library.
macro_rules! functions {
    ($name:ident { $($function:ident = $symbol:literal: fn($($argument:ty),*);)* }) => {
        pub struct $name {
            $(pub $function: unsafe extern "C" fn($($argument),*) -> Code,)*
        }

        impl $name {
            /// Loads all functions. The library stays loaded until the process ends.
            fn load(library: Library) -> Result<$name, String> {
                let library: &'static Library = Box::leak(Box::new(library));
                Ok($name {
                    // SAFETY: the types are those of NVIDIA's headers.
                    $($function: *unsafe { library.get($symbol) }.map_err(|e| e.to_string())?,)*
                })
            }
        }
    };
}

functions! { Driver {
    init = b"cuInit": fn(u32);
    version = b"cuDriverGetVersion": fn(*mut i32);
    error_text = b"cuGetErrorString": fn(Code, *mut *const c_char);
    device_count = b"cuDeviceGetCount": fn(*mut i32);
    device = b"cuDeviceGet": fn(*mut i32, i32);
    device_name = b"cuDeviceGetName": fn(*mut c_char, i32, i32);
    device_attribute = b"cuDeviceGetAttribute": fn(*mut i32, i32, i32);
    retain_context = b"cuDevicePrimaryCtxRetain": fn(*mut Handle, i32);
    set_context = b"cuCtxSetCurrent": fn(Handle);
    create_stream = b"cuStreamCreate": fn(*mut Handle, u32);
    synchronize = b"cuStreamSynchronize": fn(Handle);
    create_event = b"cuEventCreate": fn(*mut Handle, u32);
    record_event = b"cuEventRecord": fn(Handle, Handle);
    wait_for_event = b"cuEventSynchronize": fn(Handle);
    load_module = b"cuModuleLoadData": fn(*mut Handle, *const c_void);
    function = b"cuModuleGetFunction": fn(*mut Handle, Handle, *const c_char);
    launch = b"cuLaunchKernel":
        fn(Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void);
    memory_info = b"cuMemGetInfo_v2": fn(*mut usize, *mut usize);
    allocate = b"cuMemAlloc_v2": fn(*mut u64, usize);
    free = b"cuMemFree_v2": fn(u64);
    allocate_pinned = b"cuMemAllocHost_v2": fn(*mut *mut c_void, usize);
    upload = b"cuMemcpyHtoDAsync_v2": fn(u64, *const c_void, usize, Handle);
    download = b"cuMemcpyDtoHAsync_v2": fn(*mut c_void, u64, usize, Handle);
    copy = b"cuMemcpyDtoDAsync_v2": fn(u64, u64, usize, Handle);
    fill = b"cuMemsetD32Async": fn(u64, u32, usize, Handle);
} }

functions! { Blas {
    create = b"cublasCreate_v2": fn(*mut Handle);
    set_stream = b"cublasSetStream_v2": fn(Handle, Handle);
    set_math_mode = b"cublasSetMathMode": fn(Handle, i32);
    sgemm = b"cublasSgemm_v2":
        fn(Handle, i32, i32, i32, i32, i32, *const f32, u64, i32, u64, i32, *const f32, u64, i32);
} }

impl Driver {
    pub fn open() -> Result<Driver, NoGpu> {
        let library = first_of(&["libcuda.so.1", "libcuda.so", "nvcuda.dll"]);
        let absent = || NoGpu::Absent("no NVIDIA driver is installed (libcuda.so.1 is missing)".to_string());
        Ok(Driver::load(library.ok_or_else(absent)?).map_err(|text| format!("the NVIDIA driver is too old: {text}"))?)
    }
}

impl Blas {
    pub fn open() -> Result<Blas, String> {
        let names = ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"];
        let windows = ["cublas64_13.dll", "cublas64_12.dll", "cublas64_11.dll"];
        let library = first_of(&names).or_else(|| first_of(&windows)).ok_or(
            "cuBLAS is missing (libcublas.so.12): install the CUDA toolkit, or `pip install nvidia-cublas-cu12` and add \
             its folder nvidia/cublas/lib to LD_LIBRARY_PATH",
        )?;
        Blas::load(library).map_err(|text| format!("cuBLAS does not fit: {text}"))
    }
}

fn first_of(names: &[&str]) -> Option<Library> {
    // SAFETY: NVIDIA's libraries may be loaded at any time.
    names.iter().find_map(|name| unsafe { Library::new(*name) }.ok())
}
