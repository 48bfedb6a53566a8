//! Shared by the examples that take the name of a network on the command line.

use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::Path;
use vgg_lib::Result;
use vgg_lib::prelude::*;
use vgg_lib::vgg::Depth;

/// The networks that can be named.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Arch {
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

/// Builds the network with new weights, without softmax: its outputs are logits.
pub fn build(arch: Arch, input: (usize, usize, usize), classes: usize) -> Result<Sequential> {
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

/// The class names: read from a file if there is one, or those of CIFAR-10, or `class 0`, `class 1`, ….
///
/// The file is ImageNet's class index (JSON) or has one name per line.
pub fn class_names(path: Option<&Path>, cifar: bool, classes: usize) -> Result<Vec<String>> {
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
            .map_err(|e| Error::Config(format!("{} is not a class index like ImageNet's: {e}", path.display())))?;
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
