//! The VGG networks (Simonyan & Zisserman 2014, arXiv:1409.1556) as tables.

use crate::model::{
    Init, LayerSpec, Seed, Sequential, batch_norm, conv2d, dropout, flatten, linear, max_pool2d, relu, softmax,
};
use crate::naming::{Pixels, Pretrained};
use crate::{Error, Result};
use std::path::Path;

/// Which VGG: the number of layers with weights, as the paper's columns A, B, D and E.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Column A.
    Vgg11,
    /// Column B.
    Vgg13,
    /// Column D.
    Vgg16,
    /// Column E.
    Vgg19,
}

/// Filters of the five blocks.
const FILTERS: [usize; 5] = [64, 128, 256, 512, 512];

impl Depth {
    /// Convolutions in each of the five blocks.
    pub fn convolutions(self) -> [usize; 5] {
        match self {
            Depth::Vgg11 => [1, 1, 2, 2, 2],
            Depth::Vgg13 => [2, 2, 2, 2, 2],
            Depth::Vgg16 => [2, 2, 3, 3, 3],
            Depth::Vgg19 => [2, 2, 4, 4, 4],
        }
    }
}

/// A VGG for images of `(height, width, 3)`, at least 32×32, that ends in logits.
///
/// With `batch_norm` each convolution is followed by batch norm and then ReLU, with torch's momentum and
/// epsilon, as torchvision's `vgg16_bn`. The input of the first dense layer is what the image's size
/// leaves after five poolings (7×7×512 at 224×224).
///
/// # Errors
/// [`Error::Shape`] if the image is too small to be halved five times.
///
/// ```
/// use vgg_lib::prelude::*;
/// let model = vgg::build(vgg::Depth::Vgg16, false, (32, 32, 3), 10, Seed(0))?;
/// assert_eq!(model.layers().last().unwrap().name(), "predictions");
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn build(
    depth: Depth,
    with_batch_norm: bool,
    image: (usize, usize, usize),
    classes: usize,
    seed: Seed,
) -> Result<Sequential> {
    let mut model = Sequential::new(image, seed);
    for (block, (convolutions, filters)) in (1..).zip(depth.convolutions().into_iter().zip(FILTERS)) {
        for i in 1..=convolutions {
            let name = format!("block{block}_conv{i}");
            let conv = conv2d(filters).init(Init::HeNormal);
            if with_batch_norm {
                model.push(&name, conv)?;
                model.push(&format!("{name}_bn"), batch_norm().momentum(0.9).epsilon(1e-5))?;
                model.push(&format!("{name}_relu"), relu())?;
            } else {
                model.push(&name, conv.relu())?;
            }
        }
        model.push(&format!("block{block}_pool"), max_pool2d())?;
    }
    let dense = |units| linear(units).init(Init::Normal(0.01));
    model.push("flatten", flatten())?;
    model.push("fc1", dense(4096).relu())?;
    model.push("fc1_dropout", dropout(0.5))?;
    model.push("fc2", dense(4096).relu())?;
    model.push("fc2_dropout", dropout(0.5))?;
    model.push("predictions", dense(classes))?;
    Ok(model)
}

macro_rules! architectures {
    ($($name:ident: $depth:ident, $with_batch_norm:literal, $what:literal;)*) => {$(
        #[doc = concat!($what, "; see [`build`].\n\n# Errors\nAs [`build`].")]
        pub fn $name(image: (usize, usize, usize), classes: usize, seed: Seed) -> Result<Sequential> {
            build(Depth::$depth, $with_batch_norm, image, classes, seed)
        }
    )*};
}

architectures! {
    vgg11: Vgg11, false, "VGG11, column A";
    vgg13: Vgg13, false, "VGG13, column B";
    vgg16: Vgg16, false, "VGG16, column D";
    vgg19: Vgg19, false, "VGG19, column E";
    vgg11_bn: Vgg11, true, "VGG11 with batch norm";
    vgg13_bn: Vgg13, true, "VGG13 with batch norm";
    vgg16_bn: Vgg16, true, "VGG16 with batch norm";
    vgg19_bn: Vgg19, true, "VGG19 with batch norm";
}

/// The VGG16 for CIFAR-10 of Keras' well-known notebook (after Liu & Deng 2015 and geifmany/cifar-vgg):
/// 32×32×3 images, ReLU before batch norm, dropout between convolutions, one dense layer of 512, l2(5e-4)
/// on every kernel but `block1_conv2`'s and `predictions`'. 15,001,418 parameters; ends in softmax.
///
/// # Panics
/// Never: the layers fit one another.
pub fn cifar_vgg16(seed: Seed) -> Sequential {
    let mut model = Sequential::new((32, 32, 3), seed);
    cifar_layers().into_iter().for_each(|(name, layer)| model.push(&name, layer).expect("the layers fit"));
    model
}

fn cifar_layers() -> Vec<(String, LayerSpec)> {
    const WEIGHT_DECAY: f32 = 0.0005;
    let mut layers = vec![];
    for (block, (convolutions, filters)) in (1..).zip(Depth::Vgg16.convolutions().into_iter().zip(FILTERS)) {
        for i in 1..=convolutions {
            let name = format!("block{block}_conv{i}");
            let conv = conv2d(filters).relu();
            let regularized = name != "block1_conv2";
            layers.push((name.clone(), if regularized { conv.l2(WEIGHT_DECAY).into() } else { conv.into() }));
            layers.push((format!("{name}_bn"), batch_norm().into()));
            if i < convolutions {
                let p = if block == 1 { 0.3 } else { 0.4 };
                layers.push((format!("{name}_dropout"), dropout(p).into()));
            }
        }
        layers.push((format!("block{block}_pool"), max_pool2d().into()));
    }
    layers.push(("block5_dropout".into(), dropout(0.5).into()));
    layers.push(("flatten".into(), flatten().into()));
    layers.push(("fc1".into(), linear(512).relu().l2(WEIGHT_DECAY).into()));
    layers.push(("fc1_bn".into(), batch_norm().into()));
    layers.push(("fc1_dropout".into(), dropout(0.5).into()));
    layers.push(("predictions".into(), linear(10).into()));
    layers.push(("softmax".into(), softmax().into()));
    layers
}

/// The VGG16 weights for ImageNet in `folder`, such as `../data/models`: timm's `vgg16.tv_in1k.safetensors` (what
/// `cargo xtask data vgg16` downloads) or else `vgg16_imagenet_features.safetensors`, the original weights without
/// dense layers. `None` if neither is there.
///
/// # Errors
/// If the system does not let the folder be looked into.
///
/// ```
/// use vgg_lib::prelude::*;
/// let mut model = vgg::vgg16((32, 32, 3), 10, Seed(0))?;
/// if let Some(weights) = vgg::pretrained("../no such folder")? {
///     println!("{}", weights.load_into(&mut model, Pixels::Torch)?);
/// }
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn pretrained(folder: impl AsRef<Path>) -> Result<Option<Pretrained>> {
    let known = [
        ("vgg16.tv_in1k.safetensors", Pixels::Torch, true),
        ("vgg16_imagenet_features.safetensors", Pixels::Caffe, false),
    ];
    for (name, pixels, has_head) in known {
        let path = folder.as_ref().join(name);
        if path.try_exists().map_err(Error::io("read", &path))? {
            return Ok(Some(Pretrained { path, pixels, has_head }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        use Depth::*;
        let published = [
            (Vgg11, false, 132_863_336),
            (Vgg11, true, 132_868_840),
            (Vgg13, false, 133_047_848),
            (Vgg13, true, 133_053_736),
            (Vgg16, false, 138_357_544),
            (Vgg16, true, 138_365_992),
            (Vgg19, false, 143_667_240),
            (Vgg19, true, 143_678_248),
        ];
        for (depth, bn, count) in published {
            let model = build(depth, bn, (224, 224, 3), 1000, Seed(0)).unwrap();
            // torchvision counts learned parameters only.
            let statistics: usize =
                model.layers().iter().flat_map(|l| l.params()).filter(|p| !p.learned).map(|p| p.dims[0]).sum();
            assert_eq!(model.parameter_count() - statistics, count, "{depth:?} {bn}");
        }
        assert_eq!(cifar_vgg16(Seed(0)).parameter_count(), 15_001_418);
    }

    #[test]
    fn a_small_image_is_refused_by_name() {
        let error = vgg16((16, 40, 3), 10, Seed(0)).err().unwrap().to_string();
        assert!(error.contains("block5_pool"), "{error}");
    }
}
