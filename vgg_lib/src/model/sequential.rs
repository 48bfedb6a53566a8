//! A model: named layers in the order in which they run.

use super::init::{Init, Seed, layer_rng};
use super::layer::{Layer, LayerSpec, Op, Shape, initial};
#[cfg(not(feature = "cuda"))]
use crate::engine::cpu::{self, Mode};
use crate::engine::portable;
#[cfg(not(feature = "cuda"))]
use crate::kernel::{arena::Arena, batch_norm};
use crate::tensor::{GradientTape, Images, device};
use crate::{Error, Result};
use dfdx::prelude::*;
#[cfg(not(feature = "cuda"))]
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
    input: Shape,
    pub(crate) layers: Vec<Layer>,
    pub(crate) seed: Seed,
    /// Layers built so far: each gets its own stream of random numbers.
    built: u64,
    /// Training steps so far: each drops other values.
    pub(crate) steps: u64,
    #[cfg(not(feature = "cuda"))]
    pool: Arc<Arena>,
}

impl Sequential {
    /// A model without layers for images of `(height, width, channels)`.
    pub fn new((h, w, c): (usize, usize, usize), seed: Seed) -> Sequential {
        Sequential {
            input: Shape::Map(h, w, c),
            layers: vec![],
            seed,
            built: 0,
            steps: 0,
            #[cfg(not(feature = "cuda"))]
            pool: Arc::default(),
        }
    }

    /// Height, width and channels of the images that the model was built for.
    pub fn input_shape(&self) -> (usize, usize, usize) {
        match self.input {
            Shape::Map(h, w, c) => (h, w, c),
            Shape::Flat(f) => (1, 1, f),
        }
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Adds a layer at the end.
    ///
    /// # Errors
    /// If the name is taken or the layer cannot take what the one before it gives.
    pub fn push(&mut self, name: &str, layer: LayerSpec) -> Result<()> {
        self.insert(self.layers.len(), name, layer)
    }

    /// Adds a layer with these weights, in the order of [`Layer::params`].
    #[cfg(feature = "onnx")]
    pub(crate) fn push_with(&mut self, name: &str, layer: LayerSpec, values: Vec<Vec<f32>>) -> Result<()> {
        if self.position(name).is_ok() {
            return Err(Error::Name(format!("two layers have the name '{name}'")));
        }
        let built = layer.build_with(name, self.output_shape(self.input)?, values)?;
        self.layers.push(built);
        self.built += 1;
        Ok(())
    }

    /// Removes the last layer and returns it.
    pub fn pop(&mut self) -> Option<Layer> {
        self.layers.pop()
    }

    /// Puts a layer before the one that is now at `index`; the model is unchanged on error.
    ///
    /// # Errors
    /// If the name is taken, or the layer or those behind it do not fit.
    pub fn insert(&mut self, index: usize, name: &str, layer: LayerSpec) -> Result<()> {
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

    /// Puts a new layer with new weights in the place and under the name of another.
    ///
    /// # Errors
    /// If there is no such layer, or the new one does not fit; the model is then unchanged.
    pub fn replace(&mut self, name: &str, layer: LayerSpec) -> Result<()> {
        let index = self.position(name)?;
        let new = self.build(index, name, layer)?;
        let old = std::mem::replace(&mut self.layers[index], new);
        self.keep_if_it_fits(|model| model.layers[index] = old)
    }

    /// The layers up to the one of this name, itself included, and those behind it, as models of their own: the
    /// convolutions and the head, say. Weights are shared until one of the three changes them.
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such layer.
    pub fn split_after(&self, name: &str) -> Result<(Sequential, Sequential)> {
        let (mut first, mut rest) = (self.clone(), self.clone());
        rest.layers = first.layers.split_off(self.position(name)? + 1);
        rest.input = first.output_shape(self.input)?;
        #[cfg(not(feature = "cuda"))]
        {
            rest.pool = Arc::default();
            first.pool = Arc::default();
        }
        Ok((first, rest))
    }

    /// The layers of this model, then those of `tail`: undoes [`split_after`](Self::split_after).
    ///
    /// # Errors
    /// If both have a layer of one name, or the tail cannot take what this model gives.
    pub fn join(&self, tail: &Sequential) -> Result<Sequential> {
        let mut whole = self.clone();
        if let Some(twice) = tail.layers.iter().find(|layer| whole.position(&layer.name).is_ok()) {
            return Err(Error::Name(format!("both models have a layer '{}'", twice.name)));
        }
        whole.layers.extend(tail.layers.iter().cloned());
        whole.built += tail.built;
        whole.output_shape(whole.input)?;
        Ok(whole)
    }

    fn build(&mut self, index: usize, name: &str, layer: LayerSpec) -> Result<Layer> {
        let input = self.layers[..index].iter().try_fold(self.input, |shape, layer| layer.output(shape))?;
        let built = layer.build(name, input, &mut layer_rng(self.seed, self.built))?;
        self.built += 1;
        Ok(built)
    }

    fn keep_if_it_fits(&mut self, undo: impl FnOnce(&mut Sequential)) -> Result<()> {
        let fits = self.output_shape(self.input);
        if fits.is_err() {
            undo(self);
        }
        fits.map(|_| ())
    }

    /// What the model gives for an input of this shape.
    pub(crate) fn output_shape(&self, input: Shape) -> Result<Shape> {
        self.layers.iter().try_fold(input, |shape, layer| layer.output(shape))
    }

    /// How many images to run at a time where no gradient is needed: as many as keep each layer's output within
    /// 64 MB, and 128 at the most. (Five photos of 224 pixels then; more would not be faster.)
    pub(crate) fn inference_batch(&self, input: Shape) -> usize {
        const FLOATS: usize = 16 << 20;
        let mut shape = input;
        let mut largest = input.size();
        for layer in &self.layers {
            let Ok(output) = layer.output(shape) else { break };
            shape = output;
            largest = largest.max(output.size());
        }
        (FLOATS / largest.max(1)).clamp(1, 128)
    }

    /// The layer of this name.
    ///
    /// # Errors
    /// [`Error::Name`] lists the names that there are.
    pub fn layer(&self, name: &str) -> Result<&Layer> {
        self.position(name).map(|i| &self.layers[i])
    }

    fn position(&self, name: &str) -> Result<usize> {
        self.layers.iter().position(|l| l.name == name).ok_or_else(|| self.no_such(name))
    }

    fn no_such(&self, name: &str) -> Error {
        let names: Vec<_> = self.layers.iter().map(|l| l.name.as_str()).collect();
        Error::Name(format!("the model has no layer '{name}'; its layers are {}", names.join(", ")))
    }

    /// The layer of this name, or else all whose names start with it ("" is every layer).
    fn select(&self, name: &str) -> Result<Vec<usize>> {
        if let Ok(index) = self.position(name) {
            return Ok(vec![index]);
        }
        let found: Vec<_> = (0..self.layers.len()).filter(|&i| self.layers[i].name.starts_with(name)).collect();
        if found.is_empty() { Err(self.no_such(name)) } else { Ok(found) }
    }

    /// Keeps the layer of this name, or all whose names start with it, from being trained. As in Keras,
    /// a frozen batch norm uses its running statistics and leaves them as they are.
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

    /// Changes the fraction that dropout layers drop: of the layer of this name, or of all dropout layers
    /// whose names start with it ("" is every one).
    ///
    /// # Errors
    /// If none is a dropout layer, or `p` is not in 0 ≤ p < 1.
    pub fn set_dropout(&mut self, name: &str, p: f32) -> Result<()> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::Config(format!("dropout p must be at least 0 and less than 1, not {p}")));
        }
        let mut found = false;
        for i in self.select(name)? {
            if let Op::Dropout { p: old } = &mut self.layers[i].op {
                *old = p;
                found = true;
            }
        }
        if found { Ok(()) } else { Err(Error::Name(format!("'{name}' names no dropout layer"))) }
    }

    /// Lets batch norms normalize a training batch in groups of so many images, each by its own mean and variance: the
    /// noise of small batches in the steps of large ones ("ghost" batch norm, Hoffer et al. 2017, arXiv:1705.08741;
    /// Keras 2's `virtual_batch_size`). A batch that is no multiple of it, and any with 0, is taken whole. `name` is one
    /// layer's, or what the names of all that are meant start with ("" is every one).
    ///
    /// # Errors
    /// [`Error::Name`] if none is a batch norm.
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

    /// Changes the λ of l2(λ) of the layer of this name, or of all whose names start with it ("" is every one). Layers
    /// without l2 stay without it, so 0 ends it for good.
    ///
    /// # Errors
    /// If none has an l2 (and `lambda` is not 0), or `lambda` is negative.
    pub fn set_l2(&mut self, name: &str, lambda: f32) -> Result<()> {
        if lambda.is_nan() || lambda < 0.0 {
            return Err(Error::Config(format!("l2 must be at least 0, not {lambda}")));
        }
        let regularized: Vec<usize> = self.select(name)?.into_iter().filter(|&i| self.layers[i].l2 > 0.0).collect();
        if regularized.is_empty() && lambda > 0.0 {
            return Err(Error::Name(format!("'{name}' names no layer with l2")));
        }
        regularized.into_iter().for_each(|i| self.layers[i].l2 = lambda);
        Ok(())
    }

    /// Draws the kernel of the layer of this name, or of all whose names start with it ("" is every one), anew; their
    /// biases become 0.
    ///
    /// # Errors
    /// [`Error::Name`] if none has a kernel.
    pub fn set_init(&mut self, name: &str, init: Init) -> Result<()> {
        let has_kernel = |layer: &Layer| matches!(layer.op, Op::Conv2d { .. } | Op::Linear { .. });
        let found: Vec<usize> = self.select(name)?.into_iter().filter(|&i| has_kernel(&self.layers[i])).collect();
        if found.is_empty() {
            return Err(Error::Name(format!("'{name}' names no convolution or dense layer")));
        }
        for i in found {
            let mut rng = layer_rng(self.seed, i as u64);
            for param in self.layers[i].params_mut() {
                let values = initial(param.name, &param.dims, init, &mut rng);
                let len = values.len();
                param.tensor = device().tensor_from_vec(values, (len,));
            }
        }
        Ok(())
    }

    /// All parameters, learned or not, as Keras counts them.
    pub fn parameter_count(&self) -> usize {
        self.layers.iter().flat_map(|l| l.params()).map(|p| p.dims.iter().product::<usize>()).sum()
    }

    /// The model's output for a batch of shape (n, h, w, c), for use and not for training: dropout does
    /// nothing, batch norm uses its running statistics. Vectors have shape (n, 1, 1, values).
    ///
    /// # Errors
    /// [`Error::Shape`] if the batch does not fit the model.
    pub fn forward(&self, x: Images) -> Result<Images> {
        self.run(&self.layers, x)
    }

    #[cfg(not(feature = "cuda"))]
    fn run(&self, layers: &[Layer], x: Images) -> Result<Images> {
        let pass = cpu::forward(layers, cpu::buffer(&self.pool, &x), *x.shape(), Mode::Inference, |_, _, _| ())?;
        cpu::tensor(&pass.y, pass.shape)
    }

    #[cfg(feature = "cuda")]
    fn run(&self, layers: &[Layer], x: Images) -> Result<Images> {
        Ok(portable::forward(layers, x, None, |_, _| ())?.0)
    }

    /// The outputs of several layers in one pass, in the order of `names`.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that is not there, [`Error::Shape`] if the batch does not fit.
    pub fn activations(&self, x: Images, names: &[&str]) -> Result<Vec<Images>> {
        let places = names.iter().map(|name| self.position(name)).collect::<Result<Vec<_>>>()?;
        let layers = &self.layers[..places.iter().max().map_or(0, |last| last + 1)];
        let mut found = vec![None; names.len()];
        #[cfg(not(feature = "cuda"))]
        {
            let mut kept = vec![];
            cpu::forward(layers, cpu::buffer(&self.pool, &x), *x.shape(), Mode::Observed, |layer, y, shape| {
                if names.contains(&layer.name.as_str()) {
                    kept.push((layer.name.clone(), y.clone(), shape));
                }
            })?;
            for (name, y, shape) in kept {
                let y = cpu::tensor(&y, shape)?;
                (0..names.len()).filter(|&i| names[i] == name).for_each(|i| found[i] = Some(y.clone()));
            }
        }
        #[cfg(feature = "cuda")]
        portable::forward(layers, x, None, |layer, y| {
            (0..names.len()).filter(|&i| names[i] == layer.name).for_each(|i| found[i] = Some(y.clone()));
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The output while training: dropout drops, batch norm uses the batch's statistics and moves its
    /// running ones. `x` carries dfdx's tape (`x.leaky_traced()`); call `backward()` on a loss of the
    /// result to get the gradients of `x` and of every parameter that is not frozen.
    ///
    /// # Errors
    /// [`Error::Shape`] if the batch does not fit the model.
    pub fn forward_mut(&mut self, x: Images<GradientTape>) -> Result<Images<GradientTape>> {
        self.training_pass(x, true, self.layers.len())
    }

    /// The same for `fit`: without the input's gradient, and without a final softmax, which the loss contains.
    pub(crate) fn training_logits(&mut self, x: Images<GradientTape>) -> Result<Images<GradientTape>> {
        self.training_pass(x, false, self.logit_layers())
    }

    /// The model's output before a final softmax.
    pub(crate) fn logits(&self, x: Images) -> Result<Images> {
        self.run(&self.layers[..self.logit_layers()], x)
    }

    pub(crate) fn logit_layers(&self) -> usize {
        let ends_in_softmax = self.layers.last().is_some_and(|l| l.op == Op::Softmax);
        self.layers.len() - usize::from(ends_in_softmax)
    }

    fn step_seed(&mut self) -> u64 {
        self.steps += 1;
        // Any odd constant spreads neighboring seeds; dropout hashes the result.
        self.seed.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.steps)
    }

    #[cfg(not(feature = "cuda"))]
    fn training_pass(&mut self, x: Images<GradientTape>, need_dx: bool, count: usize) -> Result<Images<GradientTape>> {
        let seed = self.step_seed();
        let (x, mut tape) = x.split_tape();
        let input = cpu::buffer(&self.pool, &x);
        let layers = &self.layers[..count];
        let trained = |l: &Layer| l.learns() || matches!(l.op, Op::Dropout { p } if p > 0.0);
        let first = if need_dx { 0 } else { layers.iter().position(trained).unwrap_or(count) };
        let pass = cpu::forward(layers, input, *x.shape(), Mode::Training { seed, first }, |_, _, _| ())?;
        for (layer, step) in &pass.steps {
            if let cpu::Step::BatchNorm { groups, frozen: false, .. } = step {
                let (mean, variance) = batch_norm::together(groups);
                self.move_statistics(*layer, &mean, &variance);
            }
        }
        let y = cpu::tensor(&pass.y, pass.shape)?;
        let (x_ghost, y_ghost, pool) = (x.ghost(), y.ghost(), self.pool.clone());
        drop(pass.y);
        let steps = pass.steps;
        tape.add_backward_op(move |gradients| {
            // Nobody reads the output's gradient again: it is moved out.
            let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_ghost)?);
            let dy = pool.copy(&dy);
            if let Some(dx) = cpu::backward(steps, dy, gradients, need_dx)? {
                cpu::add(gradients.get_or_alloc_mut(&x_ghost)?, &dx);
            }
            Ok(())
        });
        Ok(y.put_tape(tape))
    }

    #[cfg(feature = "cuda")]
    fn training_pass(&mut self, x: Images<GradientTape>, _: bool, count: usize) -> Result<Images<GradientTape>> {
        self.portable_training_pass(x, count)
    }

    /// [`forward_mut`](Self::forward_mut) composed of dfdx's operations only.
    #[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))]
    pub(crate) fn portable_training_pass(
        &mut self,
        x: Images<GradientTape>,
        count: usize,
    ) -> Result<Images<GradientTape>> {
        let seed = self.step_seed();
        let (y, statistics) = portable::forward(&self.layers[..count], x, Some(seed), |_, _| ())?;
        for seen in statistics {
            self.move_statistics(seen.layer, &seen.mean, &seen.variance);
        }
        Ok(y)
    }

    fn move_statistics(&mut self, layer: usize, mean: &[f32], variance: &[f32]) {
        let layer = &mut self.layers[layer];
        let Op::BatchNorm { momentum, .. } = layer.op else { return };
        for (param, batch) in layer.params_mut()[2..].iter_mut().zip([mean, variance]) {
            let mut running = param.tensor.as_vec();
            running.iter_mut().zip(batch).for_each(|(r, b)| *r = momentum * *r + (1.0 - momentum) * b);
            param.tensor = device().tensor_from_vec(running, (batch.len(),));
        }
    }

    /// Gives the memory kept for the next step back to the system.
    pub(crate) fn release_memory(&self) {
        #[cfg(not(feature = "cuda"))]
        self.pool.clear();
    }
}
