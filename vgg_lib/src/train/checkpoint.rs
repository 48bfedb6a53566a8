//! A training on disk, after each epoch, so that it goes on where it was interrupted.
//!
//! The folder holds `epoch_0007.safetensors` of the last two epochs and the best one, and the log as `history.csv` and
//! `history.json`. In a checkpoint are
//!
//! ```text
//! block1_conv1.weight …              the model as it was validated: `load_weights` reads this file
//! fit/velocity/block1_conv1.weight … SGD's momentum
//! fit/trained/block1_conv1.weight …  with a moving average: the weights that training moves
//! metadata "fit"                     JSON: the settings, the steps made, the history
//! metadata "crc32"                   of the file, these eight digits taken as zeros
//! ```
//!
//! All random numbers depend on the seed, the epoch and the step, so that no more is needed for the same result.

use super::history::History;
use crate::model::Sequential;
use crate::optim::Average;
use crate::optim::Sgd;
use crate::tensor::{Flat, device};
use crate::{Error, Result, files};
use ::safetensors::{Dtype, SafeTensors, View};
use dfdx::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Where a training is kept after each epoch: its weights, momentum, running statistics and history. An interrupted
/// training that goes on gives, bit for bit, what it would have given without the interruption (on the same machine
/// with the same number of threads).
///
/// ```
/// use vgg_lib::prelude::*;
/// let data = shapes::generate(64, (8, 8), 0);
/// # let folder = tempfile::tempdir().unwrap();
/// for epochs in [1, 3] {
///     let mut model = Sequential::new((8, 8, 3), Seed(0));
///     model.push("flatten", flatten())?;
///     model.push("predictions", linear(10))?;
///     let checkpoints = Some(Checkpoints::resume(&folder)); // the second time after the first epoch
///     let config = FitConfig { epochs, batch_size: 16, checkpoints, ..FitConfig::default() };
///     assert_eq!(model.fit(&data, &data, config)?.epochs.len(), epochs);
/// }
/// # Ok::<(), vgg_lib::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    restart: bool,
}

impl Checkpoints {
    /// Keeps the training in `folder`, and goes on with the one that is there.
    pub fn resume(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { folder: folder.as_ref().to_path_buf(), restart: false }
    }

    /// Keeps the training in `folder`; the checkpoints that are there are deleted when it begins.
    pub fn restart(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { restart: true, ..Checkpoints::resume(folder) }
    }

    /// Makes the folder and locks it.
    pub(super) fn open(&self, settings: Settings) -> Result<Keeper> {
        let folder = self.folder.clone();
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).write(true).truncate(false).open(&path);
        let lock = lock.map_err(Error::io("write", &path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::file(
                    folder,
                    "another training writes here; wait for its end or choose another folder",
                ));
            }
            // Some network file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let keeper = Keeper { folder, settings, _lock: lock };
        if self.restart {
            keeper.delete(|_| true)?;
        }
        Ok(keeper)
    }
}

/// What has to be the same for a training to go on: names and values.
pub(super) type Settings = Vec<(String, String)>;

/// What a checkpoint holds besides tensors.
#[derive(Deserialize, Serialize)]
struct State {
    settings: Settings,
    /// Steps of the model, which dropout's masks depend on.
    steps: u64,
    /// Steps of SGD.
    updates: u64,
    history: History,
}

/// A locked folder of checkpoints; the lock goes with it, also if the process is killed.
pub(super) struct Keeper {
    folder: PathBuf,
    settings: Settings,
    _lock: File,
}

const VELOCITY: &str = "fit/velocity/";
const TRAINED: &str = "fit/trained/";

impl Keeper {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, epoch: usize) -> PathBuf {
        self.folder.join(format!("epoch_{epoch:04}.safetensors"))
    }

    /// The epochs that there are checkpoints of, in order.
    fn epochs(&self) -> Result<Vec<usize>> {
        let fault = || Error::io("read", &self.folder);
        let mut epochs = vec![];
        for entry in fs::read_dir(&self.folder).map_err(fault())? {
            let name = entry.map_err(fault())?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("epoch_")?.strip_suffix(".safetensors"));
            epochs.extend(number.and_then(|number| number.parse::<usize>().ok()));
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    fn delete(&self, which: impl Fn(usize) -> bool) -> Result<()> {
        for epoch in self.epochs()?.into_iter().filter(|&epoch| which(epoch)) {
            let path = self.path(epoch);
            fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        }
        Ok(())
    }

    /// The newest checkpoint.
    pub(super) fn latest(&self) -> Option<PathBuf> {
        self.epochs().ok()?.last().map(|&epoch| self.path(epoch))
    }

    /// Writes the checkpoint of the last epoch of `history`, and deletes those that are not needed any more. The model
    /// has its average in place, if there is one.
    pub(super) fn save(
        &self,
        model: &Sequential,
        sgd: &Sgd,
        average: Option<&Average>,
        history: &History,
    ) -> Result<()> {
        let epoch = history.epochs.len();
        let path = self.path(epoch);
        let state = State {
            settings: self.settings.clone(),
            steps: model.steps,
            updates: sgd.iterations,
            history: history.clone(),
        };
        let mut tensors: Vec<(String, Values)> = vec![];
        let mut averaged = average.into_iter().flat_map(|average| &average.tensors);
        for layer in &model.layers {
            for param in layer.params() {
                let name = format!("{}.{}", layer.name, param.name);
                let values = |tensor| Values { tensor, dims: &param.dims };
                if let Some(velocity) = sgd.velocity(&layer.name, param.name) {
                    tensors.push((format!("{VELOCITY}{name}"), values(velocity)));
                }
                if let Some(trained) = averaged.next() {
                    tensors.push((format!("{TRAINED}{name}"), values(trained)));
                }
                tensors.push((name, values(&param.tensor)));
            }
        }
        files::write_through(&path, &to_bytes(&path, &state, tensors)?)?;
        history.save_csv(self.folder.join("history.csv"))?;
        history.save_json(self.folder.join("history.json"))?;
        let best = history.best().map(|record| record.epoch);
        self.delete(|other| other + 1 < epoch && Some(other) != best)
    }

    /// Puts the newest checkpoint into the model, SGD and the average, and returns its history; `None` if there is
    /// none. On error nothing has changed.
    ///
    /// # Errors
    /// [`Error::File`] if the file is damaged or of another training.
    pub(super) fn load(
        &self,
        model: &mut Sequential,
        sgd: &mut Sgd,
        average: Option<&mut Average>,
    ) -> Result<Option<History>> {
        let Some(path) = self.latest() else { return Ok(None) };
        let bytes = files::map(&path)?;
        let (state, tensors) = parse(&bytes).map_err(|why| {
            let help = match self.epochs().unwrap_or_default().as_slice() {
                [.., before, _] => format!("delete it to go on after epoch {before}"),
                _ => "delete it to begin anew".to_string(),
            };
            Error::file(&path, format!("is damaged or not a checkpoint ({why}); {help}"))
        })?;
        if let Some(difference) = difference(&state.settings, &self.settings) {
            let help = "choose another folder, or let `Checkpoints::restart` begin anew in this one";
            return Err(Error::file(path, format!("is of another training: {difference}; {help}")));
        }
        let missing = |name: &str| Error::file(&path, format!("has no {name}; let `Checkpoints::restart` begin anew"));
        let all = |prefix: &str| -> Result<Vec<Flat>> {
            let names = model.layers.iter().flat_map(|l| l.params().iter().map(move |p| (l, p)));
            names
                .map(|(layer, param)| {
                    let name = format!("{prefix}{}.{}", layer.name, param.name);
                    flat(&tensors, &name, &param.dims).ok_or_else(|| missing(&name))
                })
                .collect()
        };
        let weights = all("")?;
        if let Some(average) = average {
            average.tensors = all(TRAINED)?;
        }
        sgd.iterations = state.updates;
        model.steps = state.steps;
        let mut weights = weights.into_iter();
        for layer in &mut model.layers {
            let name = layer.name.clone();
            for param in layer.params_mut() {
                let velocity = flat(&tensors, &format!("{VELOCITY}{name}.{}", param.name), &param.dims);
                sgd.set_velocity(&name, param.name, velocity);
                param.tensor = weights.next().expect("one for each parameter");
            }
        }
        Ok(Some(state.history))
    }

    /// What a reader is told when a training goes on.
    pub(super) fn resumed(&self, history: &History, epochs: usize) -> String {
        let (folder, done) = (self.folder.display(), history.epochs.len());
        let best = history.best().and_then(|best| Some((best.epoch, best.val_acc?)));
        let best = best.map_or(String::new(), |(epoch, acc)| format!(", best val_acc {acc:.4} in epoch {epoch}"));
        let what = if done == epochs { "has all" } else { "goes on after" };
        format!("{folder} {what} {done} of {epochs} epochs{best}; `Checkpoints::restart` would begin anew")
    }

    /// The model with the weights of an epoch whose checkpoint is kept.
    pub(super) fn model_of(&self, epoch: usize, model: &Sequential) -> Result<Sequential> {
        let mut model = model.clone();
        model.load_weights(self.path(epoch))?;
        Ok(model)
    }
}

/// "batch_size was 128 and is 64".
fn difference(saved: &Settings, now: &Settings) -> Option<String> {
    let find = |settings: &Settings, name: &str| {
        settings.iter().find(|(other, _)| other == name).map_or("none".to_string(), |(_, value)| value.clone())
    };
    let mut names = saved.iter().chain(now).map(|(name, _)| name);
    let name = names.find(|name| find(saved, name) != find(now, name))?;
    Some(format!("{name} was {} there and is {} now", find(saved, name), find(now, name)))
}

/// A tensor that is made into bytes when it is its turn.
struct Values<'a> {
    tensor: &'a Flat,
    dims: &'a [usize],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.dims
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.as_vec().into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.dims.iter().product::<usize>()
    }
}

/// The checksum's name and place in the header's JSON.
const CHECKSUM: &[u8] = br#""crc32":"00000000""#;
const DIGITS: usize = 8;

fn to_bytes(path: &Path, state: &State, tensors: Vec<(String, Values)>) -> Result<Vec<u8>> {
    let fault = |error: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {error}"));
    let state = serde_json::to_string(state).map_err(|e| fault(&e))?;
    let metadata = [("fit", state), ("crc32", "0".repeat(DIGITS))].map(|(name, text)| (name.to_string(), text));
    let mut bytes = ::safetensors::serialize(tensors, Some(metadata.into_iter().collect())).map_err(|e| fault(&e))?;
    let digits = checksum_digits(&bytes).ok_or_else(|| fault(&"no place for the checksum"))?;
    let checksum = format!("{:08x}", crc32fast::hash(&bytes));
    bytes[digits..digits + DIGITS].copy_from_slice(checksum.as_bytes());
    Ok(bytes)
}

/// Where the digits of the checksum begin.
fn checksum_digits(bytes: &[u8]) -> Option<usize> {
    let name = &CHECKSUM[..CHECKSUM.len() - DIGITS - 1];
    let header = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?.checked_add(8)?;
    let at = bytes.get(8..header)?.windows(CHECKSUM.len()).position(|window| window.starts_with(name))?;
    Some(8 + at + name.len())
}

/// The state and the tensors of a file whose checksum is right.
fn parse(bytes: &[u8]) -> std::result::Result<(State, SafeTensors<'_>), String> {
    let digits = checksum_digits(bytes).ok_or("it has no checksum")?;
    let mut hash = crc32fast::Hasher::new();
    hash.update(&bytes[..digits]);
    hash.update(&[b'0'; DIGITS]);
    hash.update(&bytes[digits + DIGITS..]);
    if bytes[digits..digits + DIGITS] != *format!("{:08x}", hash.finalize()).as_bytes() {
        return Err("its checksum is wrong".to_string());
    }
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let state = header.metadata().as_ref().and_then(|texts| texts.get("fit")).ok_or("it has no state")?;
    let state = serde_json::from_str(state).map_err(|e| e.to_string())?;
    Ok((state, SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?))
}

fn flat(tensors: &SafeTensors, name: &str, dims: &[usize]) -> Option<Flat> {
    let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F32 && view.shape() == dims)?;
    let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let len = values.len();
    Some(device().tensor_from_vec(values, (len,)))
}
