//! A GPU: its context, its one stream of work, and the kernels on it.
//!
//! Calls only enqueue work; the GPU runs it in order. If one fails, the GPU keeps the first [`Fault`], further calls do
//! nothing, and [`Gpu::check`] reports it. So the code that runs layers reads as on the CPU.

use super::driver::{Blas, Code, Driver, Handle};
use super::memory::{Memory, Staging};
use crate::{Error, Result, text::bytes};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// An NVIDIA GPU.
pub struct Gpu {
    pub(super) driver: Driver,
    blas: Mutex<Blas>,
    blas_handle: Handle,
    context: Handle,
    pub(super) stream: Handle,
    kernels: HashMap<&'static str, Handle>,
    name: String,
    /// Compute capability, such as [7, 5] for a T4.
    capability: [i32; 2],
    pub(super) free: Mutex<HashMap<usize, Vec<u64>>>,
    pub(super) staging: Mutex<Staging>,
    fault: Mutex<Option<Fault>>,
}

// SAFETY: the driver's functions may be called from any thread; what may not is behind a mutex.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// Why the GPU stopped.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It has too little memory for this many bytes.
    Memory(usize),
    /// A call failed. The context is lost, and with it everything on the GPU.
    Call(String),
}

/// Why a GPU cannot be used.
#[derive(Debug)]
pub enum NoGpu {
    /// There is none, as on most machines.
    Absent(String),
    /// There is one, but something is missing or too old.
    Unusable(String),
}

impl NoGpu {
    pub fn reason(&self) -> &str {
        let (NoGpu::Absent(reason) | NoGpu::Unusable(reason)) = self;
        reason
    }
}

impl From<String> for NoGpu {
    fn from(reason: String) -> NoGpu {
        NoGpu::Unusable(reason)
    }
}

/// A value for a kernel.
#[derive(Clone, Copy)]
pub enum Argument {
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl From<&Memory> for Argument {
    fn from(memory: &Memory) -> Argument {
        Argument::Pointer(memory.pointer())
    }
}

impl From<Option<&Memory>> for Argument {
    fn from(memory: Option<&Memory>) -> Argument {
        Argument::Pointer(memory.map_or(0, Memory::pointer))
    }
}

macro_rules! arguments {
    ($($type:ty => $kind:ident),*) => {
        $(impl From<$type> for Argument {
            fn from(value: $type) -> Argument {
                Argument::$kind(value as _)
            }
        })*
    };
}
arguments! { u32 => U32, bool => U32, u64 => U64, usize => U64, f32 => F32, f64 => F64 }

/// Enqueues a kernel: `launch!(gpu, "relu", grid, x, y, n)`.
macro_rules! launch {
    ($gpu:expr, $kernel:expr, $grid:expr, $($argument:expr),* $(,)?) => {
        $gpu.launch($kernel, $grid, &mut [$($crate::kernel::gpu::Argument::from($argument)),*])
    };
}
pub(crate) use launch;

/// Threads per block, in every kernel.
pub const BLOCK: usize = 256;

/// The grid of an element-wise kernel over `n` indices.
pub fn over(n: usize) -> [usize; 3] {
    [n.div_ceil(BLOCK).clamp(1, 1 << 16), 1, 1]
}

impl Gpu {
    /// The GPU with this number, which stays open until the process ends.
    ///
    /// # Errors
    /// The reason, if there is no such GPU or it cannot be used.
    pub fn get(number: usize) -> std::result::Result<&'static Gpu, &'static NoGpu> {
        static GPUS: [OnceLock<std::result::Result<Gpu, NoGpu>>; 16] = [const { OnceLock::new() }; 16];
        GPUS[number.min(15)].get_or_init(|| Gpu::open(number as i32)).as_ref()
    }

    fn open(number: i32) -> std::result::Result<Gpu, NoGpu> {
        let driver = Driver::open()?;
        let ok = |code: Code, what: &str| match code {
            0 => Ok(()),
            code => Err(format!("{what} failed: {}", driver.text(code))),
        };
        let (mut count, mut device, mut capability) = (0, 0, [0, 0]);
        let mut name = [0; 256];
        let [mut context, mut stream, mut module, mut blas_handle] = [null_mut(); 4];
        // SAFETY: every pointer is to a local variable of the type that the driver writes.
        let kernels = unsafe {
            if (driver.init)(0) != 0 || (driver.device_count)(&mut count) != 0 || count == 0 {
                return Err(NoGpu::Absent("the NVIDIA driver finds no GPU".to_string()));
            }
            if number >= count {
                return Err(NoGpu::Absent(format!("the last GPU has number {}", count - 1)));
            }
            let mut version = 0;
            (driver.version)(&mut version);
            if version < 12_010 {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                let text = format!("the NVIDIA driver is too old (for CUDA {major}.{minor}); 530 or newer is needed");
                return Err(text.into());
            }
            ok((driver.device)(&mut device, number), "opening the GPU")?;
            ok((driver.device_name)(name.as_mut_ptr(), name.len() as i32, device), "asking for its name")?;
            for (value, attribute) in capability.iter_mut().zip([75, 76]) {
                ok((driver.device_attribute)(value, attribute, device), "asking for its kind")?;
            }
            if capability < [7, 5] {
                let [major, minor] = capability;
                let text = format!(
                    "GPUs before Turing (compute capability 7.5) are not supported; this one has {major}.{minor}"
                );
                return Err(text.into());
            }
            ok((driver.retain_context)(&mut context, device), "opening a context")?;
            ok((driver.set_context)(context), "choosing the context")?;
            ok((driver.create_stream)(&mut stream, 1), "creating a stream")?;
            ok((driver.load_module)(&mut module, PTX.as_ptr().cast()), "loading the kernels")?;
            load_kernels(&driver, module)?
        };
        let blas = Blas::open()?;
        // SAFETY: as above.
        let code = unsafe { (blas.create)(&mut blas_handle) | (blas.set_stream)(blas_handle, stream) };
        ok(code, "starting cuBLAS")?;
        // SAFETY: the driver ends the name with a 0.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let (free, staging, fault, blas) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::new(blas));
        Ok(Gpu { driver, blas, blas_handle, context, stream, kernels, name, capability, free, staging, fault })
    }

    /// Such as "NVIDIA H100 80GB HBM3".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its matrix units can round f32 to TF32 (10 bits of mantissa) to multiply faster.
    pub fn has_tf32(&self) -> bool {
        self.capability >= [8, 0]
    }

    /// Bytes that can still be allocated, including those that are kept for the next pass.
    pub fn available_memory(&self) -> usize {
        self.bind();
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are to local variables.
        unsafe { (self.driver.memory_info)(&mut free, &mut total) };
        let kept = lock(&self.free);
        free + kept.iter().map(|(size, pieces)| size * pieces.len()).sum::<usize>()
    }

    /// Makes this GPU the one of the calling thread.
    pub(super) fn bind(&self) {
        // SAFETY: the context stays open.
        let code = unsafe { (self.driver.set_context)(self.context) };
        self.expect(code, "choosing the GPU");
    }

    /// Enqueues a kernel. `grid` counts blocks.
    pub fn launch(&self, kernel: &'static str, grid: [usize; 3], arguments: &mut [Argument]) {
        if self.is_faulty() {
            return;
        }
        self.bind();
        let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(Argument::address).collect();
        let [x, y, z] = grid.map(|n| n as u32);
        // SAFETY: the arguments are those of the kernel (the tests run each), and live until the call returns.
        let code = unsafe {
            let (block, none) = (BLOCK as u32, null_mut());
            (self.driver.launch)(
                self.kernels[kernel],
                x,
                y,
                z,
                block,
                1,
                1,
                0,
                self.stream,
                pointers.as_mut_ptr(),
                none,
            )
        };
        self.expect(code, kernel);
    }

    /// Enqueues a product of row-major matrices: c = a·b + `keep`·c, where a is m×k and b is k×n. Each of a and b is
    /// given by its pointer and whether it is stored transposed.
    pub fn gemm(&self, product: Gemm) {
        let Gemm { m, n, k, a, b, c, keep, tf32 } = product;
        if self.is_faulty() || m * n == 0 {
            return;
        }
        self.bind();
        let blas = lock(&self.blas);
        let [rows, columns, inner] = [m, n, k].map(|size| size as i32);
        let (lda, ldb) = (if a.1 { rows } else { inner }, if b.1 { inner } else { columns });
        // SAFETY: cuBLAS stores matrices by columns, so the product is bᵀ·aᵀ; sizes are those of the memory (checked by
        // the callers' shapes).
        let code = unsafe {
            (blas.set_math_mode)(self.blas_handle, if tf32 { 3 } else { 0 });
            let (h, ta, tb, one) = (self.blas_handle, i32::from(a.1), i32::from(b.1), &1.0);
            (blas.sgemm)(h, tb, ta, columns, rows, inner, one, b.0, ldb, a.0, lda, &keep, c, columns)
        };
        self.expect(code, "a matrix product");
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) {
        self.bind();
        // SAFETY: the stream stays open.
        let code = unsafe { (self.driver.synchronize)(self.stream) };
        self.expect(code, "waiting for the GPU");
    }

    /// Returns the first fault since the last call as an error. Does not wait for the GPU.
    ///
    /// # Errors
    /// [`Error::Device`] after a fault. Work enqueued after it was not done.
    pub fn check(&self) -> Result<()> {
        let mut fault = lock(&self.fault);
        match &*fault {
            None => Ok(()),
            Some(Fault::Memory(needed)) => {
                let text = format!(
                    "the GPU ({}) has too little memory for another {}; use smaller batches or images, or run on the \
                     CPU with VGG_DEVICE=cpu",
                    self.name,
                    bytes(*needed)
                );
                *fault = None;
                drop(fault);
                self.release_memory();
                Err(Error::Device(text))
            }
            Some(Fault::Call(text)) => Err(Error::Device(format!(
                "the GPU ({}) stopped working ({text}); restart the program, which resumes from its last checkpoint, or \
                 run on the CPU with VGG_DEVICE=cpu",
                self.name
            ))),
        }
    }

    pub(super) fn is_faulty(&self) -> bool {
        lock(&self.fault).is_some()
    }

    pub(super) fn expect(&self, code: Code, what: &str) {
        if code != 0 {
            self.fail(Fault::Call(format!("{what}: {}", self.driver.text(code))));
        }
    }

    pub(super) fn fail(&self, fault: Fault) {
        lock(&self.fault).get_or_insert(fault);
    }
}

/// A matrix product for [`Gpu::gemm`].
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: (u64, bool),
    pub b: (u64, bool),
    pub c: u64,
    /// 0 overwrites c, 1 adds to it.
    pub keep: f32,
    pub tf32: bool,
}

impl Argument {
    fn address(&mut self) -> *mut c_void {
        match self {
            Argument::Pointer(value) | Argument::U64(value) => (&raw mut *value).cast(),
            Argument::U32(value) => (&raw mut *value).cast(),
            Argument::F32(value) => (&raw mut *value).cast(),
            Argument::F64(value) => (&raw mut *value).cast(),
        }
    }
}

/// The compiled kernels, as text that the driver compiles for the GPU at hand. Ends with a 0.
const PTX: &str = concat!(include_str!("kernels.ptx"), "\0");

/// The kernels by name.
fn load_kernels(driver: &Driver, module: Handle) -> std::result::Result<HashMap<&'static str, Handle>, String> {
    let names = PTX.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.split('(').next());
    names
        .map(|name| {
            let (mut kernel, symbol) = (null_mut(), CString::new(name).map_err(|e| e.to_string())?);
            // SAFETY: the module stays loaded.
            match unsafe { (driver.function)(&mut kernel, module, symbol.as_ptr()) } {
                0 => Ok((name, kernel)),
                code => Err(format!("the kernel {name} is missing: {}", driver.text(code))),
            }
        })
        .collect()
}

impl Driver {
    fn text(&self, code: Code) -> String {
        let mut text = std::ptr::null();
        // SAFETY: the driver sets the pointer to a text that lives as long as the process.
        unsafe {
            if (self.error_text)(code, &mut text) != 0 || text.is_null() {
                return format!("error {code}");
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    #[test]
    fn the_ptx_is_compiled_from_the_source() {
        let hash = Sha256::digest(include_bytes!("kernels.cu"));
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let first = super::PTX.lines().next().unwrap();
        assert!(first.ends_with(&hash), "kernels.cu changed: run make_ptx.py beside it");
    }
}
