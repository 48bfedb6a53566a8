//! Weight files written by PyTorch and Keras (fixtures/torch_files.py, keras_files.py) are read, and files written with
//! their names are compared with theirs.

#[path = "common/formula.rs"]
mod formula;
#[path = "common/tiny.rs"]
mod tiny;

use ndarray::ArrayD;
use tiny::{FOLDER, expected, loaded, model};
use vgg_lib::formats::{self, StateDict};
use vgg_lib::model::{Seed, Sequential, linear};
use vgg_lib::naming::{self, Names};
use vgg_lib::tensor::images;
use vgg_lib::vgg;

fn fixture(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

#[test]
fn pytorch_files_give_the_network() {
    let whole = loaded("tiny.npz").state_dict();
    for (file, same_as) in [
        ("tiny.pth", "tiny.npz"),
        ("tiny_old.pth", "tiny.npz"),
        ("tiny_2017.pth", "tiny.npz"),
        ("tiny_checkpoint.pth.tar", "tiny_f16.safetensors"),
        ("tiny_views.pth", "tiny_bf16.safetensors"),
    ] {
        let state = loaded(file).state_dict();
        assert_eq!(state, loaded(same_as).state_dict(), "{file}");
        assert_eq!(state == whole, same_as == "tiny.npz");
    }
    let tensors = formats::read(fixture("tiny.pth")).unwrap();
    assert_eq!(tensors, formats::read(fixture("tiny.npz")).unwrap());
    for file in ["tiny.pth", "tiny_old.pth", "tiny_checkpoint.pth.tar"] {
        assert_eq!(naming::classes(fixture(file)).unwrap(), Some(4));
    }
}

/// code.pth calls os.mkdir, which nothing runs.
#[test]
fn pickles_without_weights_say_what_they_hold() {
    let error = |file: &str| model(0).load_weights(fixture(file)).unwrap_err().to_string();
    let text = error("code.pth");
    assert!(
        text.contains("code.pth: holds no state dict, but a dict of a; in Python, save only the weights"),
        "{text}"
    );
    assert!(!std::path::Path::new("code_was_run").exists());
    let text = error("module.pth");
    assert!(text.contains("module.pth: has 1 convolution and 0 batch norm layers"), "{text}");
}

#[test]
fn saved_names_and_layouts_match_each_scheme() {
    let folder = tempfile::tempdir().unwrap();
    let ours = loaded("tiny.npz");
    let theirs = formats::read(fixture("tiny.npz")).unwrap();
    for ending in ["npz", "safetensors", "pth", "pt"] {
        let path = folder.path().join(format!("weights.{ending}"));
        ours.save_weights_as(&path, Names::Torchvision).unwrap();
        assert_eq!(formats::read(&path).unwrap(), theirs, "torchvision's names and layouts, {ending}");
        for names in [Names::Own, Names::Keras, Names::Torchvision] {
            ours.save_weights_as(&path, names).unwrap();
            let mut again = model(3);
            assert_eq!(again.load_weights(&path).unwrap().to_string(), "18 tensors loaded.");
            assert_eq!(again.state_dict(), ours.state_dict(), "{names:?} {ending}");
        }
        ours.save_weights_as(&path, Names::Keras).unwrap();
        assert_eq!(naming::classes(&path).unwrap(), Some(4));
        let names = formats::read(&path).unwrap();
        for name in ["conv1/kernel", "conv1/bias", "norm1/gamma", "norm1/moving_variance", "predictions/kernel"] {
            assert!(names.contains_key(name), "{:?}", names.keys());
        }
        ours.save_weights(&path).unwrap();
        let own = formats::read(&path).unwrap().contains_key("conv1.weight");
        assert_eq!(own, !ending.starts_with('p'), "PyTorch files have torchvision's names by default");
    }
}

/// torchvision also counts ReLUs, batch norms, pooling and dropout layers.
#[test]
fn torchvision_module_numbers_are_counted_from_the_layers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.npz");
    let modules = |model: &Sequential| {
        model.save_weights_as(&path, Names::Torchvision).unwrap();
        let names = formats::read(&path).unwrap().into_keys();
        let mut modules: Vec<String> = names.map(|name| name.rsplit_once('.').unwrap().0.to_string()).collect();
        modules.dedup();
        modules
            .sort_by_key(|name| name.split_once('.').map(|(part, n)| (part.to_string(), n.parse::<usize>().unwrap())));
        modules
    };
    let list = |part: &str, numbers: &[usize]| numbers.iter().map(|n| format!("{part}.{n}")).collect::<Vec<_>>();
    let head = list("classifier", &[0, 3, 6]);
    // The numbers in the published weights.
    let features = list("features", &[0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]);
    assert_eq!(modules(&vgg::vgg16((32, 32, 3), 10, Seed(0)).unwrap()), [head.clone(), features].concat());
    let bn = vgg::vgg16_bn((32, 32, 3), 10, Seed(0)).unwrap();
    let convolutions = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40];
    let features = list("features", &convolutions.map(|n| [n, n + 1]).concat());
    assert_eq!(modules(&bn), [head, features].concat());

    // A head with a batch norm has other numbers.
    let cifar = vgg::cifar_vgg16(Seed(1));
    assert_eq!(modules(&cifar)[..3], list("classifier", &[0, 2, 4]));
    let mut again = vgg::cifar_vgg16(Seed(2));
    again.load_weights(&path).unwrap();
    assert!(again.state_dict() == cifar.state_dict());
}

#[test]
fn a_single_unnumbered_dense_layer_is_loaded() {
    let mut small = model(1);
    for _ in 0..5 {
        small.pop();
    }
    small.push("predictions", linear(10)).unwrap();
    let mut state = small.state_dict();
    let weight = state.remove("predictions.weight").unwrap();
    assert_eq!(weight.shape(), [36, 10]);
    let map = weight.into_shape_with_order(vec![2, 3, 6, 10]).unwrap().permuted_axes(vec![3, 2, 0, 1]);
    let rows: Vec<f32> = map.iter().copied().collect();
    let mut torch: StateDict = formats::read(fixture("tiny.npz")).unwrap();
    torch.retain(|name, _| name.starts_with("features."));
    torch.insert("classifier.weight".into(), ArrayD::from_shape_vec(vec![10, 36], rows).unwrap());
    torch.insert("classifier.bias".into(), state["predictions.bias"].clone());
    let expected = small.state_dict()["predictions.weight"].clone();
    let mut again = small.clone();
    again.replace("predictions", linear(10)).unwrap();
    again.load_state_dict(&torch).unwrap();
    assert_eq!(again.state_dict()["predictions.weight"], expected);
}

#[test]
fn a_saved_file_gives_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let x = images(formula::values(1006, 2 * 4 * 6 * 3, 0.0, 1.7), (2, 4, 6, 3)).unwrap();
    let path = folder.path().join("weights.pth");
    loaded("tiny.pth").save_weights(&path).unwrap();
    let mut again = model(5);
    again.load_weights(&path).unwrap();
    let logits = again.forward(x).unwrap().as_vec();
    formula::close("logits", &logits, &expected("tiny.logits_f32"), 1e-5);
}

#[cfg(not(feature = "hdf5"))]
#[test]
fn errors_name_the_missing_feature() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tiny.weights.h5", "tiny.keras", "tiny_model.h5"] {
        let error = model(0).load_weights(fixture(file)).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("features = [\"hdf5\"]"), "{error}");
        let error = formats::read(fixture(file)).unwrap_err().to_string();
        assert!(error.contains("features = [\"hdf5\"]"), "{error}");
    }
    let error = model(0).save_weights(folder.path().join("a.weights.h5")).unwrap_err().to_string();
    assert!(error.contains("features = [\"hdf5\"]"), "{error}");
}

#[test]
fn errors_say_what_cannot_be_saved() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, names| model(0).save_weights_as(folder.path().join(name), names).unwrap_err().to_string();
    for name in ["weights.h5", "model.h5", "model.keras"] {
        assert!(error(name, Names::Keras).contains("ends in .weights.h5"), "{}", error(name, Names::Keras));
    }
    for names in [Names::Own, Names::Torchvision] {
        assert!(error("a.weights.h5", names).contains("choose Names::Keras, or a name that ends in .safetensors"));
    }
    assert!(error("weights.bin", Names::Own).contains("weight files end in .npz"));
    assert!(error("weights.onnx", Names::Own).contains("`save_onnx`"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[cfg(feature = "hdf5")]
mod hdf5 {
    use super::*;

    #[test]
    fn keras_files_give_the_network() {
        for (file, same_as) in [
            ("tiny.weights.h5", "tiny.npz"),
            ("tiny.keras", "tiny.npz"),
            ("tiny_model.h5", "tiny.npz"),
            ("tiny_nested.weights.h5", "tiny.npz"),
            ("tiny_applications.h5", "tiny.npz"),
            ("tiny_theano.h5", "tiny.npz"),
            ("tiny_packed.h5", "tiny_f16.safetensors"),
        ] {
            assert_eq!(loaded(file).state_dict(), loaded(same_as).state_dict(), "{file}");
            assert_eq!(naming::classes(fixture(file)).unwrap(), Some(4), "{file}");
        }
        let tensors = formats::read(fixture("tiny_applications.h5")).unwrap();
        assert_eq!(tensors["conv1/conv1_W_1:0"], loaded("tiny.npz").state_dict()["conv1.weight"]);
        let tensors = formats::read(fixture("tiny.weights.h5")).unwrap();
        assert_eq!(tensors["layers/dense_2/vars/1"], loaded("tiny.npz").state_dict()["predictions.bias"]);
    }

    #[test]
    fn saved_files_have_the_layout_of_keras() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ours.weights.h5");
        loaded("tiny.npz").save_weights(&path).unwrap();
        assert_eq!(formats::read(&path).unwrap(), formats::read(fixture("tiny.weights.h5")).unwrap());
        let mut again = model(4);
        again.load_weights(&path).unwrap();
        assert_eq!(again.state_dict(), loaded("tiny.npz").state_dict());
    }

    #[test]
    fn the_head_may_be_missing_in_the_file_or_the_model() {
        let mut features = model(1);
        for _ in 0..6 {
            features.pop();
        }
        let report = features.load_weights(fixture("tiny_applications.h5")).unwrap();
        assert_eq!((report.loaded, report.unused.len()), (12, 6), "{report}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.weights.h5");
        features.save_weights(&path).unwrap();
        let mut whole = model(2);
        let before = whole.state_dict();
        let report = whole.load_weights(&path).unwrap();
        assert_eq!((report.loaded, report.kept), (12, ["fc1", "fc2", "predictions"].map(String::from).to_vec()));
        assert_eq!(whole.state_dict()["fc1.weight"], before["fc1.weight"]);
        assert_eq!(whole.state_dict()["conv2.weight"], loaded("tiny.npz").state_dict()["conv2.weight"]);
    }

    #[test]
    fn errors_name_what_does_not_fit() {
        let error = |mut model: Sequential, file: &str| {
            let before = model.state_dict();
            let error = model.load_weights(fixture(file)).unwrap_err().to_string();
            assert_eq!(model.state_dict(), before);
            assert!(error.contains(file) && error.len() < 700, "{error}");
            error
        };
        let mut two = model(0);
        two.replace("predictions", linear(2)).unwrap();
        let text = error(two.clone(), "tiny_applications.h5");
        assert!(
            text.contains("predictions/predictions_W_1:0 has shape [7, 4], but layer 'predictions' needs [7, 2]"),
            "{text}"
        );
        assert!(text.contains("build the model with 4 classes and replace 'predictions' after loading"), "{text}");
        let text = error(two, "tiny_theano.h5");
        assert!(text.contains("build the model with 4 classes"), "{text}");
        let text = error(vgg::vgg16((32, 32, 3), 10, Seed(0)).unwrap(), "tiny.weights.h5");
        assert!(text.contains("has 2 convolution and 2 batch norm layers, but the model has 13 and 0"), "{text}");
        let text = error(model(0), "bomb.h5");
        assert!(text.contains("is larger than the file"), "{text}");
        let text = error(model(0), "loop.weights.h5");
        assert!(text.contains("models within models more than 8 deep"), "{text}");
    }
}
