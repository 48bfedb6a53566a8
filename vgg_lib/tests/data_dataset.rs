//! `Dataset` and `Normalization`, on small datasets with results computed by hand.

mod common;

use approx::assert_relative_eq;
use dfdx::prelude::HasShape;
use vgg_lib::{
    Error,
    data::{Dataset, Normalization, augment::Transform, class_index, shapes},
};

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("class {i}")).collect()
}

/// Four images of 1×2 RGB pixels: image i has the bytes 6i to 6i + 5.
fn four() -> Dataset {
    Dataset::new((0..24).collect(), (1, 2, 3), vec![0, 1, 2, 1], names(3)).unwrap()
}

fn read(dataset: &Dataset, index: usize) -> Vec<f32> {
    let (h, w, c) = dataset.image_shape();
    let mut out = vec![f32::NAN; h * w * c];
    dataset.read(index, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_dataset_has_what_it_was_made_of() {
    let d = four();
    assert_eq!((d.len(), d.is_empty()), (4, false));
    assert_eq!((d.shape(), d.image_shape()), ((4, 1, 2, 3), (1, 2, 3)));
    assert_eq!(d.labels(), [0, 1, 2, 1]);
    assert_eq!(d.classes(), names(3));
    assert_eq!(read(&d, 2), [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]);
    assert_eq!(d.image(2).into_raw(), [12, 13, 14, 15, 16, 17]);
    assert_eq!(format!("{d:?}"), "Dataset (4, 1, 2, 3) of 3 classes");
}

#[test]
fn images_with_one_channel_are_gray() {
    let gray = Dataset::new(vec![7, 9], (2, 1, 1), vec![0], names(1)).unwrap();
    assert_eq!(gray.image(0).dimensions(), (1, 2));
    assert_eq!(gray.image(0).into_raw(), [7, 7, 7, 9, 9, 9]);
    assert_eq!(read(&gray, 0), [7.0, 9.0]);
}

#[test]
fn take_split_and_subset_keep_images_and_labels_together() {
    let d = four();
    let picked = d.subset(&[3, 0, 3]);
    assert_eq!(picked.labels(), [1, 0, 1]);
    assert_eq!([read(&picked, 0)[0], read(&picked, 1)[0], read(&picked, 2)[0]], [18.0, 0.0, 18.0]);
    let again = picked.subset(&[1]);
    assert_eq!((again.labels(), read(&again, 0)[0]), (&[0usize][..], 0.0));

    let (first, rest) = d.split(1);
    assert_eq!((first.labels(), rest.labels()), (&[0usize][..], &[1usize, 2, 1][..]));
    assert_eq!((read(&first, 0)[0], read(&rest, 2)[0]), (0.0, 18.0));
    assert_eq!((d.take(2).len(), d.take(9).len(), d.take(0).len(), d.split(9).1.len()), (2, 4, 0, 0));
}

#[test]
fn invalid_images_are_refused_in_one_sentence() {
    let message = |result: vgg_lib::Result<Dataset>| match result.unwrap_err() {
        Error::Shape(message) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(Dataset::new(vec![0; 11], (1, 2, 3), vec![0, 0], names(1))),
        "2 labels of 1×2×3 images need 12 bytes of pixels, but there are 11"
    );
    assert_eq!(
        message(Dataset::new(vec![0; 12], (1, 2, 3), vec![0, 3], names(3))),
        "image 1 has label 3, but there are only 3 classes, counted from 0"
    );
    assert!(message(Dataset::new(vec![], (0, 2, 3), vec![], names(3))).contains("0×2×3"));
    assert!(message(Dataset::new(vec![0; 2], (1, 1, 2), vec![0], names(1))).contains("channels 1 or 3"));
}

/// Of five images, one is of class 0, one of class 1 and three of class 3; class 2 has none.
#[test]
fn balanced_repeats_the_images_of_small_classes() {
    let pixels = (0..30).collect();
    let d = Dataset::new(pixels, (1, 2, 3), vec![3, 0, 3, 1, 3], names(4)).unwrap();
    let balanced = d.balanced(0);
    assert_eq!(balanced.labels(), [3, 0, 0, 0, 3, 1, 1, 1, 3]);
    let first: Vec<f32> = (0..9).map(|i| read(&balanced, i)[0] / 6.0).collect();
    assert_eq!(first, [0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0]);
    assert_eq!(balanced.balanced(1).labels(), balanced.labels());
    // Two of three images of a class that needs five: each once, two of them twice, which ones depends on the seed.
    let d = Dataset::new((0..48).collect(), (1, 2, 3), vec![0, 0, 0, 0, 0, 1, 1, 1], names(2)).unwrap();
    let twice = |seed| -> Vec<usize> {
        let values: Vec<f32> = (5..10).map(|i| read(&d.balanced(seed), i)[0] / 6.0).collect();
        (5..8).map(|image| values.iter().filter(|&&value| value == image as f32).count()).collect()
    };
    assert!(
        (0..20).all(|seed| twice(seed).iter().sum::<usize>() == 5 && twice(seed).iter().all(|n| (1..=2).contains(n)))
    );
    assert!((1..20).any(|seed| twice(seed) != twice(0)) && twice(3) == twice(3));
    assert_eq!(d.take(0).balanced(0).len(), 0);
}

#[test]
fn a_validation_split_has_its_share_of_each_class() {
    // Ten images of class 0, three of class 1, one of class 2, none of class 3.
    let labels = [vec![0; 10], vec![1; 3], vec![2]].concat();
    let d = Dataset::new((0..84).collect(), (1, 2, 3), labels, names(4)).unwrap();
    let (train, valid) = d.validation_split(0.2, 0).unwrap();
    assert_eq!(train.labels(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]);
    assert_eq!(valid.labels(), [0, 0, 1]);
    let numbers = |part: &Dataset| -> Vec<f32> { (0..part.len()).map(|i| read(part, i)[0] / 6.0).collect() };
    let mut all = [numbers(&train), numbers(&valid)].concat();
    all.sort_by(f32::total_cmp);
    assert_eq!(all, (0..14).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(numbers(&valid), numbers(&d.validation_split(0.2, 0).unwrap().1));
    assert!((1..9).any(|seed| numbers(&valid) != numbers(&d.validation_split(0.2, seed).unwrap().1)));
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        assert!(d.validation_split(share, 0).unwrap_err().to_string().contains("between 0 and 1"));
    }
}

#[test]
fn shuffled_keeps_every_image_with_its_label() {
    let d = vgg_lib::data::shapes::generate(40, (4, 4), 0);
    let shuffled = d.shuffled(1);
    assert_ne!(shuffled.labels(), d.labels());
    assert_eq!(shuffled.labels(), d.shuffled(1).labels());
    let mut pairs: Vec<_> = (0..40).map(|i| (bits(&read(&d, i)), d.labels()[i])).collect();
    let mut found: Vec<_> = (0..40).map(|i| (bits(&read(&shuffled, i)), shuffled.labels()[i])).collect();
    pairs.sort();
    found.sort();
    assert_eq!(pairs, found);
}

#[test]
fn imagenet_normalization_matches_torchvision() {
    let photo = image::RgbImage::from_raw(2, 1, vec![255, 0, 128, 10, 20, 30]).unwrap();
    let x = Normalization::imagenet().image(&photo).unwrap();
    assert_eq!(*x.shape(), (1, 1, 2, 3));
    let want = [(255.0, 0.485, 0.229), (0.0, 0.456, 0.224), (128.0, 0.406, 0.225), (10.0, 0.485, 0.229)];
    for (found, (pixel, mean, std)) in x.as_vec().into_iter().zip(want) {
        let want = (pixel / 255.0 - mean) / std;
        assert!((found - want).abs() < 1e-5, "{found} and {want}");
    }
    let one = Normalization { mean: vec![0.0], std: vec![1.0] };
    assert!(
        one.image(&photo)
            .err()
            .unwrap()
            .to_string()
            .contains("a normalization of 1 channels does not fit an RGB image")
    );
}

#[test]
fn fit_gives_one_mean_and_std_over_everything_as_in_the_keras_notebook() {
    let d = four();
    let stats = Normalization::fit(&d);
    // The numbers 0 to 23: mean 11.5, variance (24² − 1) / 12.
    let std = (575.0f32 / 12.0).sqrt();
    assert_eq!(stats.mean, [11.5; 3]);
    stats.std.iter().for_each(|&s| assert_relative_eq!(s, std));
    let normalized = stats.apply(&d);
    for (i, x) in read(&normalized, 3).into_iter().enumerate() {
        assert_relative_eq!(x, (18.0 + i as f32 - 11.5) / (std + 1e-7), max_relative = 1e-6);
    }
    assert_eq!(normalized.image(3), d.image(3), "plots keep the original colors");
    assert_eq!(Normalization::fit(&normalized), stats, "statistics ignore an earlier normalization");
}

#[test]
fn per_channel_statistics_are_separate() {
    // Red is 0 and 10, green always 5, blue 255 and 1.
    let d = Dataset::new(vec![0, 5, 255, 10, 5, 1], (1, 1, 3), vec![0, 0], names(1)).unwrap();
    let stats = Normalization::fit_per_channel(&d);
    assert_eq!(stats.mean, [5.0, 5.0, 128.0]);
    assert_eq!(stats.std, [5.0, 0.0, 127.0]);
    assert_eq!(read(&stats.apply(&d), 0), [-1.0, 0.0, 1.0]);
    assert_eq!(read(&stats.apply(&d), 1), [1.0, 0.0, -1.0]);
}

#[test]
fn statistics_of_a_subset_and_of_nothing() {
    let d = four();
    assert_eq!(Normalization::fit(&d.take(1)).mean, [2.5; 3]);
    assert_eq!(Normalization::fit(&d.take(0)), Normalization { mean: vec![0.0; 3], std: vec![1.0; 3] });
}

/// Three features of 1×2 positions and four channels: feature i has the values i + k / 10.
fn features() -> Dataset {
    let values = (0..3).flat_map(|i| (0..8).map(move |k| i as f32 + k as f32 / 10.0)).collect();
    Dataset::from_floats(values, (1, 2, 4), vec![1, 0, 1], names(2)).unwrap()
}

#[test]
fn floats_are_read_as_they_are() {
    let d = features();
    assert_eq!((d.shape(), d.labels()), ((3, 1, 2, 4), &[1, 0, 1][..]));
    assert_eq!(read(&d, 2), [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]);
    assert_eq!(read(&d.subset(&[1]), 0), read(&d, 1));
    assert_eq!(format!("{d:?}"), "Dataset (3, 1, 2, 4) of 2 classes");
    let nothing = Normalization { mean: vec![0.0; 4], std: vec![1.0; 4] };
    assert_eq!((Normalization::fit(&d), Normalization::fit_per_channel(&d)), (nothing.clone(), nothing));
    let other = Normalization { mean: vec![5.0; 3], std: vec![2.0; 3] };
    assert_eq!(read(&other.apply(&d), 1), read(&d, 1));
}

#[test]
fn images_of_floats_show_the_mean_over_channels_in_its_own_range() {
    // Means 0, 1, -1 and 0.
    let values = vec![-4.0, 4.0, 0.0, 2.0, -1.0, -1.0, 0.0, 0.0];
    let d = Dataset::from_floats(values, (2, 2, 2), vec![0], names(1)).unwrap();
    assert_eq!(d.image(0).into_raw(), [[128; 3], [255; 3], [0; 3], [128; 3]].concat());
    let one = Dataset::from_floats(vec![7.0, f32::NAN], (1, 2, 1), vec![0], names(1)).unwrap();
    assert_eq!(one.image(0).into_raw(), [0; 6], "black if there is no range");
}

#[test]
fn invalid_floats_are_refused_in_one_sentence() {
    let message = |shape| Dataset::from_floats(vec![0.0; 4], shape, vec![0, 0], names(1)).unwrap_err().to_string();
    assert_eq!(message((1, 1, 3)), "2 labels of 1×1×3 images need 6 values, but there are 4");
    assert!(message((1, 1, 0)).contains("each size must be at least 1"));
}

#[test]
fn only_keeps_the_named_classes_in_their_new_order() {
    let d = four();
    let two = d.only(&["class 2", "class 1"]).unwrap();
    assert_eq!((two.labels(), two.classes()), (&[1, 0, 1][..], &["class 2".to_string(), "class 1".to_string()][..]));
    assert_eq!([read(&two, 0)[0], read(&two, 1)[0], read(&two, 2)[0]], [6.0, 12.0, 18.0]);
    assert_eq!(two.only(&["class 1"]).unwrap().labels(), [0, 0]);
    assert!(d.only(&[]).unwrap().is_empty());
    let message = |classes: &[&str]| match d.only(classes).unwrap_err() {
        Error::Name(message) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(message(&["class 0", "dog"]), "there is no class 'dog'; the classes are class 0, class 1, class 2");
    assert!(message(&["class 0", "class 0"]).contains("'class 0' is named twice"));
}

#[test]
fn a_class_index_gives_the_names_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.json");
    // Sorted as text, "10" comes before "2".
    let entries: Vec<String> = (0..12).rev().map(|i| format!(r#""{i}": ["n{i:08}", "name_{i}"]"#)).collect();
    std::fs::write(&path, format!("{{{}}}", entries.join(", "))).unwrap();
    let want: Vec<String> = (0..12).map(|i| format!("name_{i}")).collect();
    assert_eq!(class_index(&path).unwrap(), want);

    let message = |text: &str| {
        std::fs::write(&path, text).unwrap();
        class_index(&path).unwrap_err().to_string()
    };
    assert!(
        message(r#"{"0": ["n0", "a"], "2": ["n2", "c"]}"#).contains("index.json: has no class 1, but has later ones; ")
    );
    assert!(message(r#"{"0": ["n0", "a"], "#).contains("index.json: is not a class index"));
    assert!(message(r#"["tench"]"#).contains("download it again"));
    let lost = class_index(dir.path().join("lost.json")).unwrap_err().to_string();
    assert!(lost.starts_with("cannot read") && lost.contains("lost.json"), "{lost}");
}

#[test]
fn the_real_class_index_has_the_names_of_imagenet() {
    let Some(path) = common::real_data("imagenet_class_index.json") else { return };
    let names = class_index(path).unwrap();
    assert_eq!((names.len(), names[0].as_str(), names[281].as_str()), (1000, "tench", "tabby"));
    assert_eq!(names[999], "toilet_tissue");
}

#[test]
fn mirrored_images_equal_horizontally_flipped_ones() {
    let data = shapes::generate(12, (6, 5), 1);
    let data = Normalization::fit_per_channel(&data).apply(&data).subset(&[7, 2, 2, 11]);
    let mirrored = data.mirrored();
    assert_eq!((mirrored.labels(), mirrored.shape()), (data.labels(), data.shape()));
    for i in 0..4 {
        assert_eq!(mirrored.image(i), image::imageops::flip_horizontal(&data.image(i)));
        let (mut a, mut b) = (vec![0.0; 90], vec![0.0; 90]);
        data.read(i, &mut a);
        mirrored.read(i, &mut b);
        let flip = Transform { flip: true, ..Transform::default() };
        let mut flipped = vec![0.0; 90];
        flip.apply(&a, data.image_shape(), &mut flipped);
        assert_eq!(b, flipped);
    }
    let floats =
        Dataset::from_floats(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (1, 3, 2), vec![0], vec!["a".into()]).unwrap();
    let mut row = vec![0.0; 6];
    floats.mirrored().read(0, &mut row);
    assert_eq!(row, [5.0, 6.0, 3.0, 4.0, 1.0, 2.0]);
}
