//! Where the time of a training step goes, layer by layer.

use crate::data::Batch;
use crate::engine::cpu::laps::timed;
use crate::model::{Op, Sequential, Shape};
use crate::optim::{Optimizer, Updater};
use crate::tensor::Gradients;
use crate::{Error, Result};
use dfdx::prelude::Backward;
use std::fmt;
use std::time::Instant;

/// One layer of a [`Profile`].
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRow {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// Milliseconds a step, forward.
    pub forward: f64,
    /// Milliseconds a step, backward: both gradients.
    pub backward: f64,
    /// Arithmetic of the layer's plain definition, both directions, in 10⁹ multiplications and additions a step.
    pub gflop: f64,
}

/// The time of one training step. The layers, the loss and the optimizer add up to the total but for `rest`.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// One a layer; a dropout behind a batch norm is done, and counted, with it.
    pub rows: Vec<ProfileRow>,
    /// Milliseconds of the optimizer's update of all parameters.
    pub optimizer: f64,
    /// Milliseconds of what is in none of the parts: the loss, and copies between dfdx's tensors and ours.
    pub rest: f64,
    /// Milliseconds of the whole step.
    pub total: f64,
    /// Images a step.
    pub batch_size: usize,
}

impl Sequential {
    /// Takes `steps` training steps on a copy of the model and a batch of noise and says what each layer took, in the
    /// mean. The model itself stays as it is.
    ///
    /// # Errors
    /// [`Error::Shape`] if the model does not end in a vector, [`Error::Config`] for a batch or a number of steps of 0.
    pub fn profile(&self, batch_size: usize, steps: usize) -> Result<Profile> {
        if batch_size == 0 || steps == 0 {
            return Err(Error::Config("a profile needs at least one image and one step".to_string()));
        }
        let mut model = self.clone();
        let (h, w, c) = model.input_shape();
        let Shape::Flat(classes) = model.output_shape(Shape::Map(h, w, c))? else {
            return Err(Error::Shape("a profile needs a classifier; end the model in linear(classes)".to_string()));
        };
        let values = (0..batch_size * h * w * c).map(|i| (i as u32).wrapping_mul(2_654_435_761) as f32 / 2e9 - 1.0);
        let images: Vec<f32> = values.collect();
        let labels: Vec<usize> = (0..batch_size).map(|i| i % classes).collect();

        let mut profile = Profile { rows: vec![], optimizer: 0.0, rest: 0.0, total: 0.0, batch_size };
        let mut shape = Shape::Map(h, w, c);
        for layer in model.layers() {
            let output = layer.output(shape)?;
            // Twice backward: the gradients of the input and of the weights.
            let products = match layer.op() {
                Op::Conv2d { kernel, .. } => kernel * kernel * shape.channels() * output.size(),
                Op::Linear { units, .. } => shape.size() * units,
                _ => 0,
            };
            let gflop = (2 * 3 * products * batch_size) as f64 / 1e9;
            let (name, kind) = (layer.name().to_string(), layer.op().type_name());
            profile.rows.push(ProfileRow { name, kind, forward: 0.0, backward: 0.0, gflop });
            shape = output;
        }
        let mut updater = Updater::new(Optimizer::default())?;
        let mut gradients = Gradients::leaky();
        for step in 0..=steps {
            let batch = Batch { images: images.clone(), labels: labels.clone(), n: batch_size };
            let start = Instant::now();
            let (result, laps) = timed(|| Ok::<_, Error>(model.loss(batch, gradients, 0.0)?.0.backward()));
            gradients = result?;
            let optimizer = Instant::now();
            updater.step(&mut model, &mut gradients, 0.0)?;
            let end = Instant::now();
            if step == 0 {
                continue; // memory is allocated in the first
            }
            let part = |time: std::time::Duration| time.as_secs_f64() * 1e3 / steps as f64;
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
}

/// A table; GFLOP/s count the plain definition's arithmetic, so a fast algorithm may exceed what the CPU can do.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let share = |ms: f64| 100.0 * ms / self.total;
        writeln!(
            f,
            "{:<24}{:<12}{:>12}{:>13}{:>7}{:>10}",
            "layer", "type", "forward ms", "backward ms", "%", "GFLOP/s"
        )?;
        for row in self.rows.iter().filter(|row| row.forward + row.backward >= 0.005) {
            let ProfileRow { name, kind, forward, backward, gflop } = row;
            let (sum, speed) = (forward + backward, gflop / (forward + backward) * 1e3);
            let speed = if *gflop > 0.0 { format!("{speed:.0}") } else { String::new() };
            writeln!(f, "{name:<24}{kind:<12}{forward:>12.2}{backward:>13.2}{:>7.1}{speed:>10}", share(sum))?;
        }
        for (name, ms) in [("optimizer", self.optimizer), ("loss, copies", self.rest)] {
            writeln!(f, "{name:<36}{ms:>25.2}{:>7.1}", share(ms))?;
        }
        let images = self.batch_size as f64 / self.total * 1e3;
        write!(f, "{:<36}{:>25.2}{:>7.1}   {images:.0} images/s", "a step", self.total, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::Result;
    use crate::model::*;

    #[test]
    fn a_profile_adds_up_and_leaves_the_model_alone() -> Result<()> {
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
        let conv = 3 * 2 * 9 * 3 * 8 * 8 * 8 * 4; // three passes, a multiplication and an addition each
        approx::assert_relative_eq!(profile.rows[0].gflop, f64::from(conv) / 1e9);
        Ok(())
    }
}
