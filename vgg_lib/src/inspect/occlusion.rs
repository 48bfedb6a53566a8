//! Occlusion: how much a model's belief in a class falls when a part of the image is hidden (Zeiler & Fergus 2013,
//! arXiv:1311.2901).

use super::Heatmap;
use super::heatmap::{check_class, check_finite, one_image};
use crate::model::{Sequential, Shape};
use crate::tensor::{Images, images};
use crate::{Error, Result};
use dfdx::prelude::*;

impl Sequential {
    /// How much the belief in `class` falls where a square of `side` pixels hides a part of the image; negative where
    /// hiding it helps. Belief is measured as log-odds, ln(p / (1 − p)), because a probability of 0.9999 would hardly
    /// fall anywhere. The square has the mean color of the image and moves in steps of `stride` pixels; the value of a
    /// pixel is the mean over all squares that hide it.
    ///
    /// # Errors
    /// [`Error::Config`] if `side` or `stride` is 0 or the square is larger than the image; [`Error::Shape`] as for
    /// [`grad_cam`](Self::grad_cam).
    pub fn occlusion(&self, image: Images, class: usize, side: usize, stride: usize) -> Result<Heatmap> {
        let (_, h, w, c) = *one_image(image.clone())?.shape();
        if stride == 0 || side == 0 || side > h || side > w {
            return Err(Error::Config(format!(
                "a square of {side} pixels cannot move over an image of {h}×{w} in steps of {stride}; both must be at \
                 least 1 and the square no larger than the image"
            )));
        }
        let values = image.as_vec();
        let mean = mean_color(&values, c);
        let squares: Vec<(usize, usize)> = starts(h, side, stride)
            .into_iter()
            .flat_map(|top| starts(w, side, stride).into_iter().map(move |left| (top, left)))
            .collect();
        let whole = self.log_odds(values.clone(), (1, h, w, c), class)?[0];
        let (mut sums, mut counts) = (vec![0.0; h * w], vec![0u32; h * w]);
        for squares in squares.chunks(self.inference_batch(Shape::Map(h, w, c))) {
            let mut batch = values.repeat(squares.len());
            for (image, &(top, left)) in batch.chunks_exact_mut(h * w * c).zip(squares) {
                for y in top..top + side {
                    image[(y * w + left) * c..][..side * c].chunks_exact_mut(c).for_each(|p| p.copy_from_slice(&mean));
                }
            }
            let hidden = self.log_odds(batch, (squares.len(), h, w, c), class)?;
            for (belief, &(top, left)) in hidden.iter().zip(squares) {
                for at in (top..top + side).flat_map(|y| y * w + left..y * w + left + side) {
                    sums[at] += whole - belief;
                    counts[at] += 1;
                }
            }
        }
        // With a stride larger than the side, the pixels between the squares stay 0.
        let values = sums.iter().zip(counts).map(|(sum, n)| sum / n.max(1) as f32).collect();
        Ok(Heatmap { values, rows: h, columns: w, unit: "drop in log-odds" })
    }

    /// The log-odds of one class against all others, one value per image: the class's logit minus the logarithm of the
    /// sum of the others' exponentials.
    fn log_odds(&self, values: Vec<f32>, shape: (usize, usize, usize, usize), class: usize) -> Result<Vec<f32>> {
        let logits = self.logits(images(values, shape)?)?;
        let classes = logits.shape().3;
        check_class(classes, class)?;
        let logits = logits.as_vec();
        check_finite(&logits)?;
        let row = |row: &[f32]| {
            let others = || row.iter().enumerate().filter(|(k, _)| *k != class).map(|(_, &logit)| logit);
            let largest = others().fold(f32::NEG_INFINITY, f32::max);
            row[class] - largest - others().map(|logit| (logit - largest).exp()).sum::<f32>().ln()
        };
        Ok(logits.chunks_exact(classes).map(row).collect())
    }
}

/// The mean of each of the c channels.
fn mean_color(values: &[f32], c: usize) -> Vec<f32> {
    let pixels = values.len() / c;
    let mut mean = vec![0.0; c];
    for pixel in values.chunks_exact(c) {
        mean.iter_mut().zip(pixel).for_each(|(m, v)| *m += v / pixels as f32);
    }
    mean
}

/// Where the squares begin along a side of `length` pixels. The last one touches the edge.
fn starts(length: usize, side: usize, stride: usize) -> Vec<usize> {
    let mut starts: Vec<usize> = (0..=length - side).step_by(stride).collect();
    if starts.last() != Some(&(length - side)) {
        starts.push(length - side);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Seed, flatten, linear};

    #[test]
    fn occlusion_finds_the_pixels_that_matter() -> Result<()> {
        // The logit of class 1 is the sum of four pixels in a corner.
        let mut model = Sequential::new((8, 8, 1), Seed(0));
        model.push("flatten", flatten())?;
        model.push("predictions", linear(2))?;
        let mut state = model.state_dict();
        state.values_mut().for_each(|values| values.fill(0.0));
        for at in [54, 55, 62, 63] {
            state.get_mut("predictions.weight").unwrap()[[at, 1]] = 1.0;
        }
        model.load_state_dict(&state)?;
        let mut values = vec![0.0; 64];
        [54, 55, 62, 63].into_iter().for_each(|at| values[at] = 1.0);
        let image = images(values, (1, 8, 8, 1))?;
        let map = model.occlusion(image.clone(), 1, 2, 2)?;
        let largest = map.values.iter().copied().fold(0.0, f32::max);
        // The other logit is 0, so the log-odds are the sum of the four pixels; hidden, it is four times the mean of the
        // image.
        assert!((largest - (4.0 - 4.0 * 4.0 / 64.0)).abs() < 1e-5, "{largest}");
        for (at, value) in map.values.iter().enumerate() {
            let want = match at {
                54 | 55 | 62 | 63 => largest,
                _ => 0.0,
            };
            assert!((value - want).abs() < 1e-6, "{at}: {value}");
        }
        // A square whose steps do not fit the image evenly still reaches the last pixel.
        assert!(model.occlusion(image.clone(), 1, 3, 2)?.values[63] > 0.0);
        assert!(model.occlusion(image.clone(), 1, 9, 2).is_err());
        assert!(model.occlusion(image, 1, 2, 0).is_err());
        Ok(())
    }
}
