//! Layers and batches that are too large, and settings of layers outside their range: a sentence each. Nothing may end
//! the process, because a notebook would lose all its variables.

use dfdx::prelude::Trace;
use vgg_lib::Result;
use vgg_lib::prelude::*;

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

/// What adding this layer to a model for images of 8×8×3 says.
fn pushed(layer: impl Into<LayerSpec>) -> String {
    message(Sequential::new((8, 8, 3), Seed(0)).push("new", layer))
}

#[test]
fn layers_that_do_not_fit_in_memory_are_refused() {
    let vgg = message(vgg::vgg16((8192, 8192, 3), 1000, Seed(0)));
    assert!(
        vgg.starts_with("layer 'fc1' (Linear) with 33,554,432 × 4,096 weights needs 512.00 GiB of memory, "),
        "{vgg}"
    );
    assert!(vgg.ends_with(": use a smaller layer, or put more pooling layers before it"), "{vgg}");
    let error = pushed(conv2d(1 << 45));
    let expected = "layer 'new' (Conv2D) with 3 × 3 × 3 × 35,184,372,088,832 weights needs 3,456 TiB of memory, ";
    assert!(error.starts_with(expected), "{error}");
    for error in [
        pushed(conv2d(usize::MAX)),
        pushed(conv2d(4).kernel(usize::MAX)),
        pushed(conv2d(1 << 40).kernel((1 << 20) + 1)),
        message(vgg::vgg16((1 << 28, 1 << 28, 3), 10, Seed(0))),
        message(vgg::build(vgg::Depth::Vgg11, true, (32, 32, 3), usize::MAX, Seed(0))),
    ] {
        assert!(error.contains(" of memory, ") || error.contains("a computer can address"), "{error}");
    }
    let mut model = Sequential::new((1 << 29, 1 << 29, 3), Seed(0));
    let error = message(model.push("conv", conv2d(1 << 20).kernel(1)));
    assert_eq!(error, "layer 'conv' (Conv2D) would give more values than a computer can address; use a smaller layer");
    model.push("conv", conv2d(4)).unwrap();
    let estimate = model.memory_estimate((1 << 29, 1 << 29, 3), usize::MAX).unwrap();
    assert_eq!((estimate.training, estimate.inference), (usize::MAX, usize::MAX));
    assert!(estimate.to_string().contains("16,777,216 TiB"), "{estimate}");
}

#[test]
#[cfg(not(feature = "cuda"))] // dfdx's CUDA device has a limit of its own, below
fn batches_that_do_not_fit_in_memory_are_refused() {
    // One output of this layer has 16 TiB.
    let mut model = Sequential::new((1024, 1024, 1), Seed(0));
    model.push("wide", conv2d(1 << 22).kernel(1)).unwrap();
    model.push("pool", global_avg_pool()).unwrap();
    model.push("predictions", linear(2)).unwrap();
    let image = || images(vec![0.5; 1 << 20], (1, 1024, 1024, 1)).unwrap();
    let names = || ["cat", "dog"].map(String::from).to_vec();
    let data = Dataset::new(vec![0; 2 << 20], (1024, 1024, 1), vec![0, 1], names()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = || FitConfig { batch_size: 2, verbosity: Verbosity::Silent, ..FitConfig::default() };
    for (pass, error) in [
        ("a forward pass of 1 image needs 16 TiB", message(model.forward(image()))),
        ("a forward pass of 1 image needs", message(model.activations(image(), &["wide", "pool"]))),
        ("a forward pass of 1 image needs", message(model.clone().forward_mut(image().leaky_traced()))),
        ("a forward pass of 1 image needs", message(model.evaluate(&data))),
        ("a forward pass of 1 image needs", message(model.predict(&data))),
        ("a forward pass of 1 image needs", message(model.precompute(&data, &folder))),
        ("a forward pass of 1 image needs", message(model.grad_cam(image(), "wide", 0))),
        ("a forward pass of 1 image needs", message(model.occlusion(image(), 0, 512, 512))),
        ("a training step of 2 images needs", message(model.fit(&data, &data, config()))),
        ("a training step of 3 images needs", message(model.profile(3, 1))),
        (
            "a training step of 18,446,744,073,709,551,615 images needs 16,777,216 TiB",
            message(model.profile(usize::MAX, 1)),
        ),
    ] {
        assert!(error.starts_with(pass), "{error}");
        let advice = "not even one image does; use smaller images or a smaller model";
        assert!(error.contains(" of memory, ") && error.ends_with(advice), "{error}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "no unfinished features");
}

/// The number of images that fit is part of the sentence, and such a batch is taken.
#[test]
#[cfg(all(target_os = "linux", not(feature = "cuda")))]
fn the_advice_names_a_batch_that_fits() {
    // 16 MiB per image.
    let mut model = Sequential::new((1, 1, 1), Seed(0));
    model.push("wide", conv2d(1 << 22).kernel(1)).unwrap();
    let error = message(model.forward(images(vec![0.5; 1 << 22], (1 << 22, 1, 1, 1)).unwrap()));
    assert!(error.starts_with("a forward pass of 4,194,304 images needs 64 TiB of memory, but "), "{error}");
    let (_, most) = error.rsplit_once("take at most ").expect(&error);
    let most: usize = most.replace(',', "").parse().unwrap();
    assert!(most > 4 && most < 1 << 20, "{error}");
    model.forward(images(vec![0.5; 4], (4, 1, 1, 1)).unwrap()).unwrap();
}

#[test]
fn batches_whose_size_cannot_be_counted_are_refused() {
    for shape in [(1 << 32, 1 << 32, 1, 1), (usize::MAX, 2, 1, 1), (1 << 16, 1 << 16, 1 << 16, 1 << 16)] {
        let error = message(images(vec![], shape));
        assert!(
            error.starts_with("0 values do not fill a batch of") && error.contains("more than can be counted"),
            "{error}"
        );
    }
}

#[test]
fn a_batch_without_images_gives_no_answers() {
    let mut model = Sequential::new((8, 8, 3), Seed(0));
    model.push("conv", conv2d(4).relu()).unwrap();
    model.push("norm", batch_norm()).unwrap();
    model.push("conv2", conv2d(4).kernel(5).relu()).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(2)).unwrap();
    model.push("softmax", softmax()).unwrap();
    let empty = images(vec![], (0, 8, 8, 3)).unwrap();
    assert_eq!(*model.forward(empty.clone()).unwrap().shape(), (0, 1, 1, 2));
    assert_eq!(*model.activations(empty.clone(), &["conv2"]).unwrap()[0].shape(), (0, 8, 8, 4));
    let error = message(model.forward_mut(empty.leaky_traced()));
    assert_eq!(error, "a training step needs at least one image");
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_batch_of_images_without_pixels_is_refused() {
    let mut model = Sequential::new((8, 8, 3), Seed(0));
    model.push("pool", max_pool2d()).unwrap();
    model.push("average", global_avg_pool()).unwrap();
    model.push("softmax", softmax()).unwrap();
    for (shape, text, training) in [
        ((1, 0, 8, 3), "0×8×3", "layer 'pool' (MaxPool2D) cannot halve a 0×8 map"),
        ((2, 8, 0, 3), "8×0×3", "layer 'pool' (MaxPool2D) cannot halve a 8×0 map"),
        ((2, 8, 8, 0), "8×8×0", "images of 8×8×0 have no pixels"),
    ] {
        let x = || images(vec![], shape).unwrap();
        let expected = format!("images of {text} have no pixels; each size must be at least 1");
        assert_eq!(message(model.forward(x())), expected);
        let error = message(model.forward_mut(x().leaky_traced()));
        assert!(error.starts_with(training), "{error}");
        assert_eq!(message(model.activations(x(), &["pool"])), expected);
    }
}

#[test]
fn images_without_pixels_are_refused() {
    for shape in [(0, 0, 3), (32, 0, 3), (32, 32, 0), (1 << 40, 1 << 40, 3)] {
        let mut model = Sequential::new(shape, Seed(0));
        let error = message(model.push("conv", conv2d(4)));
        let (h, w, c) = shape;
        assert!(error.starts_with(&format!("a model for images of {h}×{w}×{c} cannot have layers: ")), "{error}");
        assert!(vgg::vgg16(shape, 10, Seed(0)).is_err());
    }
}

#[test]
fn settings_of_layers_outside_their_range_are_refused() {
    for value in [f32::NAN, f32::INFINITY, -0.5] {
        for error in [pushed(dropout(value)), message(with_dropout().set_dropout("", value))] {
            assert!(error.starts_with("dropout p must be at least 0 and less than 1, not"), "{error}");
        }
        for error in [pushed(batch_norm().epsilon(value)), pushed(batch_norm().momentum(value))] {
            assert!(error.starts_with("batch norm needs a momentum from 0 to 1 and an epsilon above 0"), "{error}");
        }
        let mut regularized = Sequential::new((8, 8, 3), Seed(0));
        regularized.push("conv", conv2d(4).l2(0.1)).unwrap();
        for error in [pushed(conv2d(4).l2(value)), pushed(linear(4).l2(value)), message(regularized.set_l2("", value))]
        {
            assert_eq!(error, format!("l2 must be at least 0, not {value}"));
        }
        let normal = Init::Normal(value);
        for error in [pushed(conv2d(4).init(normal)), message(regularized.set_init("", normal))] {
            assert!(error.starts_with("the initial weights need a standard deviation of at least 0"), "{error}");
        }
        let error = pushed(preprocess([0.0; 3]).std([1.0, value, 1.0]));
        assert!(error.starts_with("a standard deviation must be above 0"), "{error}");
    }
    assert!(pushed(batch_norm().epsilon(0.0)).contains("an epsilon above 0"));
    assert!(pushed(preprocess([0.0, f32::NAN, 0.0])).starts_with("the means of red, green and blue must be numbers"));
    assert!(pushed(conv2d(0)).contains("at least one filter") && pushed(linear(0)).contains("at least one unit"));
    assert!(pushed(conv2d(4).kernel(0)).contains("has no center"));
}

fn with_dropout() -> Sequential {
    let mut model = Sequential::new((8, 8, 3), Seed(0));
    model.push("drop", dropout(0.5)).unwrap();
    model
}

#[test]
fn layers_need_different_names_that_are_not_empty() {
    let mut model = with_dropout();
    let empty = "a layer needs a name, which must not be empty";
    assert_eq!(message(model.push("", relu())), empty);
    assert_eq!(message(model.insert(0, "", relu())), empty);
    let twice = "the model already has a layer 'drop'; choose another name";
    assert_eq!(message(model.push("drop", relu())), twice);
    assert_eq!(message(model.insert(0, "drop", relu())), twice);
    assert!(message(model.join(&with_dropout())).contains("both models have a layer 'drop'"));
}

#[test]
#[cfg(feature = "cuda")]
fn a_layer_with_more_values_than_dfdx_counts_on_cuda_is_refused() {
    let mut model = Sequential::new((1024, 1024, 1), Seed(0));
    model.push("wide", conv2d(1 << 13).kernel(1)).unwrap();
    let error = message(model.forward(images(vec![0.5; 1 << 20], (1, 1024, 1024, 1)).unwrap()));
    let expected = "a pass of 1 image does not fit dfdx's CUDA kernels, which count to 2³² in layer 'wide': not even one image does; \
                    use smaller images or a smaller model";
    assert_eq!(error, expected);
}

#[test]
#[cfg(not(feature = "cuda"))]
fn bf16_is_refused_in_a_sentence_on_a_cpu_without_it() {
    let mut model = Sequential::new((8, 8, 3), Seed(0));
    model.push("conv", conv2d(4)).unwrap();
    model.to(Device::Cpu).unwrap();
    model.set_precision(Precision::Fastest).unwrap();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match model.set_precision(Precision::Bf16) {
        Ok(()) => assert!(info.contains("amx_bf16") || info.contains("avx512_bf16")),
        Err(error) => {
            assert!(!info.contains("avx512_bf16"), "{error}");
            assert!(error.to_string().starts_with("this CPU does not compute in bf16 (`lscpu` would show"), "{error}");
        }
    }
    // It still runs.
    assert_eq!(*model.forward(images(vec![0.5; 192], (1, 8, 8, 3)).unwrap()).unwrap().shape(), (1, 8, 8, 4));
}
