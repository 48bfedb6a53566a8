//! Grad-CAM: the parts of an image that count as evidence for a class (Selvaraju et al. 2017, arXiv:1610.02391).
//!
//! For the maps A of a layer (h, w, k) and the logit y of a class, channel k has the weight
//! αₖ = 1/(h·w) Σᵢⱼ ∂y/∂Aᵢⱼₖ, and the heatmap is max(0, Σₖ αₖ Aᵢⱼₖ), scaled so that its largest value is 1.

use super::Heatmap;
use super::heatmap::{check_class, check_finite, one_image};
use crate::model::{Op, Sequential};
use crate::tensor::{Images, dfdx_error, images};
use crate::{Error, Result};
use dfdx::prelude::*;

impl Sequential {
    /// Grad-CAM: the positions in the output of `layer` that speak for `class`, from 0 to 1. Each channel is weighted
    /// by the mean gradient of the class's logit; negative sums become 0. `image` is one image, (1, h, w, c). The usual
    /// choice of layer is the last convolution or the last pooling.
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer; [`Error::Shape`] if the image does not fit the model, the layer's
    /// output is no map, the model has no such class, or the image or the weights have NaN or infinite values.
    pub fn grad_cam(&self, image: Images, layer: &str, class: usize) -> Result<Heatmap> {
        let (features, mut head) = self.split_after(layer)?;
        let maps = features.forward(one_image(image)?)?;
        let (_, rows, columns, channels) = *maps.shape();
        if rows * columns == 1 {
            return Err(Error::Shape(format!("layer '{layer}' has a single position; choose one before flatten")));
        }
        head.freeze_for_inference();
        head.layers.truncate(head.logit_layers());
        let logits = head.forward_mut(maps.leaky_trace())?;
        let classes = logits.shape().3;
        check_class(classes, class)?;
        let chosen = images((0..classes).map(|k| f32::from(k == class)).collect(), (1, 1, 1, classes))?;
        let gradients = (logits * chosen).sum().try_backward().map_err(dfdx_error)?;
        let gradient = gradients.get(&maps).as_vec();
        check_finite(&gradient)?;
        let mut weights = vec![0.0; channels];
        for position in gradient.chunks_exact(channels) {
            weights.iter_mut().zip(position).for_each(|(w, g)| *w += g / (rows * columns) as f32);
        }
        let maps = maps.as_vec();
        check_finite(&maps)?;
        let positions = maps.chunks_exact(channels);
        let mut values: Vec<f32> =
            positions.map(|p| p.iter().zip(&weights).map(|(a, w)| a * w).sum::<f32>().max(0.0)).collect();
        let largest = values.iter().copied().fold(0.0, f32::max);
        if largest > 0.0 {
            values.iter_mut().for_each(|v| *v /= largest);
        }
        Ok(Heatmap { values, rows, columns, unit: "evidence, 1 = strongest" })
    }

    /// Makes a training pass compute what inference does: batch norm uses its running statistics, dropout keeps every
    /// value, and no parameter gets a gradient.
    pub(super) fn freeze_for_inference(&mut self) {
        for layer in &mut self.layers {
            layer.frozen = true;
            if let Op::Dropout { p } = &mut layer.op {
                *p = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Seed, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d, softmax};

    fn noise(len: usize) -> Vec<f32> {
        (0..len).map(|i| crate::kernel::elementwise::hash(i as u32) as f32 / u32::MAX as f32 - 0.3).collect()
    }

    /// The check of the original paper: with global average pooling and one dense layer, Grad-CAM equals the older CAM,
    /// which needs no gradient. CAM is the sum of the maps, weighted by the class's column of the dense kernel.
    #[test]
    fn grad_cam_equals_cam_with_global_average_pooling() -> Result<()> {
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

    /// Compares with finite differences of the logit, through batch norm, pooling and hidden dense layers.
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
            // The mean gradient over all positions is the derivative with respect to a shift of the whole channel,
            // divided by the number of positions.
            let moved = |by: f32| {
                let mut maps = maps.clone();
                maps.iter_mut().skip(channel).step_by(4).for_each(|v| *v += by);
                logit(maps)
            };
            let weight = (moved(1e-3) - moved(-1e-3)) / 2e-3 / 64.0;
            sum.iter_mut().zip(maps.chunks_exact(4)).for_each(|(s, p)| *s += weight * p[channel]);
        }
        let largest = sum.iter().copied().fold(0.0, f32::max);
        assert!(largest > 0.0, "the heatmap of this seed is empty");
        let found = model.grad_cam(image, "conv1", 1)?;
        for (found, want) in found.values.iter().zip(&sum) {
            assert!((found - (want / largest).max(0.0)).abs() < 0.01, "{found} and {}", want / largest);
        }
        Ok(())
    }
}
