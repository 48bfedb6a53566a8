//! Weight files: which layers each naming scheme fills, what the report says, and the errors for files that are damaged
//! or do not fit.

use ndarray::ArrayD;
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use vgg_lib::formats::{self, StateDict};
use vgg_lib::model::{Seed, Sequential, conv2d, dropout, flatten, linear, max_pool2d, softmax};
use vgg_lib::naming::{self, Pixels};
use vgg_lib::vgg;

const ENDINGS: [&str; 2] = ["npz", "safetensors"];

/// A small VGG: two convolutions, three dense layers.
fn model(seed: u64, classes: usize) -> Sequential {
    sized_model((4, 6, 3), seed, classes)
}

fn sized_model(size: (usize, usize, usize), seed: u64, classes: usize) -> Sequential {
    let mut model = Sequential::new(size, Seed(seed));
    model.push("conv1", conv2d(4).relu()).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("conv2", conv2d(5).relu()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("fc1", linear(8).relu()).unwrap();
    model.push("fc2", linear(7).relu()).unwrap();
    model.push("predictions", linear(classes)).unwrap();
    model
}

/// The tensors of the same network with torchvision's names and layouts.
fn torchvision() -> StateDict {
    let state = model(1, 3).state_dict();
    let modules = [("conv1", "features.0"), ("conv2", "features.3")];
    let dense = [("fc1", "classifier.0"), ("fc2", "classifier.3"), ("predictions", "classifier.6")];
    let mut theirs = StateDict::new();
    for (ours, name) in modules.into_iter().chain(dense) {
        let weight = state[&format!("{ours}.weight")].clone();
        let weight = match ours {
            "fc1" => {
                let map = weight.into_shape_with_order(vec![2, 3, 5, 8]).unwrap().permuted_axes(vec![3, 2, 0, 1]);
                map.as_standard_layout().into_owned().into_shape_with_order(vec![8, 30]).unwrap()
            }
            "conv1" | "conv2" => weight.permuted_axes(vec![3, 2, 0, 1]),
            _ => weight.t().to_owned(),
        };
        theirs.insert(format!("{name}.weight"), weight.as_standard_layout().into_owned());
        theirs.insert(format!("{name}.bias"), state[&format!("{ours}.bias")].clone());
    }
    theirs
}

fn without(mut state: StateDict, start: &str) -> StateDict {
    state.retain(|name, _| !name.starts_with(start));
    state
}

fn refused(mut model: Sequential, state: &StateDict) -> String {
    let before = model.state_dict();
    let error = model.load_state_dict(state).unwrap_err().to_string();
    assert_eq!(model.state_dict(), before, "the model keeps its weights on error");
    error
}

#[test]
fn torchvision_names_and_layouts_are_loaded() {
    let mut ours = model(2, 3);
    let report = ours.load_state_dict(&torchvision()).unwrap();
    assert_eq!(report.to_string(), "10 tensors loaded.");
    assert_eq!(ours.state_dict(), model(1, 3).state_dict());
}

#[test]
fn extra_layers_without_weights_or_after_the_last_dense_layer_are_allowed() {
    let mut longer = model(2, 3);
    longer.insert(0, "noise", dropout(0.1)).unwrap();
    longer.push("more", linear(2)).unwrap();
    longer.push("softmax", softmax()).unwrap();
    let report = longer.load_state_dict(&torchvision()).unwrap();
    assert_eq!((report.loaded, report.kept, report.unused.len()), (10, vec!["more".to_string()], 0));
    for (name, values) in model(1, 3).state_dict() {
        assert_eq!(longer.state_dict()[&name], values, "{name}");
    }
}

#[test]
fn a_file_without_a_top_leaves_the_head_unchanged() {
    let ours = without(without(model(1, 3).state_dict(), "fc"), "predictions");
    for state in [without(torchvision(), "classifier"), ours] {
        let mut whole = model(2, 9);
        let report = whole.load_state_dict(&state).unwrap();
        assert_eq!(
            report.to_string(),
            "4 tensors loaded. The file does not have fc1, fc2, predictions: these layers keep their initial weights."
        );
        let loaded = whole.state_dict();
        for (name, values) in model(2, 9).state_dict() {
            let from = if name.starts_with("conv") { &model(1, 3).state_dict()[&name] } else { &values };
            assert_eq!(&loaded[&name], from, "{name}");
        }
    }
}

#[test]
fn a_model_without_a_head_loads_the_features() {
    let mut features = model(2, 3);
    for _ in 0..4 {
        features.pop();
    }
    let report = features.load_state_dict(&torchvision()).unwrap();
    assert_eq!((report.loaded, report.unused.len()), (4, 6));
    assert!(report.to_string().ends_with("classifier.3.bias, classifier.3.weight and 2 more."), "{report}");
}

#[test]
fn errors_name_what_does_not_fit_and_what_to_do() {
    let says = |model: Sequential, state: StateDict, words: &[&str]| {
        let error = refused(model, &state);
        words.iter().for_each(|words| assert!(error.contains(words), "{error}"));
        assert!(error.len() < 600 && !error.contains('\n'), "{error}");
    };
    let two_classes = ["build the model with 3 classes and replace 'predictions' after loading"];
    let shapes = ["classifier.6.weight has shape [3, 7], but layer 'predictions' needs [2, 7]"];
    says(model(2, 2), torchvision(), &[two_classes, shapes].concat());
    let shapes = ["predictions.weight has shape [7, 3], but layer 'predictions' needs [7, 2]"];
    says(model(2, 2), model(1, 3).state_dict(), &[two_classes, shapes].concat());
    let larger = sized_model((8, 8, 3), 0, 3);
    let image = ["classifier.0.weight has shape [8, 30], but layer 'fc1' needs [8, 80]", "image size"];
    says(larger, torchvision(), &image);

    says(model(2, 3), without(torchvision(), "features.3.bias"), &["features.3.bias is missing; load a complete"][..0]);
    says(model(2, 3), without(torchvision(), "features.3.bias"), &["(features.3.bias is missing)"]);
    says(model(2, 3), without(torchvision(), "classifier.6"), &["classifier.6.weight is missing"]);
    says(
        model(2, 3),
        without(torchvision(), "features.3"),
        &["has 1 convolution and 0 batch norm layers", "the model has 2 and 0"],
    );
    says(model(2, 3), without(model(1, 3).state_dict(), "fc2"), &["fc2.weight is missing; fc2.bias is missing"]);
    let one = |name: &str| (name.to_string(), ArrayD::zeros(vec![1]));
    let strange = torchvision().into_iter().chain([one("features.3.scale"), one("optimizer")]);
    says(model(2, 3), strange.collect(), &["(the model has no features.3.scale); load them into the network"]);
    let unknown = (0..16).map(|i| one(&format!("layer{i:02}.w"))).collect();
    says(
        model(2, 3),
        unknown,
        &["holds layer00.w, layer01.w, layer02.w, layer03.w and 12 more, which are the names of neither"],
    );
    says(model(2, 3), StateDict::new(), &["holds no tensors"]);
    let scalar = |name: &str| (name.to_string(), ArrayD::zeros(vec![]));
    let no_shape = torchvision().into_keys().map(|name| scalar(&name)).collect();
    says(model(2, 3), no_shape, &["has shape []"]);
}

#[test]
fn the_number_of_classes_is_found_under_any_naming_scheme() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ENDINGS {
        let path = folder.path().join(format!("weights.{ending}"));
        model(1, 3).save_weights(&path).unwrap();
        assert_eq!(naming::classes(&path).unwrap(), Some(3));
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["tiny_f16.safetensors", "tiny_bf16.safetensors", "tiny.npz"] {
        assert_eq!(naming::classes(fixtures.join(name)).unwrap(), Some(4));
    }
}

#[test]
fn a_pretrained_file_with_a_head_is_preferred() {
    let folder = tempfile::tempdir().unwrap();
    let found = || vgg::pretrained(folder.path()).unwrap().map(|file| (file.path, file.pixels, file.has_head));
    assert_eq!(found(), None);
    let [features, whole] =
        ["vgg16_imagenet_features.safetensors", "vgg16.tv_in1k.safetensors"].map(|name| folder.path().join(name));
    std::fs::write(&features, "").unwrap();
    assert_eq!(found(), Some((features, Pixels::Caffe, false)));
    std::fs::write(&whole, [0; 9]).unwrap();
    assert_eq!(found(), Some((whole, Pixels::Torch, true)));
    let damaged = vgg::pretrained(folder.path()).unwrap().unwrap();
    let error = damaged.load_into(&mut model(0, 3), Pixels::Caffe).unwrap_err().to_string();
    assert!(error.contains("vgg16.tv_in1k.safetensors: is not a complete"), "{error}");
}

/// Writes the bytes to a file with this ending and loads it.
fn load(folder: &Path, ending: &str, bytes: &[u8]) -> Result<Sequential, String> {
    let path: PathBuf = folder.join(format!("hostile.{ending}"));
    std::fs::write(&path, bytes).unwrap();
    let mut model = model(2, 3);
    let before = model.state_dict();
    let result = model.load_weights(&path).map_err(|error| error.to_string());
    if let Err(error) = &result {
        assert!(error.contains(&format!("hostile.{ending}")) && error.len() < 600, "{error}");
        assert_eq!(model.state_dict(), before);
    }
    result.map(|_| model)
}

#[test]
fn a_truncated_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ENDINGS {
        let path = folder.path().join(format!("whole.{ending}"));
        model(1, 3).save_weights(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let cuts = (1..100).map(|percent| whole.len() * percent / 100);
        for len in cuts.chain([1, 7, 8, 9, whole.len() - 1]) {
            let error = load(folder.path(), ending, &whole[..len]).err().unwrap_or_else(|| panic!("{ending} {len}"));
            assert!(error.contains(&format!("is not a complete .{ending} file")), "{error}");
        }
        assert_eq!(load(folder.path(), ending, &whole).unwrap().state_dict(), model(1, 3).state_dict());
    }
}

/// Each changed byte gives an error or other numbers, never a panic.
#[test]
fn a_changed_byte_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let mut small = Sequential::new((2, 2, 1), Seed(0));
    small.push("conv1", conv2d(1)).unwrap();
    for ending in ENDINGS {
        let path = folder.path().join(format!("small.{ending}"));
        small.save_weights(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                std::fs::write(&path, &bytes).unwrap();
                let _ = small.clone().load_weights(&path);
                let _ = formats::read(&path);
            }
        }
    }
}

const PARTS: [&str; 16] = [
    "features",
    "classifier",
    "module",
    "model",
    "0",
    "1",
    "3",
    "conv1",
    "conv2",
    "fc1",
    "predictions",
    "head.fc",
    "weight",
    "bias",
    "running_mean",
    "kernel",
];
const SHAPES: [&[usize]; 9] =
    [&[4, 3, 3, 3], &[3, 3, 3, 4], &[5, 4, 3, 3], &[8, 30], &[30, 8], &[4], &[5], &[], &[0, 2, 3, 4, 5]];

proptest! {
    /// Whatever the names and shapes, the result is a report or a sentence.
    #[test]
    fn any_names_and_shapes_give_a_report_or_an_error(
        tensors in vec((vec(0..PARTS.len(), 1..5), 0..SHAPES.len()), 0..24),
    ) {
        let state: StateDict = tensors
            .iter()
            .map(|(parts, shape)| {
                let parts: Vec<&str> = parts.iter().map(|part| PARTS[*part]).collect();
                (parts.join("."), ArrayD::zeros(SHAPES[*shape].to_vec()))
            })
            .collect();
        let mut ours = model(2, 3);
        let before = ours.state_dict();
        match ours.load_state_dict(&state) {
            Ok(report) => prop_assert!(report.loaded > 0 || !state.is_empty()),
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!(ours.state_dict(), before);
            }
        }
    }
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn wrong_safetensors_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |dtype: &str, shape: &str, end: u64| {
        format!(r#"{{"conv1.bias":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    let damaged = "is not a complete .safetensors file";
    for (bytes, words) in [
        (u64::MAX.to_le_bytes().to_vec(), damaged),
        ((1u64 << 40).to_le_bytes().to_vec(), damaged),
        (safetensors("", 0), damaged),
        (safetensors("[1, 2", 0), damaged),
        (safetensors("\"text\"", 0), damaged),
        (safetensors(&"[".repeat(100_000), 0), damaged),
        (safetensors(&tensor("F32", "[1000000000000]", 4_000_000_000_000), 16), damaged),
        (safetensors(&tensor("F32", "[4294967296, 4294967296, 4294967296]", 16), 16), damaged),
        (safetensors(&tensor("F32", "[-4]", 16), 16), damaged),
        (safetensors(&tensor("F32", "[4]", 12), 12), damaged),
        (safetensors(&tensor("F32", "[4]", 16), 20), damaged),
        (safetensors(&tensor("X7", "[4]", 16), 16), damaged),
        (safetensors(&tensor("I64", "[2]", 16), 16), "holds no tensors of floats, but conv1.bias"),
        (safetensors(&tensor("F64", "[2]", 16), 16), "conv1.bias has shape [2], but layer 'conv1' needs [4]"),
        (safetensors("{}", 0), "holds no tensors"),
        (safetensors(&tensor("F32", "[4]", 16), 16), "conv1.weight is missing"),
    ] {
        let error = load(folder.path(), "safetensors", &bytes).err().unwrap();
        assert!(error.contains(words), "{error}");
    }
}

/// A zip of one uncompressed file, in the form that numpy.savez writes.
fn npz(file: &[u8], claimed_size: u32, method: u16) -> Vec<u8> {
    zip(file, &["conv1.bias.npy"], claimed_size, method)
}

/// A zip that has one file under several names of the same length.
fn zip(file: &[u8], names: &[&str], claimed_size: u32, method: u16) -> Vec<u8> {
    let name = names[0].as_bytes();
    let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u32s = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let sizes = [u32s(&[crc32fast::hash(file), claimed_size, claimed_size]), u16s(&[name.len() as u16, 0])].concat();
    let common = [u16s(&[20, 0, method, 0, 33]), sizes].concat();
    let local = [b"PK\x03\x04".to_vec(), common.clone(), name.to_vec(), file.to_vec()].concat();
    let central = |name: &&str| [&b"PK\x01\x02\x14\x00"[..], &common, &[0; 14], name.as_bytes()].concat();
    let central = names.iter().map(central).collect::<Vec<_>>().concat();
    let place = u32s(&[central.len() as u32, local.len() as u32]);
    let count = names.len() as u16;
    let end = [b"PK\x05\x06".to_vec(), u16s(&[0, 0, count, count]), place, vec![0; 2]].concat();
    [local, central, end].concat()
}

fn npy(header: &str, data: usize) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn wrong_npz_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let header = |descr: &str, order: &str, shape: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
    };
    let good = npy(&header("<f4", "False", "(4,)"), 16);
    let long = npy(&header("<f4", "False", "(400,)"), 1600);
    let whole = |file: &[u8]| npz(file, file.len() as u32, 0);
    let other = "conv1.bias does not have the size that its header gives";
    let no_array = "conv1.bias is not a .npy array";
    let mut changed = whole(&good);
    changed["PK..".len() + 26 + "conv1.bias.npy".len() + good.len() - 1] ^= 1;
    for (bytes, words) in [
        (changed, "conv1.bias fails its checksum"),
        (whole(&good), "conv1.weight is missing"),
        (whole(&npy(&header("<f4", "False", "(1000000000000,)"), 16)), other),
        (whole(&npy(&header("<f4", "False", "(4294967296, 4294967296, 4294967296)"), 16)), other),
        (whole(&npy(&header("<f4", "False", "(-4,)"), 16)), other),
        (whole(&npy(&header("<f4", "False", "(4"), 16)), other),
        (whole(&npy(&header("<f4", "False", &"(".repeat(60_000)), 16)), other),
        (whole(&npy(&header("<f4", "False", "(3,)"), 16)), other),
        (whole(&npy(&header("<f8", "False", "(2,)"), 16)), "conv1.bias has shape [2], but layer 'conv1' needs [4]"),
        (whole(&npy(&header("|O", "False", "(2,)"), 16)), "holds no tensors of floats, but conv1.bias (|O values)"),
        (whole(&npy(&header("<f4", "True", "(4,)"), 16)), "conv1.weight is missing"),
        (whole(&npy(&header("<f4", "True", "(4294967296, 4294967296)"), 16)), other),
        (whole(&npy("", 16)), "conv1.bias is not an array of numbers"),
        (whole(&good[..9]), no_array),
        (whole(&[b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), vec![0; 16]].concat()), no_array),
        (whole(b"text"), no_array),
        (whole(b""), no_array),
        (zip(&long, &["a.bias.npy", "b.bias.npy", "c.bias.npy"], long.len() as u32, 0), "its files overlap"),
        (npz(&good, u32::MAX - 1, 0), "is not a complete .npz file"),
        (npz(&good, good.len() as u32, 8), "conv1.bias is compressed; save with numpy.savez"),
        (b"PK\x05\x06".iter().copied().chain([0xff; 18]).collect(), "is not a complete .npz file"),
        (b"not a zip".to_vec(), "is not a complete .npz file"),
        (b"no zip, but text".to_vec(), "is text (\"no zip, but text\")"),
    ] {
        let error = load(folder.path(), "npz", &bytes).err().unwrap();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn errors_name_the_path_that_is_not_a_weight_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| model(0, 3).load_weights(path).unwrap_err().to_string();
    let sub = folder.path().join("folder.npz");
    std::fs::create_dir(&sub).unwrap();
    for (path, words) in [
        (folder.path().join("none.npz"), "none.npz"),
        (folder.path().join("weights.txt"), "cannot read"),
        (sub, "folder.npz: is a folder"),
    ] {
        assert!(error(&path).contains(words), "{}", error(&path));
    }
}
