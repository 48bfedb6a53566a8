//! Whole models in one file: `save` and `load`.

#[path = "common/small_data.rs"]
mod small_data;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vgg_lib::Result;
use vgg_lib::prelude::*;

/// A model with every kind of layer and every setting.
fn every_layer() -> Result<Sequential> {
    let mut model = Sequential::new((16, 16, 3), Seed(u64::MAX - 5));
    model.push("preprocess", preprocess([123.68, 116.779, 103.939]).std([58.4, 57.12, 57.38]).bgr())?;
    model.push("conv1", conv2d(6).relu().l2(1.0 / 3.0).init(Init::Dirac))?;
    model.push("norm1", batch_norm().momentum(0.9).epsilon(1e-5))?;
    model.push("conv2", conv2d(5).kernel(1).init(Init::HeNormal))?;
    model.push("act", relu())?;
    model.push("pool", max_pool2d())?;
    model.push("fit/conv3", conv2d(4).kernel(5))?;
    model.push("a.name with \"quotes\" é", dropout(1.0 / 7.0))?;
    model.push("flatten", flatten())?;
    model.push("fc1", linear(7).relu().l2(1e-9))?;
    model.push("norm2", batch_norm())?;
    model.push("predictions", linear(10).init(Init::Normal(0.01)))?;
    model.push("softmax", softmax())?;
    model.set_batch_norm_group("norm1", 8)?;
    model.freeze("conv1")?;
    model.set_rate("fc1", 0.25)?;
    Ok(model)
}

/// Everything that a model has, as text; weights with all their bits.
fn everything(model: &Sequential) -> String {
    let params = model.layers().iter().flat_map(|layer| layer.params());
    let bits: Vec<u32> = params.flat_map(|param| param.tensor().as_vec()).map(f32::to_bits).collect();
    format!("{}{bits:?}", structure(model))
}

/// Everything but the weights.
fn structure(model: &Sequential) -> String {
    let layer = |layer: &Layer| {
        let dims: Vec<_> = layer.params().iter().map(|param| (param.name, &param.dims)).collect();
        let rate = if layer.rate() == 1.0 { String::new() } else { format!("rate {} ", layer.rate()) };
        format!("{} {:?} {} {:?} {rate}{dims:?}\n", layer.name(), layer.op(), layer.is_frozen(), layer.l2())
    };
    let layers: String = model.layers().iter().map(layer).collect();
    format!("{:?} {:?} {:?}\n{layers}", model.input_shape(), model.classes(), model.normalization())
}

/// Asserts that the model is the same after `save` and `load`: now, after more training, and with more layers.
fn round_trips(mut model: Sequential, folder: &TempDir, train: &Dataset) -> Result<Sequential> {
    let path = folder.path().join("model.safetensors");
    let saved = model.save(&path)?;
    assert_eq!((saved.path.as_path(), saved.bytes as u64), (path.as_path(), fs::metadata(&path).unwrap().len()));
    let loaded = Sequential::load(&path)?;
    assert_eq!(everything(&loaded), everything(&model));
    let mut again = loaded.clone();
    for model in [&mut model, &mut again] {
        let config =
            FitConfig { epochs: 1, batch_size: 32, schedule: Schedule::Constant(0.01), ..FitConfig::default() };
        model.fit(train, train, FitConfig { verbosity: Verbosity::Silent, ..config })?;
        model.pop();
        model.push("one more", linear(3))?;
    }
    assert_eq!(everything(&again), everything(&model), "after training");
    Ok(loaded)
}

fn raw_data() -> Dataset {
    shapes::generate(96, (16, 16), 4)
}

#[test]
fn every_layer_and_every_setting_round_trips_bit_for_bit() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let loaded = round_trips(every_layer()?, &folder, &raw_data())?;
    assert_eq!((loaded.classes(), loaded.normalization()), (None, Some(Normalization::none())));
    let mut trained = every_layer()?;
    trained.fit(
        &raw_data(),
        &raw_data(),
        FitConfig { epochs: 2, batch_size: 32, verbosity: Verbosity::Silent, ..FitConfig::default() },
    )?;
    let loaded = round_trips(trained, &folder, &raw_data())?;
    assert_eq!(loaded.classes().unwrap(), raw_data().classes());
    Ok(())
}

/// Models that were put together from others.
#[test]
fn changed_heads_and_parts_of_models_round_trip() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (train, _) = small_data::data();
    let train = train.take(64);
    let mut model = Sequential::new((16, 16, 3), Seed(1));
    model.push("conv", conv2d(4).relu())?;
    model.push("pool", global_avg_pool())?;
    model.push("old", linear(9))?;
    model.pop();
    model.push("new", linear(5))?;
    model.replace("new", linear(10))?;
    round_trips(model.clone(), &folder, &train)?;

    let (features, head) = model.split_after("pool")?;
    let path = folder.path().join("head.safetensors");
    head.save(&path)?;
    let loaded = Sequential::load(&path)?;
    assert_eq!(loaded.summary((1, 1, 4)).to_string(), head.summary((1, 1, 4)).to_string());
    round_trips(features.join(&loaded)?, &folder, &train)?;
    let path = folder.path().join("features.safetensors");
    features.save(&path)?;
    assert_eq!(everything(&Sequential::load(&path)?), everything(&features));
    let empty = Sequential::new((16, 16, 3), Seed(1));
    empty.save(&path)?;
    assert_eq!(everything(&Sequential::load(&path)?), everything(&empty));
    Ok(())
}

/// The averaged weights, in a callback and at the end.
#[test]
fn a_model_knows_its_classes_and_normalization_whenever_it_is_saved() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (train, validation) = small_data::data();
    let at_epoch = folder.path().join("epoch.safetensors");
    let path = at_epoch.clone();
    let callback: Callback = Box::new(move |_, model| {
        model.save(&path).unwrap();
        std::ops::ControlFlow::Continue(())
    });
    let mut model = Sequential::new((16, 16, 3), Seed(1));
    model.push("conv", conv2d(4).relu())?;
    model.push("pool", global_avg_pool())?;
    model.push("predictions", linear(10))?;
    let config = FitConfig {
        epochs: 2,
        batch_size: 32,
        ema: Some(0.9),
        restore_best: true,
        checkpoints: Some(Checkpoints::restart(folder.path().join("checkpoints"))),
        callbacks: vec![callback],
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    };
    model.fit(&train, &validation, config)?;
    let at_end = folder.path().join("end.safetensors");
    model.save(&at_end)?;
    for path in [&at_epoch, &at_end] {
        let loaded = Sequential::load(path)?;
        assert_eq!(loaded.classes().unwrap(), train.classes());
        let std = loaded.normalization().unwrap().std[0];
        assert!(std > 10.0, "{std}");
    }
    assert_eq!(Sequential::load(&at_end)?.predict(&validation)?, model.predict(&validation)?);
    Ok(())
}

#[test]
fn load_weights_reads_a_whole_model_with_what_it_knows() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let build = |seed| -> Result<Sequential> {
        let mut model = Sequential::new((16, 16, 3), Seed(seed));
        model.push("conv", conv2d(4).relu())?;
        model.push("pool", global_avg_pool())?;
        model.push("predictions", linear(2))?;
        Ok(model)
    };
    let mut model = build(1)?;
    model.set_classes(&["cat", "dog"])?;
    model.set_normalization(&Normalization::imagenet())?;
    model.save(&path)?;
    let mut other = build(2)?;
    assert_eq!(other.load_weights(&path)?.to_string(), "4 tensors loaded.");
    assert_eq!(everything(&other), everything(&model));
    // Weights from a file that does not say are weights that the model knows nothing about.
    let weights = folder.path().join("weights.safetensors");
    assert!(model.save_weights(&weights)?.to_string().starts_with("Saved the weights to "));
    other.load_weights(&weights)?;
    assert_eq!((other.classes(), other.normalization()), (None, None));
    assert_eq!(vgg_lib::formats::read(&path)?, vgg_lib::formats::read(&weights)?);
    Ok(())
}

#[test]
fn a_file_of_weights_says_what_it_is_and_what_to_do() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for name in ["weights.safetensors", "weights.npz", "weights.pth"] {
        let path = folder.path().join(name);
        vgg::pytorch_cifar(vgg::Depth::Vgg11, 10, Seed(0)).save_weights(&path)?;
        let error = Sequential::load(&path).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("holds only weights"), "{error}");
        assert!(error.contains("vgg::of_file") && error.contains("load_weights"), "{error}");
    }
    let error = |name: &str| Sequential::load(folder.path().join(name)).err().unwrap().to_string();
    assert!(error("no.safetensors").contains("check the path"));
    let error = every_layer()?.save(folder.path().join("model.pth")).unwrap_err().to_string();
    assert!(error.contains("choose a name that ends in .safetensors"), "{error}");
    Ok(())
}

#[test]
fn vgg_of_file_reads_a_whole_model() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = every_layer()?;
    model.save(&path)?;
    assert_eq!(everything(&vgg::of_file(&path, Seed(3))?), everything(&model));
    Ok(())
}

/// The file of a small model with another description.
fn with_description(path: &Path, change: impl Fn(&str) -> String) -> PathBuf {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let description = header["__metadata__"]["vgg_lib.model"].as_str().unwrap();
    header["__metadata__"]["vgg_lib.model"] = change(description).into();
    let header = serde_json::to_vec(&header).unwrap();
    let changed = path.with_file_name("changed.safetensors");
    fs::write(&changed, [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + len..]].concat()).unwrap();
    changed
}

#[test]
fn hostile_and_newer_descriptions_are_refused_in_a_sentence() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut model = Sequential::new((4, 4, 3), Seed(0));
    model.push("conv", conv2d(2))?;
    model.push("flatten", flatten())?;
    model.push("predictions", linear(2))?;
    model.set_normalization(&Normalization::imagenet())?;
    model.save(&path)?;
    let replaced = |from: &str, to: &str| {
        let changed = with_description(&path, |json| {
            assert!(json.contains(from), "{json}");
            json.replacen(from, to, 1)
        });
        match Sequential::load(changed) {
            Ok(_) => panic!("{from} became {to}, and nobody noticed"),
            Err(error) => error.to_string(),
        }
    };
    let many = format!("[{}", "{\"name\":\"a\",\"op\":\"relu\"},".repeat(10_001));
    for (from, to, words) in [
        ("\"format\":1", "\"format\":2", "was written by another version of vgg_lib"),
        ("\"format\":1,", "\"format\":1,\"later\":0,", "damaged description (unknown field `later`"),
        ("{\"format\"", "{", "damaged description"),
        ("\"conv2d\"", "\"conv3d\"", "unknown variant `conv3d`"),
        ("\"filters\":2", "\"filters\":18446744073709551615", "needs [3, 3, 3, 18446744073709551615]"),
        ("\"filters\":2", "\"filters\":-1", "damaged description"),
        ("\"filters\":2", "\"filters\":0", "needs [3, 3, 3, 0]"),
        ("\"kernel\":3", "\"kernel\":2", "needs [2, 2, 3, 2]"),
        ("[4,4,3]", "[4,4,4]", "needs [3, 3, 4, 2]"),
        ("[4,4,3]", "[0,4,3]", "damaged description"),
        ("[4,4,3]", "[18446744073709551615,4,3]", "damaged description"),
        ("[4,4,3]", "[]", "damaged description"),
        ("\"name\":\"conv\"", "\"name\":\"other\"", "has no tensor other.weight"),
        ("\"name\":\"flatten\"", "\"name\":\"conv\"", "two layers have the name 'conv'"),
        ("\"name\":\"flatten\"", "\"name\":\"\"", "a layer needs a name"),
        ("\"op\":\"flatten\"", "\"op\":\"flatten\",\"l2\":-1.0", "l2 must be at least 0"),
        ("\"op\":\"flatten\"", "\"op\":\"flatten\",\"rate\":0.0", "learning rate must be above 0"),
        ("\"op\":\"flatten\"", "\"op\":{\"dropout\":{\"p\":1.5}}", "dropout p must be"),
        ("\"op\":\"flatten\"", "\"op\":\"relu\"", "predictions.weight of shape [32, 2], but"),
        (
            "{\"name\":\"conv\"",
            "{\"name\":\"pool\",\"op\":\"max_pool2d\"},{\"name\":\"conv\"",
            "has a tensor predictions.weight",
        ),
        ("\"layers\":[", &format!("\"layers\":{many}"), "has 10004 layers"),
        ("\"std\":[", "\"std\":[-1.0,", "has a normalization that has 3 means and 4 stds"),
        ("\"mean\":[", "\"mean\":[1e999,", "damaged description"),
        ("\"stretch\"", "\"shrink\"", "unknown variant `shrink`"),
    ] {
        let error = replaced(from, to);
        assert!(error.contains("changed.safetensors: ") && error.contains(words), "{to}: {error}");
        assert!(!error.contains("please report"), "{error}");
    }
    let nested = with_description(&path, |_| "[".repeat(100_000));
    assert!(Sequential::load(nested).err().unwrap().to_string().contains("damaged description"));
    // Whatever byte is wrong: an error or a model, but no panic.
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len().min(1500)).step_by(3) {
        let mut broken = bytes.clone();
        broken[at] ^= 0x15;
        fs::write(folder.path().join("broken.safetensors"), &broken).unwrap();
        drop(Sequential::load(folder.path().join("broken.safetensors")));
    }
    Ok(())
}

/// A file that the first version with whole models wrote.
#[test]
fn files_of_format_1_stay_readable() -> Result<()> {
    let path = format!("{FIXTURES}/whole_model_1.safetensors");
    let model = Sequential::load(&path)?;
    assert_eq!(structure(&model), fs::read_to_string(format!("{FIXTURES}/whole_model_1.txt")).unwrap());
    let tensors = vgg_lib::formats::read(&path)?;
    assert_eq!(tensors.len(), 16);
    for (name, values) in model.state_dict() {
        assert!(name.starts_with("fit/") || tensors[&name] == values, "{name}");
    }
    Ok(())
}

/// Writes the fixture of the test above. For a new format, with a new name.
#[test]
#[ignore = "writes a fixture"]
fn write_fixture() -> Result<()> {
    let mut model = every_layer()?;
    model.set_classes(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"])?;
    let path = format!("{FIXTURES}/whole_model_1");
    model.save(format!("{path}.safetensors"))?;
    fs::write(format!("{path}.txt"), structure(&model)).unwrap();
    Ok(())
}
