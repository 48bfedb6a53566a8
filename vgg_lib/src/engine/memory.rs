//! Estimates the memory that a model needs, counted as in Stanford's CS231n: weights, gradients and layer outputs in
//! f32. Working memory of the algorithms, such as transformed filters, is not included.

use crate::Result;
use crate::model::{Op, Sequential, Shape};

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

/// What `model` needs for `batch_size` images of shape `input`.
///
/// # Errors
/// [`crate::Error::Shape`] if a layer cannot take its input.
pub(crate) fn need(model: &Sequential, input: Shape, batch_size: usize) -> Result<Need> {
    let (mut shape, mut learned) = (input, 0);
    let (mut kept, mut largest, mut pair) = (0, 0, 0);
    let mut trained = false;
    let mut activations = input.size();
    for layer in model.layers() {
        let output = layer.output(shape)?;
        trained |= layer.learns();
        if layer.learns() {
            let sizes = layer.params().iter().filter(|p| p.learned).map(|p| p.dims.iter().product::<usize>());
            learned += sizes.sum::<usize>();
        }
        // From the first trained layer on, outputs are kept; earlier layers release theirs. Flatten passes its input
        // on. Dropout is not counted either: it usually runs in the stage of the batch norm before it, or on small
        // vectors.
        if trained && !matches!(layer.op(), Op::Dropout { .. } | Op::Flatten) {
            kept += output.size();
            largest = largest.max(shape.size()).max(output.size());
        }
        pair = pair.max(shape.size() + output.size());
        activations += output.size();
        shape = output;
    }
    let weights = FLOAT * model.parameter_count();
    let optimizer = FLOAT * 2 * learned;
    let bytes = |floats: usize| FLOAT * floats * batch_size;
    Ok(Need {
        weights,
        optimizer,
        activations: bytes(activations),
        training: weights + optimizer + bytes((kept + 2 * largest).max(pair)),
        inference: weights + bytes(pair),
    })
}
