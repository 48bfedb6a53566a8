//! Pictures from files, against Pillow (fixtures/pictures.py), and folders of them.

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
    data::{Resize, image_folder, read_image, resize},
};

fn fixture() -> NpzReader<File> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures.npz");
    NpzReader::new(File::open(path).unwrap()).unwrap()
}

/// One of the picture files in it.
fn file(name: &str) -> Vec<u8> {
    let bytes: Array1<u8> = fixture().by_name(&format!("{name}_file")).unwrap();
    bytes.to_vec()
}

/// The formula of fixtures/pictures.py.
fn picture(h: usize, w: usize) -> RgbImage {
    RgbImage::from_fn(w as u32, h as u32, |x, y| {
        let value = |c: u32| x * 7 + y * 13 + c * 50 + (x / 5 + y / 3) % 2 * 90 + x * y % 11 * 8;
        image::Rgb([0, 1, 2].map(|c| (value(c) % 256) as u8))
    })
}

/// The shape, and the greatest difference of a byte.
fn compare(got: &RgbImage, want: &Array3<u8>, name: &str) -> u8 {
    assert_eq!([got.height() as usize, got.width() as usize, 3], want.shape(), "{name}");
    got.as_raw().iter().zip(want).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// "48x64" is (48, 64).
fn size(text: &str) -> (usize, usize) {
    let (h, w) = text.split_once('x').unwrap();
    (h.parse().unwrap(), w.parse().unwrap())
}

/// A folder `photos` with the class `only`, and in it one file.
fn folder_with(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("photos/only")).unwrap();
    fs::write(dir.path().join("photos/only").join(name), bytes).unwrap();
    dir
}

#[test]
fn resizing_equals_pillow() {
    let mut npz = fixture();
    let names: Vec<String> = npz.names().unwrap().into_iter().filter(|name| name.starts_with("resize_")).collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let parts: Vec<&str> = name.split('_').collect();
        let (from, to) = (size(parts[1]), size(parts[2]));
        let got = resize(&picture(from.0, from.1), to);
        assert!(compare(&got, &npz.by_name(&name).unwrap(), &name) <= 1, "{name}");
    }
    assert_eq!(resize(&picture(3, 5), (0, 0)).dimensions(), (1, 1));
    assert_eq!(resize(&RgbImage::new(0, 0), (2, 3)), RgbImage::new(3, 2));
}

#[test]
fn a_center_crop_equals_torchvisions_rounding_on_pillow() {
    let mut npz = fixture();
    let names: Vec<String> = npz.names().unwrap().into_iter().filter(|name| name.starts_with("crop_")).collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let parts: Vec<&str> = name.split('_').collect();
        let (from, shorter, to) = (size(parts[1]), parts[2].parse().unwrap(), size(parts[3]));
        let dir = folder_with("a.png", &[]);
        let folder = dir.path().join("photos");
        picture(from.0, from.1).save(folder.join("only/a.png")).unwrap();
        let data = image_folder::load_with(folder, to, Resize::CenterCrop { shorter }).unwrap();
        assert!(compare(&data.image(0), &npz.by_name(&name).unwrap(), &name) <= 1, "{name}");
    }
}

#[test]
fn odd_files_are_read_as_pillow_reads_them() {
    let mut npz = fixture();
    let dir = tempfile::tempdir().unwrap();
    let mut read = 0;
    for name in npz.names().unwrap() {
        let Some(name) = name.strip_suffix("_file") else { continue };
        let bytes = file(name);
        // The name's ending does not matter.
        let path = dir.path().join(format!("{name}.jpg"));
        fs::write(&path, &bytes).unwrap();
        let got = read_image(&path).unwrap();
        // JPEG decoders may round differently; all else is exact.
        let most = if bytes[0] == 0xff { 3 } else { 0 };
        let difference = compare(&got, &npz.by_name(&format!("{name}_rgb")).unwrap(), name);
        assert!(difference <= most, "{name}: {difference}");
        read += 1;
    }
    assert_eq!(read, 18);
}

#[test]
fn classes_are_the_folders_in_order_and_files_come_in_the_order_of_their_paths() {
    let dir = tempfile::tempdir().unwrap();
    // One color a file; the red value tells which.
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
    fs::write(dir.path().join("readme.txt"), "beside the folders").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/sub/circle")).unwrap();
    let data = image_folder::load(dir.path(), (2, 2)).unwrap();
    assert_eq!(data.classes(), ["C", "a", "b"]);
    assert_eq!(data.labels(), [0, 1, 1, 2, 2]);
    let reds: Vec<u8> = data.images(0..5).iter().map(|image| image.as_raw()[0] / 40).collect();
    assert_eq!(reds, [5, 4, 3, 2, 1]);
    assert!(data.skipped().is_empty());
    assert_eq!((data.shape(), data.image(0).into_raw()), ((5, 2, 2, 3), [200, 7, 8].repeat(4)));
}

#[test]
fn unreadable_files_are_left_out_and_listed() {
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
    put("text.jpg", b"This is no picture.\n");
    put("empty.png", b"");
    put("picture.gif", b"GIF89a\x01\0\x01\0\0\0\0;");
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere", class.join("lost.jpg")).unwrap();
    let data = image_folder::load(dir.path(), (4, 4)).unwrap();
    assert_eq!(data.len(), 7, "{:?}", data.skipped());
    let reasons = data.skipped().join("\n");
    assert_eq!(data.skipped().len(), 9 + usize::from(cfg!(unix)), "{reasons}");
    for name in ["jpeg", "progressive", "orientation6", "deep", "webp", "bmp"] {
        assert!(reasons.contains(&format!("cut_{name}: is ")), "{name}: {reasons}");
    }
    for name in ["jpeg", "progressive", "orientation6"] {
        assert!(reasons.contains(&format!("cut_{name}: is cut short\n")), "{name}: {reasons}");
    }
    assert!(!cfg!(unix) || reasons.contains("lost.jpg: cannot be read ("), "{reasons}");
    assert!(reasons.contains("text.jpg: is no PNG, JPEG, BMP or WebP picture"), "{reasons}");
    assert!(reasons.contains("empty.png: is empty\n"), "{reasons}");
    assert!(reasons.contains("picture.gif: is of a kind that is not supported"), "{reasons}");
    assert_eq!(data.take(1).skipped(), data.skipped());
    let error = read_image(class.join("text.jpg")).unwrap_err();
    assert!(
        matches!(error, Error::File { .. })
            && error.to_string().ends_with("text.jpg: is no PNG, JPEG, BMP or WebP picture")
    );
}

/// A JPEG file whose header says 65,500×65,500 pixels, and a BMP file of 20,000×20,000.
#[test]
fn a_decompression_bomb_is_refused_before_it_is_decoded() {
    let mut jpeg = file("jpeg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let mut bmp = file("bmp");
    bmp[18..26].copy_from_slice(&[20_000u32.to_le_bytes(), 20_000u32.to_le_bytes()].concat());
    for (bytes, millions) in [(jpeg, 4290), (bmp, 400)] {
        let dir = folder_with("bomb", &bytes);
        let message = read_image(dir.path().join("photos/only/bomb")).unwrap_err().to_string();
        assert!(message.contains(&format!("bomb: has {millions} million pixels, more than fit")), "{message}");
    }
}

#[test]
fn a_folder_that_is_not_as_it_should_be_is_named() {
    let message = |folder: &Path| image_folder::load(folder, (4, 4)).unwrap_err().to_string();
    let dir = folder_with("a.jpg", b"text");
    let photos = dir.path().join("photos");
    assert!(message(&dir.path().join("lost")).ends_with("lost: is not there; check the path of the pictures"));
    assert!(message(&photos.join("only/a.jpg")).ends_with("a.jpg: is no folder; check the path of the pictures"));
    assert!(message(&photos.join("only")).contains("only: has no sub-folders; put the pictures of each class"));
    let unreadable = message(&photos);
    assert!(unreadable.contains("only: holds no readable picture among its 1 files ("), "{unreadable}");
    assert!(unreadable.contains("a.jpg: is no PNG"), "{unreadable}");
    fs::remove_file(photos.join("only/a.jpg")).unwrap();
    assert!(message(&photos).ends_with("only: holds no pictures; put some there or remove the folder"));
    let refused = |size, resize| image_folder::load_with(&photos, size, resize).unwrap_err().to_string();
    assert!(refused((0, 4), Resize::Stretch).contains("the size 0×4; choose from 1"));
    assert!(refused((32, 4), Resize::CenterCrop { shorter: 31 }).contains("choose `shorter` from 32 to"));
    assert!(read_image(&photos).unwrap_err().to_string().contains("is a folder"));
    assert!(read_image(photos.join("no.png")).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn a_long_thin_picture_is_cropped_without_its_long_side_in_memory() {
    let dir = folder_with("a.png", &[]);
    let photos = dir.path().join("photos");
    // The shorter side at 256 would make the longer 15 million pixels: 11 GB.
    RgbImage::from_fn(60_000, 1, |x, _| image::Rgb([(x / 300) as u8; 3])).save(photos.join("only/a.png")).unwrap();
    let data = image_folder::load_with(&photos, (224, 224), Resize::CenterCrop { shorter: 256 }).unwrap();
    assert!(data.image(0).pixels().all(|p| (99..=100).contains(&p[0])));
}

#[test]
fn the_dogs_and_cats_are_all_read() {
    let Some(folder) = common::real_data("dogscats") else { return };
    let data = image_folder::load(folder.join("valid"), (32, 32)).unwrap();
    assert_eq!((data.shape(), data.classes()), ((400, 32, 32, 3), &["cats".to_string(), "dogs".to_string()][..]));
    assert_eq!(data.labels().iter().sum::<usize>(), 200);
    assert!(data.skipped().is_empty(), "{:?}", data.skipped());
}
