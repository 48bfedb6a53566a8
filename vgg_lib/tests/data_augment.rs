//! Augmentation, compared with Keras' `ImageDataGenerator` (fixtures/augment.py), and the distribution of its draws.

use std::fs::File;

use ndarray::{Array2, Array3, Array4};
use ndarray_npy::NpzReader;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vgg_lib::data::{Augment, Transform};

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
