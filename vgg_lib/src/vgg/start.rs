//! What a transfer-learning notebook starts from: a trained network, and images of two classes that it does not know.
//! Where the files are missing, drawn shapes take their place.

use super::{Convolution, blocks, build_layers, columns, features, layer, pretrained, top};
use crate::Result;
use crate::data::{Dataset, Normalization, class_index, shapes};
use crate::model::{Init, LayerSpec, Seed, Sequential, batch_norm, conv2d, preprocess};
use crate::naming::{Pixels, Pretrained};
use crate::notebook::{Show, Shown, image_folder};
use crate::optim::Schedule;
use crate::text::thousands;
use crate::train::FitConfig;
use std::fmt;
use std::path::Path;

/// The eight shapes that the small network learns first, and the two that it has not seen.
const KNOWN: [&str; 8] = ["arrow", "circle", "crescent", "cross", "hourglass", "ring", "square", "triangle"];
const NEW: [&str; 2] = ["heart", "star"];
/// The number of images to train on and to validate with; in quick mode, the second pair.
const IMAGES: [(usize, usize); 2] = [(1000, 400), (32, 16)];

/// A trained network, and images of two classes that it was not trained on: the start of transfer learning.
pub struct Start {
    /// The network. It ends in logits, one for each of `classes`.
    pub model: Sequential,
    /// The classes that the network was trained on.
    pub classes: Vec<String>,
    /// The images to train on.
    pub train: Dataset,
    /// Other images, to validate with.
    pub valid: Dataset,
    /// Whether the dense layers are trained too. Without them (a file with "no top"), they have random weights.
    pub has_top: bool,
}

impl Show for Start {
    fn shown(&self) -> Shown {
        let Start { model, classes, train, valid, has_top } = self;
        let lines = [
            format!("model: {model:?}"),
            format!("classes: {}, the first is {:?}", thousands(classes.len()), classes.first()),
            format!("train: {train:?}"),
            format!("valid: {valid:?}"),
            format!("has_top: {has_top}"),
        ];
        Shown::text(&lines.join("\n"))
    }
}

/// VGG16 with ImageNet weights, and photos of cats and dogs. `data` is the folder with `models/`, `dogscats/` and
/// `imagenet_class_index.json` (`cargo xtask data vgg16 dogscats`).
///
/// If the weights or the photos are missing, a small VGG is first trained on eight kinds of drawn shapes, which takes two
/// minutes, and the two classes are hearts and stars. A printed line says so.
///
/// `pixels` is the convention for the colors. With [`Pixels::Caffe`], the network begins with a `preprocess` layer that
/// subtracts the mean color and reverses the channels, and takes pixels from 0 to 255. With [`Pixels::Torch`], the images
/// are normalized with ImageNet's mean and standard deviation. `quick` uses very few images.
///
/// # Errors
/// If a file is there but cannot be read.
pub fn pretrained_or_shapes(data: impl AsRef<Path>, pixels: Pixels, quick: bool) -> Result<Start> {
    let data = data.as_ref();
    let photos = data.join("dogscats");
    let start = match pretrained(data.join("models"))? {
        Some(weights) if photos.is_dir() => from_imagenet(&weights, data, pixels, quick)?,
        found => {
            let missing = if found.is_none() {
                "ImageNet weights (`cargo xtask data vgg16`)"
            } else {
                "photos (`cargo xtask data dogscats`)"
            };
            println!(
                "NOTE: no {missing} in {}, so a small VGG learns eight kinds of drawn shapes first, and then hearts and stars.",
                data.display()
            );
            from_shapes(pixels, quick)?
        }
    };
    println!("{start}");
    Ok(start)
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Start { model, classes, train, valid, has_top } = self;
        let (h, w, _) = model.input_shape();
        let parts = if *has_top {
            "all layers are trained"
        } else {
            "the convolutions are trained, the dense layers are random"
        };
        let (n, names) = (classes.len(), train.classes().join(" and "));
        writeln!(f, "a network for {h}×{w} images of {} classes: {parts}", thousands(n))?;
        write!(f, "{} images of {names} to train on, {} to validate with", thousands(train.len()), valid.len())
    }
}

fn from_imagenet(weights: &Pretrained, data: &Path, pixels: Pixels, quick: bool) -> Result<Start> {
    let size = (224, 224);
    let mut layers = preprocessing(pixels);
    layers.extend(features(super::Depth::Vgg16, false));
    layers.extend(top(4096, 1000, Init::Normal(0.01)));
    let mut model = build_layers((224, 224, 3), Seed(0), layers)?;
    weights.load_into(&mut model, pixels)?;
    let load =
        |part: &str| -> Result<Dataset> { Ok(image_folder::load(data.join("dogscats").join(part), size)?.shuffled(0)) };
    let (train, valid) = (load("train")?, load("valid")?);
    let classes = class_index(data.join("imagenet_class_index.json"))?;
    Ok(finish(Start { model, classes, train, valid, has_top: weights.has_head }, pixels, quick))
}

/// The part of a trained network that looks: VGG16's convolutions with ImageNet weights, up to `block5_pool`. It takes
/// pixels from 0 to 255, as its first layer subtracts the mean color. `data` is the folder with `models/` (`cargo xtask
/// data vgg16`).
///
/// If the weights are missing, a small VGG is trained on eight kinds of drawn shapes, which takes two minutes. A printed
/// line says so. `quick` trains it on very few.
///
/// # Errors
/// If a file is there but cannot be read.
pub fn features_or_shapes(data: impl AsRef<Path>, quick: bool) -> Result<Sequential> {
    let data = data.as_ref();
    let Some(weights) = pretrained(data.join("models"))? else {
        println!(
            "NOTE: no ImageNet weights (`cargo xtask data vgg16`) in {}, so a small VGG learns eight kinds of drawn shapes.",
            data.display()
        );
        return Ok(shapes_network(Pixels::Caffe, quick)?.split_after("block5_pool")?.0);
    };
    let mut layers = preprocessing(Pixels::Caffe);
    layers.extend(features(super::Depth::Vgg16, false));
    let mut model = build_layers((224, 224, 3), Seed(0), layers)?;
    weights.load_into(&mut model, Pixels::Caffe)?;
    println!("VGG16's convolutions, trained on ImageNet");
    Ok(model)
}

fn from_shapes(pixels: Pixels, quick: bool) -> Result<Start> {
    let model = shapes_network(pixels, quick)?;
    let shapes = |n: usize, seed: u64| shapes::generate(n, (64, 64), seed).only(&NEW);
    let (train, valid) = (shapes(5000, 2)?, shapes(2000, 3)?);
    let start = Start { model, classes: KNOWN.map(String::from).to_vec(), train, valid, has_top: true };
    Ok(finish(start, pixels, quick))
}

/// A small VGG that has learned eight kinds of shapes.
fn shapes_network(pixels: Pixels, quick: bool) -> Result<Sequential> {
    let mut layers = preprocessing(pixels);
    layers.extend(blocks(columns::D, |Convolution { name, filters, .. }| {
        // The original has no batch norm, and took weeks to train.
        let bn = format!("{name}_bn");
        let conv = conv2d(filters / 4).relu().init(Init::HeNormal);
        vec![layer(name, conv), layer(bn, batch_norm().momentum(0.9))]
    }));
    layers.extend(top(256, KNOWN.len(), Init::HeNormal));
    let mut model = build_layers((64, 64, 3), Seed(0), layers)?;
    let shapes = |n: usize, seed: u64| shapes::generate(n, (64, 64), seed).only(&KNOWN);
    let (train, valid) = if quick { (1000, 100) } else { (8000, 500) };
    let (train, valid) = (shapes(train, 0)?, shapes(valid, 1)?);
    let (epochs, max) = if quick { (6, 0.01) } else { (8, 0.03) };
    let schedule = Schedule::OneCycle { max, warm_up: 0.3 };
    let known = [normalized(&train, pixels), normalized(&valid, pixels)];
    model.set_dropout("", 0.0)?;
    model.fit(&known[0], &known[1], FitConfig { epochs, batch_size: 64, schedule, ..FitConfig::default() })?;
    model.set_dropout("", 0.5)?;
    Ok(model)
}

/// Takes as many images as the notebook trains on, and normalizes them.
fn finish(start: Start, pixels: Pixels, quick: bool) -> Start {
    let (train, valid) = IMAGES[usize::from(quick)];
    let [train, valid] = [start.train.take(train), start.valid.take(valid)].map(|part| normalized(&part, pixels));
    Start { train, valid, ..start }
}

fn normalized(data: &Dataset, pixels: Pixels) -> Dataset {
    match pixels {
        Pixels::Caffe => data.clone(),
        _ => Normalization::imagenet().apply(data),
    }
}

fn preprocessing(pixels: Pixels) -> Vec<(String, LayerSpec)> {
    match pixels {
        Pixels::Caffe => vec![layer("preprocess", preprocess([123.68, 116.779, 103.939]).bgr())],
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In an empty folder, the small network learns the shapes; a tenth of the images would be right by chance.
    #[test]
    fn without_files_a_small_network_knows_eight_shapes() {
        let folder = tempfile::tempdir().unwrap();
        let start = pretrained_or_shapes(folder.path(), Pixels::Caffe, true).unwrap();
        assert_eq!((start.classes.len(), start.train.classes()), (8, &NEW.map(String::from)[..]));
        assert_eq!((start.train.len(), start.valid.len(), start.has_top), (32, 16, true));
        assert_eq!(start.model.layers()[0].name(), "preprocess");
        let known = shapes::generate(200, (64, 64), 7).only(&KNOWN).unwrap();
        let accuracy = start.model.evaluate(&known).unwrap().accuracy;
        assert!(accuracy > 0.2, "{accuracy}, and guessing gives 0.125");
    }
}
