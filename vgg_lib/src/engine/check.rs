//! What a training batch must have for the model to learn from it.

use super::plan::groups;
use crate::model::{Layer, Op, Shape};
use crate::{Error, Result};

/// Returns an error if a training batch is empty, or if a batch norm would normalize each value by itself:
/// (x − x)/√(0 + ε) is 0 whatever x is, so nothing before this layer would learn. PyTorch refuses such batches, too.
pub(crate) fn check_batch(layers: &[Layer], input: Shape, n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::Shape("a training step needs at least one image".to_string()));
    }
    let mut shape = input;
    for layer in layers {
        let positions = shape.size() / shape.channels().max(1);
        if let Op::BatchNorm { group, .. } = layer.op()
            && !layer.is_frozen()
            && (n / groups(n, group)).saturating_mul(positions) == 1
        {
            let (name, more) = (layer.name(), if n == 1 { "a batch" } else { "groups" });
            return Err(Error::Config(format!(
                "batch norm '{name}' would have a single value per channel, from which it learns nothing: train on \
                 {more} of at least 2 images, or freeze the layer"
            )));
        }
        shape = layer.output(shape)?;
    }
    Ok(())
}
