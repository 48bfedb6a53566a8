//! Adam (Kingma & Ba 2015, arXiv:1412.6980) as torch defines it, and with weight decay AdamW (Loshchilov & Hutter 2019,
//! arXiv:1711.05101):
//!
//! > m ← β₁m + (1 − β₁)g,   v ← β₂v + (1 − β₂)g²,   w ← w − ηλw − η m̂ / (√v̂ + ε)
//!
//! m̂ and v̂ are m and v divided by 1 − βᵗ in step t (from 1), because both start at 0. A layer's l2(λ) adds 2λw to g;
//! with Adam, unlike `weight_decay`, it then shrinks weights with small gradients more than others. `kernel/adam.rs`
//! computes the step.

use crate::{Error, Result};

/// The names of m and v in a checkpoint.
pub(super) const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];

/// The settings of Adam; with a `weight_decay` it is AdamW. Adam needs a much smaller learning rate than [`Sgd`], such
/// as 0.001: its steps do not become shorter with the gradients.
///
/// ```
/// use vgg_lib::prelude::*;
/// let optimizer = Optimizer::Adam(Adam { weight_decay: 0.01, ..Adam::default() }); // AdamW
/// let config = FitConfig { optimizer, schedule: Schedule::Cosine(0.001), ..FitConfig::default() };
/// ```
///
/// [`Sgd`]: super::Sgd
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// β₁, the share of the mean gradient that a step keeps.
    pub beta1: f32,
    /// β₂, the share of the mean squared gradient that a step keeps.
    pub beta2: f32,
    /// ε, which keeps the step finite where gradients are 0.
    pub epsilon: f32,
    /// λ, the share of a weight that is taken away in each step, times the learning rate; it applies to all parameters.
    pub weight_decay: f32,
}

/// torch's: β₁ = 0.9, β₂ = 0.999, ε = 1e-8, no weight decay. (Keras' ε is 1e-7.)
impl Default for Adam {
    fn default() -> Adam {
        Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl Adam {
    pub(super) fn check(&self) -> Result<()> {
        let Adam { beta1, beta2, epsilon, weight_decay } = *self;
        let share = |beta| (0.0..1.0).contains(&beta);
        let positive = epsilon > 0.0 && epsilon.is_finite() && weight_decay >= 0.0 && weight_decay.is_finite();
        if share(beta1) && share(beta2) && positive {
            return Ok(());
        }
        Err(Error::Config(format!(
            "Adam needs beta1 and beta2 from 0 to less than 1, an epsilon above 0 and a weight decay of at least 0, not \
             {beta1}, {beta2}, {epsilon} and {weight_decay}"
        )))
    }
}
