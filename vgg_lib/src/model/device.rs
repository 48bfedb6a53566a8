//! Where a model runs.

use crate::kernel::gpu::Gpu;
use crate::{Error, Result};

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
    /// [`Error::Device`] if a GPU is asked for that cannot be used, [`Error::Config`] for an unknown `VGG_DEVICE`.
    pub(crate) fn gpu(self) -> Result<Option<&'static Gpu>> {
        let chosen = match self {
            Device::Auto => Device::of_environment()?,
            chosen => chosen,
        };
        match chosen {
            // With this feature, models run on dfdx's device.
            _ if cfg!(feature = "cuda") => Ok(None),
            Device::Cpu => Ok(None),
            Device::Auto => Ok(Gpu::get(0).ok()),
            Device::Gpu(number) => match Gpu::get(number) {
                Ok(gpu) => Ok(Some(gpu)),
                Err(reason) => Err(Error::Device(format!("cannot use GPU {number}: {reason}"))),
            },
        }
    }

    fn of_environment() -> Result<Device> {
        match std::env::var("VGG_DEVICE").as_deref() {
            Err(_) | Ok("" | "auto") => Ok(Device::Auto),
            Ok("cpu") => Ok(Device::Cpu),
            Ok("gpu") => Ok(Device::Gpu(0)),
            Ok(other) => Err(Error::Config(format!("VGG_DEVICE is '{other}'; it can be cpu, gpu or auto"))),
        }
    }
}
