//! Runs a trained model on images, or on a NumPy array of preprocessed images.
//!
//!     cargo run -p vgg_lib --example predict -- --arch cifar_vgg16 --weights target/cifar10/cifar10vgg.safetensors --image cat.png
//!     cargo run -p vgg_lib --example predict -- --arch vgg16 --weights data/models/vgg16.tv_in1k.safetensors \
//!         --classes data/imagenet_class_index.json --image cat.jpg
//!     cargo run -p vgg_lib --example predict -- --arch vgg16_bn --weights w.npz --npy in.npy --out logits.npy
//!
//! `--image` prints the five most likely classes of each image. `--npy` reads an f32 array of shape N×H×W×3 and writes
//! the N×C logits. The weights may be any that `load_weights` reads; the number of classes is that of their last layer.
//! `--arch` may be left out for files with the names of this library, torchvision or timm, which tell their network. The
//! file of a whole model (`Sequential::save`) also tells the classes and how images are prepared.

mod common;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use common::{Arch, arch, build, class_names, is_cifar_vgg16, outputs};
use dfdx::prelude::HasShape;
use ndarray::{Array2, Array4};
use std::array::from_fn;
use std::path::{Path, PathBuf};
use vgg_lib::Result;
use vgg_lib::prelude::*;

/// From the red, green and blue of a pixel to the input values.
type Preprocess = Box<dyn Fn([u8; 3]) -> [f32; 3]>;

#[derive(Parser)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["image", "npy"])))]
struct Options {
    /// The network: vgg16, vgg16_bn, cifar_vgg16, pytorch_cifar_vgg16, chengyangfu_vgg16, chengyangfu_vgg16_bn, or the
    /// same with 11, 13 or 19; by default the one that the file tells.
    #[arg(long, value_parser = arch)]
    arch: Option<Arch>,
    /// The weight file.
    #[arg(long)]
    weights: PathBuf,
    /// Image files, which are resized to the model's input size.
    #[arg(long, num_args = 1..)]
    image: Vec<PathBuf>,
    /// A .npy file with an f32 array of shape N×H×W×3.
    #[arg(long, requires = "out")]
    npy: Option<PathBuf>,
    /// The .npy file for the logits.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Height and width of the images that the weights were trained on; by default 224 for the networks of the paper.
    #[arg(long)]
    size: Option<usize>,
    /// The pixels that the weights expect: caffe for Keras' ImageNet weights, torch (the default) for torchvision's and
    /// timm's. cifar_vgg16 has a mean and a std instead.
    #[arg(long, conflicts_with_all = ["mean", "std"], value_parser = PossibleValuesParser::new(["caffe", "torch"]))]
    pixels: Option<String>,
    /// Mean of the training pixels (0 to 255): one value, or one per channel; requires --std.
    #[arg(long, num_args = 1..=3, value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// Standard deviation of the training pixels: one value, or one per channel.
    #[arg(long, num_args = 1..=3, value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
    /// The class names: a text file with one per line, or ImageNet's imagenet_class_index.json.
    #[arg(long)]
    classes: Option<PathBuf>,
}

fn main() {
    if let Err(error) = run(Options::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: Options) -> Result<()> {
    let batch = match &options.npy {
        Some(path) => Some(read_npy(path)?),
        None => None,
    };
    let of_batch = batch.as_ref().map(|batch| (batch.shape()[1], batch.shape()[2]));
    let mut model = build(options.arch, of_batch.or(options.size.map(|size| (size, size))), &options.weights)?;
    model.load_weights(&options.weights)?;
    if let (Some(batch), Some(out)) = (batch, &options.out) {
        return write_logits(&model, &batch, out);
    }

    let (cifar, (h, w, _)) = (is_cifar_vgg16(&model), model.input_shape());
    if model.normalization().is_some() && options.mean.is_none() && options.pixels.is_none() {
        return classify(&mut model, &options);
    }
    let scaled = |mean: Vec<f32>, std: Vec<f32>| -> Preprocess {
        Box::new(move |rgb| from_fn(|c| (f32::from(rgb[c]) - mean[c % mean.len()]) / std[c % std.len()]))
    };
    let preprocess = match (options.mean, options.std, options.pixels.as_deref()) {
        (Some(mean), Some(std), _) => scaled(mean, std),
        (_, _, None) if cifar => scaled(vec![120.707], vec![64.15]), // the training images of CIFAR-10
        (_, _, Some("caffe")) => Box::new(|rgb| Pixels::Caffe.values(rgb)),
        _ => Box::new(|rgb| Pixels::Torch.values(rgb)),
    };
    let classes = outputs(&model)?;
    let names = class_names(options.classes.as_deref(), cifar, classes)?;
    for path in &options.image {
        let picture = resize(&read_image(path)?, (h, w));
        let values = picture.pixels().flat_map(|pixel| preprocess(pixel.0)).collect();
        let photo = Dataset::from_floats(values, (h, w, 3), vec![0], names.clone())?;
        let top = &model.predict(&photo)?.top(5)[0];
        print_classes(path, top.iter().map(|(class, probability)| (names[*class].as_str(), *probability)));
    }
    Ok(())
}

/// For the file of a whole model, which says how images are prepared.
fn classify(model: &mut Sequential, options: &Options) -> Result<()> {
    if let Some(path) = &options.classes {
        let names = class_names(Some(path), false, outputs(model)?)?;
        model.set_classes(&names)?;
    }
    for path in &options.image {
        let seen = model.classify(path)?;
        print_classes(path, seen.top.iter().take(5).map(|(class, probability)| (class.as_str(), *probability)));
    }
    Ok(())
}

fn print_classes<'a>(path: &Path, top: impl Iterator<Item = (&'a str, f32)>) {
    println!("{}", path.display());
    for (class, probability) in top {
        println!("  {:5.1} %  {class}", 100.0 * probability);
    }
}

fn read_npy(path: &Path) -> Result<Array4<f32>> {
    ndarray_npy::read_npy(path).map_err(|e| {
        Error::Config(format!(
            "{} is not a .npy file of N×H×W×3 f32 values: {e}; save it as numpy.float32",
            path.display()
        ))
    })
}

fn write_logits(model: &Sequential, batch: &Array4<f32>, out: &Path) -> Result<()> {
    const AT_ONCE: usize = 32;
    let n = batch.shape()[0];
    let channels = batch.shape()[3];
    let (h, w, _) = model.input_shape();
    let mut rows = vec![];
    let values: Vec<f32> = batch.iter().copied().collect();
    for part in values.chunks((AT_ONCE * h * w * channels).max(1)) {
        let x = images(part.to_vec(), (part.len() / (h * w * channels), h, w, channels))?;
        let y = model.forward(x)?;
        rows.extend(y.as_vec().chunks(y.shape().3).map(<[f32]>::to_vec));
    }
    let classes = rows.first().map_or(0, Vec::len);
    let table = Array2::from_shape_vec((n, classes), rows.concat()).expect("one row per image");
    ndarray_npy::write_npy(out, &table).map_err(|e| {
        Error::Config(format!("cannot write {}: {e}; check the free space and the permissions", out.display()))
    })
}
