//! Converts a model or its weights from one file format to another. The endings of the files say which formats.
//!
//!     cargo run -p vgg_lib --features onnx,coreml,hdf5 --example convert -- vgg16.onnx VGG16.mlmodel --classes labels.txt
//!     cargo run -p vgg_lib --features onnx,coreml,hdf5 --example convert -- vgg16-397923af.pth vgg16.weights.h5 --arch vgg16
//!
//! | | holds | read | written |
//! |---|---|---|---|
//! | `.safetensors`, `.npz` | weights, of the network `--arch` | yes | yes, with any `--names` |
//! | PyTorch's `.pth`, `.pt`, `.ckpt` … | the same | yes | yes, with torchvision's names |
//! | Keras' `.weights.h5` | the same | yes | yes |
//! | Keras' `.h5`, `.keras` | the same | yes | no |
//! | `.onnx` | a whole model | yes | yes |
//! | `.mlmodel` | a whole Core ML classifier | no | yes |
//!
//! Without `--arch`, the network is the one that the weights are certainly of, if there is one.
//!
//! An `.mlmodel` takes pixels from 0 to 255 and normalizes them: with `--mean` and `--std` if they are given, otherwise
//! as in the training of `cifar_vgg16`, or for the other networks as torchvision's and timm's weights expect. An
//! `.onnx` takes the input of the network, or pixels from 0 to 255 if `--mean` and `--std` are given.

mod common;

use clap::{Parser, ValueEnum};
use common::{Arch, arch, build, class_names, is_cifar_vgg16, outputs};
use std::path::{Path, PathBuf};
use vgg_lib::Result;
use vgg_lib::prelude::*;

#[derive(Parser)]
struct Options {
    /// The file to read.
    from: PathBuf,
    /// The file to write.
    to: PathBuf,
    /// The network that the weights belong to: vgg16, vgg16_bn, cifar_vgg16, pytorch_cifar_vgg16, chengyangfu_vgg16,
    /// chengyangfu_vgg16_bn, or the same with 11, 13 or 19; by default the one that the file tells.
    #[arg(long, value_parser = arch)]
    arch: Option<Arch>,
    /// The naming scheme for weights in .safetensors and .npz files.
    #[arg(long, value_enum, default_value_t = WeightNames::Own)]
    names: WeightNames,
    /// The class names: a text file with one per line, or ImageNet's imagenet_class_index.json.
    #[arg(long)]
    classes: Option<PathBuf>,
    /// Height and width of the images that the weights were trained on; by default 224 for the networks of the paper.
    #[arg(long)]
    size: Option<usize>,
    /// Mean of the training pixels (0 to 255): one value, or one per channel; requires --std.
    #[arg(long, num_args = 1..=3, value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// Standard deviation of the training pixels: one value, or one per channel.
    #[arg(long, num_args = 1..=3, value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightNames {
    Own,
    Torchvision,
    Keras,
}

fn main() {
    if let Err(error) = run(&Options::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    let (from, to) = (ending(&options.from), ending(&options.to));
    let (from, to) = (from.as_str(), to.as_str());
    if !matches!(to, "onnx" | "mlmodel" | "safetensors" | "npz" | "pth" | "pt" | "h5") {
        let path = options.to.display();
        let what = "cannot be written; choose the ending .onnx, .mlmodel, .safetensors, .npz, .pth or .weights.h5";
        return Err(Error::Config(format!("{path} {what}")));
    }
    let model = if from == "onnx" { Sequential::load_onnx(&options.from)? } else { network(options)? };
    let cifar = from != "onnx" && is_cifar_vgg16(&model);
    println!("{}: {} layers, {} parameters", options.from.display(), model.layers().len(), model.parameter_count());
    if !matches!(to, "onnx" | "mlmodel") {
        let saved = match (to, options.names) {
            ("safetensors" | "npz", WeightNames::Torchvision) => {
                model.save_weights_as(&options.to, Names::Torchvision)?
            }
            ("safetensors" | "npz", WeightNames::Keras) => model.save_weights_as(&options.to, Names::Keras)?,
            _ => model.save_weights(&options.to)?,
        };
        println!("{saved}");
        return Ok(());
    }

    let outputs = outputs(&model)?;
    let prepared = matches!(model.layers()[0].op(), Op::Preprocess { .. });
    let spread = |values: &[f32]| -> Vec<f32> { (0..3).map(|channel| values[channel % values.len()]).collect() };
    let normalization = match (&options.mean, &options.std) {
        (Some(mean), Some(std)) => Some(Normalization { mean: spread(mean), std: spread(std) }),
        _ if to == "onnx" || prepared || from == "onnx" => None,
        _ if cifar => Some(Normalization { mean: vec![120.707; 3], std: vec![64.15; 3] }), // CIFAR-10's
        _ => Some(Normalization::imagenet()),
    };
    match &normalization {
        Some(Normalization { mean, std }) => println!("It takes pixels from 0 to 255: (pixel - {mean:?}) / {std:?}"),
        None if prepared => println!("It takes pixels from 0 to 255, like the model"),
        None => println!(
            "It takes the same input as the model; add --mean and --std if it should take pixels from 0 to 255"
        ),
    }
    let named = to == "mlmodel" || options.classes.is_some();
    let classes = if named { class_names(options.classes.as_deref(), cifar, outputs)? } else { vec![] };
    let export = Export { classes, normalization, ..Export::default() };
    let written = match to {
        "onnx" => model.save_onnx(&options.to, &export)?,
        _ => model.save_coreml(&options.to, &export)?,
    };
    println!("{written}");
    Ok(())
}

/// The network `--arch` with the weights of the file.
fn network(options: &Options) -> Result<Sequential> {
    let mut model = build(options.arch, options.size.map(|size| (size, size)), &options.from)?;
    println!("{}", model.load_weights(&options.from)?);
    Ok(model)
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}
