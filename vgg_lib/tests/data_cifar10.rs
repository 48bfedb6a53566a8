//! CIFAR-10 from folders and archives, intact and broken, and the real dataset if it is there.

mod common;

use std::{fs, path::Path};

use flate2::{Compression, write::GzEncoder};
use tempfile::{TempDir, tempdir};
use vgg_lib::data::{Dataset, Event, Normalization, cifar10, unobserved};

const RECORD: usize = 3073;
const NAMES: &str = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
const BATCHES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// A batch file: record i of file f has label (i + f) mod 10, and pixel values that depend on the place in the plane and
/// on the channel.
fn batch(f: usize) -> Vec<u8> {
    let planes: Vec<u8> = (0..3072).map(|at| pixel(at / 1024, at % 1024)).collect();
    (0..10_000).flat_map(|i| [&[((i + f) % 10) as u8], planes.as_slice()].concat()).collect()
}

fn pixel(channel: usize, place: usize) -> u8 {
    ((place * 7 + place / 32 * 3 + channel * 85) % 256) as u8
}

fn write_all(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("batches.meta.txt"), NAMES).unwrap();
    for (f, name) in BATCHES.iter().enumerate() {
        fs::write(folder.join(name), batch(f)).unwrap();
    }
}

/// A batch as Python 2 pickled it: a dictionary of texts, numbers, and an array of bytes.
fn pickled(f: usize) -> Vec<u8> {
    let mut out =
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(".to_vec();
    out.extend((0..10_000).flat_map(|i| [b'K', ((i + f) % 10) as u8]));
    out.extend(
        b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
    );
    out.extend(
        b"(K\x01M\x10'M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xff",
    );
    out.extend(b"J\xff\xff\xff\xffK\x00tb\x89T\x00\xc0\xd4\x01");
    let planes: Vec<u8> = (0..3072).map(|at| pixel(at / 1024, at % 1024)).collect();
    (0..10_000).for_each(|_| out.extend(&planes));
    out.extend(b"tbU\x09filenamesq\x0c]q\x0d(U\x09cat_1.pngq\x0eU\x09dog_2.pngq\x0feu.");
    out
}

fn write_pickled(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut meta = b"\x80\x02}q\x01(U\x13num_cases_per_batchq\x02M\x10'U\x0blabel_namesq\x03]q\x04(".to_vec();
    for name in NAMES.lines().filter(|name| !name.is_empty()) {
        meta.extend([&[b'U', name.len() as u8], name.as_bytes(), b"q\x05"].concat());
    }
    meta.extend(b"eU\x07num_visq\x0fM\x00\x0cu.");
    fs::write(folder.join("batches.meta"), meta).unwrap();
    for (f, name) in BATCHES.iter().enumerate() {
        fs::write(folder.join(name.trim_end_matches(".bin")), pickled(f)).unwrap();
    }
}

fn archive(folder: &Path, path: &Path) {
    let gz = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
    let mut tar = tar::Builder::new(gz);
    tar.append_dir_all(folder.file_name().unwrap(), folder).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
}

fn check((train, test): (Dataset, Dataset)) {
    assert_eq!((train.shape(), test.shape()), ((50_000, 32, 32, 3), (10_000, 32, 32, 3)));
    assert_eq!((train.classes()[0].as_str(), train.classes()[9].as_str()), ("airplane", "truck"));
    assert_eq!(test.classes(), train.classes());
    for i in [0, 1, 9_999, 10_000, 49_999] {
        assert_eq!(train.labels()[i], (i % 10_000 + i / 10_000) % 10, "image {i}");
    }
    assert_eq!(test.labels()[..2], [5, 6]);
    for dataset in [&train, &test] {
        let image = dataset.image(dataset.len() - 1);
        for (x, y, color) in image.enumerate_pixels() {
            let place = (y * 32 + x) as usize;
            assert_eq!(color.0, [pixel(0, place), pixel(1, place), pixel(2, place)], "row {y}, column {x}");
        }
    }
}

#[test]
fn a_folder_its_parent_and_an_archive_give_the_same_datasets() {
    let parent = tempdir().unwrap();
    let folder = parent.path().join("cifar-10-batches-bin");
    write_all(&folder);
    check(cifar10::load(&folder).unwrap());
    fs::remove_file(folder.join("batches.meta.txt")).unwrap(); // the class names are known
    check(cifar10::load(parent.path()).unwrap());

    let archived = tempdir().unwrap();
    let path = archived.path().join("cifar-10-binary.tar.gz");
    archive(&folder, &path);
    check(cifar10::load(archived.path()).unwrap());
    check(cifar10::load(&path).unwrap());
    check(cifar10::load_or_shapes(archived.path(), &mut unobserved).unwrap());

    // A folder that was not unpacked to its end.
    let half = archived.path().join("cifar-10-batches-bin");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("batches.meta.txt"), NAMES).unwrap();
    fs::write(half.join("data_batch_1.bin"), &batch(0)[..1000]).unwrap();
    let mut notes = vec![];
    let mut observer = |event: Event| {
        if let Event::Note(text) = event {
            notes.push(text.to_string());
        }
    };
    check(cifar10::load_or_shapes(archived.path(), &mut observer).unwrap());
    let end = format!("This was read instead: {}.", path.display());
    assert!(notes.len() == 1 && notes[0].contains("data_batch_1.bin: is cut short") && notes[0].ends_with(&end));
    fs::remove_file(path).unwrap();
    assert!(sentence(archived.path()).starts_with("cifar-10-batches-bin/data_batch_1.bin: is cut short"));
}

#[test]
fn the_python_batches_of_torchvision_and_keras_give_the_same_datasets() {
    let parent = tempdir().unwrap();
    let folder = parent.path().join("cifar-10-batches-py");
    write_pickled(&folder);
    check(cifar10::load_or_shapes(parent.path(), &mut unobserved).unwrap());
    check(cifar10::load(&folder).unwrap());

    let archived = tempdir().unwrap();
    archive(&folder, &archived.path().join("cifar-10-python.tar.gz"));
    check(cifar10::load(archived.path()).unwrap());

    let first_label = pickled(0).windows(4).position(|four| four == b"]q\x05(").unwrap() + 5;
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = folder.join(name);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let sentence = sentence(&folder);
        fs::write(path, whole).unwrap();
        sentence
    };
    assert!(change("data_batch_2", &|bytes| bytes.truncate(1_000_000)).starts_with("data_batch_2: is cut short; run"));
    assert!(
        change("test_batch", &|bytes| bytes[100] = b'!').starts_with("test_batch: is not a pickle of CIFAR images (")
    );
    assert!(
        change("data_batch_3", &|bytes| bytes[first_label] = 77).starts_with("data_batch_3: has label 77 in record")
    );
    let few = change("data_batch_1", &|bytes| _ = bytes.drain(first_label - 1..=first_label));
    assert!(few.starts_with("data_batch_1: has 10000 images and 9999 labels instead of 10000 each; run"), "{few}");
    assert!(change("batches.meta", &|bytes| bytes.truncate(3)).starts_with("batches.meta: is cut short"));
    fs::remove_file(folder.join("test_batch")).unwrap();
    assert!(sentence(&folder).starts_with("test_batch: is missing;"));
}

#[test]
fn other_layouts_are_named() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("train")).unwrap();
    fs::write(dir.path().join("trainLabels.csv"), "id,label\n1,frog\n").unwrap();
    assert!(sentence(dir.path()).starts_with("trainLabels.csv: belongs to Kaggle's copy of CIFAR-10"));
    for (name, is_folder) in [("cifar10", true), ("cifar-10-matlab.tar.gz", false), ("CIFAR-10-images", true)] {
        let dir = tempdir().unwrap();
        let path = dir.path().join(name);
        if is_folder {
            fs::create_dir(path).unwrap()
        } else {
            fs::write(path, "").unwrap()
        }
        let sentence = sentence(dir.path());
        assert!(sentence.starts_with(&format!("{name}: holds CIFAR-10 in no layout that can be read")), "{sentence}");
    }
}

/// A folder with the class names, after `change`.
fn broken(change: impl FnOnce(&Path)) -> TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("batches.meta.txt"), NAMES).unwrap();
    change(dir.path());
    dir
}

/// The error sentence without the folder that it starts with. `load_or_shapes` must give the same error.
fn sentence(dir: &Path) -> String {
    let message = cifar10::load(dir).expect_err("loading succeeded").to_string();
    assert_eq!(cifar10::load_or_shapes(dir, &mut unobserved).expect_err("shapes hid the error").to_string(), message);
    let rest = message.strip_prefix(dir.to_str().unwrap()).unwrap_or_else(|| panic!("no path in {message:?}"));
    assert!(!rest.contains('\n') && rest.contains("cargo xtask data cifar10"), "{rest:?}");
    rest.trim_start_matches('/').to_string()
}

#[test]
fn a_missing_folder_is_named() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("nowhere");
    assert_eq!(
        cifar10::load(&path).unwrap_err().to_string(),
        format!(
            "{}: is not a folder with CIFAR-10 (cifar-10-batches-bin/ or cifar-10-binary.tar.gz); \
             run `cargo xtask data cifar10`",
            path.display()
        )
    );
    assert!(cifar10::load(dir.path()).unwrap_err().to_string().contains("holds no CIFAR-10"));
}

#[test]
fn a_missing_batch_is_named() {
    let dir = broken(|dir| fs::write(dir.join("data_batch_1.bin"), batch(0)).unwrap());
    assert_eq!(
        sentence(dir.path()),
        "data_batch_2.bin: is missing; run `cargo xtask data cifar10` to download CIFAR-10 again"
    );
}

#[test]
fn a_folder_in_the_place_of_a_batch_is_no_batch() {
    let dir = broken(|dir| {
        fs::write(dir.join("data_batch_1.bin"), batch(0)).unwrap();
        fs::create_dir(dir.join("data_batch_2.bin")).unwrap();
    });
    assert!(sentence(dir.path()).starts_with("data_batch_2.bin: is missing;"));
}

#[test]
fn an_empty_folder_of_the_right_name_is_incomplete() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("cifar-10-batches-bin")).unwrap();
    assert!(sentence(dir.path()).starts_with("cifar-10-batches-bin/data_batch_1.bin: is missing;"));
}

#[test]
fn a_truncated_batch_is_named() {
    let dir = broken(|dir| fs::write(dir.join("data_batch_1.bin"), vec![0; 5000]).unwrap());
    let sentence = sentence(dir.path());
    assert!(sentence.starts_with("data_batch_1.bin: is cut short: its 5000 bytes are not a multiple of 3073;"));
}

#[test]
fn a_batch_of_the_wrong_size_is_named() {
    let dir = broken(|dir| fs::write(dir.join("data_batch_1.bin"), vec![0; 12 * RECORD]).unwrap());
    assert!(sentence(dir.path()).starts_with("data_batch_1.bin: has 12 images instead of 10000;"));
}

#[test]
fn a_label_above_nine_is_named() {
    let mut bytes = vec![0; 10_000 * RECORD];
    bytes[4321 * RECORD] = 10;
    let dir = broken(|dir| fs::write(dir.join("data_batch_1.bin"), bytes).unwrap());
    assert!(sentence(dir.path()).starts_with("data_batch_1.bin: has label 10 in record 4321, above 9;"));
}

#[test]
fn wrong_class_names_are_reported() {
    let dir = broken(|dir| fs::write(dir.join("batches.meta.txt"), "cat\n\ndog\n").unwrap());
    assert!(sentence(dir.path()).starts_with("batches.meta.txt: has 2 class names instead of 10;"));
}

#[test]
fn a_broken_archive_is_reported() {
    let whole = {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(NAMES.len() as u64);
        tar.append_data(&mut header, "cifar-10-batches-bin/batches.meta.txt", NAMES.as_bytes()).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    };
    let archive = |bytes: &[u8]| {
        let dir = tempdir().unwrap();
        fs::write(dir.path().join("cifar-10-binary.tar.gz"), bytes).unwrap();
        sentence(dir.path())
    };
    let cannot = "cifar-10-binary.tar.gz: cannot be unpacked (";
    assert!(archive(&whole[..whole.len() / 2]).starts_with(cannot), "cut short");
    assert!(archive(b"<html>not found</html>").starts_with(cannot), "not gzip");
    assert!(archive(b"").starts_with(cannot), "empty");
    assert!(archive(&whole).starts_with("cifar-10-binary.tar.gz/data_batch_1.bin: is missing;"));
}

#[test]
fn without_cifar10_there_are_shapes_and_a_note() {
    let dir = tempdir().unwrap();
    for path in [dir.path(), &dir.path().join("nowhere")] {
        let mut notes = vec![];
        let mut observer = |event: Event| match event {
            Event::Note(text) => notes.push(text.to_string()),
            other => panic!("{other:?}"),
        };
        let (train, test) = cifar10::load_or_shapes(path, &mut observer).unwrap();
        let expected = format!("NOTE: no CIFAR-10 in {}, so these are generated images", path.display());
        assert!(notes.len() == 1 && notes[0].starts_with(&expected), "{notes:?}");
        assert_eq!((train.shape(), test.shape()), ((10_000, 32, 32, 3), (2_000, 32, 32, 3)));
        assert_eq!(train.classes()[8], "star");
    }
}

#[test]
fn the_real_cifar10_has_its_known_statistics() {
    let Some(dir) = common::real_data("cifar-10-batches-bin") else { return };
    let (train, test) = cifar10::load(dir).unwrap();
    for (dataset, each) in [(&train, 5000), (&test, 1000)] {
        for class in 0..10 {
            assert_eq!(dataset.labels().iter().filter(|&&label| label == class).count(), each);
        }
    }
    // The values that the Keras CIFAR-10 VGG notebook computes from the official files. Recompressed copies of the
    // dataset differ slightly.
    let stats = Normalization::fit(&train);
    assert!((stats.mean[0] - 120.708).abs() < 0.1 && (stats.std[0] - 64.150).abs() < 0.5, "{stats:?}");
    // Red, green, blue: exchanged planes would fail here.
    let channels = Normalization::fit_per_channel(&train);
    for (ours, known) in channels.mean.iter().zip([125.307, 122.950, 113.865]) {
        assert!((ours - known).abs() < 0.2, "{channels:?}");
    }
    for (ours, known) in channels.std.iter().zip([62.993, 62.089, 66.705]) {
        assert!((ours - known).abs() < 0.6, "{channels:?}");
    }
}
