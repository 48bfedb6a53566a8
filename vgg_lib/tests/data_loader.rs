//! The batch loader: its batches, their reproducibility, and the end of its thread.

use std::{
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use vgg_lib::data::{Augment, Batch, Dataset, Loader, shapes, shuffled};

const AUGMENT: Augment = Augment {
    rotation: 15.0,
    width_shift: 0.1,
    height_shift: 0.1,
    horizontal_flip: true,
    crop_padding: 0,
    cutout: 0,
    shear: 0.0,
    zoom: 0.0,
    resized_crop: None,
    brightness: 0.0,
    contrast: 0.0,
    saturation: 0.0,
    hue: 0.0,
    mixup: 0.0,
    cutmix: 0.0,
};
const SIZE: usize = 8 * 8 * 3;

fn ten() -> Dataset {
    shapes::generate(10, (8, 8), 0)
}

fn read(dataset: &Dataset, index: usize) -> Vec<f32> {
    let mut out = vec![0.0; SIZE];
    dataset.read(index, &mut out);
    out
}

#[test]
fn in_order_yields_every_image_unchanged() {
    let d = ten();
    let mut loader = Loader::in_order(&d, 4);
    assert_eq!(loader.len(), 3);
    let mut seen = 0;
    for batch in loader.by_ref() {
        assert_eq!(batch.n, if seen == 8 { 2 } else { 4 });
        assert_eq!((batch.images.len(), batch.labels.len()), (batch.n * SIZE, batch.n));
        for i in 0..batch.n {
            assert_eq!(batch.images[i * SIZE..][..SIZE], read(&d, seen));
            assert_eq!(batch.labels[i], d.labels()[seen]);
            seen += 1;
        }
    }
    assert_eq!((seen, loader.len()), (10, 0));
    assert!(loader.next().is_none(), "an exhausted loader stays exhausted");
}

#[test]
fn the_order_is_followed() {
    let d = ten();
    let order = vec![7, 2, 2, 9];
    let batches: Vec<Batch> = Loader::new(&d, 3, order.clone(), Augment::default(), 5, 0).collect();
    let images: Vec<f32> = batches.iter().flat_map(|b| b.images.clone()).collect();
    let labels: Vec<usize> = batches.iter().flat_map(|b| b.labels.clone()).collect();
    for (i, &index) in order.iter().enumerate() {
        assert_eq!(images[i * SIZE..][..SIZE], read(&d, index));
        assert_eq!(labels[i], d.labels()[index]);
    }
}

#[test]
fn augmentation_depends_on_seed_epoch_and_position_only() {
    let d = ten();
    let images = |batch_size, seed, epoch| -> Vec<f32> {
        Loader::new(&d, batch_size, vec![3; 6], AUGMENT, seed, epoch).flat_map(|b| b.images).collect()
    };
    let one = images(6, 1, 0);
    assert_eq!(images(6, 1, 0), one);
    assert_eq!(images(4, 1, 0), one, "the batch size changes nothing");
    assert_ne!(images(6, 2, 0), one);
    assert_ne!(images(6, 1, 2), one);
    for a in 0..6 {
        for b in 0..a {
            assert_ne!(one[a * SIZE..][..SIZE], one[b * SIZE..][..SIZE], "positions {a} and {b} are augmented equally");
        }
    }
}

#[test]
fn flips_alternate() {
    let d = shapes::generate(100, (8, 8), 0);
    let flip = Augment { horizontal_flip: true, ..Augment::default() };
    let epoch = |seed, epoch| -> Vec<f32> {
        Loader::new(&d, 7, (0..100).collect(), flip, seed, epoch).flat_map(|batch| batch.images).collect()
    };
    let (first, second) = (epoch(1, 0), epoch(1, 1));
    let (mut plain, mirrored) = (0, d.mirrored());
    for i in 0..100 {
        let mut other = vec![0.0; SIZE];
        mirrored.read(i, &mut other);
        let both = [&first[i * SIZE..][..SIZE], &second[i * SIZE..][..SIZE]];
        if both[0] == read(&d, i) {
            plain += 1;
            assert_eq!(both[1], other);
        } else {
            assert_eq!(both, [&other[..], &read(&d, i)]);
        }
    }
    assert!((30..70).contains(&plain), "{plain} of 100 images are not flipped in the first epoch");
    assert_eq!(epoch(1, 2), first);
    assert_ne!(epoch(2, 0), first);
}

#[test]
fn shuffled_is_a_permutation_that_changes_with_seed_and_epoch() {
    let order = shuffled(1000, 1, 0);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    assert_ne!(order, sorted);
    assert_eq!(shuffled(1000, 1, 0), order);
    assert_ne!(shuffled(1000, 1, 1), order);
    assert_ne!(shuffled(1000, 2, 0), order);
    assert_eq!(shuffled(0, 1, 0), [0usize; 0]);
}

#[test]
fn extreme_batch_sizes_are_fine() {
    assert_eq!(Loader::in_order(&ten().take(0), 4).count(), 0);
    assert_eq!(Loader::in_order(&ten(), 0).count(), 10);
    assert_eq!(Loader::in_order(&ten(), usize::MAX).map(|b| b.n).collect::<Vec<_>>(), [10]);
}

#[test]
fn a_dropped_loader_ends_its_thread() {
    let (done, ended) = channel();
    thread::spawn(move || {
        // Far more batches than the loader prepares ahead.
        let mut loader = Loader::new(&ten(), 1, vec![0; 1_000_000], AUGMENT, 0, 0);
        let start = Instant::now();
        loader.by_ref().take(1000).for_each(drop);
        let thousand = start.elapsed();
        let start = Instant::now();
        drop(loader); // joins the thread
        done.send((start.elapsed(), thousand)).unwrap();
    });
    let (elapsed, thousand) = ended.recv_timeout(Duration::from_secs(300)).expect("dropping the loader hangs");
    // A million batches take about a thousand times as long as a thousand.
    assert!(elapsed < 100 * thousand, "the thread continued for {elapsed:?}; a thousand batches take {thousand:?}");
}

#[test]
#[should_panic(expected = "the order names image 10, but the dataset has 10 images")]
fn an_unknown_image_is_refused_at_once() {
    Loader::new(&ten(), 4, vec![0, 10], AUGMENT, 0, 0);
}

#[test]
#[should_panic(expected = "augmentation needs a rotation of at least 0, not NaN")]
fn an_augmentation_by_nan_is_refused_at_once() {
    Loader::new(&ten(), 4, vec![0], Augment { rotation: f32::NAN, ..AUGMENT }, 0, 0);
}

#[test]
fn mixed_batches_hold_parts_of_two_images_and_say_which() {
    let dataset = ten();
    let order: Vec<usize> = (0..10).collect();
    let batches = |augment| -> Vec<Batch> { Loader::new(&dataset, 5, order.clone(), augment, 3, 1).collect() };
    let plain = batches(Augment::default());
    assert!(plain.iter().all(|batch| batch.mixed.is_none()));
    for augment in [
        Augment { mixup: 1.0, ..Augment::default() },
        Augment { cutmix: 1.0, ..Augment::default() },
        Augment { mixup: 0.2, cutmix: 1.0, ..Augment::default() },
    ] {
        let mixed = batches(augment);
        assert_eq!(mixed, batches(augment), "the draws depend on the arguments only");
        for (plain, mixed) in plain.iter().zip(&mixed) {
            let with = mixed.mixed.as_ref().unwrap();
            assert!((0.5..=1.0).contains(&with.share), "{}", with.share);
            let mut before = plain.labels.clone();
            before.rotate_right(1);
            let (own, other) = (&mixed.labels, &with.labels);
            assert!([(own, other), (other, own)].contains(&(&plain.labels, &before)), "{own:?} {other:?}");
        }
        assert_ne!(mixed[0].mixed.as_ref().unwrap().share, mixed[1].mixed.as_ref().unwrap().share);
    }
    for alpha in [1e-30, 1e6] {
        let extreme = batches(Augment { mixup: alpha, ..Augment::default() });
        assert!(extreme.iter().all(|batch| (0.5..=1.0).contains(&batch.mixed.as_ref().unwrap().share)), "{alpha}");
    }
    // Each value of a blend lies between those of the two images; for the first image, these are the first and the last.
    let blended = &batches(Augment { mixup: 1.0, ..Augment::default() })[0];
    let len = plain[0].images.len() / 5;
    for i in 0..len {
        let (a, b) = (plain[0].images[i], plain[0].images[4 * len + i]);
        assert!((a.min(b) - 1e-3..=a.max(b) + 1e-3).contains(&blended.images[i]));
    }
    assert_ne!(blended.images, plain[0].images);
}
