//! More classes than a byte can number: 300 folders, from their images to the measures of a trained model.

use image::{Rgb, RgbImage};
use vgg_lib::data::{self, unobserved};
use vgg_lib::prelude::*;

const CLASSES: usize = 300;

/// Two images of each class, whose colors say which it is.
fn photos() -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    for class in 0..CLASSES {
        let folder = dir.path().join(format!("class {class:03}"));
        std::fs::create_dir(&folder).unwrap();
        for (name, blue) in [("a.png", 0), ("b.png", 255)] {
            let color = Rgb([(class / 256) as u8, (class % 256) as u8, blue]);
            RgbImage::from_pixel(4, 4, color).save(folder.join(name)).unwrap();
        }
    }
    let data = data::image_folder::load(dir.path(), (4, 4), Resize::Stretch, &mut unobserved).unwrap();
    (dir, data)
}

#[test]
fn three_hundred_classes_are_loaded_learned_and_predicted() {
    let (dir, raw) = photos();
    assert_eq!((raw.len(), raw.classes().len()), (2 * CLASSES, CLASSES));
    for (i, &label) in raw.labels().iter().enumerate() {
        assert_eq!(label, i / 2);
        assert_eq!(raw.image(i).get_pixel(0, 0).0[..2], [(label / 256) as u8, (label % 256) as u8], "image {i}");
    }

    let data = Normalization::fit(&raw).apply(&raw).shuffled(0);
    let mut model = Sequential::new((4, 4, 3), Seed(0));
    model.push("conv", conv2d(4).relu()).unwrap();
    model.push("pool", global_avg_pool()).unwrap();
    model.push("predictions", linear(CLASSES)).unwrap();
    let checkpoints = Some(Checkpoints::restart(dir.path().join("checkpoints")));
    let schedule = Schedule::Constant(0.01);
    let config = FitConfig { batch_size: 200, max_steps: Some(1), schedule, checkpoints, ..FitConfig::default() };
    let history = model.fit(&data, &data, FitConfig { verbosity: Verbosity::Silent, ..config }).unwrap();
    assert!((history.epochs[0].loss - (CLASSES as f32).ln()).abs() < 3.0, "{history}");

    // The loss is that of the right labels, also of those above 255.
    let predictions = model.predict(&data).unwrap();
    let evaluation = model.evaluate(&data).unwrap();
    let losses = predictions.top_losses(data.labels(), data.len()).unwrap();
    let mean = losses.iter().map(|(_, loss)| loss).sum::<f32>() / losses.len() as f32;
    assert!((mean - evaluation.loss).abs() < 1e-3, "{mean} and {}", evaluation.loss);
    assert_eq!(predictions.accuracy(data.labels()).unwrap(), evaluation.accuracy);

    let report = predictions.report(data.labels(), data.classes()).unwrap();
    assert_eq!((report.images(), report.classes[299].images), (2 * CLASSES, 2));
    let shown = plot::confusion_matrix(data.labels(), &predictions.classes(), data.classes());
    assert!(shown.size().0 < 1000, "{:?}", shown.size());

    let file = dir.path().join("model.safetensors");
    model.save(&file).unwrap();
    let again = Sequential::load(&file).unwrap();
    assert_eq!(again.classes().unwrap(), raw.classes());
    assert_eq!(again.predict(&data).unwrap(), predictions);
}
