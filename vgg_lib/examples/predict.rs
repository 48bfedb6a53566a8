//! Runs a trained model on images, or on a NumPy array of images that are already preprocessed.
//!
//!     cargo run -p vgg_lib --example predict -- --arch cifar_vgg16 --weights target/cifar10/cifar10vgg.safetensors --image cat.png
//!     cargo run -p vgg_lib --example predict -- --arch vgg16 --weights data/models/vgg16.tv_in1k.safetensors \
//!         --classes data/imagenet_class_index.json --image cat.jpg
//!     cargo run -p vgg_lib --example predict -- --arch vgg16_bn --weights w.npz --npy in.npy --out logits.npy
//!
//! `--image` prints the five most likely classes of each image. `--npy` takes N×H×W×3 f32 and writes N×C
//! logits. Weights are files of this library, torchvision or timm; the number of classes is that of their last layer.

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use dfdx::prelude::HasShape;
use ndarray::{Array2, Array4};
use std::array::from_fn;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vgg_lib::Result;
use vgg_lib::prelude::*;
use vgg_lib::vgg::Depth;
use vgg_lib::weights;

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Arch {
    CifarVgg16,
    Vgg11,
    Vgg13,
    Vgg16,
    Vgg19,
    Vgg11Bn,
    Vgg13Bn,
    Vgg16Bn,
    Vgg19Bn,
}

/// The input values of a pixel.
type Preprocess = Box<dyn Fn([u8; 3]) -> [f32; 3]>;

#[derive(Parser)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["image", "npy"])))]
struct Options {
    #[arg(long)]
    arch: Arch,
    /// A .npz or .safetensors file with the names of this library, torchvision or timm.
    #[arg(long)]
    weights: PathBuf,
    /// Photos; resized to the model's input.
    #[arg(long, num_args = 1..)]
    image: Vec<PathBuf>,
    /// An array of N×H×W×3 f32 values.
    #[arg(long, requires = "out")]
    npy: Option<PathBuf>,
    /// Where the logits go.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Height and width of the model's input; 32 for cifar_vgg16, else 224.
    #[arg(long)]
    size: Option<usize>,
    /// What the weights expect: caffe for Keras' of ImageNet, torch (the default) for torchvision's and timm's.
    /// cifar_vgg16 has a mean and a std instead.
    #[arg(long, conflicts_with_all = ["mean", "std"], value_parser = PossibleValuesParser::new(["caffe", "torch"]))]
    pixels: Option<String>,
    /// Mean of the pixels (0 to 255) in training: one value, or one a channel; with --std.
    #[arg(long, num_args = 1..=3, value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// Their standard deviation.
    #[arg(long, num_args = 1..=3, value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
    /// The names of the classes: a text file with one on each line, or ImageNet's imagenet_class_index.json.
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
    let classes = weights::classes(&options.weights)?.ok_or_else(|| {
        let path = options.weights.display();
        Error::Name(format!(
            "{path} has no last layer (predictions, classifier.6 or head.fc), so nothing to predict with"
        ))
    })?;
    let batch = match &options.npy {
        Some(path) => Some(read_npy(path)?),
        None => None,
    };
    let cifar = matches!(options.arch, Arch::CifarVgg16);
    let size = options.size.unwrap_or(if cifar { 32 } else { 224 });
    let (h, w) = batch.as_ref().map_or((size, size), |batch| (batch.shape()[1], batch.shape()[2]));
    let mut model = build(options.arch, (h, w, 3), classes)?;
    model.load_weights(&options.weights)?;
    if let (Some(batch), Some(out)) = (batch, &options.out) {
        return write_logits(&model, &batch, out);
    }

    let scaled = |mean: Vec<f32>, std: Vec<f32>| -> Preprocess {
        Box::new(move |rgb| from_fn(|c| (f32::from(rgb[c]) - mean[c % mean.len()]) / std[c % std.len()]))
    };
    let preprocess = match (options.mean, options.std, options.pixels.as_deref()) {
        (Some(mean), Some(std), _) => scaled(mean, std),
        (_, _, None) if cifar => scaled(vec![120.707], vec![64.15]), // what the original notebook gets on CIFAR-10
        (_, _, Some("caffe")) => Box::new(|rgb| Pixels::Caffe.values(rgb)),
        _ => Box::new(|rgb| Pixels::Torch.values(rgb)),
    };
    let names = class_names(options.classes.as_deref(), cifar, classes)?;
    for path in &options.image {
        let picture = resize(&read_image(path)?, (h, w));
        let values = picture.pixels().flat_map(|pixel| preprocess(pixel.0));
        let logits = logits(&model, values.collect(), 1)?;
        println!("{}", path.display());
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|x| (x - largest).exp()).sum();
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        for &class in order.iter().take(5) {
            println!("  {:5.1} %  {}", 100.0 * (logits[class] - largest).exp() / sum, names[class]);
        }
    }
    Ok(())
}

fn build(arch: Arch, input: (usize, usize, usize), classes: usize) -> Result<Sequential> {
    let (depth, batch_norm) = match arch {
        Arch::CifarVgg16 => {
            let mut model = vgg::cifar_vgg16(Seed(0));
            model.pop(); // logits, not probabilities
            if classes != 10 {
                model.replace("predictions", linear(classes))?;
            }
            return Ok(model);
        }
        Arch::Vgg11 => (Depth::Vgg11, false),
        Arch::Vgg13 => (Depth::Vgg13, false),
        Arch::Vgg16 => (Depth::Vgg16, false),
        Arch::Vgg19 => (Depth::Vgg19, false),
        Arch::Vgg11Bn => (Depth::Vgg11, true),
        Arch::Vgg13Bn => (Depth::Vgg13, true),
        Arch::Vgg16Bn => (Depth::Vgg16, true),
        Arch::Vgg19Bn => (Depth::Vgg19, true),
    };
    vgg::build(depth, batch_norm, input, classes, Seed(0))
}

fn logits(model: &Sequential, values: Vec<f32>, n: usize) -> Result<Vec<f32>> {
    let (h, w, c) = model.input_shape();
    Ok(model.forward(images(values, (n, h, w, c))?)?.as_vec())
}

fn read_npy(path: &Path) -> Result<Array4<f32>> {
    ndarray_npy::read_npy(path)
        .map_err(|e| Error::Config(format!("{} is no .npy file of N×H×W×3 f32 values: {e}", path.display())))
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
    let table = Array2::from_shape_vec((n, classes), rows.concat()).expect("a row an image");
    ndarray_npy::write_npy(out, &table).map_err(|e| {
        Error::Config(format!("cannot write {}: {e}; is there space, and may you write there?", out.display()))
    })
}

fn class_names(path: Option<&Path>, cifar: bool, classes: usize) -> Result<Vec<String>> {
    let Some(path) = path else {
        let cifar_names = "airplane automobile bird cat deer dog frog horse ship truck";
        return Ok(match cifar && classes == 10 {
            true => cifar_names.split(' ').map(String::from).collect(),
            false => (0..classes).map(|class| format!("class {class}")).collect(),
        });
    };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Config(format!("cannot read {}: {e}; check the path", path.display())))?;
    let names: Vec<String> = if path.extension().is_some_and(|ending| ending == "json") {
        // {"0": ["n01440764", "tench"], …}
        let index: BTreeMap<usize, (String, String)> = serde_json::from_str(&text)
            .map_err(|e| Error::Config(format!("{} is no class index like ImageNet's: {e}", path.display())))?;
        index.into_values().map(|(_, name)| name.replace('_', " ")).collect()
    } else {
        text.lines().filter(|line| !line.trim().is_empty()).map(String::from).collect()
    };
    if names.len() != classes {
        let (path, named) = (path.display(), names.len());
        return Err(Error::Config(format!("{path} names {named} classes, but the weights have {classes}")));
    }
    Ok(names)
}
