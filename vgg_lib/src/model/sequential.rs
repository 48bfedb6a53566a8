//! A model: a list of named layers that run one after the other.

use super::device::Device;
use super::fault::Fault;
use super::init::{Init, Seed, layer_rng};
use super::input::Preparation;
use super::layer::{Layer, MOST_VALUES, initial};
use super::op::{Op, Shape, check_dropout, check_l2, check_rate};
use super::precision::Precision;
use super::spec::LayerSpec;
use crate::kernel::arena::Arena;
use crate::kernel::gpu::Gpu;
use crate::text::{counted, thousands};
use crate::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// Named layers, run one after the other on batches in NHWC order.
///
/// ```
/// use vgg_lib::prelude::*;
/// let mut model = Sequential::new((8, 8, 3), Seed(0));
/// model.push("conv", conv2d(4).relu())?;
/// model.push("pool", max_pool2d())?;
/// model.push("flatten", flatten())?;
/// model.push("predictions", linear(2))?;
/// let logits = model.forward(images(vec![0.5; 5 * 8 * 8 * 3], (5, 8, 8, 3))?)?;
/// assert_eq!(*logits.shape(), (5, 1, 1, 2));
/// # Ok::<(), vgg_lib::Error>(())
/// ```
#[derive(Clone)]
pub struct Sequential {
    pub(crate) input: Shape,
    pub(crate) layers: Vec<Layer>,
    pub(crate) seed: Seed,
    /// The number of layers built so far. Each layer gets its own stream of random numbers.
    pub(crate) built: u64,
    /// The number of training steps so far, so that dropout drops different values in each.
    pub(crate) steps: u64,
    /// Memory for intermediate results, which each pass leaves to the next.
    pub(crate) arena: Arc<Arena>,
    /// Where the model runs.
    pub(crate) device: Device,
    /// What it computes with; `None` is what the environment says.
    pub(super) precision: Option<Precision>,
    /// Σ λ‖w‖² of the current weights, if the last training pass computed it.
    pub(crate) penalty: Option<f64>,
    /// A layer that could not be added.
    pub(super) fault: Option<Fault>,
    /// How the images of the training data were prepared, if the model knows it.
    pub(crate) preparation: Option<Preparation>,
}

impl Sequential {
    /// Creates a model without layers for images of `(height, width, channels)`.
    ///
    /// A size of 0 is an error when the first layer is added.
    pub fn new((h, w, c): (usize, usize, usize), seed: Seed) -> Sequential {
        let (input, device) = (Shape::Map(h, w, c), Device::default());
        let (arena, precision, penalty, fault, preparation) = (Arc::default(), None, None, None, None);
        let (layers, built, steps) = (vec![], 0, 0);
        Sequential { input, layers, seed, built, steps, arena, device, precision, penalty, fault, preparation }
    }

    /// Chooses where the model runs. Its weights follow when they are needed there.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no such GPU, or it cannot be used.
    pub fn to(&mut self, device: Device) -> Result<()> {
        device.gpu()?;
        self.device = device;
        Ok(())
    }

    /// What the model runs on: the GPU's name, or "CPU".
    pub fn runs_on(&self) -> String {
        self.device.gpu().ok().flatten().map_or("CPU", Gpu::name).to_string()
    }

    /// Height, width and channels of the images that the model was built for.
    pub fn input_shape(&self) -> (usize, usize, usize) {
        match self.input {
            Shape::Map(h, w, c) => (h, w, c),
            Shape::Flat(f) => (1, 1, f),
        }
    }

    /// The layers, in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Adds a layer at the end. If that fails and the error is ignored, whatever uses the model later reports it.
    ///
    /// # Errors
    /// If the model already has a layer of this name, or the new layer cannot take the output of the last one.
    pub fn push(&mut self, name: &str, layer: impl Into<LayerSpec>) -> Result<()> {
        let added = self.insert_spec(self.layers.len(), name, layer.into());
        self.remember("not added", name, added)
    }

    /// Adds a layer with these weights, in the order of [`Layer::params`].
    pub(crate) fn push_with(&mut self, name: &str, layer: LayerSpec, values: Vec<Vec<f32>>) -> Result<()> {
        if self.position(name).is_ok() {
            return Err(Error::Name(format!("two layers have the name '{name}'")));
        }
        check_name(name)?;
        let built = layer.build_with(name, self.output_shape(self.input)?, values)?;
        self.layers.push(built);
        self.built += 1;
        Ok(())
    }

    /// Removes the last layer and returns it.
    pub fn pop(&mut self) -> Option<Layer> {
        self.layers.pop()
    }

    /// Inserts a layer before the one at `index`. On error the model is unchanged.
    ///
    /// # Errors
    /// If the model already has a layer of this name, or the new layer or one after it does not fit.
    pub fn insert(&mut self, index: usize, name: &str, layer: impl Into<LayerSpec>) -> Result<()> {
        let inserted = self.insert_spec(index, name, layer.into());
        self.remember("not inserted", name, inserted)
    }

    fn insert_spec(&mut self, index: usize, name: &str, layer: LayerSpec) -> Result<()> {
        if self.layers.iter().any(|l| l.name == name) {
            return Err(Error::Name(format!("the model already has a layer '{name}'; choose another name")));
        }
        if index > self.layers.len() {
            let last = self.layers.len();
            return Err(Error::Name(format!("cannot insert '{name}' at {index}: the places are 0 to {last}")));
        }
        let built = self.build(index, name, layer)?;
        self.layers.insert(index, built);
        self.keep_if_it_fits(|model| {
            model.layers.remove(index);
        })
    }

    /// Replaces a layer by a new one with new weights. On error the model is unchanged.
    ///
    /// # Errors
    /// If there is no layer of this name, or the new one does not fit.
    pub fn replace(&mut self, name: &str, layer: impl Into<LayerSpec>) -> Result<()> {
        let replaced = self.replace_spec(name, layer.into());
        self.remember("not replaced", name, replaced)
    }

    fn replace_spec(&mut self, name: &str, layer: LayerSpec) -> Result<()> {
        let index = self.position(name)?;
        let new = self.build(index, name, layer)?;
        let old = std::mem::replace(&mut self.layers[index], new);
        self.keep_if_it_fits(|model| model.layers[index] = old)
    }

    /// Splits the model in two after the layer of this name, for example into convolutions and head. The weights are
    /// shared with this model until one of the three models changes them.
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer.
    pub fn split_after(&self, name: &str) -> Result<(Sequential, Sequential)> {
        let (mut first, mut rest) = (self.clone(), self.clone());
        rest.layers = first.layers.split_off(self.position(name)? + 1);
        rest.input = first.output_shape(self.input)?;
        first.arena = Arc::default();
        rest.arena = Arc::default();
        rest.preparation = rest.preparation.map(|known| Preparation { is_features: true, ..known });
        Ok((first, rest))
    }

    /// Appends the layers of `tail` to those of this model: the opposite of [`split_after`](Self::split_after).
    ///
    /// # Errors
    /// If both models have a layer of the same name, or `tail` cannot take the output of this model.
    pub fn join(&self, tail: &Sequential) -> Result<Sequential> {
        tail.check_complete()?;
        let mut whole = self.clone();
        if let Some(twice) = tail.layers.iter().find(|layer| whole.position(&layer.name).is_ok()) {
            return Err(Error::Name(format!("both models have a layer '{}'", twice.name)));
        }
        whole.layers.extend(tail.layers.iter().cloned());
        whole.built += tail.built;
        whole.output_shape(whole.input)?;
        // The images whose features the tail learned from count, not those that this model may have seen before.
        if let Some(known) = tail.preparation.as_ref().filter(|known| known.is_features) {
            let is_features = whole.preparation.as_ref().is_some_and(|own| own.is_features);
            whole.preparation = Some(Preparation { is_features, ..known.clone() });
        }
        Ok(whole)
    }

    fn build(&mut self, index: usize, name: &str, layer: LayerSpec) -> Result<Layer> {
        self.check_input()?;
        check_name(name)?;
        let input = self.layers[..index].iter().try_fold(self.input, |shape, layer| layer.output(shape))?;
        let built = layer.build(name, input, &mut layer_rng(self.seed, self.built))?;
        self.built += 1;
        Ok(built)
    }

    /// Returns an error if there are no images of the model's input shape.
    pub(crate) fn check_input(&self) -> Result<()> {
        let (h, w, c) = self.input_shape();
        if (1..=MOST_VALUES).contains(&self.input.size()) {
            return Ok(());
        }
        Err(Error::Shape(format!(
            "a model for images of {h}×{w}×{c} cannot have layers: height, width and channels must be at least 1 and \
             their product small enough to count"
        )))
    }

    fn keep_if_it_fits(&mut self, undo: impl FnOnce(&mut Sequential)) -> Result<()> {
        let fits = self.shape_after_all(self.input);
        if fits.is_err() {
            undo(self);
        }
        fits.map(|_| ())
    }

    /// The shape of the output for an input of this shape.
    pub(crate) fn output_shape(&self, input: Shape) -> Result<Shape> {
        self.check_complete()?;
        self.shape_after_all(input)
    }

    fn shape_after_all(&self, input: Shape) -> Result<Shape> {
        self.layers.iter().try_fold(input, |shape, layer| layer.output(shape))
    }

    /// The layer of this name.
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer; it lists the names of all layers.
    pub fn layer(&self, name: &str) -> Result<&Layer> {
        self.position(name).map(|i| &self.layers[i])
    }

    pub(crate) fn position(&self, name: &str) -> Result<usize> {
        self.layers.iter().position(|l| l.name == name).ok_or_else(|| self.no_such(name))
    }

    fn no_such(&self, name: &str) -> Error {
        let names: Vec<_> = self.layers.iter().map(|l| l.name.as_str()).collect();
        Error::Name(format!("the model has no layer '{name}'; its layers are {}", names.join(", ")))
    }

    /// The layer of this name or, if there is none, all layers whose names start with it ("" selects every layer).
    fn select(&self, name: &str) -> Result<Vec<usize>> {
        if let Ok(index) = self.position(name) {
            return Ok(vec![index]);
        }
        let found: Vec<_> = (0..self.layers.len()).filter(|&i| self.layers[i].name.starts_with(name)).collect();
        if found.is_empty() { Err(self.no_such(name)) } else { Ok(found) }
    }

    /// Freezes the layer of this name, or all layers whose names start with it, so that training does not change them.
    /// As in Keras, a frozen batch norm uses its running statistics and does not update them.
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer.
    pub fn freeze(&mut self, name: &str) -> Result<()> {
        self.select(name)?.into_iter().for_each(|i| self.layers[i].frozen = true);
        Ok(())
    }

    /// Undoes [`freeze`](Self::freeze).
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer.
    pub fn unfreeze(&mut self, name: &str) -> Result<()> {
        self.select(name)?.into_iter().for_each(|i| self.layers[i].frozen = false);
        Ok(())
    }

    /// Changes the `p` of the dropout layer of this name, or of all dropout layers whose names start with it (""
    /// selects every dropout layer).
    ///
    /// # Errors
    /// If no dropout layer is selected, or `p` is not in 0 ≤ p < 1.
    pub fn set_dropout(&mut self, name: &str, p: f32) -> Result<()> {
        check_dropout(p)?;
        let mut found = false;
        for i in self.select(name)? {
            if let Op::Dropout { p: old } = &mut self.layers[i].op {
                *old = p;
                found = true;
            }
        }
        if found { Ok(()) } else { Err(Error::Name(format!("'{name}' names no dropout layer"))) }
    }

    /// Makes batch norms normalize a training batch in groups of `images` images, each by its own mean and variance.
    /// This gives large batches the noise of small ones ("ghost" batch norm, Hoffer et al. 2017, arXiv:1705.08741;
    /// Keras 2's `virtual_batch_size`). A batch that is not a multiple of the group size is normalized as a whole; with
    /// 0, every batch is. `name` is the name of a layer or a prefix of names ("" selects every batch norm).
    ///
    /// # Errors
    /// [`Error::Name`] if no batch norm is selected.
    pub fn set_batch_norm_group(&mut self, name: &str, images: usize) -> Result<()> {
        let mut found = false;
        for i in self.select(name)? {
            if let Op::BatchNorm { group, .. } = &mut self.layers[i].op {
                *group = images;
                found = true;
            }
        }
        if found { Ok(()) } else { Err(Error::Name(format!("'{name}' names no batch norm"))) }
    }

    /// Changes the λ of the L2 penalty of the layer of this name, or of all layers whose names start with it (""
    /// selects every layer). Only layers that have a penalty change, so a λ of 0 cannot be undone.
    ///
    /// # Errors
    /// If no selected layer has a penalty (and `lambda` is not 0), or `lambda` is negative.
    pub fn set_l2(&mut self, name: &str, lambda: f32) -> Result<()> {
        check_l2(lambda)?;
        let regularized: Vec<usize> = self.select(name)?.into_iter().filter(|&i| self.layers[i].l2 > 0.0).collect();
        if regularized.is_empty() && lambda > 0.0 {
            return Err(Error::Name(format!("'{name}' names no layer with l2")));
        }
        regularized.into_iter().for_each(|i| self.layers[i].l2 = lambda);
        Ok(())
    }

    /// Multiplies the learning rate of the layer of this name, or of all layers whose names start with it ("" selects
    /// every layer), by this factor: layers that are already good can take smaller steps than a new head (fastai's
    /// discriminative learning rates, Howard & Ruder 2018, arXiv:1801.06146).
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let mut model = vgg::vgg16((32, 32, 3), 2, Seed(0))?;
    /// model.freeze("block")?;
    /// model.unfreeze("block5")?;
    /// model.set_rate("block5", 0.1)?;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer, [`Error::Config`] if the factor is not above 0.
    pub fn set_rate(&mut self, name: &str, factor: f32) -> Result<()> {
        check_rate(factor)?;
        self.select(name)?.into_iter().for_each(|i| self.layers[i].rate = factor);
        Ok(())
    }

    /// Initializes the kernel of the layer of this name again, or the kernels of all layers whose names start with it
    /// ("" selects every layer). Biases become 0. Frozen layers, such as whitening filters, keep their weights.
    ///
    /// # Errors
    /// [`Error::Name`] if no selected layer has a kernel that is not frozen, [`Error::Config`] if the standard deviation is no number.
    pub fn set_init(&mut self, name: &str, init: Init) -> Result<()> {
        init.check()?;
        let has_kernel = |layer: &Layer| !layer.frozen && matches!(layer.op, Op::Conv2d { .. } | Op::Linear { .. });
        let found: Vec<usize> = self.select(name)?.into_iter().filter(|&i| has_kernel(&self.layers[i])).collect();
        if found.is_empty() {
            return Err(Error::Name(format!("'{name}' names no convolution or dense layer that is not frozen")));
        }
        for i in found {
            self.layers[i].classes = None;
            let mut rng = layer_rng(self.seed, i as u64);
            for param in self.layers[i].params_mut() {
                param.set(initial(param.name, &param.dims, init, &mut rng));
            }
        }
        Ok(())
    }

    /// The number of values in all parameters, learned or not, as Keras counts them.
    pub fn parameter_count(&self) -> usize {
        self.layers.iter().flat_map(|l| l.params()).map(|p| p.dims.iter().product::<usize>()).sum()
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::Name("a layer needs a name, which must not be empty".to_string()));
    }
    Ok(())
}

/// One line instead of millions of weights.
impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (layers, parameters) = (counted(self.layers.len(), "layer", "layers"), thousands(self.parameter_count()));
        write!(f, "Sequential for {:?}: {layers}, {parameters} parameters", self.input_shape())
    }
}
