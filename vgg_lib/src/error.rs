//! The error type of the crate. Its `Display` is a full sentence, cause included, because a notebook cell that ends in
//! `?` prints nothing else.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What went wrong, as one sentence that names the file or layer and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// The verb: "read", "write", "create" …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason that the system gives.
        source: io::Error,
    },
    /// A file was read, but its content is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The data and the model, or two pieces of data, do not fit together.
    #[error("{0}")]
    Shape(String),
    /// A layer or tensor name that the model does not have.
    #[error("{0}")]
    Name(String),
    /// A setting outside its range.
    #[error("{0}")]
    Config(String),
    /// A layer could not be added, inserted or replaced. If nobody reads this error, the model reports it again.
    #[error("{error}{noticed}")]
    Layer {
        /// What is wrong.
        error: Box<Error>,
        /// Whether someone has read it.
        noticed: Noticed,
    },
    /// The loss or a weight became NaN or infinite.
    #[error(
        "training stopped: {what} in epoch {epoch}, step {step}, at learning rate {learning_rate}; {help}. {}{}",
        put_back(restored),
        last_good(checkpoint)
    )]
    NotFinite {
        /// What is not a number: "the loss became NaN".
        what: String,
        /// What to do: "try a lower rate …".
        help: String,
        /// From 1.
        epoch: usize,
        /// Within the epoch, from 1.
        step: usize,
        /// At that step.
        learning_rate: f64,
        /// The epoch, from 1, whose weights the model has again, the best; `None` if it has those from before training.
        restored: Option<usize>,
        /// The newest checkpoint, if there is one; `load_weights` reads it.
        checkpoint: Option<PathBuf>,
    },
    /// dfdx or the GPU refused: out of memory, no such GPU and the like.
    #[error("{0}")]
    Device(String),
    /// A fault of this library.
    #[error("{0}; this is a fault of vgg_lib, please report it")]
    Internal(String),
}

/// Whether someone has read an error: whatever prints the error prints this too, which has no text but takes notice.
#[derive(Clone, Default)]
pub struct Noticed(Arc<AtomicBool>);

impl Noticed {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Noticed {
    fn fmt(&self, _: &mut fmt::Formatter) -> fmt::Result {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.store(true, Ordering::Relaxed);
        f.write_str("Noticed")
    }
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` on an input or output operation.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }

    /// A file with the wrong content.
    pub(crate) fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Error {
        Error::File { path: path.into(), message: message.into() }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check its permissions",
        io::ErrorKind::IsADirectory => "; a folder has this name: choose another",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "; a file is where a folder has to be: choose another path"
        }
        io::ErrorKind::InvalidFilename => "; choose a shorter name",
        io::ErrorKind::StorageFull => "; free some space or choose another folder",
        _ => "",
    }
}

fn put_back(restored: &Option<usize>) -> String {
    let best = |epoch| format!("The model has the weights of epoch {epoch} again, the best");
    restored.map_or("The model has the weights again that this run began with".to_string(), best)
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    checkpoint.as_ref().map_or(String::new(), |path| format!(". The newest checkpoint is {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, create_dir, write};

    #[test]
    fn what_the_system_refuses_comes_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(path("file"), "").unwrap();
        let long = "x".repeat(300);
        for (result, advice) in [
            (File::create(folder.path()).map(|_| ()), "a folder has this name: choose another"),
            (create_dir(path("file")), "a file is where a folder has to be: choose another path"),
            (write(path("file/below"), ""), "a file is where a folder has to be: choose another path"),
            (write(path(&long), ""), "choose a shorter name"),
            (File::open(path("none")).map(|_| ()), "check the path"),
        ] {
            let error = result.map_err(Error::io("use", path("it"))).unwrap_err().to_string();
            assert!(error.ends_with(&format!("; {advice}")), "{error}");
        }
    }
}
