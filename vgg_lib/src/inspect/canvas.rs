//! An image that is optimized instead of the weights, as style transfer, feature inversion and DeepDream do.

use crate::kernel::adam::{AdamStep, update};
use crate::optim::Adam;
use crate::tensor::{Images, images, some_values};
use crate::{Error, Result};
use dfdx::prelude::*;

/// An image that changes step by step so that a loss falls. The steps are those of Adam with torch's settings.
///
/// ```
/// use vgg_lib::inspect::{Canvas, content_loss};
/// use vgg_lib::tensor::images;
/// let wanted = images(vec![200.0; 12], (1, 2, 2, 3))?;
/// let mut canvas = Canvas::new(&images(vec![100.0; 12], (1, 2, 2, 3))?)?;
/// for _ in 0..50 {
///     let (_, gradient) = content_loss(canvas.image(), &wanted, 1.0)?;
///     canvas.step(&gradient, 5.0)?;
/// }
/// let (loss, _) = content_loss(canvas.image(), &wanted, 1.0)?;
/// assert!(loss < 100.0); // 10,000 before
/// # Ok::<(), vgg_lib::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Canvas {
    image: Images,
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: i32,
}

impl Canvas {
    /// Begins with these images, as the model takes them: often one photo or noise, (1, h, w, 3).
    ///
    /// # Errors
    /// [`Error::Config`] if a value is NaN or infinite.
    pub fn new(start: &Images) -> Result<Canvas> {
        if let Some(value) = some_values(start)?.iter().find(|value| !value.is_finite()) {
            return Err(Error::Config(format!("an image to begin with cannot have a value of {value}")));
        }
        let zeros = vec![0.0; start.shape().num_elements()];
        Ok(Canvas { image: start.clone(), mean: zeros.clone(), square: zeros, steps: 0 })
    }

    /// The images as they are now.
    pub fn image(&self) -> &Images {
        &self.image
    }

    /// Takes a step against the gradient of a loss with respect to the images. No value changes by much more than
    /// `learning_rate`: 1 to 10 suits pixels from 0 to 255.
    ///
    /// # Errors
    /// [`Error::Shape`] if the gradient has another shape, [`Error::Config`] if it or the rate is NaN, infinite or too
    /// large to be squared. The images then stay as they were.
    pub fn step(&mut self, gradient: &Images, learning_rate: f32) -> Result<()> {
        if gradient.shape() != self.image.shape() {
            let (found, wanted) = (gradient.shape(), self.image.shape());
            return Err(Error::Shape(format!("the gradient of {wanted:?} values cannot have the shape {found:?}")));
        }
        let mut gradient = gradient.as_vec();
        check("gradient", &gradient)?;
        check("learning rate", &[learning_rate])?;
        if learning_rate < 0.0 {
            return Err(Error::Config(format!(
                "a learning rate must be at least 0, such as 5, not {learning_rate}; for a larger loss, negate its weight"
            )));
        }
        self.steps += 1;
        let Adam { beta1, beta2, epsilon, .. } = Adam::default();
        let of_start = |beta: f32| f64::from(beta).powi(self.steps);
        let step = AdamStep {
            rate: (f64::from(learning_rate) / (1.0 - of_start(beta1))) as f32,
            correction: (1.0 / (1.0 - of_start(beta2)).sqrt()) as f32,
            keep: 1.0,
            scale: 1.0,
            beta1,
            beta2,
            epsilon,
            l2: 0.0,
        };
        let mut values = self.image.as_vec();
        update(&mut values, &mut gradient, &mut self.mean, &mut self.square, step);
        self.image = images(values, *self.image.shape())?;
        Ok(())
    }
}

fn check(what: &str, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| !(*value * *value).is_finite()) {
        Some(value) => Err(Error::Config(format!(
            "the {what} has a value of {value}; smaller weights of the losses or a smaller learning rate keep it finite"
        ))),
        None => Ok(()),
    }
}
