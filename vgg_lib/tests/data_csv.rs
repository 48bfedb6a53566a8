//! Images whose labels are in a CSV file, as on Kaggle.

use std::{fs, path::Path};

use image::{Rgb, RgbImage};
use tempfile::{TempDir, tempdir};
use vgg_lib::data::{CsvOptions, Dataset, Event, Resize, image_folder, unobserved};

/// A folder with these images, each of one color: its red is 10 times its number, from 1.
fn folder_of(names: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, number) in names.iter().zip(1..) {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(6, 4, Rgb([10 * number, 7, 8])).save(path).unwrap();
    }
    dir
}

fn load(dir: &Path, table: impl AsRef<[u8]>, options: &CsvOptions) -> vgg_lib::Result<Dataset> {
    fs::write(dir.join("labels.csv"), table).unwrap();
    image_folder::load_csv(dir.join("labels.csv"), (2, 2), options, &mut unobserved)
}

/// The numbers of the images, and their classes.
fn content(data: &Dataset) -> (Vec<u8>, String) {
    let numbers = data.images(0..data.len()).iter().map(|image| image.as_raw()[0] / 10).collect();
    (numbers, data.titles(0..data.len()).join(" "))
}

#[test]
fn rows_give_the_images_in_their_order() {
    let dir = folder_of(&["a.png", "sub/b.png", "c.bmp"]);
    let data = load(dir.path(), "file,label\nc.bmp,dog\na.png,cat\nsub/b.png,dog\n", &CsvOptions::default()).unwrap();
    assert_eq!(content(&data), (vec![3, 1, 2], "dog cat dog".to_string()));
    assert_eq!((data.classes(), data.shape()), (&["cat".to_string(), "dog".to_string()][..], (3, 2, 2, 3)));
    assert!(data.skipped().is_empty());
}

/// Windows and its spreadsheets write a byte order mark and CRLF. Names that have commas are quoted.
#[test]
fn quotes_marks_and_blanks_are_understood() {
    let dir = folder_of(&["a, b.png", "c.png", "d.png"]);
    let table = "\u{feff}file,label,who\r\n\"a, b.png\",\"dog, small\"\r\n\r\n c.png , the \"big\" dog,me,,\r\n\"d.png\",\"a \"\"cat\"\"\nor so\"";
    let data = load(dir.path(), table, &CsvOptions::default()).unwrap();
    assert_eq!(data.classes(), ["a \"cat\"\nor so", "dog, small", "the \"big\" dog"]);
    assert_eq!((data.labels(), data.skipped()), (&[1, 2, 0][..], &[][..]));
}

#[test]
fn endings_may_be_missing_and_folder_and_columns_are_named() {
    let dir = folder_of(&["photos/1.png", "photos/2.PNG", "photos/3.v2.bmp", "photos/4.png"]);
    fs::create_dir(dir.path().join("photos/1")).unwrap();
    let table = "breed,size,id\ndingo,3,1\nboxer,4,2\ndingo,5,3.v2\ncollie,6,4\n";
    let options = CsvOptions::default().folder(dir.path().join("photos")).columns("id", "breed");
    let data = load(dir.path(), table, &options).unwrap();
    assert_eq!(content(&data), (vec![1, 2, 3, 4], "dingo boxer dingo collie".to_string()));
    let options = options.columns("id", "size").resize(Resize::CenterCrop { shorter: 3 });
    assert_eq!(load(dir.path(), table, &options).unwrap().classes(), ["3", "4", "5", "6"]);
}

#[test]
fn labels_that_are_numbers_are_sorted_as_numbers() {
    let dir = folder_of(&["a.png", "b.png", "c.png", "d.png"]);
    let classes = |labels: [&str; 4]| {
        let rows = ["a", "b", "c", "d"].iter().zip(labels).map(|(name, label)| format!("{name},{label}\n"));
        let data = load(dir.path(), format!("id,level\n{}", rows.collect::<String>()), &CsvOptions::default()).unwrap();
        data.classes().join(" ")
    };
    assert_eq!(classes(["10", "9", "100", "9"]), "9 10 100");
    assert_eq!(classes(["1.0", "-2", "0.5", "10.0"]), "-2 0.5 1.0 10.0");
    assert_eq!(classes(["10", "9", "nan", "100"]), "10 100 9 nan");
    assert_eq!(classes(["zebra", "Ant", "e\u{301}clair", "\u{e9}clair"]), "Ant zebra \u{e9}clair");
}

const NO_IMAGE: &str = if cfg!(feature = "more_images") {
    "text.png: is not a PNG, JPEG, BMP, WebP, GIF or TIFF image"
} else {
    "text.png: is not a PNG, JPEG, BMP or WebP image"
};

#[test]
fn what_cannot_be_used_is_skipped_and_listed() {
    let dir = folder_of(&["a.png", "b.png", "c.png"]);
    fs::write(dir.path().join("text.png"), "no image").unwrap();
    let table = "id,label\na,cat\nlost,bird\nb.png,\n,dog\na.png,cat\na,dog\ntext,cat\nb,dog\nc\n";
    fs::write(dir.path().join("labels.csv"), table).unwrap();
    let mut notes = vec![];
    let mut observer =
        |event: Event| notes.extend(if let Event::Note(text) = event { Some(text.to_string()) } else { None });
    let path = dir.path().join("labels.csv");
    let data = image_folder::load_csv(&path, (2, 2), &CsvOptions::default(), &mut observer).unwrap();
    assert_eq!(content(&data), (vec![1, 2], "cat dog".to_string()));
    assert_eq!(data.classes(), ["bird", "cat", "dog"]);
    let start = format!("{}/", dir.path().display());
    let skipped: Vec<&str> = data.skipped().iter().map(|line| line.strip_prefix(&start).unwrap()).collect();
    assert_eq!(
        skipped,
        [
            "lost: does not exist, but is named in row 3 of labels.csv",
            "b.png: has no label in row 4 of labels.csv",
            "labels.csv: has no file name in row 5",
            "a.png: is named again in row 6 of labels.csv",
            "a.png: is dog in row 7 of labels.csv, but cat in row 2",
            "c: has no label in row 10 of labels.csv",
            NO_IMAGE,
        ]
    );
    let note = notes.pop().unwrap();
    assert!(note.starts_with("2 images of 3 classes (bird, cat, dog)\nskipped 7 files: "), "{note}");
    assert!(note.ends_with("; and 2 more\nNOTE: 1 class has no image: bird") && notes.is_empty(), "{note}");
}

#[test]
fn a_file_under_two_names_counts_once_and_a_folder_is_no_image() {
    let dir = folder_of(&["a.png", "b.png"]);
    fs::create_dir(dir.path().join("sub")).unwrap();
    let table = "id,label\na,cat\nsub/../a.png,dog\n./b.png,dog\nb,dog\nsub,cat\n\"a \"\"quoted\"\" name\",cat\n";
    let data = load(dir.path(), table, &CsvOptions::default()).unwrap();
    assert_eq!((data.len(), data.labels()), (2, &[0, 1][..]));
    let reasons = data.skipped().join("\n");
    for reason in [
        "sub/../a.png: is dog in row 3 of labels.csv, but cat in row 2",
        "is named again in row 5",
        "sub: is a folder, but is named in row 6",
    ] {
        assert!(reasons.contains(reason), "{reasons}");
    }
}

#[test]
fn errors_name_the_table_and_say_what_to_do() {
    let dir = folder_of(&["a.png"]);
    let refused = |table: &[u8], options: &CsvOptions| {
        let message = load(dir.path(), table, options).unwrap_err().to_string();
        let start = format!("{}: ", dir.path().join("labels.csv").display());
        message.strip_prefix(&start).unwrap_or_else(|| panic!("{message}")).to_string()
    };
    let (plain, named) = (CsvOptions::default(), CsvOptions::default().columns("id", "breed"));
    let semicolons = refused(b"id;label\na;cat\n", &plain);
    assert!(semicolons.starts_with("has 1 column (id;label), but needs one with the file names and"), "{semicolons}");
    assert!(refused(b"", &plain).starts_with("has 0 columns (), but"));
    let unknown = refused(b"id,label\na,cat\n", &named);
    assert_eq!(unknown, "has no column 'breed'; choose from its columns id, label");
    assert!(refused(b"id,label\na,caf\xe9\n", &plain).starts_with("is not UTF-8 text in row 2; save it as CSV"));
    assert!(refused(b"\xff\xfei\0d\0", &plain).starts_with("is not UTF-8 text in row 1; save it as CSV"));
    let open = refused(b"id,label\nb,cat\n\"a,cat\nb,dog\n", &plain);
    assert_eq!(open, "has a quote in row 3 that is never closed; close it with a second one");
    let no_header = refused(b"a.png,cat\n", &plain);
    assert!(no_header.starts_with("has no header: its first row names the file a.png; put a row"), "{no_header}");
    let same = refused(b"id,label\na,cat\n", &CsvOptions::default().columns("label", "label"));
    assert_eq!(same, "cannot have files and labels in one column, 'label'; name two");
    let empty = refused(b"id,label\n", &plain);
    assert!(empty.starts_with("names no file that can be read as an image; check its columns and the fol"), "{empty}");
    let exchanged = refused(b"label,id\ncat,a\n", &plain);
    assert!(
        exchanged.starts_with("names no file that can be read as an image (")
            && exchanged.contains("/cat: does not exist")
    );
    let missing = image_folder::load_csv(dir.path().join("no.csv"), (2, 2), &plain, &mut unobserved).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read ") && missing.to_string().ends_with("; check the path"));
    let size = image_folder::load_csv(dir.path().join("labels.csv"), (0, 2), &plain, &mut unobserved).unwrap_err();
    assert!(size.to_string().contains("the size 0×2; choose from 1"));
}
