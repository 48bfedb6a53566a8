//! What several ranks do together in a training run: they begin with the state of rank 0, take steps from the sums of
//! their gradients, and evaluate shares of the validation data.

use super::checkpoint::{Fault, restore};
use super::checkpoint_file::{Settings, parse};
use super::config::FitConfig;
use super::evaluate::Mean;
use super::run::Run;
use crate::distributed::{Ranks, Share};
use crate::engine::Exchange;
use crate::model::{Sequential, Values};
use crate::tensor::Gradients;
use crate::{Error, Result};
use std::sync::Arc;

/// Returns an error on every rank if there is one on any of them.
pub(super) fn agree<T>(ranks: Option<&Ranks>, result: Result<T>) -> Result<T> {
    match ranks {
        Some(ranks) => ranks.agree(result),
        None => result,
    }
}

/// The share of a batch that this process computes.
pub(super) fn share(ranks: Option<&Ranks>) -> Share {
    ranks.map_or(Share::WHOLE, |ranks| ranks.share)
}

/// Returns an error on every rank if they do not all train the same.
pub(super) fn check_same(ranks: &Ranks, model: &Sequential, settings: &Settings, config: &FitConfig) -> Result<()> {
    let FitConfig { epochs, patience, restore_best, .. } = config;
    let bf16 = ranks.agree(model.uses_bf16())?;
    let others = [
        ("the version of vgg_lib", env!("CARGO_PKG_VERSION").to_string()),
        ("the precision", if bf16 { "bf16" } else { "f32" }.to_string()),
        ("epochs", epochs.to_string()),
        ("patience", format!("{patience:?}")),
        ("restore_best", restore_best.to_string()),
        ("synchronize_batch_norm", ranks.is_synchronized().to_string()),
    ];
    let others = others.into_iter().map(|(name, value)| (name.to_string(), value));
    ranks.check_same(&others.chain(settings.iter().cloned()).collect::<Vec<_>>())
}

impl Run<'_> {
    /// Gives all ranks the state of rank 0, which may have resumed from a checkpoint.
    pub(super) fn begin_together(&mut self, model: &mut Sequential) -> Result<()> {
        let Some(ranks) = self.ranks.clone() else { return Ok(()) };
        let mut bytes = match ranks.is_first() {
            true => ranks.agree(self.state(model))?,
            false => ranks.agree(Ok(vec![]))?,
        };
        ranks.broadcast(&mut bytes);
        let restored = match ranks.is_first() {
            true => Ok(()),
            false => self.restore(&bytes, model).map_err(|why| {
                Error::Config(format!("rank 0 has a state from which training cannot begin: {why}; load other weights"))
            }),
        };
        ranks.agree(restored)
    }

    fn restore(&mut self, bytes: &[u8], model: &mut Sequential) -> std::result::Result<(), String> {
        let (state, tensors) = parse(bytes)?;
        let restored = restore(state, &tensors, model, &mut self.updater, self.average.as_mut());
        (self.history, self.part) = restored.map_err(|fault| match fault {
            Fault::Missing(name) => format!("it has no {name}"),
            Fault::NotFinite => "it has NaN or infinite weights".to_string(),
        })?;
        Ok(())
    }

    /// The state of the run, as a checkpoint has it.
    fn state(&self, model: &Sequential) -> Result<Vec<u8>> {
        let averaged = self.average.as_ref().map(|average| average.of(model));
        let snapshot = self.snapshot(model, averaged.as_ref(), self.part, &[]);
        snapshot.to_bytes("the state of rank 0".as_ref())
    }

    /// A step of all ranks, if there are several.
    pub(super) fn exchange(&self, model: &Sequential) -> Option<Arc<Exchange>> {
        let FitConfig { batch_size, accumulate, .. } = self.config;
        let ranks = self.ranks.clone()?;
        Some(Arc::new(Exchange::new(ranks, model, batch_size, accumulate)))
    }

    /// What rank 0 answers to a question.
    pub(super) fn first_says(&self, answer: bool) -> bool {
        self.ranks.as_ref().map_or(answer, |ranks| ranks.first_says(answer))
    }

    /// Gives all ranks the weights of rank 0. Machines with different CPUs round differently, so their weights drift
    /// apart.
    pub(super) fn unite(&mut self, model: &mut Sequential) {
        let Some(ranks) = &self.ranks else { return };
        send_values(ranks, weights(model));
        send_values(ranks, self.average.iter_mut().flat_map(|average| average.values.iter_mut()));
    }
}

/// Gives all ranks the weights of rank 0.
pub(super) fn send_weights(ranks: Option<&Ranks>, model: &mut Sequential) {
    ranks.into_iter().for_each(|ranks| send_values(ranks, weights(model)));
}

fn weights(model: &mut Sequential) -> impl Iterator<Item = &mut Values> {
    let params = model.layers.iter_mut().flat_map(|layer| layer.params_mut());
    params.map(|param| &mut param.values)
}

fn send_values<'a>(ranks: &Ranks, all: impl Iterator<Item = &'a mut Values>) {
    let all: Vec<_> = all.collect();
    let mut bytes = vec![];
    if ranks.is_first() {
        let values = all.iter().flat_map(|values| values.tensor().as_vec());
        bytes.extend(values.flat_map(f32::to_le_bytes));
    }
    ranks.broadcast(&mut bytes);
    if ranks.is_first() {
        return;
    }
    let mut floats = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    for values in all {
        *values = Values::new(floats.by_ref().take(values.len()).collect());
    }
}

impl Mean {
    /// Ends a step of all ranks: sums their gradients and these means.
    pub(super) fn exchange(
        &mut self,
        model: &mut Sequential,
        exchange: Arc<Exchange>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let [loss, correct] = model.exchange(&exchange, gradients, [self.loss, self.correct as f64])?;
        (self.loss, self.correct) = (loss, correct as usize);
        Ok(())
    }
}
