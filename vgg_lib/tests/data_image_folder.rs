//! Reading and resizing image files, compared with Pillow (fixtures/image_files.py, fixtures/jpeg_files.py,
//! fixtures/more_images.py), and folders of images.

mod common;

use std::{
    fs::{self, File},
    path::Path,
};

use image::RgbImage;
use ndarray::{Array1, Array3};
use ndarray_npy::NpzReader;
use vgg_lib::{
    Error,
    data::{Dataset, Event, Resize, image_folder, read_image, resize, unobserved},
};

fn npz(name: &str) -> NpzReader<File> {
    let path = format!("{}/tests/fixtures/{name}.npz", env!("CARGO_MANIFEST_DIR"));
    NpzReader::new(File::open(path).unwrap()).unwrap()
}

fn fixture() -> NpzReader<File> {
    npz("image_files")
}

/// An image file of the fixture.
fn file(name: &str) -> Vec<u8> {
    file_of(fixture(), name)
}

fn file_of(mut npz: NpzReader<File>, name: &str) -> Vec<u8> {
    let bytes: Array1<u8> = npz.by_name(&format!("{name}_file")).unwrap();
    bytes.to_vec()
}

/// An image by the formula of fixtures/image_files.py.
fn formula(h: usize, w: usize) -> RgbImage {
    RgbImage::from_fn(w as u32, h as u32, |x, y| {
        let value = |c: u32| x * 7 + y * 13 + c * 50 + (x / 5 + y / 3) % 2 * 90 + x * y % 11 * 8;
        image::Rgb([0, 1, 2].map(|c| (value(c) % 256) as u8))
    })
}

/// The largest difference between two bytes. The sizes must be equal.
fn compare(got: &RgbImage, want: &Array3<u8>, name: &str) -> u8 {
    assert_eq!([got.height() as usize, got.width() as usize, 3], want.shape(), "{name}");
    got.as_raw().iter().zip(want).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Parses "48x64" as (48, 64).
fn size(text: &str) -> (usize, usize) {
    let (h, w) = text.split_once('x').unwrap();
    (h.parse().unwrap(), w.parse().unwrap())
}

fn load_with(folder: impl AsRef<Path>, size: (usize, usize), resize: Resize) -> vgg_lib::Result<Dataset> {
    image_folder::load(folder, size, resize, &mut unobserved)
}

fn load(folder: impl AsRef<Path>, size: (usize, usize)) -> vgg_lib::Result<Dataset> {
    load_with(folder, size, Resize::Stretch)
}

/// A folder `photos` with the class `only`, which has one file.
fn folder_with(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("photos/only")).unwrap();
    fs::write(dir.path().join("photos/only").join(name), bytes).unwrap();
    dir
}

#[test]
fn resizing_matches_pillow() {
    let mut npz = fixture();
    let names: Vec<String> = npz.names().unwrap().into_iter().filter(|name| name.starts_with("resize_")).collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let parts: Vec<&str> = name.split('_').collect();
        let (from, to) = (size(parts[1]), size(parts[2]));
        let got = resize(&formula(from.0, from.1), to);
        assert!(compare(&got, &npz.by_name(&name).unwrap(), &name) <= 1, "{name}");
    }
    assert_eq!(resize(&formula(3, 5), (0, 0)).dimensions(), (1, 1));
    assert_eq!(resize(&RgbImage::new(0, 0), (2, 3)), RgbImage::new(3, 2));
}

#[test]
fn center_crops_match_torchvision() {
    let mut npz = fixture();
    let names: Vec<String> = npz.names().unwrap().into_iter().filter(|name| name.starts_with("crop_")).collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let parts: Vec<&str> = name.split('_').collect();
        let (from, shorter, to) = (size(parts[1]), parts[2].parse().unwrap(), size(parts[3]));
        let dir = folder_with("a.png", &[]);
        let folder = dir.path().join("photos");
        formula(from.0, from.1).save(folder.join("only/a.png")).unwrap();
        let data = load_with(folder, to, Resize::CenterCrop { shorter }).unwrap();
        assert!(compare(&data.image(0), &npz.by_name(&name).unwrap(), &name) <= 1, "{name}");
    }
}

/// JPEG decoders round differently. Everything else is exact.
fn read_as_pillow(mut npz: NpzReader<File>, rounding: u8) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let names = npz.names().unwrap();
    let names: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("_rgb")).collect();
    for name in &names {
        let bytes: Array1<u8> = npz.by_name(&format!("{name}_file")).unwrap();
        // The extension does not matter.
        let path = dir.path().join(format!("{name}.jpg"));
        fs::write(&path, bytes.to_vec()).unwrap();
        let got = read_image(&path).unwrap();
        let most = if bytes[0] == 0xff { rounding } else { 0 };
        let difference = compare(&got, &npz.by_name(&format!("{name}_rgb")).unwrap(), name);
        assert!(difference <= most, "{name}: {difference}");
    }
    names.len()
}

#[test]
fn unusual_files_are_read_as_pillow_reads_them() {
    assert_eq!(read_as_pillow(fixture(), 3), 18);
}

#[test]
fn unusual_jpeg_files_and_exif_data_are_read_as_pillow_reads_them() {
    assert_eq!(read_as_pillow(npz("jpeg_files"), 4), 45);
}

#[test]
#[cfg(feature = "more_images")]
fn gif_and_tiff_files_are_read_as_pillow_reads_them() {
    assert_eq!(read_as_pillow(npz("more_images"), 0), 13);
    let dir = tempfile::tempdir().unwrap();
    for name in ["gif", "tiff"] {
        let whole = file_of(npz("more_images"), name);
        let path = dir.path().join(name);
        fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
        let message = read_image(path).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}: is damaged or truncated (")), "{message}");
    }
}

#[test]
#[cfg(not(feature = "more_images"))]
fn gif_and_tiff_files_name_the_feature_that_they_need() {
    for (name, what) in
        [("gif", "a GIF image"), ("gif_animated", "a GIF image"), ("tiff", "a TIFF or camera raw image")]
    {
        let dir = folder_with(name, &file_of(npz("more_images"), name));
        let message = read_image(dir.path().join("photos/only").join(name)).unwrap_err().to_string();
        let expected =
            format!("{name}: is {what}, which needs vgg_lib's feature more_images; turn it on, or save it as");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn classes_and_files_are_sorted() {
    let dir = tempfile::tempdir().unwrap();
    // One color per file, recognized by its red value.
    for (red, path) in [
        (1, "b/2.png"),
        (2, "b/10.bmp"),
        (3, "a/z.png"),
        (4, "a/sub/deep/x.webp"),
        (5, "C/q.png"),
        (6, "a/.hidden.png"),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(5, 3, image::Rgb([red * 40, 7, 8])).save(path).unwrap();
    }
    fs::create_dir(dir.path().join(".git")).unwrap();
    fs::write(dir.path().join("readme.txt"), "next to the folders").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/sub/circle")).unwrap();
    let data = load(dir.path(), (2, 2)).unwrap();
    assert_eq!(data.classes(), ["C", "a", "b"]);
    assert_eq!(data.labels(), [0, 1, 1, 2, 2]);
    let reds: Vec<u8> = data.images(0..5).iter().map(|image| image.as_raw()[0] / 40).collect();
    assert_eq!(reds, [5, 4, 3, 2, 1]);
    assert_eq!(data.skipped().len(), usize::from(cfg!(unix)), "the circle");
    assert_eq!((data.shape(), data.image(0).into_raw()), ((5, 2, 2, 3), [200, 7, 8].repeat(4)));
}

#[test]
fn unreadable_files_are_skipped_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("c");
    fs::create_dir(&class).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(class.join(name), bytes).unwrap();
    for name in ["jpeg", "progressive", "orientation6", "deep", "webp", "bmp"] {
        let whole = file(name);
        put(&format!("good_{name}"), &whole);
        put(&format!("cut_{name}"), &whole[..whole.len() * 9 / 10]);
    }
    let whole = file("jpeg");
    put("longer_than_a_jpeg.jpg", &[&whole[..], b"after the end"].concat());
    put("text.jpg", b"This is not an image.\n");
    put("empty.png", b"");
    put("image.gif", b"GIF89a\x01\0\x01\0\0\0\0;");
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere", class.join("lost.jpg")).unwrap();
    let data = load(dir.path(), (4, 4)).unwrap();
    assert_eq!(data.len(), 7, "{:?}", data.skipped());
    let reasons = data.skipped().join("\n");
    assert_eq!(data.skipped().len(), 9 + usize::from(cfg!(unix)), "{reasons}");
    for name in ["jpeg", "progressive", "orientation6", "deep", "webp", "bmp"] {
        assert!(reasons.contains(&format!("cut_{name}: is ")), "{name}: {reasons}");
    }
    for name in ["jpeg", "progressive", "orientation6"] {
        assert!(reasons.contains(&format!("cut_{name}: is truncated; ")), "{name}: {reasons}");
    }
    assert!(!cfg!(unix) || reasons.contains("lost.jpg: cannot be read ("), "{reasons}");
    assert!(reasons.contains("text.jpg: is not a PNG, JPEG, BMP"), "{reasons}");
    assert!(reasons.contains("empty.png: is empty; copy"), "{reasons}");
    // It has no image.
    let gif = if cfg!(feature = "more_images") { "is damaged or truncated (" } else { "is a GIF image, which needs" };
    assert!(reasons.contains(&format!("image.gif: {gif}")), "{reasons}");
    assert_eq!(data.take(1).skipped(), data.skipped());
    let error = read_image(class.join("text.jpg")).unwrap_err();
    assert!(matches!(error, Error::File { .. }) && error.to_string().contains("text.jpg: is not a PNG, JPEG, BMP"));
}

#[test]
fn the_observer_hears_of_every_file_and_the_result() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..300 {
        let folder = dir.path().join(["cats", "dogs"][i % 2]);
        fs::create_dir_all(&folder).unwrap();
        let bytes = if i < 298 { file("bmp") } else { b"text".to_vec() };
        fs::write(folder.join(format!("{i}.bmp")), bytes).unwrap();
    }
    let (mut total, mut done, mut notes) = (0, vec![], vec![]);
    let mut observer = |event: Event| match event {
        Event::Begin { what, total: parts } => {
            assert!(what == "photos" && done.is_empty());
            total = parts;
        }
        Event::Advance(parts) => done.push(parts),
        Event::Note(text) => notes.push(text.to_string()),
    };
    image_folder::load(dir.path(), (4, 4), Resize::Stretch, &mut observer).unwrap();
    assert_eq!((total, done.iter().sum::<usize>(), notes.len()), (300, 300, 1));
    assert!(done.len() > 1, "progress is reported in parts");
    assert!(notes[0].starts_with("298 images of 2 classes (cats, dogs)\nskipped 2 files: "), "{notes:?}");
}

/// A JPEG file whose header claims 65,500×65,500 pixels, and a BMP file that claims 20,000×20,000.
#[test]
fn decompression_bombs_are_refused_before_they_are_decoded() {
    let mut jpeg = file("jpeg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let mut bmp = file("bmp");
    bmp[18..26].copy_from_slice(&[20_000u32.to_le_bytes(), 20_000u32.to_le_bytes()].concat());
    for (bytes, millions) in [(jpeg, 4290), (bmp, 400)] {
        let dir = folder_with("bomb", &bytes);
        let message = read_image(dir.path().join("photos/only/bomb")).unwrap_err().to_string();
        assert!(message.contains(&format!("bomb: has {millions} million pixels, too many")), "{message}");
    }
}

#[test]
fn errors_name_the_folder_and_say_what_to_do() {
    let message = |folder: &Path| load(folder, (4, 4)).unwrap_err().to_string();
    let dir = folder_with("a.jpg", b"text");
    let photos = dir.path().join("photos");
    assert!(message(&dir.path().join("lost")).ends_with("lost: does not exist; check the path of the images"));
    assert!(message(&photos.join("only/a.jpg")).ends_with("a.jpg: is not a folder; check the path of the images"));
    assert!(message(&photos.join("only")).contains("only: has no sub-folders; put the images of each class"));
    let unreadable = message(&photos);
    assert!(unreadable.contains("only: has 1 entry, but no readable image ("), "{unreadable}");
    assert!(unreadable.contains("a.jpg: is not a PNG"), "{unreadable}");
    fs::remove_file(photos.join("only/a.jpg")).unwrap();
    assert!(message(&photos).ends_with("only: holds no images; put some there or remove the folder"));
    let refused = |size, resize| load_with(&photos, size, resize).unwrap_err().to_string();
    assert!(refused((0, 4), Resize::Stretch).contains("the size 0×4; choose from 1"));
    assert!(refused((32, 4), Resize::CenterCrop { shorter: 31 }).contains("choose `shorter` from 32 to"));
    assert!(refused((60_000, 60_000), Resize::Stretch).contains("at most 178,956,970 pixels"));
    assert!(read_image(&photos).unwrap_err().to_string().contains("is a folder"));
    assert!(read_image(photos.join("no.png")).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn files_that_are_no_images_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photo.jpg");
    let reason = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let message = read_image(&path).unwrap_err().to_string();
        message.strip_prefix(&format!("{}: ", path.display())).unwrap().to_string()
    };
    let unsupported: [(&[u8], &str); 10] = [
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, as iPhones take it"),
        (b"\0\0\0\x20ftypmp42\0\0\0\0", "a video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"P6\n1 1\n255\nabc", "a PNM image"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"<?xml version='1.0'?>\n<SVG xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS, not the image itself"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "macOS's notes about a file, not the file itself"),
    ];
    for (bytes, what) in unsupported {
        let reason = reason(bytes);
        assert!(reason.starts_with(&format!("is {what}, which is not supported; ")), "{reason}");
    }
    assert!(reason(b"<!DOCTYPE html>\n<html>404</html>").starts_with("is a web page, not an image; "));
    assert_eq!(reason(&[0; 5000]), "has only zeros; copy or download it again");
    assert!(reason(b"name,label\n").starts_with("is not a PNG, JPEG, BMP"));
    for (name, what) in [("arithmetic", "arithmetic coding"), ("two_components", "neither 1 nor 3 nor 4 color")] {
        let reason = reason(&file_of(npz("jpeg_files"), name));
        assert!(reason.starts_with(&format!("is a JPEG file with {what}")) && reason.ends_with("; save it as PNG"));
    }
    // Bytes of the usual file that say something else: its bits per color, and Adobe's color space.
    let usual = file("jpeg");
    let frame = usual.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let deep = [&usual[..frame + 4], &[12], &usual[frame + 5..]].concat();
    assert!(reason(&deep).starts_with("is a JPEG file with more than 8 bits per color, which is not supported; "));
    let adobe = [&usual[..2], b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07", &usual[2..]].concat();
    assert!(reason(&adobe).starts_with("is a JPEG file with an unknown color space, which is not supported; "));
}

/// A decoder must not be asked for a file that never ends, or for one that waits for a writer.
#[test]
#[cfg(unix)]
fn only_regular_files_are_read() {
    let dir = folder_with("good.bmp", &file("bmp"));
    let class = dir.path().join("photos/only");
    let made = std::process::Command::new("mkfifo").arg(class.join("pipe.jpg")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(class.join("socket.jpg")).unwrap();
    fs::create_dir(class.join("folder.jpg")).unwrap();
    fs::write(class.join("folder.jpg/inside.bmp"), file("bmp")).unwrap();
    let data = load(dir.path().join("photos"), (4, 4)).unwrap();
    assert_eq!((data.len(), data.skipped().len()), (2, 2));
    assert!(data.skipped()[0].ends_with("pipe.jpg: is a named pipe, not a file; give the path of a file"));
    assert!(data.skipped()[1].contains("socket.jpg: is a device or a socket, not a file"));
    let refused = |path: &Path| read_image(path).unwrap_err().to_string();
    assert!(refused(&class.join("pipe.jpg")).ends_with("is a named pipe, not a file; give the path of a file"));
    assert!(refused(Path::new("/dev/zero")).contains("is a device or a socket"));
    assert!(refused(&class.join("folder.jpg")).contains("is a folder; give the path of a file in it"));
}

#[test]
#[cfg(unix)]
fn links_to_folders_are_followed_except_in_circles() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file("bmp")).unwrap();
    };
    ["elsewhere/cats/1.bmp", "elsewhere/cats/more/2.bmp", "photos/dogs/3.bmp"].iter().for_each(|path| put(path));
    let photos = dir.path().join("photos");
    symlink("../elsewhere/cats", photos.join("cats")).unwrap();
    symlink("../../elsewhere/cats/more", photos.join("dogs/more")).unwrap();
    symlink("2.bmp", dir.path().join("elsewhere/cats/more/same.bmp")).unwrap();
    for (link, target) in [("all", "."), ("above", ".."), ("dogs/up", ".."), ("dogs/more/back", "../../../photos")] {
        symlink(target, photos.join(link)).unwrap();
    }
    symlink("itself", photos.join("dogs/itself")).unwrap();
    let data = load(&photos, (4, 4)).unwrap();
    assert_eq!(data.classes(), ["cats", "dogs"]);
    assert_eq!(data.labels(), [0, 0, 0, 1, 1, 1], "{:?}", data.skipped());
    let circles = data.skipped().iter().filter(|skipped| skipped.ends_with("is a link to a folder that contains it"));
    assert_eq!((circles.count(), data.skipped().len()), (5, 6), "{:?}", data.skipped());
}

#[test]
fn what_systems_leave_in_folders_is_no_class_and_no_image() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["cats/1.bmp", "cats/.DS_Store", "cats/._1.bmp", "cats/Thumbs.db", "cats/@eaDir/1.bmp/small.jpg"] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file("bmp")).unwrap();
    }
    for path in ["__MACOSX/cats", ".ipynb_checkpoints", "$Recycle.Bin"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("cats/desktop.ini"), "[.ShellClassInfo]").unwrap();
    let data = load(dir.path(), (4, 4)).unwrap();
    assert_eq!((data.classes(), data.len(), data.skipped().len()), (&["cats".to_string()][..], 1, 0));
}

#[test]
fn class_names_have_one_spelling_and_one_order() {
    let dir = tempfile::tempdir().unwrap();
    // "é" as one character and as two, "が" as two, and characters beyond the alphabet.
    for name in ["zebra", "e\u{301}clair", "\u{304b}\u{3099}", "猫", "chat \u{1f431}"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("图片.bmp"), file("bmp")).unwrap();
    }
    let data = load(dir.path(), (4, 4)).unwrap();
    assert_eq!(data.classes(), ["chat \u{1f431}", "zebra", "\u{e9}clair", "\u{304c}", "猫"]);
    fs::create_dir(dir.path().join("\u{e9}clair")).unwrap();
    fs::write(dir.path().join("\u{e9}clair/1.bmp"), file("bmp")).unwrap();
    // Some file systems take the two names for one.
    if fs::read_dir(dir.path()).unwrap().count() == 6 {
        let message = load(dir.path(), (4, 4)).unwrap_err().to_string();
        assert!(
            message.contains("has two folders named \u{e9}clair, ") && message.ends_with("; rename one"),
            "{message}"
        );
    }
}

#[test]
fn the_parts_of_a_dataset_are_no_classes() {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file("bmp")).unwrap();
    };
    let message = |folder: &str| load(dir.path().join(folder), (4, 4)).unwrap_err().to_string();
    ["both/train/cats/1.bmp", "both/test/cats/1.bmp", "both/models/1.bmp"].iter().for_each(|path| put(path));
    let first = dir.path().join("both/test");
    let expected = format!("(test, train) instead of classes; load each of them, as {}", first.display());
    assert!(message("both").ends_with(&expected), "{}", message("both"));
    ["flat/Train/1.bmp", "flat/Validation/1.bmp", "one/train/cats/1.bmp"].iter().for_each(|path| put(path));
    assert!(message("flat").contains("has the parts of a dataset (Train, Validation)"));
    assert!(message("one").contains("has the parts of a dataset (train) "));
    // These can be classes.
    ["toys/train/1.bmp", "toys/plane/1.bmp", "unknown/test/1.bmp"].iter().for_each(|path| put(path));
    assert_eq!(load(dir.path().join("toys"), (4, 4)).unwrap().classes(), ["plane", "train"]);
    assert_eq!(load(dir.path().join("unknown"), (4, 4)).unwrap().classes(), ["test"]);
    // One level too high.
    ["pets/PetImages/Cat/1.bmp", "pets/PetImages/Dog/1.bmp"].iter().for_each(|path| put(path));
    let mut notes = vec![];
    let mut observer =
        |event: Event| notes.extend(if let Event::Note(text) = event { Some(text.to_string()) } else { None });
    image_folder::load(dir.path().join("pets"), (4, 4), Resize::Stretch, &mut observer).unwrap();
    let hint = format!("load {}.", dir.path().join("pets/PetImages").display());
    assert!(notes[0].contains("which has the folders Cat, Dog.") && notes[0].ends_with(&hint), "{notes:?}");
}

#[test]
fn long_thin_images_are_cropped_without_resizing_all_of_them() {
    let dir = folder_with("a.png", &[]);
    let photos = dir.path().join("photos");
    // With the shorter side at 256 pixels, the longer one would have 15 million: 11 GB.
    RgbImage::from_fn(60_000, 1, |x, _| image::Rgb([(x / 300) as u8; 3])).save(photos.join("only/a.png")).unwrap();
    let data = load_with(&photos, (224, 224), Resize::CenterCrop { shorter: 256 }).unwrap();
    assert!(data.image(0).pixels().all(|p| (99..=100).contains(&p[0])));
}

#[test]
fn all_photos_of_dogs_and_cats_are_read() {
    let Some(folder) = common::real_data("dogscats") else { return };
    let data = vgg_lib::prelude::image_folder::load(folder.join("valid"), (32, 32)).unwrap();
    assert_eq!((data.shape(), data.classes()), ((400, 32, 32, 3), &["cats".to_string(), "dogs".to_string()][..]));
    assert_eq!(data.labels().iter().sum::<usize>(), 200);
    assert!(data.skipped().is_empty(), "{:?}", data.skipped());
}
