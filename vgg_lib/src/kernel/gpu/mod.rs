//! Arithmetic on an NVIDIA GPU: memory, matrix products by cuBLAS, convolutions, and the kernels of `kernels.cu`.
//!
//! Like the rest of `kernel`, it knows no layer. Work is enqueued by the thread that runs a model and done in that
//! order; only downloads wait for it.

pub mod conv2d;
mod device;
mod driver;
mod memory;

pub(crate) use device::launch;
pub use device::{Argument, Gemm, Gpu, NoGpu, over};
pub use memory::Memory;

use crate::setting;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

static TF32: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(setting::is_on("VGG_TF32").unwrap_or(false)));

/// Lets the matrix units of GPUs since Ampere (A100, RTX 30) round the inputs of convolutions and dense layers to TF32,
/// which has 10 bits of mantissa, not 23. Faster, and usually as good for training. Off by default, or on with the
/// environment variable `VGG_TF32=1`.
pub fn allow_tf32(allowed: bool) {
    TF32.store(allowed, Ordering::Relaxed);
}

/// Whether products on this GPU round their inputs to TF32.
pub fn uses_tf32(gpu: &Gpu) -> bool {
    gpu.has_tf32() && TF32.load(Ordering::Relaxed)
}

/// The kernel of this name for `channels` channels: the one that handles four at once where that is possible.
pub fn by_lanes(names: [&'static str; 2], channels: usize) -> (&'static str, usize) {
    if channels.is_multiple_of(4) { (names[1], 4) } else { (names[0], 1) }
}
