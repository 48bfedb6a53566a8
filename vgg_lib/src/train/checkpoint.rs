//! Checkpoints: training is saved after each epoch, and every few minutes within long epochs, so that it can resume
//! after an interruption.
//!
//! The folder holds files such as `epoch_0007.safetensors` for the last two epochs and the best one,
//! `epoch_0008_step_00120.safetensors` if the newest checkpoint is within an epoch, and the history as `history.csv` and
//! `history.json`. A checkpoint contains
//!
//! ```text
//! block1_conv1.weight …              the model that was validated: `load_weights` reads this file
//! fit/velocity/block1_conv1.weight … the state of the optimizer: here the velocity of SGD
//! fit/trained/block1_conv1.weight …  with a moving average: the weights that training updates
//! metadata "fit"                     JSON: the settings, the number of steps, the history, the sums of a part of an epoch
//! metadata "crc32"                   the checksum of the file, computed with zeros in place of these eight digits
//! ```
//!
//! All random numbers depend only on the seed, the epoch and the step, so a resumed run needs nothing else to reach the
//! same result.

use super::checkpoint_file::{Part, Settings, State, Stored, flat, parse, to_bytes};
use super::history::History;
use crate::model::{Layer, Param, Sequential, Values};
use crate::optim::{Average, Updater};
use crate::process::check_memory;
use crate::tensor::all_finite;
use crate::text::counted;
use crate::{Error, Result, files};
use ::safetensors::{SafeTensors, View};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where to save a training run: weights, momentum, running statistics and history. It is saved after each epoch, and
/// every five minutes within longer epochs. A resumed run reaches, bit for bit, the same weights as a run without
/// interruption (on the same machine with the same number of threads).
///
/// A file `stop` in the folder ends the run after the current step, with a checkpoint.
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
    minutes: f64,
}

impl Checkpoints {
    /// Saves the run in `folder`, and resumes from the newest checkpoint that is already there.
    pub fn resume(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { folder: folder.as_ref().to_path_buf(), restart: false, minutes: 5.0 }
    }

    /// Saves the run in `folder`, after deleting all checkpoints that are already there.
    pub fn restart(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { restart: true, ..Checkpoints::resume(folder) }
    }

    /// Saves the run every this many minutes within an epoch, too; `f64::INFINITY` for only after each epoch. Each such
    /// checkpoint replaces the one before.
    pub fn every_minutes(self, minutes: f64) -> Checkpoints {
        Checkpoints { minutes, ..self }
    }

    /// The file that ends the run.
    pub(super) fn stop_file(&self) -> PathBuf {
        self.folder.join("stop")
    }

    /// Creates the folder and locks it.
    pub(super) fn open(&self, settings: Settings) -> Result<Keeper> {
        let (folder, minutes) = (self.folder.clone(), self.minutes);
        if minutes.is_nan() || minutes < 0.0 {
            let what = format!("checkpoints every {minutes} minutes are impossible; use at least 0, such as 5.0");
            return Err(Error::Config(what));
        }
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
        let every = Duration::try_from_secs_f64(60.0 * minutes).unwrap_or(Duration::MAX);
        let keeper = Keeper { folder, settings, every, restart: self.restart, _lock: lock };
        if self.restart {
            keeper.delete(|_| true)?;
        }
        Ok(keeper)
    }
}

/// How far a checkpoint is. Later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Whole epochs.
    epochs: usize,
    /// Steps of the next epoch.
    steps: usize,
}

impl Place {
    fn file_name(self) -> String {
        match self {
            Place { epochs, steps: 0 } => format!("epoch_{epochs:04}.safetensors"),
            Place { epochs, steps } => format!("epoch_{:04}_step_{steps:05}.safetensors", epochs + 1),
        }
    }

    fn of_file(name: &str) -> Option<Place> {
        let numbers = name.strip_prefix("epoch_")?.strip_suffix(".safetensors")?;
        match numbers.split_once("_step_") {
            None => Some(Place { epochs: numbers.parse().ok()?, steps: 0 }),
            Some((epoch, steps)) => {
                Some(Place { epochs: epoch.parse::<usize>().ok()?.checked_sub(1)?, steps: steps.parse().ok()? })
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match *self {
            Place { epochs, steps: 0 } => write!(f, "epoch {epochs}"),
            Place { epochs, steps } => write!(f, "step {steps} of epoch {}", epochs + 1),
        }
    }
}

/// A locked folder of checkpoints. The lock is released when this is dropped or the process ends, even if it is killed.
pub(super) struct Keeper {
    folder: PathBuf,
    settings: Settings,
    /// The time between two checkpoints within an epoch.
    pub(super) every: Duration,
    /// Whether the same call of `fit` starts again.
    pub(super) restart: bool,
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

    fn path(&self, place: Place) -> PathBuf {
        self.folder.join(place.file_name())
    }

    /// The checkpoints, the newest last.
    fn places(&self) -> Result<Vec<Place>> {
        let fault = || Error::io("read", &self.folder);
        let mut places = vec![];
        for entry in fs::read_dir(&self.folder).map_err(fault())? {
            let name = entry.map_err(fault())?.file_name();
            places.extend(name.to_str().and_then(Place::of_file));
        }
        places.sort_unstable();
        Ok(places)
    }

    fn delete(&self, which: impl Fn(Place) -> bool) -> Result<()> {
        for place in self.places()?.into_iter().filter(|&place| which(place)) {
            let path = self.path(place);
            fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        }
        Ok(())
    }

    /// The newest checkpoint.
    pub(super) fn latest(&self) -> Option<PathBuf> {
        self.places().ok()?.last().map(|&place| self.path(place))
    }

    /// Writes a checkpoint after the last epoch of the history or, with a part, within the next epoch. Deletes those that
    /// are no longer needed.
    pub(super) fn save(&self, snapshot: Snapshot) -> Result<()> {
        let Snapshot { history, part, .. } = snapshot;
        let place = Place { epochs: history.epochs.len(), steps: part.map_or(0, |part| part.steps) };
        let path = self.path(place);
        files::write_through(&path, &snapshot.to_bytes(&path)?)?;
        history.save_csv(self.folder.join("history.csv"))?;
        history.save_json(self.folder.join("history.json"))?;
        let best = history.best().map(|record| record.epoch);
        self.delete(|other| match other.steps {
            0 => other.epochs + 1 < place.epochs && Some(other.epochs) != best,
            _ => other != place,
        })
    }

    /// The settings of the run.
    pub(super) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Loads the newest checkpoint into the model, the updater and the average, and returns its history and the part of
    /// the epoch after it; `None` if there is no checkpoint. On error nothing is changed.
    ///
    /// # Errors
    /// [`Error::File`] if the file is damaged or belongs to another training run.
    pub(super) fn load(
        &self,
        model: &mut Sequential,
        updater: &mut Updater,
        average: Option<&mut Average>,
    ) -> Result<Option<(History, Option<Part>)>> {
        let Some(path) = self.latest() else { return Ok(None) };
        let bytes = files::map(&path)?;
        let (state, tensors) = parse(&bytes).map_err(|why| self.damaged(&path, &why))?;
        if let Some(difference) = difference(&state.settings, &self.settings) {
            let help = "choose another folder, or use `Checkpoints::restart` to start again in this one";
            return Err(Error::file(path, format!("belongs to another training run: {difference}; {help}")));
        }
        restore(state, &tensors, model, updater, average).map(Some).map_err(|fault| match fault {
            Fault::Missing(name) => {
                Error::file(&path, format!("has no {name}; use `Checkpoints::restart` to start again"))
            }
            Fault::NotFinite => self.damaged(&path, "it has NaN or infinite weights"),
        })
    }

    fn damaged(&self, path: &Path, why: &str) -> Error {
        let help = match self.places().unwrap_or_default().as_slice() {
            [.., before, _] => format!("delete it to resume after {before}"),
            _ => "delete it to start again".to_string(),
        };
        Error::file(path, format!("is damaged or not a checkpoint ({why}); {help}"))
    }

    /// The sentence that tells the reader that a run resumes.
    pub(super) fn resumed(&self, history: &History, part: Option<Part>, epochs: usize) -> String {
        let (folder, done) = (self.folder.display(), history.epochs.len());
        let best = history.best().and_then(|best| Some((best.epoch, best.val_acc?)));
        let best = best.map_or(String::new(), |(epoch, acc)| format!(", best val_acc {acc:.4} in epoch {epoch}"));
        let what = match part {
            None if done == epochs => format!("has all {done} of {epochs} epochs"),
            None => format!("resumes after {done} of {epochs} epochs"),
            Some(part) => {
                format!("resumes in epoch {} of {epochs} after {}", done + 1, counted(part.steps, "step", "steps"))
            }
        };
        format!("{folder} {what}{best}; use `Checkpoints::restart` to start again")
    }

    /// The model with the weights of an epoch whose checkpoint is kept.
    pub(super) fn model_of(&self, epoch: usize, model: &Sequential) -> Result<Sequential> {
        let mut model = model.clone();
        model.load_weights(self.path(Place { epochs: epoch, steps: 0 }))?;
        Ok(model)
    }
}

/// A moment of a training run.
#[derive(Clone, Copy)]
pub(super) struct Snapshot<'a> {
    /// The model that is validated.
    pub(super) model: &'a Sequential,
    /// With a moving average, the model that training updates.
    pub(super) trained: Option<&'a Sequential>,
    pub(super) updater: &'a Updater,
    pub(super) history: &'a History,
    pub(super) part: Option<Part>,
    pub(super) settings: &'a [(String, String)],
}

impl Snapshot<'_> {
    /// The content of its file, which will be at `path`.
    pub(super) fn to_bytes(self, path: &Path) -> Result<Vec<u8>> {
        let Snapshot { model, trained, updater, history, part, settings } = self;
        let state = State {
            settings: settings.to_vec(),
            steps: trained.unwrap_or(model).steps,
            updates: updater.steps,
            history: history.clone(),
            part,
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
        to_bytes(path, &state, tensors)
    }
}

/// Why a run cannot go on from a snapshot.
#[derive(Debug)]
pub(super) enum Fault {
    /// It has no tensor of this name.
    Missing(String),
    NotFinite,
}

/// Puts a snapshot into the model, the updater and the average, and returns its history and the part of the epoch after
/// it. On error nothing is changed.
pub(super) fn restore(
    state: State,
    tensors: &SafeTensors,
    model: &mut Sequential,
    updater: &mut Updater,
    average: Option<&mut Average>,
) -> std::result::Result<(History, Option<Part>), Fault> {
    let all = |prefix: &str| -> std::result::Result<Vec<Values>, Fault> {
        let tensor = |(name, _, param): (String, _, &Param)| {
            let name = format!("{prefix}{name}");
            flat(tensors, &name, &param.dims).ok_or(Fault::Missing(name))
        };
        params(model).map(tensor).collect()
    };
    let mut weights = all("")?;
    if !weights.iter().all(|values| all_finite(values.tensor())) {
        return Err(Fault::NotFinite);
    }
    if let Some(average) = average {
        average.values = std::mem::replace(&mut weights, all(TRAINED)?);
    }
    updater.steps = state.updates;
    for (name, layer, param) in params(model) {
        for slot in updater.slots() {
            let value = flat(tensors, &slot_name(slot, &name), &param.dims);
            updater.set_state(slot, layer.name(), param.name, value);
        }
    }
    model.steps = state.steps;
    let params = model.layers.iter_mut().flat_map(|layer| layer.params_mut());
    params.zip(weights).for_each(|(param, tensor)| param.values = tensor);
    Ok((state.history, state.part))
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
        let save = |model: &Sequential, updater: &Updater, history: &History| {
            keeper.save(Snapshot { model, trained: None, updater, history, part: None, settings: &[] }).unwrap();
        };
        save(&model, &updater, &history);
        model.layers[0].params_mut()[0].set(vec![1.0, f32::NAN, 1.0, 1.0]);
        history.epochs.push(record(2));
        save(&model, &updater, &history);
        let error = keeper.load(&mut model, &mut updater, None).unwrap_err().to_string();
        assert!(error.contains("epoch_0002.safetensors: is damaged or not a checkpoint"), "{error}");
        assert!(error.ends_with("(it has NaN or infinite weights); delete it to resume after epoch 1"), "{error}");
    }
}
