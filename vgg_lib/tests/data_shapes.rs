//! The generated images are reproducible, balanced, and too hard for a linear model.

use rayon::ThreadPoolBuilder;
use vgg_lib::data::{Dataset, Normalization, shapes, shuffled};
use vgg_lib::tensor::argmax;

fn bytes(dataset: &Dataset) -> Vec<u8> {
    (0..dataset.len()).flat_map(|i| dataset.image(i).into_raw()).collect()
}

#[test]
fn images_depend_only_on_seed_and_number() {
    let all = shapes::generate(57, (16, 16), 3);
    for threads in [1, 3] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let first = pool.install(|| shapes::generate(25, (16, 16), 3));
        assert_eq!(bytes(&first), bytes(&all.take(25)), "{threads} threads");
        assert_eq!(first.labels(), &all.labels()[..25]);
    }
    let other = shapes::generate(57, (16, 16), 4);
    assert_ne!(bytes(&other), bytes(&all));
    assert_ne!(other.labels(), all.labels());
}

#[test]
fn classes_are_balanced_and_mixed() {
    let d = shapes::generate(1000, (8, 8), 0);
    assert_eq!(d.classes().len(), 10);
    for class in 0..10 {
        assert_eq!(d.labels().iter().filter(|&&label| label == class).count(), 100);
    }
    let first_ten: Vec<&[usize]> = d.labels().chunks(10).collect();
    assert!(first_ten.windows(2).any(|pair| pair[0] != pair[1]), "the order of the classes is always the same");
}

#[test]
fn any_size_works() {
    for (h, w) in [(32, 32), (20, 48), (224, 224), (1, 1)] {
        assert_eq!(shapes::generate(3, (h, w), 0).shape(), (3, h, w, 3));
    }
    assert_eq!(shapes::generate(1, (0, 0), 0).shape(), (1, 1, 1, 3));
    assert!(shapes::generate(0, (32, 32), 0).is_empty());
}

#[test]
fn the_default_training_and_test_sets_differ() {
    let (train, test) = shapes::load();
    assert_eq!((train.shape(), test.shape()), ((10_000, 32, 32, 3), (2_000, 32, 32, 3)));
    let train_images: std::collections::HashSet<Vec<u8>> =
        (0..train.len()).map(|i| train.image(i).into_raw()).collect();
    assert_eq!(train_images.len(), 10_000, "some training images are the same");
    assert!(
        (0..test.len()).all(|i| !train_images.contains(test.image(i).as_raw())),
        "a test image is also a training image"
    );
}

/// Softmax regression on the pixels, by stochastic gradient descent.
#[test]
fn linear_models_do_poorly() {
    let size = 32 * 32 * 3;
    let all = shapes::generate(2500, (32, 32), 0);
    let (train, test) = Normalization::fit(&all).apply(&all).split(2000);
    let mut weights = vec![[0f32; 10]; size];
    let mut image = vec![0.0; size];
    let scores = |weights: &[[f32; 10]], image: &[f32]| {
        let mut scores = [0f32; 10];
        for (row, x) in weights.iter().zip(image) {
            scores.iter_mut().zip(row).for_each(|(s, w)| *s += w * x);
        }
        scores
    };
    for epoch in 0..8 {
        for i in shuffled(train.len(), 0, epoch) {
            train.read(i, &mut image);
            let mut gradient = scores(&weights, &image);
            let largest = gradient.iter().copied().fold(f32::MIN, f32::max);
            gradient.iter_mut().for_each(|s| *s = (*s - largest).exp());
            let sum: f32 = gradient.iter().sum();
            gradient.iter_mut().for_each(|p| *p /= sum);
            gradient[train.labels()[i]] -= 1.0;
            for (row, x) in weights.iter_mut().zip(&image) {
                row.iter_mut().zip(gradient).for_each(|(w, g)| *w -= 3e-4 * x * g);
            }
        }
    }
    let mut accuracy = |dataset: &Dataset| {
        let correct = (0..dataset.len()).filter(|&i| {
            dataset.read(i, &mut image);
            argmax(&scores(&weights, &image)) == Some(dataset.labels()[i])
        });
        correct.count() as f64 / dataset.len() as f64
    };
    let (on_train, on_test) = (accuracy(&train), accuracy(&test));
    println!("linear model: {:.1} % of the training set, {:.1} % of the test set", 100.0 * on_train, 100.0 * on_test);
    assert!(on_train > 0.3, "the linear model did not even learn its training set: {on_train}");
    assert!(on_test < 0.25, "a linear model reaches {on_test}");
}
