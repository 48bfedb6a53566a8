//! Unpacks the archives into the layouts that data/README.md shows.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::Path,
};

use anyhow::{Context, Result, ensure};

use super::bar;

/// From this number on, the photos of each class are for validation: 1,000 of 12,500.
const FIRST_VALID: u32 = 11_500;

/// Unpacks the files of the archive's only folder into `to`.
pub fn cifar10(archive: &Path, to: &Path) -> Result<()> {
    let bar = bar(Some(fs::metadata(archive)?.len()), true);
    let packed = bar.wrap_read(BufReader::new(File::open(archive)?));
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(packed)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if entry.header().entry_type().is_file()
            && let Some(name) = path.file_name()
        {
            io::copy(&mut entry, &mut File::create(to.join(name))?)?;
        }
    }
    bar.finish_and_clear();
    for name in (1..=5).map(|batch| format!("data_batch_{batch}.bin")).chain(["test_batch.bin".into()]) {
        ensure!(to.join(&name).is_file(), "{} does not hold {name}", archive.display());
    }
    Ok(())
}

/// Unpacks `PetImages/Cat/7.jpg` as `train/cats/cat.7.jpg`. Empty files are left out. Unreadable photos are kept; the
/// loader skips them.
pub fn dogscats(archive: &Path, to: &Path) -> Result<()> {
    for set in ["train", "valid"] {
        for class in ["cats", "dogs"] {
            fs::create_dir_all(to.join(set).join(class))?;
        }
    }
    let mut zip = zip::ZipArchive::new(BufReader::new(File::open(archive)?))
        .with_context(|| format!("{} cannot be unpacked", archive.display()))?;
    let bar = bar(Some(zip.len() as u64), false);
    let mut photos = 0;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index)?;
        bar.inc(1);
        if let Some(path) = photo(entry.name())
            && entry.size() > 0
        {
            io::copy(&mut entry, &mut File::create(to.join(path))?)?;
            photos += 1;
        }
    }
    bar.finish_and_clear();
    ensure!(photos > 0, "{} holds no photos", archive.display());
    Ok(())
}

/// The path of the photo with this name in the archive; `None` if it is not a photo.
fn photo(name: &str) -> Option<String> {
    let (class, file) = name.strip_prefix("PetImages/")?.split_once('/')?;
    let number: u32 = file.strip_suffix(".jpg")?.parse().ok()?;
    let class = match class {
        "Cat" => "cat",
        "Dog" => "dog",
        _ => return None,
    };
    let set = if number < FIRST_VALID { "train" } else { "valid" };
    Some(format!("{set}/{class}s/{class}.{number}.jpg"))
}
