//! A layer of a model: an operation, its parameters, and how they are trained.

use super::init::Init;
use super::op::{Op, Shape, check_l2};
use super::spec::LayerSpec;
use super::values::{Gradient, Values};
use crate::kernel::conv2d::Filters;
use crate::process::check_memory;
use crate::tensor::{Flat, check_device};
use crate::text::thousands;
use crate::{Error, Result};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A parameter of a layer: a tensor with a name.
#[derive(Clone)]
pub struct Param {
    /// `weight`, `bias`, `running_mean` or `running_var`.
    pub name: &'static str,
    /// (k, k, in, out) for convolution kernels, (in, out) for dense kernels, (channels) for everything else.
    pub dims: Vec<usize>,
    /// Whether it is learned by gradient descent. Running statistics are not.
    pub learned: bool,
    pub(crate) values: Values,
    pub(crate) gradient: Gradient,
}

impl Param {
    /// The values, in row-major order.
    pub fn tensor(&self) -> &Flat {
        self.values.tensor()
    }

    /// Replaces the values. Their number must be the product of `dims`.
    pub(crate) fn set(&mut self, values: Vec<f32>) {
        self.values = Values::new(values);
    }
}

/// Its name and dimensions: "weight (3, 3, 64, 128)".
impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let dims = self.dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "{} ({dims})", self.name)
    }
}

/// The most values of one array: an allocation has at most `isize::MAX` bytes.
pub(super) const MOST_VALUES: usize = isize::MAX as usize / size_of::<f32>();

/// The number of values of an array with these dimensions; `usize::MAX` if there are more than that.
fn count(dims: &[usize]) -> usize {
    dims.iter().fold(1, |count, &size| count.saturating_mul(size))
}

/// The initial values of a parameter with this name.
pub(super) fn initial(name: &str, dims: &[usize], init: Init, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let len = dims.iter().product();
    match (name, dims.len()) {
        ("weight", 2 | 4) => init.values(dims, rng),
        ("weight" | "running_var", _) => vec![1.0; len],
        _ => vec![0.0; len],
    }
}

/// A layer of a model.
#[derive(Clone)]
pub struct Layer {
    pub(crate) name: String,
    pub(crate) op: Op,
    params: Vec<Param>,
    pub(crate) frozen: bool,
    pub(crate) l2: f32,
    /// Factor on the learning rate.
    pub(crate) rate: f32,
    /// The names of the classes that the outputs of this layer stand for, if training or the reader has told them.
    pub(crate) classes: Option<Arc<Vec<String>>>,
    filters: FilterCache,
}

impl LayerSpec {
    /// Creates the layer, with initial weights, for inputs of this shape.
    pub(super) fn build(self, name: &str, input: Shape, rng: &mut ChaCha8Rng) -> Result<Layer> {
        let params = self.op.params(input);
        let largest = params.iter().map(|(_, dims, _)| dims).max_by_key(|dims| count(dims));
        if let Some(dims) = largest {
            let sizes: Vec<String> = dims.iter().map(|&size| thousands(size)).collect();
            let what = format!("layer '{name}' ({}) with {} weights", self.op.type_name(), sizes.join(" × "));
            check_memory(&what, count(dims).saturating_mul(size_of::<f32>()), 0, |_| {
                "use a smaller layer, or put more pooling layers before it".to_string()
            })?;
        }
        self.assemble(name, input, |param, dims| initial(param, dims, self.init, rng))
    }

    /// Creates the layer with these weights, in the order of [`Layer::params`].
    pub(super) fn build_with(self, name: &str, input: Shape, values: Vec<Vec<f32>>) -> Result<Layer> {
        let params = self.op.params(input);
        let wanted = params.iter().map(|(_, dims, _)| count(dims));
        if !wanted.eq(values.iter().map(Vec::len)) {
            let kind = self.op.type_name();
            return Err(Error::Shape(format!(
                "layer '{name}' ({kind}) has other weights than an input of {input} needs"
            )));
        }
        let mut values = values.into_iter();
        self.assemble(name, input, |_, _| values.next().expect("counted"))
    }

    fn assemble(
        self,
        name: &str,
        input: Shape,
        mut values: impl FnMut(&'static str, &[usize]) -> Vec<f32>,
    ) -> Result<Layer> {
        let LayerSpec { op, l2, init } = self;
        check_device()?;
        op.check()?;
        check_l2(l2)?;
        init.check()?;
        if op.output(name, input)?.size() > MOST_VALUES {
            let kind = op.type_name();
            return Err(Error::Shape(format!(
                "layer '{name}' ({kind}) would give more values than a computer can address; use a smaller layer"
            )));
        }
        let params = op.params(input).into_iter().map(|(param, dims, learned)| {
            let values = Values::new(values(param, &dims));
            Param { name: param, dims, learned, values, gradient: Gradient::default() }
        });
        let params = params.collect();
        Ok(Layer {
            name: name.to_string(),
            op,
            params,
            frozen: false,
            l2,
            rate: 1.0,
            classes: None,
            filters: FilterCache::default(),
        })
    }
}

impl Layer {
    /// The name of the layer in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the layer computes.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The parameters, to change them. Discards what was computed from the old values.
    pub(crate) fn params_mut(&mut self) -> &mut [Param] {
        self.filters = FilterCache::default();
        &mut self.params
    }

    /// Whether the layer is frozen, so that training does not change it.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The λ of its L2 penalty; 0 if it has none.
    pub fn l2(&self) -> f32 {
        self.l2
    }

    /// The factor on the learning rate of the layer; usually 1.
    pub fn rate(&self) -> f32 {
        self.rate
    }

    /// Whether a training step computes gradients for any of its parameters.
    pub(crate) fn learns(&self) -> bool {
        !self.frozen && self.params.iter().any(|p| p.learned)
    }

    pub(crate) fn tensor(&self, index: usize) -> &Flat {
        self.params[index].tensor()
    }

    /// The shape of the output for an input of this shape, which is checked against the weights.
    pub(crate) fn output(&self, input: Shape) -> Result<Shape> {
        let output = self.op.output(&self.name, input)?;
        let want = match self.op {
            Op::Conv2d { .. } => self.params[0].dims[2],
            Op::Linear { .. } | Op::BatchNorm { .. } => self.params[0].dims[0],
            _ => return Ok(output),
        };
        if want != input.channels() {
            let (name, kind) = (&self.name, self.op.type_name());
            let advice = match self.op {
                Op::Linear { .. } => "; for images of another size, call `model.accept_any_size()?` first",
                _ => "",
            };
            return Err(Error::Shape(format!(
                "layer '{name}' ({kind}) has weights for {want} inputs but gets {input}{advice}"
            )));
        }
        Ok(output)
    }

    /// The weights as a kernel reads them in inference: the cached ones if they `fit`, otherwise new ones, which are cached
    /// until the weights change.
    pub(crate) fn filters(&self, fit: impl Fn(&Filters) -> bool, new: impl FnOnce() -> Filters) -> Arc<Filters> {
        let mut kept = self.filters.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(filters) if fit(filters) => filters.clone(),
            _ => kept.insert(Arc::new(new())).clone(),
        }
    }
}

/// What was written to make it.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {:?}", self.name, self.op)?;
        if self.l2 > 0.0 {
            write!(f, ", l2({})", self.l2)?;
        }
        if self.rate != 1.0 {
            write!(f, ", rate({})", self.rate)?;
        }
        f.write_str(if self.frozen { ", frozen" } else { "" })
    }
}

/// The weights as a kernel reads them, cached until they change.
#[derive(Default)]
struct FilterCache(Mutex<Option<Arc<Filters>>>);

impl Clone for FilterCache {
    fn clone(&self) -> FilterCache {
        FilterCache(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

impl fmt::Debug for FilterCache {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("FilterCache")
    }
}
