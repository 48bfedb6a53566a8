//! `cargo xtask data`: downloads the datasets and weights from their official addresses.
//!
//! A file is called `<file>.part` until it is complete and has passed its check, so an interrupted download continues
//! where it stopped. Archives are unpacked in a temporary folder that gets its name last. So whatever has its final
//! name is complete.

mod transfer;
mod unpack;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

/// What can be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// CIFAR-10: 60,000 images of 32x32 pixels in ten classes; 170 MB
    Cifar10,
    /// Dogs vs cats: 25,000 photos; 825 MB
    Dogscats,
    /// VGG16 trained on ImageNet, and the names of the classes; 553 MB
    Vgg16,
    /// The names of ImageNet's classes; 35 kB
    Classes,
}

/// One file, its address, and how to know that it is right.
struct Source {
    url: String,
    /// Its path in the data folder.
    file: &'static str,
    check: Check,
}

/// How to know that a file is right.
#[derive(Clone, Copy)]
enum Check {
    Sha256 {
        bytes: u64,
        digest: &'static str,
    },
    /// No digest is published. The header says how long the file has to be, and it has to name this tensor.
    Safetensors {
        tensor: &'static str,
    },
    /// JSON with this many entries.
    Json {
        entries: usize,
    },
}

impl Source {
    fn official(name: Name) -> Self {
        let (url, file, check) = match name {
            Name::Cifar10 => (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "cifar-10-binary.tar.gz",
                Check::Sha256 {
                    bytes: 170_052_171,
                    digest: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                },
            ),
            Name::Dogscats => (
                "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
                "kagglecatsanddogs_5340.zip",
                Check::Sha256 {
                    bytes: 824_887_076,
                    digest: "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
                },
            ),
            Name::Vgg16 => (
                "https://huggingface.co/timm/vgg16.tv_in1k/resolve/main/model.safetensors",
                "models/vgg16.tv_in1k.safetensors",
                Check::Safetensors { tensor: "features.0.weight" },
            ),
            Name::Classes => (
                "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
                "imagenet_class_index.json",
                Check::Json { entries: 1000 },
            ),
        };
        Self { url: url.into(), file, check }
    }
}

/// Downloads and unpacks what is not there yet.
pub fn run(name: Name, url: Option<String>, dest: &Path) -> Result<()> {
    let elsewhere = url.is_some();
    let mut source = Source::official(name);
    source.url = url.unwrap_or(source.url);
    match name {
        Name::Cifar10 => archive(&source, dest, "cifar-10-batches-bin", unpack::cifar10),
        Name::Dogscats => archive(&source, dest, "dogscats", unpack::dogscats),
        Name::Vgg16 => {
            fetch(&source, dest)?;
            // `--url` is the address of the weights.
            if elsewhere { Ok(()) } else { run(Name::Classes, None, dest) }
        }
        Name::Classes => fetch(&source, dest).map(drop),
    }
}

/// Downloads an archive and unpacks it to the folder `name`.
fn archive(source: &Source, dest: &Path, name: &str, unpack: fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let folder = dest.join(name);
    if folder.exists() {
        println!("{} is already there", folder.display());
        return Ok(());
    }
    let downloaded = fetch(source, dest)?;
    let archive = dest.join(source.file);
    println!("unpacking to {}", folder.display());
    let unpacking = dest.join(format!(".unpacking-{name}"));
    remove_folder(&unpacking)?;
    fs::create_dir(&unpacking)
        .map_err(anyhow::Error::from)
        .and_then(|()| unpack(&archive, &unpacking))
        .and_then(|()| Ok(fs::rename(&unpacking, &folder)?))
        .map_err(|error| {
            // Frees the space. If that fails, too, the first error says more.
            let _ = remove_folder(&unpacking);
            explain_full_disk(error, dest)
        })?;
    if downloaded {
        // We put it there ourselves, and it is as large as its content.
        fs::remove_file(&archive)?;
    }
    println!("ready: {}", folder.display());
    Ok(())
}

/// Downloads `source` into `dest` if it is not there. Returns whether it was downloaded.
fn fetch(source: &Source, dest: &Path) -> Result<bool> {
    let file = dest.join(source.file);
    if file.exists() {
        source
            .check
            .verify(&file)
            .with_context(|| format!("{} is not the right file: delete it and run this again", file.display()))?;
        println!("{} is already there", file.display());
        return Ok(false);
    }
    let folder = file.parent().expect("a file in `dest`");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let part = folder.join(format!("{}.part", file.file_name().expect("a file in `dest`").to_string_lossy()));

    println!("downloading {}", source.url);
    let bytes = match source.check {
        Check::Sha256 { bytes, .. } => Some(bytes),
        _ => None,
    };
    transfer::transfer(&source.url, &part, &file, bytes)?;
    if let Err(error) = source.check.verify(&part) {
        fs::remove_file(&part)?;
        return Err(error.context(format!("what {} sends is not the right file and was deleted", source.url)));
    }
    fs::rename(&part, &file)?;
    println!("ready: {}", file.display());
    Ok(true)
}

impl Check {
    /// Fails unless `file` is what it should be.
    fn verify(self, file: &Path) -> Result<()> {
        let length = fs::metadata(file)?.len();
        match self {
            Self::Sha256 { bytes, digest } => {
                ensure!(length == bytes, "it has {length} bytes instead of {bytes}");
                let found = sha256(file)?;
                ensure!(found == digest, "its sha256 is {found} instead of {digest}");
            }
            Self::Safetensors { tensor } => {
                let whole = safetensors_length(file, tensor)?;
                ensure!(length == whole, "it has {length} bytes where its header says {whole}");
            }
            Self::Json { entries } => {
                let json = serde_json::from_slice::<serde_json::Value>(&fs::read(file)?);
                let found = json.ok().and_then(|json| Some(json.as_object()?.len()));
                ensure!(found == Some(entries), "it is not JSON with {entries} entries");
            }
        }
        Ok(())
    }
}

fn sha256(file: &Path) -> Result<String> {
    let (mut file, mut hasher) = (File::open(file)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The length of a complete safetensors file according to its header: 8 bytes of header length, the header, the end of
/// the last tensor.
fn safetensors_length(file: &Path, tensor: &str) -> Result<u64> {
    let mut file = File::open(file)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).context("it is not a safetensors file")?;
    let length = u64::from_le_bytes(length);
    ensure!(length < 100_000_000, "it is not a safetensors file");
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: serde_json::Value = serde_json::from_slice(&header).context("it is not a safetensors file")?;
    let tensors = header.as_object().context("it is not a safetensors file")?;
    ensure!(tensors.contains_key(tensor), "it has no tensor {tensor}");
    let ends = tensors.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    Ok(8 + length + ends.max().unwrap_or(0))
}

/// The progress bar of a download (in bytes) or of unpacking (in files). Hidden if there is no terminal.
fn bar(total: Option<u64>, bytes: bool) -> indicatif::ProgressBar {
    let template = match (total, bytes) {
        (Some(_), true) => "{wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
        (_, true) => "{spinner} {decimal_bytes}, {decimal_bytes_per_sec}",
        (_, false) => "{wide_bar} {human_pos} of {human_len} files",
    };
    let style = indicatif::ProgressStyle::with_template(template).expect("a valid template");
    match total {
        Some(total) => indicatif::ProgressBar::new(total),
        None => indicatif::ProgressBar::no_length(),
    }
    .with_style(style)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    if folder.exists() { fs::remove_dir_all(folder) } else { Ok(()) }
}

/// Says what to do if the error is a full disk.
fn explain_full_disk(error: anyhow::Error, folder: &Path) -> anyhow::Error {
    let full = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    if full {
        anyhow!(
            "no space left in {}: free some, or choose another folder with --dest, and run this again",
            folder.display()
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests;
