//! What network a weight file is of, by the names and shapes of its tensors.

use super::by_order;
use super::options::LoadOptions;
use super::torch;
use super::view::{View, views};
use crate::formats::WeightFile;
use crate::formats::tensors::FileTensors;
use crate::{Error, Result};
use std::path::Path;

/// The layers of a VGG in a weight file.
pub(crate) struct Outline {
    /// The channels of the images.
    pub channels: usize,
    /// The filters of each convolution.
    pub filters: Vec<usize>,
    /// Whether a batch norm follows each convolution, or its ReLU.
    pub norms: Norms,
    /// Whether there are batch norms between dense layers.
    pub norms_in_head: bool,
    /// The inputs and outputs of each dense layer.
    pub dense: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norms {
    None,
    AfterConvolution,
    AfterRelu,
}

/// The outline of a file whose names tell the order of all layers: this library's, torchvision's or timm's. `None` for
/// others.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn outline(path: &Path) -> Result<Option<Outline>> {
    let file = WeightFile::open(path)?;
    let tensors = file.tensors()?;
    let views = views(&tensors, &LoadOptions::default()).map_err(|message| Error::file(path, message))?;
    Ok(views.iter().find_map(|view| of_torch(view).or_else(|| of_ours(&tensors, view))))
}

fn of_torch(file: &View) -> Option<Outline> {
    let torch::Parts { features, head } = torch::parts(file)?;
    let kernels: Option<Vec<&[usize]>> = features.layers.iter().map(|module| module.kernel(file)).collect();
    let kernels = kernels.filter(|kernels| !kernels.is_empty())?;
    let number = |name: &str| name.rsplit('.').next()?.parse::<usize>().ok();
    let gaps = features.layers.iter().zip(&features.norms);
    let gaps: Option<Vec<usize>> =
        gaps.map(|(layer, norm)| number(&norm.name)?.checked_sub(number(&layer.name)?)).collect();
    let norms = match (features.norms.len(), gaps?) {
        (0, _) => Norms::None,
        (count, gaps) if count == kernels.len() && gaps.iter().all(|gap| *gap == 1) => Norms::AfterConvolution,
        (count, gaps) if count == kernels.len() && gaps.iter().all(|gap| *gap == 2) => Norms::AfterRelu,
        _ => return None,
    };
    let dense = torch::dense_layers(file, &head);
    let dense = dense.iter().map(|module| match module.kernel(file)? {
        [outputs, inputs @ ..] => Some((inputs.iter().product(), *outputs)),
        [] => None,
    });
    Some(Outline {
        channels: *kernels[0].get(1)?,
        filters: kernels.iter().map(|kernel| kernel.first().copied()).collect::<Option<_>>()?,
        norms,
        norms_in_head: !head.norms.is_empty(),
        dense: dense.collect::<Option<_>>()?,
    })
}

/// The names of the layers of `vgg` are in the order of the network: `block1_conv1`, `block1_conv2` …, `fc1`, `fc2`,
/// `predictions`. Other networks have batch norms after the convolutions; only `cifar_vgg16` has one in its head.
fn of_ours(tensors: &FileTensors, file: &View) -> Option<Outline> {
    let is_ours = |name: &str| file.get(name).is_some_and(|kernel| matches!(kernel.shape[..], [3, 3, _, _]));
    if tensors.keras.is_some() || !["block1_conv1.weight", "block1_conv1/kernel"].into_iter().any(is_ours) {
        return None;
    }
    let layers = by_order::layers(file, usize::MAX).pop()?;
    let kernels: Option<Vec<&[usize]>> = layers.convolutions.layers.iter().map(|module| module.kernel(file)).collect();
    let kernels: Vec<(usize, usize)> =
        kernels?.iter().map(|kernel| Some((*kernel.get(2)?, *kernel.get(3)?))).collect::<Option<_>>()?;
    let dense = layers.dense.iter().map(|module| match module.kernel(file)? {
        [inputs, outputs] => Some((*inputs, *outputs)),
        _ => None,
    });
    let norms_in_head = layers.convolutions.norms.iter().any(|norm| norm.name.starts_with("fc"));
    let in_trunk = layers.convolutions.norms.len() - usize::from(norms_in_head);
    Some(Outline {
        channels: kernels.first()?.0,
        filters: kernels.iter().map(|(_, filters)| *filters).collect(),
        norms: match (in_trunk, norms_in_head) {
            (0, _) => Norms::None,
            (_, true) => Norms::AfterRelu,
            (_, false) => Norms::AfterConvolution,
        },
        norms_in_head,
        dense: dense.collect::<Option<_>>()?,
    })
}
