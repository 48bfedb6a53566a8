//! The VGG networks (Simonyan & Zisserman 2014, arXiv:1409.1556) as tables.
//!
//! A table lists the convolutional part of a network: a number is a 3×3 convolution with that many filters, `M` a 2×2
//! max pooling. One loop turns it into named layers: `block1_conv1`, `block1_conv2`, `block1_pool`, `block2_conv1` …

mod start;

pub use start::{Start, features_or_shapes, pretrained_or_shapes};

use crate::model::{
    Init, LayerSpec, Seed, Sequential, batch_norm, conv2d, dropout, flatten, linear, max_pool2d, relu, softmax,
};
use crate::naming::{Norms, Outline, Pixels, Pretrained, outline, whole_model};
use crate::{Error, Result};
use std::path::Path;

/// A max pooling in a table.
const M: usize = 0;

/// The columns of the paper's table 1, as in torchvision's `cfgs`.
#[rustfmt::skip]
mod columns {
    use super::M;
    pub const A: &[usize] = &[64, M, 128, M, 256, 256, M, 512, 512, M, 512, 512, M];
    pub const B: &[usize] = &[64, 64, M, 128, 128, M, 256, 256, M, 512, 512, M, 512, 512, M];
    pub const D: &[usize] = &[64, 64, M, 128, 128, M, 256, 256, 256, M, 512, 512, 512, M, 512, 512, 512, M];
    pub const E: &[usize] =
        &[64, 64, M, 128, 128, M, 256, 256, 256, 256, M, 512, 512, 512, 512, M, 512, 512, 512, 512, M];
}

/// Which VGG: the number of layers with weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Column A of the paper.
    Vgg11,
    /// Column B.
    Vgg13,
    /// Column D.
    Vgg16,
    /// Column E.
    Vgg19,
}

impl Depth {
    fn table(self) -> &'static [usize] {
        match self {
            Depth::Vgg11 => columns::A,
            Depth::Vgg13 => columns::B,
            Depth::Vgg16 => columns::D,
            Depth::Vgg19 => columns::E,
        }
    }

    /// The number of convolutions in each of the five blocks.
    pub fn convolutions(self) -> [usize; 5] {
        let mut blocks = self.table().split(|&entry| entry == M);
        std::array::from_fn(|_| blocks.next().map_or(0, <[usize]>::len))
    }
}

type NamedLayer = (String, LayerSpec);

fn layer(name: impl Into<String>, layer: impl Into<LayerSpec>) -> NamedLayer {
    (name.into(), layer.into())
}

/// The layers of a table. `convolution` returns the layers for a convolution; each [`M`] becomes a max pooling.
fn blocks(table: &[usize], convolution: impl Fn(Convolution) -> Vec<NamedLayer>) -> Vec<NamedLayer> {
    let mut layers = vec![];
    for (block, entries) in (1..).zip(table.split_inclusive(|&entry| entry == M)) {
        for (i, &filters) in (1..).zip(entries) {
            if filters == M {
                layers.push(layer(format!("block{block}_pool"), max_pool2d()));
            } else {
                let last_of_block = entries.get(i).is_none_or(|&next| next == M);
                let name = format!("block{block}_conv{i}");
                layers.extend(convolution(Convolution { name, filters, block, last_of_block }));
            }
        }
    }
    layers
}

/// A convolution in a table.
struct Convolution {
    name: String,
    filters: usize,
    /// From 1.
    block: usize,
    /// Whether a pooling follows.
    last_of_block: bool,
}

fn build_layers(image: (usize, usize, usize), seed: Seed, layers: Vec<NamedLayer>) -> Result<Sequential> {
    let mut model = Sequential::new(image, seed);
    layers.into_iter().try_for_each(|(name, layer)| model.push(&name, layer))?;
    Ok(model)
}

/// A VGG for images of `(height, width, 3)`, at least 32×32, that ends in logits.
///
/// With `with_batch_norm`, batch norm and then ReLU follow each convolution, with PyTorch's momentum and epsilon, as in
/// torchvision's `vgg16_bn`. The input of the first dense layer is what the image size leaves after five poolings
/// (7×7×512 for 224×224); [`accept_any_size`](Sequential::accept_any_size) adds the pooling with which torchvision's
/// networks also take images of other sizes.
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
    let mut layers = features(depth, with_batch_norm);
    layers.extend(top(4096, classes, Init::Normal(0.01)));
    build_layers(image, seed, layers)
}

/// Two hidden dense layers with dropout, and one that assigns the classes.
fn top(units: usize, classes: usize, init: Init) -> Vec<NamedLayer> {
    vec![
        layer("flatten", flatten()),
        layer("fc1", linear(units).relu().init(init)),
        layer("fc1_dropout", dropout(0.5)),
        layer("fc2", linear(units).relu().init(init)),
        layer("fc2_dropout", dropout(0.5)),
        layer("predictions", linear(classes).init(Init::Normal(0.01))),
    ]
}

/// The convolutions and poolings of the paper. ReLU, or batch norm and ReLU, follow each convolution.
fn features(depth: Depth, with_batch_norm: bool) -> Vec<NamedLayer> {
    blocks(depth.table(), |Convolution { name, filters, .. }| {
        let conv = conv2d(filters).init(Init::HeNormal);
        if !with_batch_norm {
            return vec![layer(name, conv.relu())];
        }
        let (bn, act) = (format!("{name}_bn"), format!("{name}_relu"));
        vec![layer(name, conv), layer(bn, batch_norm().momentum(0.9).epsilon(1e-5)), layer(act, relu())]
    })
}

macro_rules! architectures {
    ($($name:ident: $depth:ident, $with_batch_norm:literal, $what:literal;)*) => {$(
        #[doc = concat!($what, "; see [`build`].\n\n# Errors\nAs for [`build`].")]
        pub fn $name(image: (usize, usize, usize), classes: usize, seed: Seed) -> Result<Sequential> {
            build(Depth::$depth, $with_batch_norm, image, classes, seed)
        }
    )*};
}

architectures! {
    vgg11: Vgg11, false, "VGG11, column A of the paper";
    vgg13: Vgg13, false, "VGG13, column B of the paper";
    vgg16: Vgg16, false, "VGG16, column D of the paper";
    vgg19: Vgg19, false, "VGG19, column E of the paper";
    vgg11_bn: Vgg11, true, "VGG11 with batch norm";
    vgg13_bn: Vgg13, true, "VGG13 with batch norm";
    vgg16_bn: Vgg16, true, "VGG16 with batch norm";
    vgg19_bn: Vgg19, true, "VGG19 with batch norm";
}

/// The VGG16 of the Keras CIFAR-10 VGG notebook (after Liu & Deng 2015 and geifmany/cifar-vgg): 32×32×3 images, ReLU
/// before batch norm, dropout between the convolutions of a block, one hidden dense layer of 512, and l2(5e-4) on every
/// kernel but those of `block1_conv2` and `predictions`. 15,001,418 parameters; ends in softmax.
///
/// # Panics
/// Never: the layers fit one another.
pub fn cifar_vgg16(seed: Seed) -> Sequential {
    const WEIGHT_DECAY: f32 = 0.0005;
    let mut layers = blocks(columns::D, |Convolution { name, filters, block, last_of_block }| {
        let l2 = if name == "block1_conv2" { 0.0 } else { WEIGHT_DECAY };
        let (bn, drop) = (format!("{name}_bn"), format!("{name}_dropout"));
        let mut layers = vec![layer(name, conv2d(filters).relu().l2(l2)), layer(bn, batch_norm())];
        if !last_of_block {
            layers.push(layer(drop, dropout(if block == 1 { 0.3 } else { 0.4 })));
        }
        layers
    });
    layers.extend([
        layer("block5_dropout", dropout(0.5)),
        layer("flatten", flatten()),
        layer("fc1", linear(512).relu().l2(WEIGHT_DECAY)),
        layer("fc1_bn", batch_norm()),
        layer("fc1_dropout", dropout(0.5)),
        layer("predictions", linear(10)),
        layer("softmax", softmax()),
    ]);
    build_layers((32, 32, 3), seed, layers).expect("the layers fit one another")
}

/// The VGGs of [kuangliu/pytorch-cifar](https://github.com/kuangliu/pytorch-cifar) for 32×32 images: batch norm and ReLU
/// after each convolution, and a single dense layer. Ends in logits.
///
/// # Panics
/// Never: the layers fit one another.
pub fn pytorch_cifar(depth: Depth, classes: usize, seed: Seed) -> Sequential {
    let mut layers = features(depth, true);
    layers.extend([layer("flatten", flatten()), layer("predictions", linear(classes))]);
    build_layers((32, 32, 3), seed, layers).expect("the layers fit one another")
}

/// The VGGs of [chengyangfu/pytorch-vgg-cifar10](https://github.com/chengyangfu/pytorch-vgg-cifar10) for 32×32 images:
/// two hidden dense layers of 512, each after dropout. Ends in logits.
///
/// # Panics
/// Never: the layers fit one another.
pub fn pytorch_vgg_cifar10(depth: Depth, with_batch_norm: bool, classes: usize, seed: Seed) -> Sequential {
    let mut layers = features(depth, with_batch_norm);
    layers.extend([
        layer("flatten", flatten()),
        layer("fc1_dropout", dropout(0.5)),
        layer("fc1", linear(512).relu()),
        layer("fc2_dropout", dropout(0.5)),
        layer("fc2", linear(512).relu()),
        layer("predictions", linear(classes)),
    ]);
    build_layers((32, 32, 3), seed, layers).expect("the layers fit one another")
}

/// Builds the network that a weight file is of, with new weights: one of the functions of this module, with the file's
/// number of classes and the size of the images that its dense layers take. The layers are known by the names of this
/// library, torchvision or timm; nothing is guessed. A file of a whole model has its layers: this returns the model, with
/// its weights, as [`Sequential::load`] does.
///
/// ```
/// use vgg_lib::prelude::*;
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("cifar.pth");
/// vgg::pytorch_cifar(vgg::Depth::Vgg11, 10, Seed(0)).save_weights(&file)?;
/// let mut model = vgg::of_file(&file, Seed(0))?;
/// println!("{}", model.load_weights(&file)?);
/// # Ok::<(), vgg_lib::Error>(())
/// ```
///
/// # Errors
/// If the file cannot be read, or is not certainly of one of these networks.
pub fn of_file(path: impl AsRef<Path>, seed: Seed) -> Result<Sequential> {
    let path = path.as_ref();
    if let Some(model) = whole_model(path)? {
        return Ok(model);
    }
    let unknown = |what: &str| {
        let advice = "build the network that it is of, and load the weights into it";
        Error::file(path, format!("does not tell its network: {what}; {advice}"))
    };
    let Some(Outline { channels, filters, norms, norms_in_head, dense }) = outline(path)? else {
        return Err(unknown("its names are not those of this library, torchvision or timm"));
    };
    let depths = [Depth::Vgg11, Depth::Vgg13, Depth::Vgg16, Depth::Vgg19];
    let convolutions = |depth: &Depth| depth.table().iter().copied().filter(|&entry| entry != M);
    let Some(depth) = depths.into_iter().find(|depth| convolutions(depth).eq(filters.iter().copied())) else {
        return Err(unknown("its convolutions are not those of a VGG11, 13, 16 or 19"));
    };
    let bn = norms == Norms::AfterConvolution;
    match dense[..] {
        [(512, 512), (512, classes)] if norms == Norms::AfterRelu && norms_in_head && depth == Depth::Vgg16 => {
            let mut model = cifar_vgg16(seed);
            if classes != 10 {
                model.pop();
                model.replace("predictions", linear(classes))?;
                model.push("softmax", softmax())?;
            }
            Ok(model)
        }
        _ if norms == Norms::AfterRelu || norms_in_head || channels != 3 => {
            Err(unknown("its batch norms or channels are not those of the networks in `vgg`"))
        }
        [(512, classes)] if bn => Ok(pytorch_cifar(depth, classes, seed)),
        [(512, 512), (512, 512), (512, classes)] => Ok(pytorch_vgg_cifar10(depth, bn, classes, seed)),
        [(inputs, 4096), (4096, 4096), (4096, classes)] if (inputs / 512).isqrt().pow(2) * 512 == inputs => {
            let size = 32 * (inputs / 512).isqrt();
            build(depth, bn, (size, size, channels), classes, seed)
        }
        [] => Err(unknown("it has no dense layers")),
        _ => Err(unknown("its dense layers are not those of the networks in `vgg`")),
    }
}

/// The file of VGG16 weights for ImageNet in `folder`, such as `../data/models`: timm's `vgg16.tv_in1k.safetensors`,
/// which `cargo xtask data vgg16` downloads, or else `vgg16_imagenet_features.safetensors`, the original weights without
/// dense layers. `None` if the folder has neither.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read.
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
    fn parameter_counts_match_the_published_ones() {
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
            // torchvision counts only the learned parameters.
            let statistics: usize =
                model.layers().iter().flat_map(|l| l.params()).filter(|p| !p.learned).map(|p| p.dims[0]).sum();
            assert_eq!(model.parameter_count() - statistics, count, "{depth:?} {bn}");
        }
        assert_eq!(cifar_vgg16(Seed(0)).parameter_count(), 15_001_418);
    }

    #[test]
    fn tables_have_the_convolutions_of_the_paper() {
        assert_eq!(Depth::Vgg11.convolutions(), [1, 1, 2, 2, 2]);
        assert_eq!(Depth::Vgg13.convolutions(), [2, 2, 2, 2, 2]);
        assert_eq!(Depth::Vgg16.convolutions(), [2, 2, 3, 3, 3]);
        assert_eq!(Depth::Vgg19.convolutions(), [2, 2, 4, 4, 4]);
    }

    #[test]
    fn a_small_image_is_refused_with_the_name_of_the_layer() {
        let error = vgg16((16, 40, 3), 10, Seed(0)).err().unwrap().to_string();
        assert!(error.contains("block5_pool"), "{error}");
    }
}
