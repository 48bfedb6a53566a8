//! Where a model runs.

use crate::kernel::gpu::{Gpu, NoGpu, uses_tf32};
use crate::{Error, Result, setting};

/// Where a model runs. The environment variable `VGG_DEVICE` (`cpu`, `gpu` or `auto`) sets what new models use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// On an NVIDIA GPU if there is one that can be used, otherwise on the CPU.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On the NVIDIA GPU with this number, from 0.
    Gpu(usize),
}

impl Device {
    /// The GPU on which a model runs; `None` for the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] if a GPU is asked for that cannot be used, [`Error::Config`] for an unknown `VGG_DEVICE` or
    /// `VGG_TF32`.
    pub(crate) fn gpu(self) -> Result<Option<&'static Gpu>> {
        let chosen = match self {
            Device::Auto => Device::of_environment()?,
            chosen => chosen,
        };
        let gpu = match chosen {
            // With this feature, models run on dfdx's device.
            _ if cfg!(feature = "cuda") => None,
            Device::Cpu => None,
            Device::Auto => Gpu::get(0).ok(),
            Device::Gpu(number) => match Gpu::get(number) {
                Ok(gpu) => Some(gpu),
                Err(no) => return Err(Error::Device(format!("cannot use GPU {number}: {}", no.reason()))),
            },
        };
        if gpu.is_some() {
            setting::is_on("VGG_TF32")?; // a value that means nothing
        }
        Ok(gpu)
    }

    /// What a person should know before training begins: that it runs on a GPU, or that the GPU cannot be used.
    pub(crate) fn note(self) -> Option<String> {
        match self.gpu() {
            _ if cfg!(feature = "cuda") => Some("on dfdx's CUDA device".to_string()),
            Ok(Some(gpu)) if uses_tf32(gpu) => Some(format!("on the {}, with TF32", gpu.name())),
            Ok(Some(gpu)) => Some(format!("on the {}", gpu.name())),
            Ok(None) if self == Device::Auto && matches!(Device::of_environment(), Ok(Device::Auto)) => {
                match Gpu::get(0) {
                    Err(NoGpu::Unusable(reason)) => Some(format!("on the CPU, because {reason}")),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn of_environment() -> Result<Device> {
        Ok(match setting::choice("VGG_DEVICE", &["auto", "cpu", "gpu"])? {
            "cpu" => Device::Cpu,
            "gpu" => Device::Gpu(0),
            _ => Device::Auto,
        })
    }
}
