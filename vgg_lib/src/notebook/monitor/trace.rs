//! The thin curve between the ends of epochs: loss and accuracy over windows of a few steps.

use serde::Serialize;

use super::Now;

/// Points per epoch, at first.
const WINDOWS_PER_EPOCH: usize = 20;
/// The largest number of points. When it is reached, each two become one.
const MOST_POINTS: usize = 400;

/// Points [epochs done, loss, accuracy], each the mean over a window of steps. All windows have the same length.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Trace {
    points: Vec<[f32; 3]>,
    /// Steps per epoch.
    #[serde(skip)]
    steps: usize,
    /// Steps per window.
    #[serde(skip)]
    window: usize,
    /// Steps of the current window so far.
    #[serde(skip)]
    seen: usize,
    /// The sums of these steps.
    #[serde(skip)]
    sums: [f64; 3],
    /// The number of images and the sums of loss and accuracy over the current epoch, up to the last step.
    #[serde(skip)]
    before: [f64; 3],
}

impl Trace {
    /// For epochs of `steps` steps.
    pub(super) fn new(steps: usize) -> Trace {
        Trace { steps, window: steps.div_ceil(WINDOWS_PER_EPOCH).max(1), ..Trace::default() }
    }

    /// Adds a step.
    pub(super) fn step(&mut self, now: &Now) {
        if now.step <= 1 {
            self.before = [0.0; 3];
        }
        let images = now.images as f64;
        let sums = [images, images * f64::from(now.loss), images * f64::from(now.acc)];
        // What this step alone added to the means of the epoch.
        let [n, loss, acc] = [0, 1, 2].map(|i| sums[i] - self.before[i]);
        self.before = sums;
        let x = (now.epoch - 1) as f64 + now.step as f64 / self.steps.max(1) as f64;
        let values = [x, loss / n, acc / n];
        self.sums = [0, 1, 2].map(|i| self.sums[i] + values[i]);
        self.seen += 1;
        if self.seen >= self.window {
            self.points.push(self.sums.map(|sum| (sum / self.seen as f64) as f32));
            (self.seen, self.sums) = (0, [0.0; 3]);
            self.shorten();
        }
    }

    /// Doubles the windows if there are too many points.
    fn shorten(&mut self) {
        if self.points.len() >= MOST_POINTS {
            let mean = |pair: &[[f32; 3]]| [0, 1, 2].map(|i| (pair[0][i] + pair[1][i]) / 2.0);
            self.points = self.points.chunks_exact(2).map(mean).collect();
            self.window *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_stays_short() {
        let (epochs, steps) = (30, 100);
        let mut trace = Trace::new(steps);
        for epoch in 1..=epochs {
            for step in 1..=steps {
                let (loss, acc, images) = (epoch as f32, 0.5, 8 * step);
                trace.step(&Now { epoch, step, images, loss, acc, images_per_second: 1.0, seconds_left: 1.0 });
            }
        }
        let points = &trace.points;
        assert!((MOST_POINTS / 2..MOST_POINTS).contains(&points.len()), "{}", points.len());
        assert!(points.windows(2).all(|pair| pair[0][0] < pair[1][0]));
        // No window spans two epochs here, so each point has the loss of its epoch.
        let right = |[x, loss, acc]: &[f32; 3]| (loss - x.ceil()).abs() < 1e-3 && (acc - 0.5).abs() < 1e-3;
        assert!(points.iter().all(right), "{points:?}");
    }
}
