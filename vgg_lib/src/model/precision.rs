//! What a model computes with on a CPU.

use super::Sequential;
use crate::kernel::bf16;
use crate::kernel::gpu::Gpu;
use crate::kernel::simd::has_bf16;
use crate::{Error, Result, setting};

/// What a model computes with on a CPU. The environment variable `VGG_PRECISION` (`f32`, `bf16` or `fastest`) sets what
/// new models use.
///
/// In bf16 activations and their gradients have 8 significant bits instead of 24, in the same range. Weights, sums,
/// statistics, logits and losses stay f32, and so does everything that a model returns or saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32, which every CPU computes.
    #[default]
    F32,
    /// bf16: on CPUs with Intel's AMX (Xeons since 2023), where it is about two to three times as fast as f32, and on
    /// those with AVX512-BF16 (AMD since Zen 4), where it is not faster. It needs about half the memory.
    Bf16,
    /// bf16 on CPUs with AMX, f32 on all others.
    Fastest,
}

impl Precision {
    /// What `VGG_PRECISION` asks for.
    fn of_environment() -> Result<Precision> {
        Ok(match setting::choice("VGG_PRECISION", &["f32", "bf16", "fastest"])? {
            "bf16" => Precision::Bf16,
            "fastest" => Precision::Fastest,
            _ => Precision::F32,
        })
    }

    fn is_bf16(self, gpu: Option<&Gpu>) -> Result<bool> {
        let possible = cfg!(test) || bf16::has_tiles() || has_bf16();
        match (self, gpu) {
            (Precision::F32, _) | (Precision::Fastest, Some(_)) => Ok(false),
            (Precision::Fastest, None) => Ok(bf16::has_tiles() && !cfg!(feature = "cuda")),
            _ if cfg!(feature = "cuda") => Err(Error::Device(
                "bf16 is computed on CPUs, and with the feature `cuda` models run on dfdx's device; use Precision::F32"
                    .to_string(),
            )),
            (Precision::Bf16, Some(gpu)) => Err(Error::Device(format!(
                "bf16 is computed on CPUs, and this model runs on the {}; use Precision::F32, or call \
                 `model.to(Device::Cpu)?` first",
                gpu.name()
            ))),
            (Precision::Bf16, None) if possible => Ok(true),
            (Precision::Bf16, None) => Err(Error::Device(
                "this CPU does not compute in bf16 (`lscpu` would show amx_bf16 or avx512_bf16); use Precision::F32, or \
                 Precision::Fastest, which is bf16 only where that is faster"
                    .to_string(),
            )),
        }
    }
}

impl Sequential {
    /// Chooses what the model computes with on a CPU.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let mut model = vgg::cifar_vgg16(Seed(0));
    /// model.set_precision(Precision::Fastest)?;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] for [`Precision::Bf16`] on a GPU, and on a CPU without bf16.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        precision.is_bf16(self.device.gpu()?)?;
        self.precision = Some(precision);
        Ok(())
    }

    /// Whether the model computes in bf16.
    ///
    /// # Errors
    /// [`Error::Device`] if it should and cannot, [`Error::Config`] for an unknown `VGG_PRECISION`.
    pub(crate) fn uses_bf16(&self) -> Result<bool> {
        self.chosen_precision()?.is_bf16(self.device.gpu()?)
    }

    /// What a person should know before training begins: where the model runs, in which precision.
    pub(crate) fn place_note(&self) -> Option<String> {
        let note = match (self.uses_bf16(), self.chosen_precision()) {
            (Ok(true), _) if bf16::has_tiles() => Some("in bf16, with AMX"),
            (Ok(true), _) => Some("in bf16"),
            (Ok(false), Ok(Precision::Fastest)) => Some("in f32, because this CPU has no AMX"),
            _ => None,
        };
        match (self.device.note(), note) {
            (Some(device), _) if self.device.gpu().is_ok_and(|gpu| gpu.is_some()) => Some(device),
            (Some(device), Some(note)) => Some(format!("{device}, {note}")),
            (device, note) => device.or(note.map(str::to_string)),
        }
    }

    fn chosen_precision(&self) -> Result<Precision> {
        self.precision.map_or_else(Precision::of_environment, Ok)
    }
}
