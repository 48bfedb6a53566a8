//! Checkpoints: training is saved after each epoch, so that it can resume after an interruption.
//!
//! The folder holds files such as `epoch_0007.safetensors` for the last two epochs and the best one, and the history as
//! `history.csv` and `history.json`. A checkpoint contains
//!
//! ```text
//! block1_conv1.weight …              the model that was validated: `load_weights` reads this file
//! fit/velocity/block1_conv1.weight … the state of the optimizer: here the velocity of SGD
//! fit/trained/block1_conv1.weight …  with a moving average: the weights that training updates
//! metadata "fit"                     JSON: the settings, the number of steps, the history
//! metadata "crc32"                   the checksum of the file, computed with zeros in place of these eight digits
//! ```
//!
//! All random numbers depend only on the seed, the epoch and the step, so a resumed run needs nothing else to reach the
//! same result.

use super::history::History;
use crate::model::{Layer, Param, Sequential, Values};
use crate::optim::{Average, Updater};
use crate::process::check_memory;
use crate::tensor::{Flat, all_finite};
use crate::{Error, Result, files};
use ::safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Where to save a training run after each epoch: weights, momentum, running statistics and history. A resumed run
/// reaches, bit for bit, the same weights as a run without interruption (on the same machine with the same number of
/// threads).
///
/// ```
/// use vgg_lib::prelude::*;
/// let data = shapes::generate(64, (8, 8), 0);
/// # let folder = tempfile::tempdir().unwrap();
/// for epochs in [1, 3] {
///     let mut model = Sequential::new((8, 8, 3), Seed(0));
///     model.push("flatten", flatten())?;
///     model.push("predictions", linear(10))?;
///     let checkpoints = Some(Checkpoints::resume(&folder)); // the second run resumes after the first epoch
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
    /// Saves the run in `folder`, and resumes from the newest checkpoint that is already there.
    pub fn resume(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { folder: folder.as_ref().to_path_buf(), restart: false }
    }

    /// Saves the run in `folder`, after deleting all checkpoints that are already there.
    pub fn restart(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { restart: true, ..Checkpoints::resume(folder) }
    }

    /// Creates the folder and locks it.
    pub(super) fn open(&self, settings: Settings) -> Result<Keeper> {
        let folder = self.folder.clone();
        if folder.is_file() {
            let what = "is a file, but checkpoints need a folder; give the path of one, or read a checkpoint with \
                        `load_weights`";
            return Err(Error::file(folder, what));
        }
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).write(true).truncate(false).open(&path);
        let lock = lock.map_err(Error::io("write", &path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::file(
                    folder,
                    "another training run writes here; wait for its end or choose another folder",
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

/// The settings that must be the same for training to resume, as names and values.
pub(super) type Settings = Vec<(String, String)>;

/// What a checkpoint holds besides tensors.
#[derive(Deserialize, Serialize)]
struct State {
    settings: Settings,
    /// Steps of the model, on which the dropout masks depend.
    steps: u64,
    /// Steps of the optimizer.
    updates: u64,
    history: History,
}

/// A locked folder of checkpoints. The lock is released when this is dropped or the process ends, even if it is killed.
pub(super) struct Keeper {
    folder: PathBuf,
    settings: Settings,
    _lock: File,
}

const TRAINED: &str = "fit/trained/";

/// The name of the optimizer's state of a parameter.
fn slot_name(slot: &str, param: &str) -> String {
    format!("fit/{slot}/{param}")
}

/// All parameters in order, with their names.
fn params(model: &Sequential) -> impl Iterator<Item = (String, &Layer, &Param)> {
    let params = model.layers.iter().flat_map(|layer| layer.params().iter().map(move |param| (layer, param)));
    params.map(|(layer, param)| (format!("{}.{}", layer.name(), param.name), layer, param))
}

impl Keeper {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, epoch: usize) -> PathBuf {
        self.folder.join(format!("epoch_{epoch:04}.safetensors"))
    }

    /// The epochs that have checkpoints, in order.
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

    /// Writes the checkpoint of the last epoch of `history`, and deletes those that are no longer needed. `model` is
    /// the model that was validated. With a moving average, `trained` is the model that training updates.
    pub(super) fn save(
        &self,
        model: &Sequential,
        trained: Option<&Sequential>,
        updater: &Updater,
        history: &History,
    ) -> Result<()> {
        let epoch = history.epochs.len();
        let path = self.path(epoch);
        let state = State {
            settings: self.settings.clone(),
            steps: trained.unwrap_or(model).steps,
            updates: updater.steps,
            history: history.clone(),
        };
        let mut tensors: Vec<(String, Stored)> = vec![];
        for (name, layer, param) in params(model) {
            for slot in updater.slots() {
                if let Some(state) = updater.state(slot, layer.name(), param.name) {
                    tensors.push((slot_name(slot, &name), Stored { tensor: state.tensor(), dims: &param.dims }));
                }
            }
            tensors.push((name, Stored { tensor: param.tensor(), dims: &param.dims }));
        }
        for (name, _, param) in trained.into_iter().flat_map(params) {
            tensors.push((format!("{TRAINED}{name}"), Stored { tensor: param.tensor(), dims: &param.dims }));
        }
        let size = tensors.iter().map(|(_, values)| values.data_len()).sum();
        check_memory("the checkpoint", size, 0, |_| "use a smaller model".to_string())?;
        files::write_through(&path, &to_bytes(&path, &state, tensors)?)?;
        history.save_csv(self.folder.join("history.csv"))?;
        history.save_json(self.folder.join("history.json"))?;
        let best = history.best().map(|record| record.epoch);
        self.delete(|other| other + 1 < epoch && Some(other) != best)
    }

    /// Loads the newest checkpoint into the model, the updater and the average, and returns its history; `None` if
    /// there is no checkpoint. On error nothing is changed.
    ///
    /// # Errors
    /// [`Error::File`] if the file is damaged or belongs to another training run.
    pub(super) fn load(
        &self,
        model: &mut Sequential,
        updater: &mut Updater,
        average: Option<&mut Average>,
    ) -> Result<Option<History>> {
        let Some(path) = self.latest() else { return Ok(None) };
        let bytes = files::map(&path)?;
        let (state, tensors) = parse(&bytes).map_err(|why| self.damaged(&path, &why))?;
        if let Some(difference) = difference(&state.settings, &self.settings) {
            let help = "choose another folder, or use `Checkpoints::restart` to start again in this one";
            return Err(Error::file(path, format!("belongs to another training run: {difference}; {help}")));
        }
        let all = |prefix: &str| -> Result<Vec<Values>> {
            let tensor = |(name, _, param): (String, _, &Param)| {
                let name = format!("{prefix}{name}");
                flat(&tensors, &name, &param.dims).ok_or_else(|| {
                    Error::file(&path, format!("has no {name}; use `Checkpoints::restart` to start again"))
                })
            };
            params(model).map(tensor).collect()
        };
        let mut weights = all("")?;
        if !weights.iter().all(|values| all_finite(values.tensor())) {
            return Err(self.damaged(&path, "it has NaN or infinite weights"));
        }
        if let Some(average) = average {
            average.values = std::mem::replace(&mut weights, all(TRAINED)?);
        }
        updater.steps = state.updates;
        for (name, layer, param) in params(model) {
            for slot in updater.slots() {
                let value = flat(&tensors, &slot_name(slot, &name), &param.dims);
                updater.set_state(slot, layer.name(), param.name, value);
            }
        }
        model.steps = state.steps;
        let params = model.layers.iter_mut().flat_map(|layer| layer.params_mut());
        params.zip(weights).for_each(|(param, tensor)| param.values = tensor);
        Ok(Some(state.history))
    }

    fn damaged(&self, path: &Path, why: &str) -> Error {
        let help = match self.epochs().unwrap_or_default().as_slice() {
            [.., before, _] => format!("delete it to resume after epoch {before}"),
            _ => "delete it to start again".to_string(),
        };
        Error::file(path, format!("is damaged or not a checkpoint ({why}); {help}"))
    }

    /// The sentence that tells the reader that a run resumes.
    pub(super) fn resumed(&self, history: &History, epochs: usize) -> String {
        let (folder, done) = (self.folder.display(), history.epochs.len());
        let best = history.best().and_then(|best| Some((best.epoch, best.val_acc?)));
        let best = best.map_or(String::new(), |(epoch, acc)| format!(", best val_acc {acc:.4} in epoch {epoch}"));
        let what = if done == epochs { "has all" } else { "resumes after" };
        format!("{folder} {what} {done} of {epochs} epochs{best}; use `Checkpoints::restart` to start again")
    }

    /// The model with the weights of an epoch whose checkpoint is kept.
    pub(super) fn model_of(&self, epoch: usize, model: &Sequential) -> Result<Sequential> {
        let mut model = model.clone();
        model.load_weights(self.path(epoch))?;
        Ok(model)
    }
}

/// The first difference, such as "batch_size was 128 there and is 64 now".
fn difference(saved: &Settings, now: &Settings) -> Option<String> {
    let find = |settings: &Settings, name: &str| {
        settings.iter().find(|(other, _)| other == name).map_or("none".to_string(), |(_, value)| value.clone())
    };
    let mut names = saved.iter().chain(now).map(|(name, _)| name);
    let name = names.find(|name| find(saved, name) != find(now, name))?;
    Some(format!("{name} was {} there and is {} now", find(saved, name), find(now, name)))
}

/// A tensor that is converted to bytes only when it is written.
struct Stored<'a> {
    tensor: &'a Flat,
    dims: &'a [usize],
}

impl View for Stored<'_> {
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

/// The place of the checksum in the JSON of the header.
const CHECKSUM: &[u8] = br#""crc32":"00000000""#;
const DIGITS: usize = 8;

fn to_bytes(path: &Path, state: &State, tensors: Vec<(String, Stored)>) -> Result<Vec<u8>> {
    let fault = |error: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {error}"));
    let state = serde_json::to_string(state).map_err(|e| fault(&e))?;
    let metadata = [("fit", state), ("crc32", "0".repeat(DIGITS))].map(|(name, text)| (name.to_string(), text));
    let mut bytes = ::safetensors::serialize(tensors, Some(metadata.into_iter().collect())).map_err(|e| fault(&e))?;
    let digits = checksum_digits(&bytes).ok_or_else(|| fault(&"no place for the checksum"))?;
    let checksum = format!("{:08x}", crc32fast::hash(&bytes));
    bytes[digits..digits + DIGITS].copy_from_slice(checksum.as_bytes());
    Ok(bytes)
}

/// The position of the checksum's digits in the file.
fn checksum_digits(bytes: &[u8]) -> Option<usize> {
    let name = &CHECKSUM[..CHECKSUM.len() - DIGITS - 1];
    let header = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?.checked_add(8)?;
    let at = bytes.get(8..header)?.windows(CHECKSUM.len()).position(|window| window.starts_with(name))?;
    Some(8 + at + name.len())
}

/// The state and the tensors of a file, after a check of its checksum.
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

fn flat(tensors: &SafeTensors, name: &str, dims: &[usize]) -> Option<Values> {
    let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F32 && view.shape() == dims)?;
    let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Some(Values::new(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Seed, linear};
    use crate::optim::Optimizer;
    use crate::train::EpochRecord;

    /// `fit` does not write such a checkpoint, but earlier versions did.
    #[test]
    fn a_checkpoint_with_nan_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Checkpoints::resume(&folder).open(vec![]).unwrap();
        let mut model = Sequential::new((1, 1, 2), Seed(0));
        model.push("predictions", linear(2)).unwrap();
        let record = |epoch| EpochRecord {
            epoch,
            seconds: 1.0,
            images_per_second: 1.0,
            lr: 0.1,
            loss: 1.0,
            acc: 0.5,
            val_loss: None,
            val_acc: None,
        };
        let mut updater = Updater::new(Optimizer::default()).unwrap();
        let mut history = History { epochs: vec![record(1)] };
        keeper.save(&model, None, &updater, &history).unwrap();
        model.layers[0].params_mut()[0].set(vec![1.0, f32::NAN, 1.0, 1.0]);
        history.epochs.push(record(2));
        keeper.save(&model, None, &updater, &history).unwrap();
        let error = keeper.load(&mut model, &mut updater, None).unwrap_err().to_string();
        assert!(error.contains("epoch_0002.safetensors: is damaged or not a checkpoint"), "{error}");
        assert!(error.ends_with("(it has NaN or infinite weights); delete it to resume after epoch 1"), "{error}");
    }
}
