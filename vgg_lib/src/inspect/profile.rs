//! Where the time of a training step goes, layer by layer.

use crate::data::Batch;
use crate::engine::laps::timed;
use crate::engine::memory::check_training;
use crate::model::{Op, Sequential, Shape};
use crate::optim::{Optimizer, Updater};
use crate::table::{Column, Table};
use crate::tensor::Gradients;
use crate::train::FitConfig;
use crate::{Error, Result};
use dfdx::prelude::Backward;
use std::fmt;
use std::time::{Duration, Instant};

/// One layer of a [`Profile`].
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRow {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// Milliseconds per step in the forward pass.
    pub forward: f64,
    /// Milliseconds per step in the backward pass: the gradients of input and weights.
    pub backward: f64,
    /// Arithmetic per step, forward and backward, in 10⁹ multiplications and additions, as the definition of the layer
    /// counts them.
    pub gflop: f64,
}

/// The time of one training step. Layers, optimizer and `rest` add up to `total`.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// One per layer. A dropout after a batch norm runs, and is counted, with it.
    pub rows: Vec<ProfileRow>,
    /// Milliseconds of the optimizer's update of all parameters.
    pub optimizer: f64,
    /// Milliseconds of everything else: the loss, and copies between dfdx's tensors and ours.
    pub rest: f64,
    /// Milliseconds of the whole step.
    pub total: f64,
    /// Images per step.
    pub batch_size: usize,
}

impl Sequential {
    /// Takes `steps` training steps with a copy of the model on a batch of noise and reports the mean time of each
    /// layer. The model itself does not change.
    ///
    /// # Errors
    /// [`Error::Shape`] if the model does not end in a vector, [`Error::Config`] if `batch_size` or `steps` is 0 or a step
    /// does not fit in memory.
    pub fn profile(&self, batch_size: usize, steps: usize) -> Result<Profile> {
        if batch_size == 0 || steps == 0 {
            return Err(Error::Config("a profile needs at least one image and one step".to_string()));
        }
        let (h, w, c) = self.input_shape();
        check_training(self, Shape::Map(h, w, c), batch_size)?;
        let Shape::Flat(classes) = self.output_shape(Shape::Map(h, w, c))? else {
            return Err(Error::Shape("a profile needs a classifier; end the model in linear(classes)".to_string()));
        };
        let values = (0..batch_size * h * w * c).map(|i| (i as u32).wrapping_mul(2_654_435_761) as f32 / 2e9 - 1.0);
        let images: Vec<f32> = values.collect();
        let labels: Vec<usize> = (0..batch_size).map(|i| i % classes).collect();

        let rows = self.profile_rows(batch_size)?;
        let mut profile = Profile { rows, optimizer: 0.0, rest: 0.0, total: 0.0, batch_size };
        let mut model = self.clone();
        let mut updater = Updater::new(Optimizer::default())?;
        let (mut gradients, config) = (Gradients::leaky(), FitConfig::default());
        for step in 0..=steps {
            let batch = Batch {
                images: images.clone(),
                image_shape: (h, w, c),
                labels: labels.clone(),
                mixed: None,
                n: batch_size,
            };
            let start = Instant::now();
            let (result, laps) = timed(|| Ok::<_, Error>(model.loss(batch, gradients, &config, None)?.0.backward()));
            gradients = result?;
            let optimizer = Instant::now();
            updater.step(&mut model, &mut gradients, 0.0)?;
            let end = Instant::now();
            if step == 0 {
                continue; // the first step allocates memory
            }
            let part = |time: Duration| time.as_secs_f64() * 1e3 / steps as f64;
            profile.total += part(end - start);
            profile.optimizer += part(end - optimizer);
            for lap in laps {
                let row = &mut profile.rows[lap.layer];
                *if lap.backward { &mut row.backward } else { &mut row.forward } += part(lap.time);
            }
        }
        let layers: f64 = profile.rows.iter().map(|row| row.forward + row.backward).sum();
        profile.rest = profile.total - profile.optimizer - layers;
        Ok(profile)
    }

    /// One row per layer, with its arithmetic but without times.
    fn profile_rows(&self, batch_size: usize) -> Result<Vec<ProfileRow>> {
        let (h, w, c) = self.input_shape();
        let mut shape = Shape::Map(h, w, c);
        let mut rows = vec![];
        for layer in self.layers() {
            let output = layer.output(shape)?;
            let products = match layer.op() {
                Op::Conv2d { kernel, .. } => kernel * kernel * shape.channels() * output.size(),
                Op::Linear { units, .. } => shape.size() * units,
                _ => 0,
            };
            // A multiplication and an addition each; the backward pass has two products, one for each gradient.
            let gflop = (2 * 3 * products * batch_size) as f64 / 1e9;
            let (name, kind) = (layer.name().to_string(), layer.op().type_name());
            rows.push(ProfileRow { name, kind, forward: 0.0, backward: 0.0, gflop });
            shape = output;
        }
        Ok(rows)
    }
}

/// A table. GFLOP/s count the arithmetic of each layer's definition, so a fast algorithm may exceed what the CPU can do.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = [
            Column::left("layer", 0),
            Column::left("type", 0),
            Column::right("forward ms", 0),
            Column::right("backward ms", 0),
            Column::right("%", 5),
            Column::right("GFLOP/s", 0),
        ];
        let share = |ms: f64| format!("{:.1}", 100.0 * ms / self.total);
        let mut rows = vec![];
        for row in self.rows.iter().filter(|row| row.forward + row.backward >= 0.005) {
            let sum = row.forward + row.backward;
            let speed = if row.gflop > 0.0 { format!("{:.0}", row.gflop / sum * 1e3) } else { String::new() };
            let [forward, backward] = [row.forward, row.backward].map(|ms| format!("{ms:.2}"));
            rows.push([row.name.clone(), row.kind.to_string(), forward, backward, share(sum), speed]);
        }
        let whole = |name: &str, ms: f64| {
            [name.to_string(), String::new(), String::new(), format!("{ms:.2}"), share(ms), String::new()]
        };
        rows.push(whole("optimizer", self.optimizer));
        rows.push(whole("loss, copies", self.rest));
        rows.push(whole("whole step", self.total));
        let images = self.batch_size as f64 / self.total * 1e3;
        write!(f, "{}\n{images:.0} images/s", Table { columns, rows }.lines().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use crate::Result;
    use crate::model::*;

    #[test]
    fn a_profile_adds_up_and_does_not_change_the_model() -> Result<()> {
        let mut model = Sequential::new((8, 8, 3), Seed(0));
        model.push("conv", conv2d(8).relu())?;
        model.push("norm", batch_norm())?;
        model.push("pool", max_pool2d())?;
        assert!(model.profile(4, 1).is_err(), "no classifier yet");
        model.push("flatten", flatten())?;
        model.push("predictions", linear(3))?;
        let before = model.state_dict();
        let profile = model.profile(4, 2)?;
        assert_eq!(model.state_dict(), before);
        assert!(model.profile(0, 1).is_err() && model.profile(1, 0).is_err());

        let layers: f64 = profile.rows.iter().map(|row| row.forward + row.backward).sum();
        approx::assert_relative_eq!(layers + profile.optimizer + profile.rest, profile.total, max_relative = 1e-9);
        assert!(profile.rest >= 0.0 && profile.optimizer > 0.0);
        for row in &profile.rows[..3] {
            assert!(row.forward > 0.0 && row.backward > 0.0, "{row:?}");
        }
        let conv = 3 * 2 * 9 * 3 * 8 * 8 * 8 * 4; // three products, a multiplication and an addition each
        approx::assert_relative_eq!(profile.rows[0].gflop, f64::from(conv) / 1e9);
        Ok(())
    }
}
