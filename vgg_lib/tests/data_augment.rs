//! Augmentation, compared with Keras' `ImageDataGenerator` (fixtures/augment.py), and the distribution of its draws.

use std::fs::File;

use ndarray::{Array2, Array3, Array4};
use ndarray_npy::NpzReader;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vgg_lib::data::{Augment, Color, Dataset, Normalization, Transform};

#[test]
fn rotations_shifts_and_flips_match_keras() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment.npz");
    let mut npz = NpzReader::new(File::open(path).unwrap()).unwrap();
    let mut compared = 0;
    for name in ["square", "tall", "cifar"] {
        let image: Array3<f32> = npz.by_name(&format!("{name}_image")).unwrap();
        let params: Array2<f32> = npz.by_name(&format!("{name}_params")).unwrap();
        let expected: Array4<f32> = npz.by_name(&format!("{name}_expected")).unwrap();
        for (p, expected) in params.outer_iter().zip(expected.outer_iter()) {
            let transform = Transform { theta: p[0], ty: p[1], tx: p[2], flip: p[3] == 1.0, ..Transform::default() };
            let mut out = vec![f32::NAN; image.len()];
            transform.apply(image.as_slice().unwrap(), image.dim(), &mut out);
            for (i, (&ours, &keras)) in out.iter().zip(expected.iter()).enumerate() {
                assert!((ours - keras).abs() <= 1e-4 * 255.0, "{name} {transform:?}: value {i} is {ours}, not {keras}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 89);
}

/// A 3×4 image with one channel and the values 1 to 12.
const SMALL: [f32; 12] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];

fn apply_to_small(transform: Transform) -> [f32; 12] {
    let mut out = [f32::NAN; 12];
    transform.apply(&SMALL, (3, 4, 1), &mut out);
    out
}

#[test]
fn the_identity_flips_and_whole_shifts_are_exact() {
    assert_eq!(apply_to_small(Transform::default()), SMALL);
    assert_eq!(
        apply_to_small(Transform { flip: true, ..Transform::default() }),
        [4.0, 3.0, 2.0, 1.0, 8.0, 7.0, 6.0, 5.0, 12.0, 11.0, 10.0, 9.0]
    );
    // One row up and two columns left; the border is repeated.
    assert_eq!(
        apply_to_small(Transform { ty: 1.0, tx: 2.0, ..Transform::default() }),
        [7.0, 8.0, 8.0, 8.0, 11.0, 12.0, 12.0, 12.0, 11.0, 12.0, 12.0, 12.0]
    );
}

#[test]
fn crops_are_zero_outside_the_image_and_flipped_last() {
    let crop = Transform { crop: (1, -1), ..Transform::default() };
    let cropped = [0.0, 5.0, 6.0, 7.0, 0.0, 9.0, 10.0, 11.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(apply_to_small(crop), cropped);
    let mut flipped = cropped;
    flipped.chunks_exact_mut(4).for_each(<[f32]>::reverse);
    assert_eq!(apply_to_small(Transform { flip: true, ..crop }), flipped);
}

/// fixtures/augment_more.py: shear and zoom against Keras, resized crops against torchvision.
#[test]
fn shear_and_zoom_match_keras_and_resized_crops_match_torchvision() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment_more.npz");
    let mut npz = NpzReader::new(File::open(path).unwrap()).unwrap();
    let image: Array3<f32> = npz.by_name("image").unwrap();
    for (name, border, count) in [("affine", 0, 30), ("crop", 2, 20)] {
        let params: Array2<f32> = npz.by_name(&format!("{name}_params")).unwrap();
        let expected: Array4<f32> = npz.by_name(&format!("{name}_expected")).unwrap();
        assert_eq!(params.nrows(), count);
        for (p, expected) in params.outer_iter().zip(expected.outer_iter()) {
            let transform = match name {
                "affine" => Transform {
                    theta: p[0],
                    ty: p[1],
                    tx: p[2],
                    shear: p[3],
                    zoom: (p[4], p[5]),
                    ..Transform::default()
                },
                // As `Augment::sample` turns a part of an image into a zoom and a shift.
                _ => {
                    let (top, left, height, width) = (p[0], p[1], p[2], p[3]);
                    let (zoom, ty, tx) =
                        ((height / 12.0, width / 12.0), top + (height - 12.0) / 2.0, left + (width - 12.0) / 2.0);
                    Transform { ty, tx, zoom, ..Transform::default() }
                }
            };
            let mut out = Array3::from_elem(image.dim(), f32::NAN);
            transform.apply(image.as_slice().unwrap(), image.dim(), out.as_slice_mut().unwrap());
            for ((i, j, k), &ours) in out.indexed_iter() {
                // torchvision repeats the border of the part, where we see the pixels beyond it.
                let inside = |at: usize| (border..12 - border).contains(&at);
                let theirs = expected[[i, j, k]];
                assert!(
                    !inside(i) || !inside(j) || (ours - theirs).abs() <= 1e-4 * 255.0,
                    "{name} {transform:?}: ({i}, {j}, {k}) is {ours}, not {theirs}"
                );
            }
        }
    }
}

/// fixtures/augment_more.py: torchvision's functions on an image with gray, black and white pixels.
#[test]
fn colors_match_torchvision() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment_more.npz");
    let mut npz = NpzReader::new(File::open(path).unwrap()).unwrap();
    let image: Array3<f32> = npz.by_name("color_image").unwrap();
    let params: Array2<f32> = npz.by_name("color_params").unwrap();
    let expected: Array4<f32> = npz.by_name("color_expected").unwrap();
    let (h, w, _) = image.dim();
    let bytes = image.iter().map(|&value| value as u8).collect();
    let data = Dataset::new(bytes, image.dim(), vec![0], vec!["cat".into()]).unwrap();
    let data = Normalization { mean: vec![100.0, 120.0, 80.0], std: vec![50.0, 60.0, 70.0] }.apply(&data);
    for (p, expected) in params.outer_iter().zip(expected.outer_iter()) {
        let color = Color { brightness: p[0], contrast: p[1], saturation: p[2], hue: p[3] };
        let mut values = vec![f32::NAN; h * w * 3];
        data.read(0, &mut values);
        data.recolor(&color, &mut values);
        for (i, (value, &theirs)) in values.iter().zip(expected.iter()).enumerate() {
            let (mean, std) = ([100.0, 120.0, 80.0][i % 3], [50.0, 60.0, 70.0][i % 3]);
            let ours = value * std + mean;
            assert!((ours - theirs).abs() <= 0.02, "{color:?}: value {i} is {ours}, not {theirs}");
        }
    }
    assert_eq!(params.nrows(), 16);
}

#[test]
fn new_settings_stay_in_their_ranges_and_leave_the_other_draws_alone() {
    let old = Augment { rotation: 15.0, width_shift: 0.1, horizontal_flip: true, cutout: 3, ..Augment::default() };
    let colors = Augment { brightness: 0.4, contrast: 0.3, saturation: 2.0, hue: 0.1, shear: 10.0, ..old };
    let whole = Augment { resized_crop: Some((0.25, 1.0)), ..Augment::default() };
    let (mut largest, mut smallest) = (0.0f32, 1.0f32);
    for seed in 0..2000 {
        let rng = || ChaCha8Rng::seed_from_u64(seed);
        let (before, after) = (old.sample(20, 20, &mut rng()), colors.sample(20, 20, &mut rng()));
        assert_eq!(Transform { shear: 0.0, color: Color::default(), ..after }, before);
        let Color { brightness, contrast, saturation, hue } = after.color;
        assert!((0.6..=1.4).contains(&brightness) && (0.7..=1.3).contains(&contrast), "{after:?}");
        assert!((0.0..=3.0).contains(&saturation) && hue.abs() <= 0.1 && after.shear.abs() <= 10.0, "{after:?}");
        let Transform { zoom: (y, x), ty, tx, .. } = whole.sample(20, 40, &mut rng());
        let (area, ratio) = (y * x, x / y);
        assert!((0.2499..=1.0001).contains(&area) && (0.7499..=1.3334).contains(&ratio), "{y} {x}");
        assert!(
            ty.abs() <= 20.0 * (1.0 - y) / 2.0 + 1e-4 && tx.abs() <= 40.0 * (1.0 - x) / 2.0 + 1e-4,
            "{y} {x} {ty} {tx}"
        );
        (largest, smallest) = (largest.max(area), smallest.min(area));
    }
    assert!(largest > 0.9 && smallest < 0.3, "{largest} {smallest}");
}

#[test]
fn samples_are_uniform_over_their_ranges() {
    let augment = Augment {
        rotation: 15.0,
        width_shift: 0.1,
        height_shift: 0.25,
        horizontal_flip: true,
        crop_padding: 2,
        ..Augment::default()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let n = 20_000;
    let samples: Vec<Transform> = (0..n).map(|_| augment.sample(40, 100, &mut rng)).collect();
    // Width shifts move columns (there are 100), height shifts move rows (40).
    assert_uniform("theta", samples.iter().map(|t| t.theta), 15.0);
    assert_uniform("tx", samples.iter().map(|t| t.tx), 10.0);
    assert_uniform("ty", samples.iter().map(|t| t.ty), 10.0);
    let flips = samples.iter().filter(|t| t.flip).count();
    assert!((0.48..0.52).contains(&(flips as f64 / n as f64)), "{flips} flips");
    for y in -2..=2 {
        for x in -2..=2 {
            let count = samples.iter().filter(|t| t.crop == (y, x)).count() as f64;
            assert!((0.85..1.15).contains(&(count * 25.0 / n as f64)), "crop ({y}, {x}) was drawn {count} times");
        }
    }
    assert!(samples.iter().all(|t| t.crop.0.abs() <= 2 && t.crop.1.abs() <= 2));
}

/// Asserts that all values lie between −`range` and `range`, and that 20 bins have about equally many.
fn assert_uniform(name: &str, values: impl Iterator<Item = f32>, range: f32) {
    let mut bins = [0usize; 20];
    for value in values {
        assert!(value.abs() <= range, "{name} is {value}, outside ±{range}");
        bins[((value / range + 1.0) * 10.0).min(19.0) as usize] += 1;
    }
    let mean = bins.iter().sum::<usize>() as f64 / 20.0;
    for (i, &bin) in bins.iter().enumerate() {
        assert!((bin as f64 / mean - 1.0).abs() < 0.15, "{name}: bin {i} has {bin} values of {mean}");
    }
}

#[test]
fn shifts_of_one_and_more_are_pixels() {
    let augment = Augment { width_shift: 3.0, ..Augment::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    assert_uniform("tx", (0..20_000).map(|_| augment.sample(40, 100, &mut rng).tx), 3.0);
}

#[test]
fn the_default_changes_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..100 {
        assert_eq!(Augment::default().sample(32, 32, &mut rng), Transform::default());
    }
}

#[test]
fn extreme_settings_do_not_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for value in [f32::NAN, f32::INFINITY, -0.5, 1e30] {
        let augment = Augment {
            rotation: value,
            width_shift: value,
            height_shift: value,
            horizontal_flip: true,
            crop_padding: usize::MAX,
            cutout: usize::MAX,
            shear: value,
            zoom: value,
            resized_crop: Some((value, value)),
            brightness: value,
            contrast: value,
            saturation: value,
            hue: value,
            mixup: value,
            cutmix: value,
        };
        apply_to_small(augment.sample(3, 4, &mut rng));
    }
    Transform { theta: 1.0, ..Transform::default() }.apply(&[], (0, 4, 3), &mut []);
}

#[test]
fn cutout_zeroes_one_square_and_nothing_else() {
    let augment = Augment { cutout: 4, ..Augment::default() };
    let (h, w) = (9, 7);
    let image: Vec<f32> = (1..=h * w * 2).map(|v| v as f32).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut sizes, mut hit) = (vec![], vec![false; h * w]);
    for _ in 0..500 {
        let mut out = vec![f32::NAN; image.len()];
        augment.sample(h, w, &mut rng).apply(&image, (h, w, 2), &mut out);
        let zeros: Vec<(usize, usize)> = (0..h * w).filter(|i| out[2 * i] == 0.0).map(|i| (i / w, i % w)).collect();
        assert!((0..h * w).all(|i| (out[2 * i] == 0.0) == (out[2 * i + 1] == 0.0)));
        assert!(out.iter().zip(&image).all(|(out, image)| *out == 0.0 || out == image));
        let extent = |part: fn(&(usize, usize)) -> usize| {
            zeros.iter().map(part).max().unwrap() - zeros.iter().map(part).min().unwrap() + 1
        };
        let (rows, columns) = (extent(|p| p.0), extent(|p| p.1));
        assert_eq!(zeros.len(), rows * columns, "the zeros are not a rectangle");
        sizes.push((rows, columns));
        zeros.iter().for_each(|(i, j)| hit[i * w + j] = true);
    }
    // The square is whole in the middle and cut off at the borders, and it can hit any pixel.
    let [least, most] = [sizes.iter().min().unwrap(), sizes.iter().max().unwrap()];
    assert_eq!((*least, *most), ((2, 2), (4, 4)));
    assert!(hit.iter().all(|hit| *hit));
}
