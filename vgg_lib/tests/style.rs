//! Style transfer against PyTorch (fixtures/style.py): the losses, their gradients, and three steps on the pixels.

#[path = "common/formula.rs"]
mod formula;

use dfdx::prelude::{HasShape, Shape};
use formula::close;
use image::RgbImage;
use ndarray::{Array2, Array4, ArrayD};
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::data::Normalization;
use vgg_lib::inspect::{Canvas, content_loss, gram_matrix, style_loss, total_variation};
use vgg_lib::model::{Seed, Sequential, conv2d, max_pool2d};
use vgg_lib::tensor::{Images, images};

fn open() -> NpzReader<File> {
    NpzReader::new(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/style.npz")).unwrap()).unwrap()
}

fn get(npz: &mut NpzReader<File>, name: &str) -> ArrayD<f32> {
    npz.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn batch(npz: &mut NpzReader<File>, name: &str) -> Images {
    let array: Array4<f32> = npz.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let shape = array.dim();
    images(array.into_raw_vec_and_offset().0, shape).unwrap()
}

fn values(npz: &mut NpzReader<File>, name: &str) -> Vec<f32> {
    get(npz, name).into_raw_vec_and_offset().0
}

#[test]
fn the_losses_and_their_gradients_match_torch() {
    let mut npz = open();
    let (x, target) = (batch(&mut npz, "x"), batch(&mut npz, "target"));
    let gram = gram_matrix(&x).unwrap();
    close("gram", gram.as_slice().unwrap(), &values(&mut npz, "gram"), 1e-5);
    for (name, (loss, gradient)) in [
        ("style", style_loss(&x, &gram_matrix(&target).unwrap(), 1.0).unwrap()),
        ("content", content_loss(&x, &target, 1.0).unwrap()),
        ("variation", total_variation(&x, 1.0).unwrap()),
    ] {
        close(name, &[loss], &values(&mut npz, name), 1e-5);
        close(&format!("{name}.gradient"), &gradient.as_vec(), &values(&mut npz, &format!("{name}.gradient")), 1e-4);
    }
}

/// The two convolutions of the fixture.
fn network(npz: &mut NpzReader<File>) -> Sequential {
    let mut model = Sequential::new((12, 10, 3), Seed(0));
    model.push("conv1", conv2d(5).relu()).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("conv2", conv2d(4).relu()).unwrap();
    let mut state = model.state_dict();
    for name in ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"] {
        state.insert(name.to_string(), get(npz, &format!("network.{name}")));
    }
    model.load_state_dict(&state).unwrap();
    model
}

#[test]
fn three_steps_on_the_pixels_match_torch() {
    let mut npz = open();
    let model = network(&mut npz);
    let names = ["conv2", "conv1"];
    let grams: Vec<Array2<f32>> = model
        .activations(batch(&mut npz, "network.style"), &names)
        .unwrap()
        .iter()
        .map(|maps| gram_matrix(maps).unwrap())
        .collect();
    let content = &model.activations(batch(&mut npz, "network.content"), &["conv2"]).unwrap()[0];
    let (losses, steps) = (values(&mut npz, "losses"), values(&mut npz, "steps"));
    let mut probe = model.probe(&names).unwrap();
    let mut canvas = Canvas::new(&batch(&mut npz, "network.start")).unwrap();
    let len = canvas.image().shape().num_elements();
    for step in 0..3 {
        let probed = probe.forward(canvas.image().clone()).unwrap();
        let (style2, of_style2) = style_loss(&probed.activations[0], &grams[0], 1.0).unwrap();
        let (style1, of_style1) = style_loss(&probed.activations[1], &grams[1], 10.0).unwrap();
        let (like, of_content) = content_loss(&probed.activations[0], content, 1.0).unwrap();
        let (noise, of_noise) = total_variation(canvas.image(), 0.5).unwrap();
        close(&format!("loss {step}"), &[style1 + style2 + like + noise], &losses[step..][..1], 1e-4);
        let gradient = probed.input_gradient(&[of_style2 + of_content, of_style1]).unwrap() + of_noise;
        canvas.step(&gradient, 0.05).unwrap();
        close(&format!("step {step}"), &canvas.image().as_vec(), &steps[step * len..][..len], 1e-4);
    }
}

/// Also where the division by the deviation is by little more than 1e-7, which `image` adds to it.
#[test]
fn a_picture_survives_normalization_and_back() {
    let picture = RgbImage::from_fn(2, 2, |x, y| image::Rgb([10 * x as u8, 200 + y as u8, 77]));
    for std in [0.0, 1e-6, 58.0] {
        let normalization = Normalization { mean: vec![10.0, 200.0, 77.0], std: vec![std; 3] };
        let there = normalization.image(&picture).unwrap();
        assert_eq!(normalization.to_rgb(&there).unwrap(), picture, "{std}");
    }
    let broken = Normalization { mean: vec![f32::NAN; 3], std: vec![1.0; 3] };
    let error = broken.to_rgb(&images(vec![0.0; 3], (1, 1, 1, 3)).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("the normalization "), "{error}");
}

#[test]
fn what_does_not_fit_is_said() {
    let maps = |n, h, c| images(vec![1.0; n * h * 2 * c], (n, h, 2, c)).unwrap();
    let says = |error: vgg_lib::Error, words: &str| assert!(error.to_string().contains(words), "{error}");
    says(gram_matrix(&maps(2, 3, 4)).unwrap_err(), "that of one image, not of 2");
    let gram = gram_matrix(&maps(1, 3, 4)).unwrap();
    says(
        style_loss(&maps(1, 3, 5), &gram, 1.0).map(|_| ()).unwrap_err(),
        "have 5 channels, but the Gram matrix of the style is that of 4",
    );
    let image = |value| images(vec![value; 12], (1, 2, 2, 3)).unwrap();
    says(Canvas::new(&image(f32::NAN)).unwrap_err(), "cannot have a value of NaN");
    says(Normalization::none().to_rgb(&image(f32::NAN)).unwrap_err(), "NaN");
    let mut canvas = Canvas::new(&image(7.0)).unwrap();
    // The square of 1e30 is infinite, and would stop the image for good.
    for gradient in [f32::NAN, f32::INFINITY, 1e30] {
        says(canvas.step(&image(gradient), 1.0).unwrap_err(), "smaller weights of the losses");
    }
    says(canvas.step(&image(1.0), -5.0).unwrap_err(), "at least 0, such as 5, not -5; for a larger loss, negate");
    says(canvas.step(&image(1.0), f32::NAN).unwrap_err(), "the learning rate has a value of NaN");
    says(canvas.step(&maps(1, 3, 4), 1.0).unwrap_err(), "cannot have the shape");
    assert_eq!(canvas.image().as_vec(), [7.0; 12]);
    let wide = Array2::zeros((4, 5));
    says(style_loss(&maps(1, 3, 4), &wide, 1.0).map(|_| ()).unwrap_err(), "is square, but that of the style is 4×5");
    let empty = || images(vec![], (1, 0, 2, 4)).unwrap();
    says(gram_matrix(&empty()).unwrap_err(), "1×0×2×4 has no values");
    says(content_loss(&empty(), &empty(), 1.0).map(|_| ()).unwrap_err(), "has no values");
    says(total_variation(&empty(), 1.0).map(|_| ()).unwrap_err(), "has no values");
    says(Canvas::new(&empty()).unwrap_err(), "has no values");
    says(content_loss(&maps(1, 3, 4), &maps(1, 2, 4), 1.0).map(|_| ()).unwrap_err(), "take both from the same layer");
}
