//! Where in an image a model looks: Grad-CAM and occlusion.

use crate::model::{Op, Sequential, Shape};
use crate::tensor::{Images, images};
use crate::{Error, Result};
use dfdx::prelude::*;

/// A number for each place of an image, for [`plot::heatmap`](crate::plot::heatmap).
#[derive(Clone, Debug, PartialEq)]
pub struct Heatmap {
    /// Row by row.
    pub values: Vec<f32>,
    /// From top to bottom.
    pub rows: usize,
    /// From left to right.
    pub columns: usize,
}

impl Sequential {
    /// Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): which places of the map that `layer` gives speak for
    /// `class`. Each channel is weighted by the mean gradient of the class's logit, and what is left of the sum above
    /// 0 is scaled so that the largest value is 1. `image` is one image, (1, h, w, c); the last convolution or the
    /// last pooling are the usual layers.
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer, [`Error::Shape`] if the image does not fit, the layer gives no map or
    /// the model has no such class.
    pub fn grad_cam(&self, image: Images, layer: &str, class: usize) -> Result<Heatmap> {
        let (features, mut head) = self.split_after(layer)?;
        let maps = features.forward(one(image)?)?;
        let (_, rows, columns, channels) = *maps.shape();
        if rows * columns == 1 {
            return Err(Error::Shape(format!("layer '{layer}' has a single position; choose one before flatten")));
        }
        head.freeze_for_use();
        head.layers.truncate(head.logit_layers());
        let logits = head.forward_mut(maps.leaky_trace())?;
        let classes = self.check_class(logits.shape().3, class)?;
        let chosen = images((0..classes).map(|k| f32::from(k == class)).collect(), (1, 1, 1, classes))?;
        let gradients = (logits * chosen).sum().backward();
        let gradient = gradients.get(&maps).as_vec();
        let mut weights = vec![0.0; channels];
        for position in gradient.chunks_exact(channels) {
            weights.iter_mut().zip(position).for_each(|(w, g)| *w += g / (rows * columns) as f32);
        }
        let maps = maps.as_vec();
        let positions = maps.chunks_exact(channels);
        let mut values: Vec<f32> =
            positions.map(|p| p.iter().zip(&weights).map(|(a, w)| a * w).sum::<f32>().max(0.0)).collect();
        let largest = values.iter().copied().fold(0.0, f32::max);
        if largest > 0.0 {
            values.iter_mut().for_each(|v| *v /= largest);
        }
        Ok(Heatmap { values, rows, columns })
    }

    /// How much less the model believes in `class` where a gray square of `side` pixels hides a part of the image
    /// (Zeiler & Fergus 2013, arXiv:1311.2901); negative where hiding helps. Belief is counted as log-odds,
    /// ln(p / (1 − p)): a probability of 0.9999 would hardly fall wherever the square is. The square takes the mean
    /// color of the image and moves by `stride`; a pixel's value is the mean over the squares that hide it.
    ///
    /// # Errors
    /// [`Error::Config`] for a side or stride of 0 or a square larger than the image; [`Error::Shape`] as
    /// [`grad_cam`](Self::grad_cam).
    pub fn occlusion(&self, image: Images, class: usize, side: usize, stride: usize) -> Result<Heatmap> {
        let (_, h, w, c) = *one(image.clone())?.shape();
        if stride == 0 || side == 0 || side > h || side > w {
            return Err(Error::Config(format!(
                "a square of {side} pixels that moves by {stride} does not go over an image of {h}×{w}"
            )));
        }
        let values = image.as_vec();
        let mut mean = vec![0.0; c];
        for pixel in values.chunks_exact(c) {
            mean.iter_mut().zip(pixel).for_each(|(m, v)| *m += v / (h * w) as f32);
        }
        // The last square touches the edge.
        let starts = |length: usize| {
            let mut starts: Vec<usize> = (0..=length - side).step_by(stride).collect();
            if starts.last() != Some(&(length - side)) {
                starts.push(length - side);
            }
            starts
        };
        let squares: Vec<(usize, usize)> =
            starts(h).into_iter().flat_map(|top| starts(w).into_iter().map(move |left| (top, left))).collect();
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
        // Pixels between squares, where the stride is larger than the side, stay 0.
        let values = sums.iter().zip(counts).map(|(sum, n)| sum / n.max(1) as f32).collect();
        Ok(Heatmap { values, rows: h, columns: w })
    }

    /// Of one class against all others, for each image: its logit less the log of the others' summed exponentials.
    fn log_odds(&self, values: Vec<f32>, shape: (usize, usize, usize, usize), class: usize) -> Result<Vec<f32>> {
        let logits = self.logits(images(values, shape)?)?;
        let classes = self.check_class(logits.shape().3, class)?;
        let row = |row: &[f32]| {
            let others = || row.iter().enumerate().filter(|(k, _)| *k != class).map(|(_, &logit)| logit);
            let largest = others().fold(f32::NEG_INFINITY, f32::max);
            row[class] - largest - others().map(|logit| (logit - largest).exp()).sum::<f32>().ln()
        };
        Ok(logits.as_vec().chunks_exact(classes).map(row).collect())
    }

    fn check_class(&self, classes: usize, class: usize) -> Result<usize> {
        if class >= classes {
            return Err(Error::Shape(format!("there is no class {class}: the model gives {classes}, counted from 0")));
        }
        if classes < 2 {
            return Err(Error::Shape("a model of one class has nothing to choose between".to_string()));
        }
        Ok(classes)
    }

    /// Dropout and batch norm then do while training what they do in use, and no weight gets a gradient.
    fn freeze_for_use(&mut self) {
        for layer in &mut self.layers {
            layer.frozen = true;
            if let Op::Dropout { p } = &mut layer.op {
                *p = 0.0;
            }
        }
    }
}

fn one(image: Images) -> Result<Images> {
    match image.shape().0 {
        1 => Ok(image),
        n => Err(Error::Shape(format!("a map is made of one image, but the batch has {n}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Seed, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d, softmax};

    fn noise(len: usize) -> Vec<f32> {
        (0..len).map(|i| crate::kernel::elementwise::hash(i as u32) as f32 / u32::MAX as f32 - 0.3).collect()
    }

    /// The original paper's check: with global average pooling and one dense layer the map is the older CAM, which
    /// needs no gradient: the sum of the maps weighted by the class's row.
    #[test]
    fn grad_cam_is_cam_where_cam_exists() -> Result<()> {
        let mut model = Sequential::new((6, 7, 3), Seed(2));
        model.push("conv1", conv2d(8).relu())?;
        model.push("conv2", conv2d(5).relu())?;
        model.push("pool", global_avg_pool())?;
        model.push("dropout", dropout(0.5))?;
        model.push("predictions", linear(4))?;
        model.push("softmax", softmax())?;
        let image = images(noise(6 * 7 * 3), (1, 6, 7, 3))?;
        let maps = model.activations(image.clone(), &["conv2"])?[0].as_vec();
        let weight = model.state_dict()["predictions.weight"].clone();
        for class in 0..4 {
            let cam: Vec<f32> = maps
                .chunks_exact(5)
                .map(|p| p.iter().enumerate().map(|(c, a)| a * weight[[c, class]]).sum::<f32>().max(0.0))
                .collect();
            let largest = cam.iter().copied().fold(0.0, f32::max);
            let found = model.grad_cam(image.clone(), "conv2", class)?;
            assert_eq!((found.rows, found.columns), (6, 7));
            for (found, cam) in found.values.iter().zip(&cam) {
                let want = if largest > 0.0 { cam / largest } else { 0.0 };
                assert!((found - want).abs() < 1e-4, "class {class}: {found} and {want}");
            }
        }
        assert!(model.grad_cam(image.clone(), "pool", 0).unwrap_err().to_string().contains("single position"));
        assert!(model.grad_cam(image, "conv2", 4).unwrap_err().to_string().contains("no class 4"));
        Ok(())
    }

    /// Through batch norm, pooling and hidden dense layers, against differences of the logit.
    #[test]
    fn grad_cam_weights_channels_by_the_gradient() -> Result<()> {
        let mut model = Sequential::new((8, 8, 3), Seed(5));
        model.push("conv1", conv2d(4).relu())?;
        model.push("norm", batch_norm())?;
        model.push("conv2", conv2d(6).relu())?;
        model.push("pool", max_pool2d())?;
        model.push("flatten", flatten())?;
        model.push("fc1", linear(9).relu())?;
        model.push("fc1_dropout", dropout(0.5))?;
        model.push("predictions", linear(3))?;
        let image = images(noise(8 * 8 * 3), (1, 8, 8, 3))?;
        let (features, head) = model.split_after("conv1")?;
        let maps = features.forward(image.clone())?.as_vec();
        let logit = |values: Vec<f32>| head.forward(images(values, (1, 8, 8, 4)).unwrap()).unwrap().as_vec()[1];
        let mut sum = vec![0.0; 64];
        for channel in 0..4 {
            // The mean gradient over positions is the derivative when all positions move together.
            let moved = |by: f32| {
                let mut maps = maps.clone();
                maps.iter_mut().skip(channel).step_by(4).for_each(|v| *v += by);
                logit(maps)
            };
            let weight = (moved(1e-3) - moved(-1e-3)) / 2e-3 / 64.0;
            sum.iter_mut().zip(maps.chunks_exact(4)).for_each(|(s, p)| *s += weight * p[channel]);
        }
        let largest = sum.iter().copied().fold(0.0, f32::max);
        assert!(largest > 0.0, "this seed's map is empty");
        let found = model.grad_cam(image, "conv1", 1)?;
        for (found, want) in found.values.iter().zip(&sum) {
            assert!((found - (want / largest).max(0.0)).abs() < 0.01, "{found} and {}", want / largest);
        }
        Ok(())
    }

    #[test]
    fn occlusion_finds_the_only_place_that_matters() -> Result<()> {
        // The class's logit is the sum of one corner's four pixels.
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
        // The other logit is 0, so the log-odds are the sum; hidden, four times the mean of the image.
        assert!((largest - (4.0 - 4.0 * 4.0 / 64.0)).abs() < 1e-5, "{largest}");
        for (at, value) in map.values.iter().enumerate() {
            let want = match at {
                54 | 55 | 62 | 63 => largest,
                _ => 0.0,
            };
            assert!((value - want).abs() < 1e-6, "{at}: {value}");
        }
        // A side that does not divide the image still reaches the last pixel.
        assert!(model.occlusion(image.clone(), 1, 3, 2)?.values[63] > 0.0);
        assert!(model.occlusion(image.clone(), 1, 9, 2).is_err());
        assert!(model.occlusion(image, 1, 2, 0).is_err());
        Ok(())
    }
}
