//! Classifying image files: the model reads, resizes and normalizes them as the images that it learned from.

#[path = "common/small_data.rs"]
mod small_data;

use std::fs;
use std::path::Path;
use tempfile::TempDir;
use vgg_lib::Result;
use vgg_lib::data::{self, unobserved};
use vgg_lib::prelude::*;

const CLASSES: [&str; 2] = ["heart", "star"];

/// Photos of two classes in folders, higher than wide, as `train/heart/0.png`.
fn photos(images: usize, seed: u64) -> TempDir {
    let folder = TempDir::new().unwrap();
    let shapes = shapes::generate(images, (48, 30), seed).only(&CLASSES).unwrap();
    for i in 0..shapes.len() {
        let class = folder.path().join(CLASSES[shapes.labels()[i]]);
        fs::create_dir_all(&class).unwrap();
        shapes.image(i).save(class.join(format!("{i:03}.png"))).unwrap();
    }
    folder
}

/// A small model for images of 16×16.
fn model(channels: usize) -> Result<Sequential> {
    let mut model = Sequential::new((16, 16, channels), Seed(2));
    model.push("conv", conv2d(8).relu())?;
    model.push("pool", max_pool2d())?;
    model.push("flatten", flatten())?;
    model.push("predictions", linear(2))?;
    Ok(model)
}

fn config() -> FitConfig {
    FitConfig {
        batch_size: 10,
        schedule: Schedule::Constant(0.01),
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    }
}

/// For each photo of a class, `classify` gives what `predict` gives for the dataset that the folder was loaded as.
fn agrees(model: &Sequential, folder: &Path, data: &Dataset) -> Result<()> {
    let mut i = 0;
    for class in CLASSES {
        for (path, seen) in model.classify_folder(folder.join(class))? {
            let seen = seen?;
            let alone = model.predict(&data.subset(&[i]))?; // batches of other sizes may round in another way
            let best = alone.classes()[0];
            assert_eq!((seen.class.as_str(), seen.probability), (CLASSES[best], alone.certainty(0)), "{path:?}");
            assert_eq!(seen.top.len(), 2);
            assert_eq!(model.classify(&path)?, seen);
            i += 1;
        }
    }
    assert_eq!(i, data.len());
    Ok(())
}

/// Stretched or cropped, normalized in one way or another or not at all; and the same after saving and loading, in
/// another process too.
#[test]
fn a_photo_is_prepared_as_the_training_images_were() -> Result<()> {
    let folder = photos(60, 1);
    let all = |resize| data::image_folder::load(folder.path(), (16, 16), resize, &mut unobserved);
    for resize in [Resize::Stretch, Resize::CenterCrop { shorter: 20 }] {
        let raw = all(resize)?;
        let normalizations = [
            Normalization::none(),
            Normalization::fit(&raw),
            Normalization::fit_per_channel(&raw),
            Normalization::imagenet(),
        ];
        for stats in normalizations {
            let data = stats.apply(&raw);
            let mut model = model(3)?;
            // What happens to a dataset before training does not matter.
            let train = data.shuffled(3).split(11).0.mirrored().subset(&[3, 4, 5, 1, 0, 2, 9, 8, 7, 10]);
            model.fit(&train.only(&CLASSES)?, &data.take(12), config())?;
            assert_eq!(model.normalization().unwrap(), stats);
            agrees(&model, folder.path(), &data)?;
            let path = folder.path().join("model.safetensors");
            model.save(&path)?;
            agrees(&Sequential::load(&path)?, folder.path(), &data)?;
        }
    }
    Ok(())
}

/// The head learns from features, which know the photos that they are of.
#[test]
fn a_head_that_learned_from_features_classifies_after_join() -> Result<()> {
    let folder = photos(60, 2);
    let raw = data::image_folder::load(folder.path(), (16, 16), Resize::CenterCrop { shorter: 16 }, &mut unobserved)?;
    let data = Normalization::fit(&raw).apply(&raw).shuffled(0);
    let (convolutions, mut head) = model(3)?.split_after("pool")?;
    let features = convolutions.precompute(&data, folder.path().join("features"))?;
    head.fit(&features, &features.take(10), config())?;
    let error = head.classify(folder.path().join("heart/000.png")).unwrap_err().to_string();
    assert!(error.contains("takes features of 8×8×8, not images; join it"), "{error}");
    fs::remove_dir_all(folder.path().join("features")).unwrap();
    let whole = convolutions.join(&head)?;
    let in_order = Normalization::fit(&raw).apply(&raw);
    agrees(&whole, folder.path(), &in_order)?;
    // Saved as parts.
    let path = TempDir::new().unwrap();
    let (a, b) = (path.path().join("a.safetensors"), path.path().join("b.safetensors"));
    convolutions.save(&a)?;
    head.save(&b)?;
    agrees(&Sequential::load(&a)?.join(&Sequential::load(&b)?)?, folder.path(), &in_order)
}

/// As in notebook 02: pixels from 0 to 255, and a first layer that subtracts the means.
#[test]
fn a_model_with_a_preprocess_layer_takes_pixels() -> Result<()> {
    let folder = photos(60, 3);
    let raw = data::image_folder::load(folder.path(), (16, 16), Resize::Stretch, &mut unobserved)?;
    let mut model = model(3)?;
    model.insert(0, "preprocess", preprocess([123.68, 116.779, 103.939]).bgr())?;
    model.set_classes(&CLASSES)?;
    agrees(&model, folder.path(), &raw)?; // without training: the layer says what the model takes
    model.fit(&raw, &raw, FitConfig { schedule: Schedule::Constant(1e-5), ..config() })?;
    agrees(&model, folder.path(), &raw)?;
    let normalized = Normalization::fit(&raw).apply(&raw);
    for error in [
        model.evaluate(&normalized).unwrap_err(),
        model.predict(&normalized).unwrap_err(),
        model.fit(&normalized, &normalized, config()).unwrap_err(),
        model.set_normalization(&Normalization::imagenet()).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("the model's layer 'preprocess' normalizes pixels from 0 to 255"), "{error}");
    }
    Ok(())
}

#[test]
fn what_a_model_does_not_know_is_said_in_a_sentence() -> Result<()> {
    let folder = photos(40, 4);
    let photo = folder.path().join("heart/000.png");
    let mut model = model(3)?;
    let error = model.classify(&photo).unwrap_err().to_string();
    assert!(
        error.contains("does not know how the images") && error.contains("model.set_normalization(&stats)?"),
        "{error}"
    );
    assert!(model.set_resize(Resize::Stretch).unwrap_err().to_string().contains("call `set_normalization` first"));
    model.set_normalization(&Normalization::none())?;
    let seen = model.classify(&photo)?;
    assert!(!seen.named && seen.class.starts_with("class "), "{seen}");
    assert!(seen.to_string().contains("`model.set_classes(&[…])?` names them"), "{seen}");
    assert!(
        model.set_classes(&["one"]).unwrap_err().to_string().contains("1 class names, but the model gives (None, 2)")
    );
    model.set_classes(&CLASSES)?;
    assert!(CLASSES.contains(&model.classify(&photo)?.class.as_str()));
    model.set_resize(Resize::CenterCrop { shorter: 3 })?;
    assert!(model.classify(&photo).unwrap_err().to_string().contains("choose `shorter` from 16"));

    let (first, _) = model.split_after("pool")?;
    assert!(
        first.classify(&photo).unwrap_err().to_string().contains("needs one output for each of two or more classes")
    );
    let mut broken = Sequential::new((16, 16, 3), Seed(0));
    broken.push("preprocess", preprocess([f32::MAX; 3]).std([1e-30; 3]))?;
    broken.push("pool", global_avg_pool())?;
    broken.push("predictions", linear(2))?;
    assert!(broken.classify(&photo).unwrap_err().to_string().contains("no probabilities but NaN"));
    Ok(())
}

/// Every other pixel means something else, so the answers would be nonsense.
#[test]
fn datasets_with_another_normalization_are_refused() -> Result<()> {
    let (train, validation) = small_data::data();
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("pool", global_avg_pool())?;
    model.push("predictions", linear(10))?;
    let raw = shapes::generate(50, (16, 16), 8);
    let error = model.fit(&train, &raw, config()).unwrap_err().to_string();
    assert!(
        error.contains(
            "the validation data has pixels from 0 to 255, but the training data has pixels normalized by mean"
        ),
        "{error}"
    );
    model.fit(&train, &validation, config())?;
    for error in [model.evaluate(&raw).unwrap_err(), model.predict(&raw).unwrap_err()] {
        let error = error.to_string();
        assert!(
            error.contains("the dataset has pixels from 0 to 255, but the model was trained on pixels normalized"),
            "{error}"
        );
        assert!(error.contains("`model.normalization()`"), "{error}");
    }
    let other = model.normalization().unwrap().apply(&raw);
    assert!(model.evaluate(&other).is_ok());
    // The statistics of another part of the data differ a little.
    assert!(model.evaluate(&Normalization::fit_per_channel(&raw).apply(&raw)).is_ok());
    // Training again on other pixels is allowed, with a warning.
    let mut warnings = vec![];
    model.fit_with(&raw, &raw, FitConfig { schedule: Schedule::Constant(1e-6), ..config() }, &mut |event| {
        if let vgg_lib::train::Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    })?;
    assert!(warnings[0].contains("before; now it learns from pixels from 0 to 255"), "{warnings:?}");
    assert!(model.evaluate(&raw).is_ok());
    Ok(())
}

#[test]
fn a_folder_goes_on_over_broken_files() -> Result<()> {
    let folder = photos(40, 5);
    let mut model = model(3)?;
    model.set_normalization(&Normalization::imagenet())?;
    model.set_classes(&CLASSES)?;
    fs::write(folder.path().join("heart/notes.txt"), "no image").unwrap();
    let star = fs::read_dir(folder.path().join("star")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(star).unwrap();
    fs::write(folder.path().join("half.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.path().join(".DS_Store"), "x").unwrap();
    let seen: Vec<_> = model.classify_folder(folder.path())?.collect();
    let (good, bad): (Vec<_>, Vec<_>) = seen.iter().partition(|(_, seen)| seen.is_ok());
    assert_eq!((good.len(), bad.len()), (8, 2));
    let texts: Vec<String> = bad.iter().map(|(_, seen)| seen.as_ref().unwrap_err().to_string()).collect();
    assert!(texts[0].contains("half.png: is ") && texts[1].contains("notes.txt: is not a PNG"), "{texts:?}");
    assert!(seen.is_sorted_by_key(|(path, _)| path.clone()));

    let error = |path: &str| model.classify_folder(folder.path().join(path)).unwrap_err().to_string();
    assert!(error("half.png").contains("is not a folder; use `classify`"));
    assert!(error("none").contains("does not exist"));
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(error("empty").contains("has no files"));
    Ok(())
}

/// Pillow's `convert("L")`.
#[test]
fn a_gray_model_takes_the_brightness_of_a_photo() -> Result<()> {
    let mut model = model(1)?;
    model.set_normalization(&Normalization { mean: vec![10.0], std: vec![50.0] })?;
    model.set_classes(&CLASSES)?;
    let photo = RgbImage::from_fn(16, 16, |x, y| [16 * x as u8, 255 - 16 * y as u8, 7 * (x + y) as u8].into());
    // Pillow: (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16.
    let luma =
        |[r, g, b]: [u8; 3]| ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8;
    let gray: Vec<u8> = photo.pixels().map(|pixel| luma(pixel.0)).collect();
    let data = Dataset::new(gray, (16, 16, 1), vec![0], CLASSES.map(String::from).to_vec())?;
    let predictions = model.predict(&model.normalization().unwrap().apply(&data))?;
    assert_eq!(model.classify_image(&photo)?.probability, predictions.certainty(0));
    Ok(())
}

#[test]
fn a_large_photo_is_kept_small_in_its_own_proportions() -> Result<()> {
    let mut model = model(3)?;
    model.set_normalization(&Normalization::none())?;
    let seen = model.classify_image(&RgbImage::new(3000, 2000))?;
    assert_eq!(seen.image.dimensions(), (448, 299));
    assert_eq!(model.classify_image(&RgbImage::new(3000, 1))?.image.dimensions(), (448, 1));
    assert!(model.classify_image(&RgbImage::new(0, 7)).unwrap_err().to_string().contains("has no pixels"));
    Ok(())
}

/// Resized and normalized as torchvision does, or by the model's own layer and stretched as Keras does.
#[test]
fn imagenet_weights_know_their_pixels_and_with_the_class_index_their_classes() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let index = folder.path().join("imagenet_class_index.json");
    fs::write(&index, r#"{"0": ["n01", "tench"], "1": ["n02", "goldfish"]}"#).unwrap();
    let photos = photos(20, 6);
    let photo = fs::read_dir(photos.path().join("heart")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let image = read_image(&photo)?;
    for (name, resize) in [
        ("vgg16_imagenet_features.safetensors", Resize::Stretch),
        ("vgg16.tv_in1k.safetensors", Resize::CenterCrop { shorter: 19 }), // 16 · 256 / 224, rounded up
    ] {
        model(3)?.save_weights(folder.path().join(name))?;
        let weights = vgg::pretrained(folder.path())?.unwrap();
        assert!(weights.path.ends_with(name));
        let mut torch = model(3)?;
        weights.load_into(&mut torch, Pixels::Torch)?;
        torch.set_classes(&class_index(&index)?)?;
        assert_eq!(torch.normalization(), Some(Normalization::imagenet()));
        let mut caffe = model(3)?;
        caffe.insert(0, "preprocess", preprocess([123.68, 116.779, 103.939]).bgr())?;
        weights.load_into(&mut caffe, Pixels::Caffe)?;
        assert_eq!(caffe.normalization(), Some(Normalization::none()));
        let resized = data::image_folder::load(photos.path(), (16, 16), resize, &mut unobserved)?;
        let first = resized.take(1);
        let expected = torch.predict(&Normalization::imagenet().apply(&first))?;
        let seen = torch.classify_image(&image)?;
        assert_eq!(
            (seen.class.as_str(), seen.probability),
            (["tench", "goldfish"][expected.classes()[0]], expected.certainty(0))
        );
        assert_eq!(caffe.classify(&photo)?.probability, caffe.predict(&first)?.certainty(0));
        // Nothing turns pixels into blue, green, red.
        let mut unknown = model(3)?;
        weights.load_into(&mut unknown, Pixels::Caffe)?;
        assert_eq!(unknown.normalization(), None);
    }
    Ok(())
}
