//! Shared by the examples that take the name of a network on the command line.

use std::collections::BTreeMap;
use std::path::Path;
use vgg_lib::prelude::*;
use vgg_lib::vgg::Depth;
use vgg_lib::{Result, naming};

/// A network that can be named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Arch {
    family: Family,
    depth: Depth,
    batch_norm: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// The paper's and torchvision's.
    Vgg,
    /// `vgg::cifar_vgg16`.
    Cifar,
    /// kuangliu/pytorch-cifar's.
    PytorchCifar,
    /// chengyangfu/pytorch-vgg-cifar10's.
    Chengyangfu,
}

/// The network of this name, for clap.
pub fn arch(name: &str) -> std::result::Result<Arch, String> {
    let (family, rest) = if let Some(rest) = name.strip_prefix("pytorch_cifar_") {
        (Family::PytorchCifar, rest)
    } else if let Some(rest) = name.strip_prefix("chengyangfu_") {
        (Family::Chengyangfu, rest)
    } else if name == "cifar_vgg16" {
        (Family::Cifar, "vgg16")
    } else {
        (Family::Vgg, name)
    };
    let (depth, batch_norm) = rest.strip_suffix("_bn").map_or((rest, false), |depth| (depth, true));
    let depths = [("vgg11", Depth::Vgg11), ("vgg13", Depth::Vgg13), ("vgg16", Depth::Vgg16), ("vgg19", Depth::Vgg19)];
    let depth = depths.iter().find(|(name, _)| *name == depth).map(|(_, depth)| *depth);
    let named = depth.filter(|_| !batch_norm || matches!(family, Family::Vgg | Family::Chengyangfu));
    named.map(|depth| Arch { family, depth, batch_norm }).ok_or_else(|| {
        "the networks are vgg11, vgg13, vgg16 and vgg19, with batch norm vgg11_bn …, for CIFAR-10 cifar_vgg16, \
         pytorch_cifar_vgg16 … (kuangliu's) and chengyangfu_vgg16, chengyangfu_vgg16_bn …"
            .to_string()
    })
}

/// Builds the network of a weight file without softmax, so that its outputs are logits, with new weights: the one of
/// this name, or else the one that the file is certainly of. `size` is the height and width of the images, if given.
pub fn build(arch: Option<Arch>, size: Option<(usize, usize)>, weights: &Path) -> Result<Sequential> {
    let mut model = match arch {
        None => vgg::of_file(weights, Seed(0)).map_err(|error| match error {
            Error::File { .. } if error.to_string().contains("does not tell its network") => {
                Error::Config(format!("{error} (on the command line, --arch names it)"))
            }
            other => other,
        })?,
        Some(arch) => named(arch, size, weights)?,
    };
    if matches!(model.layers().last().map(|layer| layer.op()), Some(Op::Softmax)) {
        model.pop();
    }
    let (h, w, _) = model.input_shape();
    match size {
        Some((height, width)) if (height, width) != (h, w) => Err(Error::Config(format!(
            "{} is of a network for images of {h}×{w}, not {height}×{width}; give an array of that size, or leave out \
             --size: image files are resized",
            weights.display()
        ))),
        _ => Ok(model),
    }
}

fn named(Arch { family, depth, batch_norm }: Arch, size: Option<(usize, usize)>, weights: &Path) -> Result<Sequential> {
    let classes = naming::classes(weights)?.ok_or_else(|| {
        let path = weights.display();
        Error::Name(format!(
            "{path} has no last layer (predictions, classifier.N or head.fc); use a file with the dense layers"
        ))
    })?;
    Ok(match family {
        Family::Vgg => {
            let (h, w) = size.unwrap_or((224, 224));
            vgg::build(depth, batch_norm, (h, w, 3), classes, Seed(0))?
        }
        Family::Cifar => {
            let mut model = vgg::cifar_vgg16(Seed(0));
            model.pop(); // logits, not probabilities
            if classes != 10 {
                model.replace("predictions", linear(classes))?;
            }
            model
        }
        Family::PytorchCifar => vgg::pytorch_cifar(depth, classes, Seed(0)),
        Family::Chengyangfu => vgg::pytorch_vgg_cifar10(depth, batch_norm, classes, Seed(0)),
    })
}

/// The number of output values per image.
pub fn outputs(model: &Sequential) -> Result<usize> {
    match model.summary(model.input_shape()).rows.last() {
        Some(row) => Ok(row.output.size()),
        None => Err(Error::Config("the model has no layers".into())),
    }
}

/// Whether this is the network of `vgg::cifar_vgg16`, whose images are normalized by one mean and one deviation.
pub fn is_cifar_vgg16(model: &Sequential) -> bool {
    model.layers().iter().any(|layer| layer.name() == "fc1_bn")
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
