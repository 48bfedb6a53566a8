//! From the outputs of some layers back to the image: how the image has to change so that these outputs change in a
//! wanted direction. Style transfer, feature inversion and DeepDream are made of this.

use crate::model::Sequential;
use crate::tensor::{GradientTape, Images, dfdx_error, images};
use crate::text::counted;
use crate::{Error, Result};
use dfdx::prelude::*;

/// The part of a model up to the last of some layers, as [`Sequential::probe`] returns it. Its weights do not change.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Each ends with one of the layers.
    pieces: Vec<Sequential>,
    /// For each name, the piece that ends with its layer.
    of_name: Vec<usize>,
}

/// The outputs of some layers for a batch, and the way back from them to the batch.
pub struct Probed {
    /// In the order of the names that [`Sequential::probe`] got. Their shapes are (n, h, w, c), as those of
    /// [`Sequential::activations`].
    pub activations: Vec<Images>,
    x: Images,
    tape: GradientTape,
}

impl Sequential {
    /// Prepares to compute the outputs of these layers, and gradients of the input, again and again.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let mut model = Sequential::new((8, 8, 3), Seed(0));
    /// model.push("conv1", conv2d(4).relu())?;
    /// model.push("conv2", conv2d(4).relu())?;
    /// let mut probe = model.probe(&["conv1", "conv2"])?;
    ///
    /// let mut pixels = vec![0.5; 8 * 8 * 3];
    /// for _ in 0..3 {
    ///     let probed = probe.forward(images(pixels.clone(), (1, 8, 8, 3))?)?;
    ///     // Brighter maps of conv2: the gradient of their sum is 1 everywhere, that of the others 0.
    ///     let (zeros, ones) = (images(vec![0.0; 8 * 8 * 4], (1, 8, 8, 4))?, images(vec![1.0; 8 * 8 * 4], (1, 8, 8, 4))?);
    ///     let gradient = probed.input_gradient(&[zeros, ones])?;
    ///     pixels.iter_mut().zip(gradient.as_vec()).for_each(|(pixel, g)| *pixel += 0.1 * g);
    /// }
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer, [`Error::Config`] if no layer is named.
    pub fn probe(&self, names: &[&str]) -> Result<Probe> {
        self.check_complete()?;
        let positions = names.iter().map(|name| self.position(name)).collect::<Result<Vec<usize>>>()?;
        let mut ends = positions.clone();
        ends.sort_unstable();
        ends.dedup();
        if ends.is_empty() {
            return Err(Error::Config("a probe looks at the outputs of layers; name at least one".to_string()));
        }
        let mut rest = self.clone();
        rest.freeze_for_inference();
        let mut pieces = vec![];
        for &end in &ends {
            let (piece, after) = rest.split_after(self.layers[end].name())?;
            pieces.push(piece);
            rest = after;
        }
        let of_name = positions.iter().map(|at| ends.iter().filter(|end| *end < at).count()).collect();
        Ok(Probe { pieces, of_name })
    }
}

impl Probe {
    /// The outputs of the layers for these images, (n, h, w, c).
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the model.
    pub fn forward(&mut self, x: Images) -> Result<Probed> {
        let mut outputs = vec![];
        let (mut last, mut tape) = (x.clone(), GradientTape::default());
        for piece in &mut self.pieces {
            (last, tape) = piece.forward_mut(last.put_tape(tape))?.split_tape();
            outputs.push(last.clone());
        }
        let activations = self.of_name.iter().map(|&piece| outputs[piece].clone()).collect();
        Ok(Probed { activations, x, tape })
    }
}

impl Probed {
    /// The gradient with respect to the images, given that with respect to each of the activations (the vector–Jacobian
    /// product, in mathematical terms).
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one gradient for each of the activations, in its shape.
    pub fn input_gradient(self, gradients: &[Images]) -> Result<Images> {
        let Probed { activations, x, mut tape } = self;
        let shapes = |tensors: &[Images]| tensors.iter().map(|tensor| *tensor.shape()).collect::<Vec<_>>();
        let (given, wanted) = (shapes(gradients), shapes(&activations));
        if given != wanted {
            let of = counted(wanted.len(), "activation", "activations");
            return Err(Error::Shape(format!(
                "the gradients of {of} have their shapes, {wanted:?}; these have the shapes {given:?}"
            )));
        }
        // The gradient of Σ activation · gradient.
        let mut terms = vec![];
        for (activation, gradient) in activations.into_iter().zip(gradients) {
            let (term, rest) = (activation.put_tape(tape) * gradient.clone()).sum::<(), _>().split_tape();
            tape = rest;
            terms.push(term);
        }
        let zero = x.device().zeros();
        let total = terms.into_iter().fold(zero.put_tape(tape), |total, term| total + term);
        let gradients = total.try_backward().map_err(dfdx_error)?;
        images(gradients.get(&x).as_vec(), *x.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Seed, batch_norm, conv2d, dropout, flatten, linear, max_pool2d};

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        (0..len as u32)
            .map(|i| crate::kernel::elementwise::hash(i ^ (seed << 20)) as f32 / u32::MAX as f32 - 0.4)
            .collect()
    }

    fn model() -> Result<Sequential> {
        let mut model = Sequential::new((6, 8, 3), Seed(4));
        model.push("conv1", conv2d(5).relu())?;
        model.push("norm", batch_norm())?;
        model.push("conv2", conv2d(4).relu())?;
        model.push("pool", max_pool2d())?;
        model.push("dropout", dropout(0.5))?;
        model.push("flatten", flatten())?;
        model.push("predictions", linear(3))?;
        Ok(model)
    }

    #[test]
    fn activations_are_those_of_inference_in_the_order_of_the_names() -> Result<()> {
        let model = model()?;
        let x = images(noise(2 * 6 * 8 * 3, 1), (2, 6, 8, 3))?;
        let names = ["predictions", "conv1", "pool", "conv1"];
        let (expected, found) = (model.activations(x.clone(), &names)?, model.probe(&names)?.forward(x)?.activations);
        assert_eq!(found.len(), 4);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.shape(), expected.shape());
            approx::assert_abs_diff_eq!(&found.as_vec()[..], &expected.as_vec()[..], epsilon = 1e-5);
        }
        Ok(())
    }

    /// Against finite differences of Σ activation · gradient, in each direction of the input.
    #[test]
    fn the_gradient_of_the_input_is_that_of_all_activations_together() -> Result<()> {
        let model = model()?;
        let (shape, names) = ((1, 6, 8, 3), ["conv2", "conv1", "predictions", "conv2"]);
        let pixels = noise(6 * 8 * 3, 2);
        let mut probe = model.probe(&names)?;
        let gradients: Vec<Images> = model
            .activations(images(pixels.clone(), shape)?, &names)?
            .iter()
            .zip(10..)
            .map(|(y, seed)| images(noise(y.shape().num_elements(), seed), *y.shape()).unwrap())
            .collect();
        let total = |pixels: Vec<f32>| -> f64 {
            let found = model.activations(images(pixels, shape).unwrap(), &names).unwrap();
            let product = |(y, g): (&Images, &Images)| -> f64 {
                y.as_vec().iter().zip(g.as_vec()).map(|(y, g)| f64::from(*y) * f64::from(g)).sum()
            };
            found.iter().zip(&gradients).map(product).sum()
        };
        let found = probe.forward(images(pixels.clone(), shape)?)?.input_gradient(&gradients)?.as_vec();
        let again = probe.forward(images(pixels.clone(), shape)?)?.input_gradient(&gradients)?.as_vec();
        assert_eq!(found, again);
        for (i, found) in found.iter().enumerate() {
            let moved = |by: f32| {
                let mut pixels = pixels.clone();
                pixels[i] += by;
                total(pixels)
            };
            let expected = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!((f64::from(*found) - expected).abs() < 0.02 * expected.abs().max(1.0), "{i}: {found}, {expected}");
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_said() -> Result<()> {
        let model = model()?;
        assert!(model.probe(&[]).unwrap_err().to_string().contains("name at least one"));
        assert!(model.probe(&["conv9"]).unwrap_err().to_string().contains("no layer 'conv9'"));
        let x = images(noise(6 * 8 * 3, 1), (1, 6, 8, 3))?;
        let probed = model.probe(&["conv1"])?.forward(x.clone())?;
        let error = probed.input_gradient(&[]).unwrap_err().to_string();
        assert!(error.contains("the gradients of 1 activation have their shapes, [(1, 6, 8, 5)]; these"), "{error}");
        Ok(())
    }
}
