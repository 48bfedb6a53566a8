//! Ending a training run from outside: the run looks for a file after each step.
//!
//! ```text
//! plots/01_training.stop   beside the other files of a monitor; its Stop button writes this file
//! checkpoints/01/stop      in the folder of the checkpoints
//! ```
//!
//! A run in a notebook also ends if its kernel is gone. evcxr runs cells in a process of its own, which would go on
//! training for hours, unseen, after Jupyter was closed in the middle of a cell.

use super::config::FitConfig;
use crate::process::parent;
use crate::{Error, Result};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::{env, fs};

/// What ends a run from outside.
pub(super) struct Stop {
    files: Vec<PathBuf>,
    /// The process of the kernel, in a notebook.
    kernel: Option<u32>,
}

impl Stop {
    /// Deletes files that an earlier run has left.
    ///
    /// # Errors
    /// If a file cannot be deleted: it would end this run, too.
    pub(super) fn new(config: &FitConfig) -> Result<Stop> {
        let monitor = config.monitor.as_ref().map(|monitor| monitor.file("stop"));
        let checkpoints = config.checkpoints.as_ref().map(|checkpoints| checkpoints.stop_file());
        let files: Vec<PathBuf> = monitor.into_iter().chain(checkpoints).collect();
        for path in &files {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("delete", path)(error)),
                _ => {}
            }
        }
        let kernel = if env::var_os("EVCXR_IS_RUNTIME").is_some() { parent() } else { None };
        Ok(Stop { files, kernel })
    }

    /// Whether the run has to end. Deletes the files.
    pub(super) fn asked(&self) -> bool {
        if self.kernel.is_some() && self.kernel != parent() {
            return true;
        }
        let found = self.files.iter().any(|path| path.exists());
        if found {
            // What cannot be deleted is an error at the start of the next run.
            self.files.iter().for_each(|path| _ = fs::remove_file(path));
        }
        found
    }
}
