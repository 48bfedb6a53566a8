//! Initial weights.

use crate::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// The seed of everything random: initial weights, dropout, the order of images, augmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seed(pub u64);

/// The initial kernel of a convolution or dense layer; biases start at 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in ±√(6 / (fan_in + fan_out)): Keras' default (Glorot & Bengio 2010).
    GlorotUniform,
    /// Normal with variance 2 / fan_out, as torchvision initializes VGG's convolutions (He et al. 2015).
    HeNormal,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Output k of a convolution starts as a copy of input k. Outputs without a corresponding input, and dense layers,
    /// start as with [`GlorotUniform`](Init::GlorotUniform). The image then reaches the last layers from the first step
    /// on, even in a deep network without shortcuts (Zagoruyko & Komodakis 2017, arXiv:1706.00388; torch's `dirac_`).
    Dirac,
}

impl Init {
    /// Returns an error if a setting is outside its range.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Init::Normal(std) if !(std >= 0.0 && std.is_finite()) => {
                Err(Error::Config(format!("the initial weights need a standard deviation of at least 0, not {std}")))
            }
            _ => Ok(()),
        }
    }

    /// Initial values of a kernel with the dimensions `dims`: (k, k, in, out) or (in, out).
    pub(crate) fn values(self, dims: &[usize], rng: &mut ChaCha8Rng) -> Vec<f32> {
        let (field, channels) = dims.split_at(dims.len() - 2);
        let field: usize = field.iter().product();
        let (fan_in, fan_out) = ((field * channels[0]) as f64, (field * channels[1]) as f64);
        let len: usize = dims.iter().product();
        let normal = |std: f32, rng| StandardNormal.sample_iter(rng).take(len).map(|v: f32| v * std).collect();
        match self {
            Init::GlorotUniform => {
                let limit = (6.0 / (fan_in + fan_out)).sqrt() as f32;
                (0..len).map(|_| rng.random_range(-limit..=limit)).collect()
            }
            Init::HeNormal => normal((2.0 / fan_out).sqrt() as f32, rng),
            Init::Normal(std) => normal(std, rng),
            Init::Dirac => {
                let mut values = Init::GlorotUniform.values(dims, rng);
                if dims.len() == 4 {
                    dirac(&mut values, field, channels[0], channels[1]);
                }
                values
            }
        }
    }
}

/// Makes the first outputs of a kernel (field, in, out) copies of the inputs.
fn dirac(kernel: &mut [f32], field: usize, inputs: usize, outputs: usize) {
    for channel in 0..inputs.min(outputs) {
        kernel.iter_mut().skip(channel).step_by(outputs).for_each(|weight| *weight = 0.0);
        kernel[(field / 2 * inputs + channel) * outputs + channel] = 1.0;
    }
}

/// The random number generator for the `index`-th layer that a model builds.
pub(crate) fn layer_rng(Seed(seed): Seed, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(init: Init, dims: &[usize]) -> (f64, f64, f64) {
        let values = init.values(dims, &mut layer_rng(Seed(3), 0));
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance, values.iter().fold(0.0, |m, &v| f64::max(m, f64::from(v).abs())))
    }

    #[test]
    fn glorot_uniform_stays_within_its_limit() {
        let limit = (6.0f64 / (9.0 * 64.0 + 9.0 * 128.0)).sqrt();
        let (mean, variance, largest) = moments(Init::GlorotUniform, &[3, 3, 64, 128]);
        assert!(mean.abs() < 0.01 * limit && largest <= limit);
        approx::assert_relative_eq!(variance, limit * limit / 3.0, max_relative = 0.02);
    }

    #[test]
    fn he_normal_has_the_variance_of_its_fan_out() {
        let (mean, variance, _) = moments(Init::HeNormal, &[3, 3, 64, 128]);
        assert!(mean.abs() < 1e-3);
        approx::assert_relative_eq!(variance, 2.0 / (9.0 * 128.0), max_relative = 0.02);
    }

    /// torch.nn.init.dirac_ gives the same values, except that it sets the additional outputs to zero.
    #[test]
    fn dirac_copies_the_inputs() {
        let kernel = Init::Dirac.values(&[3, 3, 2, 3], &mut layer_rng(Seed(3), 0));
        for (at, &weight) in kernel.iter().enumerate() {
            let (position, input, output) = (at / 6, at / 3 % 2, at % 3);
            let passed = if position == 4 && input == output { 1.0 } else { 0.0 };
            assert!(weight == passed || output == 2 && weight != 0.0 && weight.abs() < 1.0, "{at}: {weight}");
        }
    }

    #[test]
    fn the_same_seed_and_layer_give_the_same_weights() {
        let draw = |seed, index| Init::GlorotUniform.values(&[4, 4], &mut layer_rng(Seed(seed), index));
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }
}
