//! Keras networks that begin with `Rescaling` or `Normalization`: the model has to begin with a preprocessing layer that
//! computes the same, (x − mean) / std.

use super::Matching;
use crate::formats::keras_layers::{PixelChange, PixelStep};
use crate::model::Op;
use crate::text::listed;

/// Mean and standard deviation of each channel.
type Scaling = [[f64; 3]; 2];

impl Matching<'_> {
    /// Compares what the network of the file does to its pixels with what the model does.
    pub(super) fn pixels(&mut self, steps: &[PixelStep]) -> Result<(), String> {
        if steps.is_empty() {
            return Ok(());
        }
        self.used.extend(steps.iter().flat_map(|step| step.tensors.iter().cloned()));
        let names: Vec<String> = steps.iter().map(|step| step.layer.clone()).collect();
        let own =
            self.layers().iter().take_while(|layer| layer.params().is_empty()).find_map(|layer| match layer.op() {
                Op::Preprocess { mean, std, bgr } => Some((layer.name(), [mean, std].map(|v| v.map(f64::from)), bgr)),
                _ => None,
            });
        // A model for other images than RGB cannot have a preprocessing layer. What code does, only its documentation
        // says.
        let is_rgb = self.model.input_shape().2 == 3;
        if !is_rgb || steps.iter().all(|step| step.change == PixelChange::Code) {
            self.skipped.extend(names.into_iter().filter(|_| own.is_none()));
            return Ok(());
        }
        let first = format!("its network first changes the pixels in {}", listed(&names, ", "));
        const READY: &str = "preprocess([0.0; 3]) if the images are changed already";
        match (own, combined(steps)) {
            // The layer says which pixels the model takes. One that does nothing says that they are ready.
            (Some(_), None) => Ok(()),
            (Some((_, own, false)), Some(theirs)) if is_close(own, theirs) || own == [[0.0; 3], [1.0; 3]] => Ok(()),
            (Some((name, ..)), Some(theirs)) => {
                let line = shown(theirs);
                Err(format!("{first}, as {line} does, unlike the model's layer '{name}'; make it that, or {READY}"))
            }
            (None, Some(theirs)) => {
                let line = shown(theirs);
                Err(format!("{first}, as {line} does; begin the model with that layer, or with {READY}"))
            }
            (None, None) => Err(format!(
                "{first}, and the file does not say how; begin the model with a preprocessing layer that does the same, \
                 preprocess([0.0; 3]).std([255.0; 3]) for Rescaling(1/255), or with {READY}"
            )),
        }
    }
}

/// All steps as one; `None` if one is unknown or not for three channels.
fn combined(steps: &[PixelStep]) -> Option<Scaling> {
    let [mut mean, mut std] = [[0.0; 3], [1.0; 3]];
    for step in steps {
        let [next_mean, next_std] = scaling(&step.change)?;
        for channel in 0..3 {
            mean[channel] += std[channel] * next_mean[channel];
            std[channel] *= next_std[channel];
        }
    }
    let are_fine = mean.iter().chain(&std).all(|value| value.is_finite()) && std.iter().all(|&std| std > 0.0);
    are_fine.then_some([mean, std])
}

fn scaling(change: &PixelChange) -> Option<Scaling> {
    match change {
        PixelChange::Rescaling { scale, offset } => {
            let (scale, offset) = (of_channels(scale)?, of_channels(offset)?);
            Some([std::array::from_fn(|i| -offset[i] / scale[i]), scale.map(|scale| 1.0 / scale)])
        }
        PixelChange::Normalization { mean, variance } => {
            const EPSILON: f64 = 1e-7; // Keras'
            Some([of_channels(mean)?, of_channels(variance)?.map(|variance| variance.sqrt().max(EPSILON))])
        }
        PixelChange::Unknown | PixelChange::Code => None,
    }
}

fn of_channels(values: &[f64]) -> Option<[f64; 3]> {
    match *values {
        [value] => Some([value; 3]),
        [r, g, b] => Some([r, g, b]),
        _ => None,
    }
}

fn is_close([mean, std]: Scaling, [their_mean, their_std]: Scaling) -> bool {
    (0..3)
        .all(|i| (mean[i] - their_mean[i]).abs() <= 1e-3 * their_std[i] && (std[i] / their_std[i] - 1.0).abs() <= 1e-3)
}

/// The layer as it is written in Rust.
fn shown([mean, std]: Scaling) -> String {
    let array = |values: [f64; 3]| {
        let values = values.map(|value| value as f32 + 0.0); // no -0.0
        if values == [values[0]; 3] { format!("[{:?}; 3]", values[0]) } else { format!("{values:?}") }
    };
    format!("preprocess({}).std({})", array(mean), array(std))
}
