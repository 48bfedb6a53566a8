//! Adaptive average pooling and images of any size: against PyTorch (fixtures/adaptive_pool.py), and what a model for
//! images of one size does with others.

#[path = "common/formula.rs"]
mod formula;

use dfdx::prelude::{Backward, HasShape, SumTo, Trace};
use formula::{close, values};
use ndarray::{Array2, Array4, ArrayD};
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::Result;
use vgg_lib::formats::StateDict;
use vgg_lib::prelude::*;

fn open() -> NpzReader<File> {
    NpzReader::new(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adaptive_pool.npz")).unwrap())
        .unwrap()
}

fn batch(npz: &mut NpzReader<File>, name: &str) -> Images {
    let array: Array4<f32> = npz.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let shape = array.dim();
    images(array.into_raw_vec_and_offset().0, shape).unwrap()
}

#[test]
fn outputs_and_gradients_match_torch() {
    let mut npz = open();
    for (name, height, width) in
        [("7x7", 7, 7), ("14x10", 7, 7), ("9x5", 4, 3), ("3x3", 7, 7), ("1x1", 3, 2), ("6x5", 1, 1)]
    {
        let name = format!("{name}_{height}x{width}");
        let [x, y, dy, dx] = ["x", "y", "dy", "dx"].map(|part| batch(&mut npz, &format!("{name}.{part}")));
        let (_, h, w, c) = *x.shape();
        let mut model = Sequential::new((h, w, c), Seed(0));
        model.push("pool", adaptive_avg_pool2d(height, width)).unwrap();
        let found = model.forward_mut(x.leaky_trace()).unwrap();
        assert_eq!(found.shape(), y.shape(), "{name}");
        close(&format!("{name}.y"), &found.as_vec(), &y.as_vec(), 1e-6);
        close(&name, &model.forward(x.clone()).unwrap().as_vec(), &y.as_vec(), 1e-6);
        let gradients = (found * dy).sum().backward();
        close(&format!("{name}.dx"), &gradients.get(&x).as_vec(), &dx.as_vec(), 1e-6);
    }
}

/// The fixture's network without its pooling, for images of 6×4.
fn network() -> Result<Sequential> {
    let mut model = Sequential::new((6, 4, 3), Seed(0));
    model.push("conv1", conv2d(4).relu())?;
    model.push("pool", max_pool2d())?;
    model.push("conv2", conv2d(5).relu())?;
    model.push("flatten", flatten())?;
    model.push("fc1", linear(6).relu())?;
    model.push("fc1_dropout", dropout(0.5))?;
    model.push("predictions", linear(4))?;
    Ok(model)
}

/// The weights under torchvision's names.
fn state(npz: &mut NpzReader<File>) -> StateDict {
    let mut state = StateDict::new();
    for name in npz.names().unwrap() {
        if let Some(torch) = name.strip_prefix("network.state.") {
            let tensor: ArrayD<f32> = npz.by_name(&name).unwrap();
            state.insert(torch.to_string(), tensor);
        }
    }
    state
}

#[test]
fn a_vgg_that_accepts_any_size_gives_the_logits_of_torchvisions() -> Result<()> {
    let mut npz = open();
    let (mut model, state) = (network()?, state(&mut npz));
    model.accept_any_size()?;
    assert_eq!(model.layer("adaptive_avg_pool")?.op(), Op::AdaptiveAvgPool2d { height: 3, width: 2 });
    let report = model.load_state_dict(&state)?;
    assert_eq!((report.loaded, report.kept.len(), report.unused.len()), (8, 0, 0), "{report}");
    for size in ["6x4", "12x8", "14x10", "4x5"] {
        let logits: Array2<f32> = npz.by_name(&format!("network.logits_{size}")).unwrap();
        let found = model.forward(batch(&mut npz, &format!("network.images_{size}")))?;
        close(size, &found.as_vec(), logits.as_slice().unwrap(), 1e-5);
    }
    // torchvision's names do not count the pooling.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torch.npz");
    model.save_weights_as(&path, Names::Torchvision)?;
    assert_eq!(vgg_lib::formats::read(&path)?, state);
    Ok(())
}

/// The dense layers as convolutions without padding.
#[test]
fn a_score_map_gives_the_outputs_of_torchs_convolutions() -> Result<()> {
    let mut npz = open();
    let mut model = network()?;
    model.load_state_dict(&state(&mut npz))?;
    for size in ["6x4", "12x8", "14x10"] {
        let scores = model.score_map(batch(&mut npz, &format!("network.images_{size}")))?;
        let expected = batch(&mut npz, &format!("network.scores_{size}"));
        assert_eq!(scores.shape(), expected.shape());
        close(size, &scores.as_vec(), &expected.as_vec(), 1e-5);
    }
    let error = model.score_map(picture(4, 5)).unwrap_err().to_string();
    assert!(error.starts_with("a score map needs images of at least 6×4, the size of the model"), "{error}");
    let mut convolutions = Sequential::new((6, 4, 3), Seed(0));
    convolutions.push("conv", conv2d(2))?;
    let error = convolutions.score_map(picture(6, 4)).unwrap_err().to_string();
    assert!(error.starts_with("the model has no dense layers"), "{error}");
    model.accept_any_size()?;
    let error = model.score_map(picture(12, 8)).unwrap_err().to_string();
    assert!(error.starts_with("layer 'adaptive_avg_pool' pools the map to one size"), "{error}");
    Ok(())
}

fn picture(h: usize, w: usize) -> Images {
    images(values(7, h * w * 3, 0.0, 1.0), (1, h, w, 3)).unwrap()
}

/// With dense layers and the pooling, and with global average pooling.
fn models() -> Result<[Sequential; 2]> {
    let mut dense = network()?;
    dense.accept_any_size()?;
    let mut mean = Sequential::new((6, 4, 3), Seed(0));
    mean.push("conv1", conv2d(4).relu())?;
    mean.push("pool", max_pool2d())?;
    mean.push("conv2", conv2d(5).relu())?;
    mean.push("mean", global_avg_pool())?;
    mean.push("predictions", linear(4))?;
    Ok([dense, mean])
}

#[test]
fn images_of_the_models_own_size_get_the_same_outputs_as_before() -> Result<()> {
    let mut model = network()?;
    let before = model.forward(picture(6, 4))?.as_vec();
    let conv = model.activations(picture(6, 4), &["conv2"])?[0].as_vec();
    let memory = model.memory_estimate((6, 4, 3), 2)?.training;
    model.accept_any_size()?;
    assert_eq!(model.memory_estimate((6, 4, 3), 2)?.training, memory);
    assert_eq!(model.forward(picture(6, 4))?.as_vec(), before);
    assert_eq!(model.activations(picture(6, 4), &["adaptive_avg_pool"])?[0].as_vec(), conv);
    Ok(())
}

#[test]
fn everything_takes_images_of_another_size() -> Result<()> {
    let data = shapes::generate(20, (14, 10), 0).only(&["circle", "cross", "heart", "star"])?;
    let data = Normalization::fit(&data).apply(&data);
    for model in models()? {
        let predictions = model.predict(&data)?;
        assert_eq!((predictions.len(), predictions.probabilities(0).len()), (data.len(), 4));
        assert!(model.evaluate(&data)?.loss.is_finite());
        assert_eq!(*model.activations(picture(14, 10), &["conv2"])?[0].shape(), (1, 7, 5, 5));
        let cam = model.grad_cam(picture(14, 10), "conv2", 1)?;
        assert_eq!((cam.rows, cam.columns), (7, 5));
        let occlusion = model.occlusion(picture(14, 10), 1, 4, 2)?;
        assert_eq!((occlusion.rows, occlusion.columns), (14, 10));
        let mut probe = model.probe(&["conv2"])?;
        assert_eq!(*probe.forward(picture(14, 10))?.activations[0].shape(), (1, 7, 5, 5));
        assert_eq!(model.summary((14, 10, 3)).error, None);
        assert!(model.memory_estimate((14, 10, 3), 8)?.training > model.memory_estimate((6, 4, 3), 8)?.training);
        let mut trained = model.clone();
        let logits = trained.forward_mut(picture(14, 10).leaky_traced())?;
        let loss = vgg_lib::ops::softmax_cross_entropy(logits, &[1], 0.0)?;
        Updater::new(Optimizer::default())?.step(&mut trained, &mut loss.backward(), 0.1)?;
        assert_ne!(trained.state_dict(), model.state_dict());
        let config = || FitConfig { epochs: 1, batch_size: 4, verbosity: Verbosity::Silent, ..FitConfig::default() };
        assert_eq!(trained.fit(&data, &data, config())?.epochs.len(), 1);
        trained.lr_find(&data, &config())?;
        // Features of larger images, and the head that takes them.
        let (convolutions, head) = model.split_after("conv2")?;
        let folder = tempfile::tempdir().unwrap();
        let features = convolutions.precompute(&data, folder.path())?;
        assert_eq!((features.image_shape(), head.predict(&features)?.len()), ((7, 5, 5), data.len()));
        head.clone().fit(&features, &features, config())?;
    }
    Ok(())
}

#[test]
fn the_summary_shows_the_sizes_before_and_after_the_pooling() -> Result<()> {
    let mut vgg = vgg::build(vgg::Depth::Vgg11, false, (64, 64, 3), 10, Seed(0))?;
    let error = vgg.forward(picture(96, 64)).err().unwrap().to_string();
    assert!(error.starts_with("layer 'fc1' (Linear) has weights for 2048 inputs but gets (None, 3072); "), "{error}");
    assert!(error.contains("`model.accept_any_size()?`"), "{error}");
    vgg.accept_any_size()?;
    let summary = vgg.summary((448, 320, 3));
    let shape = |name: &str| summary.rows.iter().find(|row| row.name == name).unwrap().output;
    assert_eq!(shape("block5_pool"), Shape::Map(14, 10, 512));
    assert_eq!(shape("adaptive_avg_pool"), Shape::Map(2, 2, 512));
    assert_eq!(shape("flatten"), Shape::Flat(2048));
    assert!(summary.to_string().contains("adaptive_avg_pool (AdaptiveAvgPool2D)"), "{summary}");
    let error = vgg.forward(picture(31, 64)).err().unwrap().to_string();
    assert!(error.starts_with("layer 'block5_pool' (MaxPool2D) cannot halve a 1×"), "{error}");
    Ok(())
}

#[test]
fn receptive_fields_go_through_square_windows() -> Result<()> {
    let mut model = Sequential::new((6, 6, 3), Seed(0));
    model.push("conv", conv2d(2))?;
    model.push("pool", adaptive_avg_pool2d(3, 3))?;
    let field = |size| model.receptive_fields(size).map(|fields| fields.rows[1].field_and_jump);
    assert_eq!(field((3, 3, 3))?, Some((3, 1)), "nothing is pooled");
    assert_eq!(field((12, 12, 3))?, Some((6, 4)));
    assert_eq!((field((12, 6, 3))?, field((7, 7, 3))?), (None, None));
    Ok(())
}

#[test]
fn a_saved_model_takes_any_size_again() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let [dense, mean] = models()?;
    dense.save(&path)?;
    let written = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    assert!(written.contains(r#"{\"adaptive_avg_pool2d\":{\"height\":3,\"width\":2}}"#), "the names must not change");
    for model in [dense, mean] {
        model.save(&path)?;
        let loaded = Sequential::load(&path)?;
        assert_eq!(loaded.layers().len(), model.layers().len());
        assert_eq!(loaded.input_shape(), (6, 4, 3));
        assert_eq!(loaded.forward(picture(14, 10))?.as_vec(), model.forward(picture(14, 10))?.as_vec());
    }
    Ok(())
}

#[test]
fn a_pooling_that_cannot_be_is_a_sentence() {
    let pushed = |layers: &[LayerSpec]| {
        let mut model = Sequential::new((6, 4, 3), Seed(0));
        let mut results = layers.iter().enumerate().map(|(i, layer)| model.push(&format!("layer{i}"), *layer));
        results.find_map(|result| result.err()).unwrap().to_string()
    };
    for (height, width) in [(0, 7), (7, 0)] {
        let error = pushed(&[adaptive_avg_pool2d(height, width).into()]);
        let expected = "an adaptive pooling needs a height and a width of at least 1, not ";
        assert_eq!(error, format!("{expected}{height}×{width}"));
    }
    let (_, mut head) = network().unwrap().split_after("flatten").unwrap();
    let error = head.accept_any_size().unwrap_err().to_string();
    assert!(error.starts_with("the model takes vectors, which have no height and width"), "{error}");
    let error = pushed(&[flatten().into(), adaptive_avg_pool2d(7, 7).into()]);
    assert!(error.contains("'layer1' (AdaptiveAvgPool2D) needs a height and a width but gets (None, 72)"), "{error}");
    let error = pushed(&[adaptive_avg_pool2d(usize::MAX, 7).into()]);
    assert!(error.contains("more values than a computer can address"), "{error}");
}
