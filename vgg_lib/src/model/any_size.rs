//! Images of other sizes than the one that a model was built for.
//!
//! Convolutions and poolings take maps of any size. Only a dense layer is tied to one, because it has weights for each
//! value of the flattened map; a pooling to a fixed size before it lifts the restriction.

use super::op::{Op, Shape};
use super::sequential::Sequential;
use super::spec::adaptive_avg_pool2d;
use crate::{Error, Result};

impl Sequential {
    /// Makes the model take images of any height and width, also to learn from. Before the map is flattened, this inserts
    /// the layer `adaptive_avg_pool`, an [`adaptive_avg_pool2d`] to the size that the map has there for images of the model's own
    /// size: 7×7 in a VGG for 224×224 images.
    ///
    /// torchvision's VGGs have the same layer (`avgpool`): with the same weights, a VGG for 224×224 images then gives
    /// torchvision's outputs for images of every size. Images of the model's own size get the same outputs as before.
    /// The smallest images are those that the max poolings can still halve: 32×32 for a VGG.
    /// [`classify`](Self::classify) still resizes images to the model's own size.
    ///
    /// A model that takes images of any size already, because it has such a layer or ends in
    /// [`global_avg_pool`](super::global_avg_pool), stays as it is.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let mut model = vgg::pytorch_cifar(vgg::Depth::Vgg11, 10, Seed(0)); // for images of 32×32
    /// model.accept_any_size()?;
    /// let logits = model.forward(images(vec![0.5; 64 * 48 * 3], (1, 64, 48, 3))?)?;
    /// assert_eq!(*logits.shape(), (1, 1, 1, 10));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// If another layer has the name `adaptive_avg_pool`.
    pub fn accept_any_size(&mut self) -> Result<()> {
        self.check_complete()?;
        if let Shape::Flat(_) = self.input {
            let what = "the model takes vectors, which have no height and width; call this before `split_after`";
            return Err(Error::Shape(what.to_string()));
        }
        let mut shape = self.input;
        for (index, layer) in self.layers.iter().enumerate() {
            let output = layer.output(shape)?;
            match (layer.op, shape, output) {
                (Op::AdaptiveAvgPool2d { .. } | Op::GlobalAvgPool, ..) => return Ok(()),
                (_, Shape::Map(h, w, _), Shape::Flat(_)) => {
                    return self.insert(index, "adaptive_avg_pool", adaptive_avg_pool2d(h, w));
                }
                _ => shape = output,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::model::*;

    fn model(layers: &[(&str, LayerSpec)]) -> Sequential {
        let mut model = Sequential::new((8, 12, 3), Seed(0));
        layers.iter().for_each(|(name, layer)| model.push(name, *layer).unwrap());
        model
    }

    fn layers(model: &Sequential) -> Vec<(&str, Op)> {
        model.layers().iter().map(|layer| (layer.name(), layer.op())).collect()
    }

    #[test]
    fn the_pooling_comes_before_the_map_becomes_a_vector() {
        let pool = || ("pool", LayerSpec::from(max_pool2d()));
        let mut flattened = model(&[pool(), ("flatten", flatten().into()), ("fc", linear(2).into())]);
        flattened.accept_any_size().unwrap();
        assert_eq!(layers(&flattened)[1], ("adaptive_avg_pool", Op::AdaptiveAvgPool2d { height: 4, width: 6 }));
        assert_eq!(flattened.layers()[2].name(), "flatten");
        // A dense layer takes a map of one pixel as it is.
        let mut dense = Sequential::new((2, 2, 3), Seed(0));
        dense.push("pool", max_pool2d()).unwrap();
        dense.push("fc", linear(2)).unwrap();
        dense.accept_any_size().unwrap();
        assert_eq!(layers(&dense)[1], ("adaptive_avg_pool", Op::AdaptiveAvgPool2d { height: 1, width: 1 }));
    }

    #[test]
    fn a_model_that_takes_any_size_stays_as_it_is() {
        let head = [("flatten", LayerSpec::from(flatten())), ("fc", linear(2).into())];
        let mean = [("mean", LayerSpec::from(global_avg_pool())), ("fc", linear(2).into())];
        let convolution = [("conv", LayerSpec::from(conv2d(2)))];
        let own = [("own", LayerSpec::from(adaptive_avg_pool2d(2, 2))), convolution[0]];
        let adaptive = [&own[..], &head[..]].concat();
        for of in [&mean[..], &adaptive[..], &convolution[..], &[]] {
            let mut model = model(of);
            let before = layers(&model).len();
            model.accept_any_size().unwrap();
            assert_eq!(layers(&model).len(), before);
        }
        let mut twice = model(&head);
        (0..2).for_each(|_| twice.accept_any_size().unwrap());
        assert_eq!(twice.layers().len(), 3);
    }

    #[test]
    fn a_name_that_is_taken_is_an_error() {
        let head = [("adaptive_avg_pool", LayerSpec::from(relu())), ("flatten", flatten().into())];
        let error = model(&head).accept_any_size().unwrap_err().to_string();
        assert!(error.contains("already has a layer 'adaptive_avg_pool'"), "{error}");
    }
}
