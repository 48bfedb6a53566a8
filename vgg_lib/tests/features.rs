//! Precomputed features: computed once, kept in a file, and read only for the same model and data.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use dfdx::prelude::Axis;
use ndarray::Array4;
use vgg_lib::{Error, prelude::*};

const N: usize = 21;

fn photos() -> Dataset {
    let photos = shapes::generate(N, (12, 10), 3);
    Normalization::fit(&photos).apply(&photos)
}

fn convolutions() -> Sequential {
    let mut model = Sequential::new((12, 10, 3), Seed(5));
    model.push("conv", conv2d(6).relu()).unwrap();
    model.push("norm", batch_norm()).unwrap();
    model.push("drop", dropout(0.5)).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model
}

/// All values of a dataset.
fn values(data: &Dataset) -> Vec<f32> {
    let (n, h, w, c) = data.shape();
    let mut all = vec![f32::NAN; n * h * w * c];
    all.chunks_exact_mut(h * w * c).enumerate().for_each(|(i, out)| data.read(i, out));
    all
}

fn forward(model: &Sequential, data: &Dataset) -> Vec<f32> {
    model.forward(images(values(data), data.shape()).unwrap()).unwrap().as_vec()
}

fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Replaces the last value in the file by 1234.5.
fn mark(path: &Path) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-4)).unwrap();
    file.write_all(&1234.5f32.to_ne_bytes()).unwrap();
}

fn is_marked(data: &Dataset) -> bool {
    values(data).last() == Some(&1234.5)
}

#[test]
fn features_are_the_outputs_of_the_model_with_the_labels_of_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let (model, photos) = (convolutions(), photos().subset(&[4, 1, 1, 20, 7]));
    let features = model.precompute(&photos, folder.path().join("new/folder")).unwrap();
    assert_eq!(features.shape(), (5, 6, 5, 6));
    assert_eq!((features.labels(), features.classes()), (photos.labels(), photos.classes()));
    assert_close(&values(&features), &forward(&model, &photos));
    let kept = files(&folder.path().join("new/folder"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    let array: Array4<f32> = ndarray_npy::read_npy(&kept[0]).unwrap();
    assert_eq!((array.dim(), array.into_raw_vec_and_offset().0), ((5, 6, 5, 6), values(&features)));
}

#[test]
fn vectors_become_maps_of_one_position_and_a_head_trains_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let (mut model, photos) = (convolutions(), photos());
    model.push("average", global_avg_pool()).unwrap();
    let features = model.precompute(&photos, &folder).unwrap();
    assert_eq!(features.shape(), (N, 1, 1, 6));
    let mut head = Sequential::new(features.image_shape(), Seed(0));
    head.push("flatten", flatten()).unwrap();
    head.push("predictions", linear(10)).unwrap();
    let config = FitConfig { epochs: 20, batch_size: 7, verbosity: Verbosity::Silent, ..FitConfig::default() };
    let history = head.fit(&features, &features, config).unwrap();
    assert!(history.epochs[19].loss < history.epochs[0].loss);
    // After the convolutions, the same head gives the same predictions.
    let whole = head.forward(model.forward(images(values(&photos), photos.shape()).unwrap()).unwrap()).unwrap();
    assert_close(&whole.softmax::<Axis<3>>().as_vec(), &head.predict(&features).unwrap().rows().concat());
}

#[test]
fn the_same_model_and_data_reuse_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, photos) = (convolutions(), photos());
    drop(model.precompute(&photos, &folder).unwrap());
    mark(&files(folder.path())[0]);
    assert!(is_marked(&model.precompute(&photos, &folder).unwrap()));
    // The same model and data, created again.
    assert!(is_marked(&convolutions().precompute(&self::photos(), &folder).unwrap()));
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn the_observer_hears_of_every_image_and_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, photos) = (convolutions(), photos());
    let events = || {
        let mut events = vec![];
        model.precompute_with(&photos, &folder, &mut |event| events.push(format!("{event:?}"))).unwrap();
        events
    };
    let first = events();
    assert_eq!(first[0], format!("Begin {{ what: \"features\", total: {N} }}"));
    assert!(first[1..first.len() - 1].iter().all(|event| event.starts_with("Advance(")), "{first:?}");
    let file = files(folder.path()).remove(0);
    let note = |what| format!("Note(\"features of {N} images, 6×5×6: {what}");
    let last = first.last().unwrap();
    assert!(last.starts_with(&note("computed in ")) && last.contains(&file.display().to_string()), "{last}");
    assert_eq!(events(), [format!("{}{}\")", note("read from "), file.display())]);
}

#[test]
fn features_that_are_nan_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (mut model, photos) = (convolutions(), photos());
    let mut state = model.state_dict();
    state.get_mut("conv.bias").unwrap()[[2]] = f32::NAN;
    model.load_state_dict(&state).unwrap();
    let mut notes = vec![];
    model.precompute_with(&photos, &folder, &mut |event| notes.push(format!("{event:?}"))).unwrap();
    let warning =
        format!("Note(\"warning: the features of {N} images are NaN or infinite; check the images and the weights\")");
    assert!(notes.contains(&warning), "{notes:?}");
}

#[test]
fn another_model_or_other_data_do_not_reuse_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, photos) = (convolutions(), photos());
    drop(model.precompute(&photos, &folder).unwrap());
    mark(&files(folder.path())[0]);
    let mut seen = 1;
    let mut is_new = |model: &Sequential, data: &Dataset, what: &str| {
        let features = model.precompute(data, &folder).unwrap();
        assert!(!is_marked(&features), "{what}");
        assert_close(&values(&features), &forward(model, data));
        seen += 1;
        assert_eq!(files(folder.path()).len(), seen, "{what}");
    };

    for name in ["conv.weight", "conv.bias", "norm.running_var"] {
        let mut state = model.state_dict();
        *state.get_mut(name).unwrap().last_mut().unwrap() += 0.25;
        let mut other = convolutions();
        other.load_state_dict(&state).unwrap();
        is_new(&other, &photos, name);
    }
    let mut other = convolutions();
    other.push("relu", relu()).unwrap();
    is_new(&other, &photos, "another layer");

    type Change = dyn Fn(&mut Vec<u8>, &mut Vec<usize>, &mut Vec<String>);
    let remade = |change: &Change| {
        let mut pixels = (0..N).flat_map(|i| photos.image(i).into_raw()).collect();
        let (mut labels, mut classes) = (photos.labels().to_vec(), photos.classes().to_vec());
        change(&mut pixels, &mut labels, &mut classes);
        let plain = Dataset::new(pixels, (12, 10, 3), labels, classes).unwrap();
        Normalization::fit(&photos).apply(&plain)
    };
    is_new(&model, &remade(&|pixels, _, _| pixels[N * 360 - 1] ^= 1), "another pixel");
    is_new(&model, &remade(&|_, labels, _| labels[N - 1] = (labels[N - 1] + 1) % 10), "another label");
    is_new(&model, &remade(&|_, _, classes| classes[9] += "s"), "another class name");
    is_new(&model, &Normalization { mean: vec![1.0; 3], std: vec![255.0; 3] }.apply(&photos), "another normalization");
    is_new(&model, &photos.take(N - 1), "fewer images");
    let mut order: Vec<usize> = (0..N).collect();
    order.swap(0, 10);
    is_new(&model, &photos.subset(&order), "another order");

    assert!(is_marked(&model.precompute(&remade(&|_, _, _| ()), &folder).unwrap()), "the same data, created again");
}

#[test]
fn a_broken_file_is_computed_again() {
    let folder = tempfile::tempdir().unwrap();
    let (model, photos) = (convolutions(), photos());
    let want = values(&model.precompute(&photos, &folder).unwrap());
    let path = files(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let npy = |write: &dyn Fn(&Path)| {
        write(&path);
        fs::read(&path).unwrap()
    };
    let other_shape = npy(&|path| ndarray_npy::write_npy(path, &Array4::<f32>::zeros((N, 6, 6, 5))).unwrap());
    let doubles = npy(&|path| ndarray_npy::write_npy(path, &Array4::<f64>::zeros((N, 6, 5, 6))).unwrap());
    let longer = [&whole[..], &[0; 4]].concat();
    for (what, bytes) in [
        ("truncated", &whole[..whole.len() - 4]),
        ("longer", &longer),
        ("empty", &[]),
        ("text", b"This is not an array."),
        ("another shape", &other_shape),
        ("doubles", &doubles),
    ] {
        // A new file, because a mapped file must not be changed.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(values(&model.precompute(&photos, &folder).unwrap()), want, "{what}");
        assert_eq!((fs::read(&path).unwrap() == whole, files(folder.path()).len()), (true, 1), "{what}");
    }
}

#[test]
fn errors_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let model = convolutions();
    let error = model.precompute(&Dataset::new(vec![], (4, 4, 1), vec![], vec![]).unwrap(), &folder).unwrap_err();
    assert!(matches!(error, Error::Shape(_)) && error.to_string().contains("'conv'"), "{error}");
    assert_eq!(model.precompute(&photos().take(0), &folder).unwrap().shape(), (0, 6, 5, 6));
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let error = model.precompute(&photos(), &file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot create {}", file.display())), "{error}");
}

/// The test starts itself as a process that may only write files of up to 4 KiB, which fails like a full disk.
#[cfg(unix)]
#[test]
fn an_incomplete_file_is_deleted() {
    const FOLDER: &str = "VGG_TEST_FEATURES";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let error = convolutions().precompute(&photos(), &folder).unwrap_err().to_string();
        let start = format!("cannot write {}/features-", Path::new(&folder).display());
        assert!(error.starts_with(&start) && error.contains("large"), "{error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Its output goes through a pipe, because a log file could be longer than the limit.
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 8 && trap '' XFSZ && exec \"$0\" --exact --test-threads 1 \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg("an_incomplete_file_is_deleted")
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
}
