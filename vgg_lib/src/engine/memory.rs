//! Estimates the memory that a model needs, counted as in Stanford's CS231n: weights, gradients and layer outputs. These
//! are f32, but for the feature maps of a model that computes in bf16. Working memory of the algorithms, such as transformed filters, is not included.

use super::plan::{Form, Plan, Stage};
use crate::Result;
use crate::kernel::arena::Arena;
use crate::kernel::gpu::Gpu;
use crate::model::{Layer, Op, Sequential, Shape};
use crate::process::{check_memory, too_little};
use crate::text::{counted, thousands};

const FLOAT: usize = size_of::<f32>();

/// What a model keeps in memory for one batch, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// All parameters.
    pub(crate) weights: usize,
    /// Gradients and velocities of the parameters that are trained.
    pub(crate) optimizer: usize,
    /// The images and the outputs of all layers.
    pub(crate) activations: usize,
    /// A training step: weights, optimizer, the outputs that the backward pass reads and two gradients in flight.
    pub(crate) training: usize,
    /// Inference: weights and the largest pair of a layer's input and output.
    pub(crate) inference: usize,
}

/// What `model` needs for `batch_size` images of shape `input`. Numbers that are too large to count are `usize::MAX`.
///
/// # Errors
/// [`crate::Error::Shape`] if a layer cannot take its input.
pub(crate) fn need(model: &Sequential, input: Shape, batch_size: usize) -> Result<Need> {
    let bf16 = model.uses_bf16()?;
    // In floats.
    let size = |shape: Shape| match shape {
        Shape::Map(..) if bf16 => shape.size().div_ceil(2),
        _ => shape.size(),
    };
    let (mut shape, mut learned) = (input, 0);
    let (mut kept, mut largest, mut pair) = (0usize, 0, 0);
    let mut trained = false;
    let mut activations = size(input);
    for layer in model.layers() {
        let output = layer.output(shape)?;
        trained |= layer.learns();
        if layer.learns() {
            let sizes = layer.params().iter().filter(|p| p.learned).map(|p| p.dims.iter().product::<usize>());
            learned += sizes.sum::<usize>();
        }
        // From the first trained layer on, outputs are kept; earlier layers release theirs. Some layers, such as
        // flatten, pass their input on. Dropout is not counted either: it usually runs in the stage of the batch norm
        // before it, or on small vectors.
        if trained && !matches!(layer.op(), Op::Dropout { .. }) && !layer.op().passes_on(shape) {
            kept = kept.saturating_add(size(output));
            if cfg!(feature = "cuda") {
                kept = kept.saturating_add(gathered(layer.op(), shape));
            }
            largest = largest.max(size(shape)).max(size(output));
        }
        pair = pair.max(size(shape).saturating_add(size(output)));
        activations = activations.saturating_add(size(output));
        shape = output;
    }
    let weights = FLOAT * model.parameter_count();
    let optimizer = FLOAT * 2 * learned;
    let bytes = |floats: usize| FLOAT.saturating_mul(floats).saturating_mul(batch_size);
    let step = bytes(kept.saturating_add(largest.saturating_mul(2)).max(pair));
    Ok(Need {
        weights,
        optimizer,
        activations: bytes(activations),
        training: step.saturating_add(weights + optimizer),
        inference: bytes(pair).saturating_add(weights),
    })
}

/// The values that `portable` gathers from one input of a convolution, and keeps for the backward pass.
pub(super) fn gathered(op: Op, input: Shape) -> usize {
    match op {
        Op::Conv2d { kernel, .. } => (kernel * kernel).saturating_mul(input.size()),
        _ => 0,
    }
}

/// Returns an error if a training step of `batch_size` images of this shape does not fit in memory.
pub(crate) fn check_training(model: &Sequential, image: Shape, batch_size: usize) -> Result<()> {
    // Training keeps a copy of good weights.
    let need = |batch_size| {
        let need = need(model, image, batch_size)?;
        Ok::<_, crate::Error>(need.training.saturating_add(need.optimizer / 2))
    };
    // In bf16 a batch is padded to whole groups of 32 images.
    let padded = if model.uses_bf16()? { batch_size.next_multiple_of(32) } else { batch_size };
    let (none, one, all) = (need(0)?, need(1)?, need(padded)?);
    let what = format!("a training step of {}", counted(batch_size, "image", "images"));
    let advice = |free: usize| advice(free.saturating_sub(none) / (one - none).max(1));
    // dfdx's CUDA device is GPU 0; whether it can be used, its own first tensor tells.
    let gpu = if cfg!(feature = "cuda") { Gpu::get(0).ok() } else { model.device.gpu()? };
    match gpu {
        Some(gpu) if all > gpu.available_memory() => Err(too_little(&what, all, gpu.available_memory(), advice)),
        Some(_) => Ok(()),
        None => check_memory(&what, all, 0, advice),
    }
}

/// Returns an error if a pass through these stages does not fit in memory together with the outputs of the layers
/// `observed`, which are kept and copied. `arena` is the memory that the last pass left.
#[cfg_attr(feature = "cuda", allow(dead_code))] // only the CPU engine uses it
pub(crate) fn check_pass(layers: &[Layer], plan: &Plan, n: usize, observed: &[usize], arena: &Arena) -> Result<()> {
    let (mut pair, mut kept) = (0usize, 0usize);
    // The same layers are left out as in `need`.
    let counts = |stage: &&Stage| {
        let op = layers[stage.layers.start].op();
        !matches!(op, Op::Dropout { .. }) && !op.passes_on(stage.input)
    };
    for stage in plan.stages.iter().filter(counts) {
        let share = if stage.form == Form::Bf16 { 2 } else { 1 };
        let output = stage.output.size().div_ceil(share);
        pair = pair.max(stage.input.size().div_ceil(share).saturating_add(output));
        let copies = usize::from(stage.trains) + if observed.contains(&stage.layers.start) { 2 } else { 0 };
        kept = kept.saturating_add(output.saturating_mul(copies));
    }
    let one = FLOAT.saturating_mul(pair.saturating_add(kept));
    // Such a pass has whole groups of 32 images.
    let pads = plan.stages.iter().any(|stage| stage.trains && stage.form == Form::Bf16);
    let padded = if pads { n.next_multiple_of(32) } else { n };
    let what = format!("a forward pass of {}", counted(n, "image", "images"));
    check_memory(&what, one.saturating_mul(padded), arena.free_bytes(), |free| advice(free / one.max(1)))
}

/// What to do if only `images` fit.
pub(super) fn advice(images: usize) -> String {
    match images {
        0 => "not even one image does; use smaller images or a smaller model".to_string(),
        _ => format!("take at most {}", thousands(images)),
    }
}
