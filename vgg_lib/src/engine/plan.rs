//! Divides a model's layers into *stages* for the CPU. Each stage is one pass over the data.
//!
//! This is the only place that decides which layers are fused. Passes over large maps are limited by memory bandwidth,
//! so running a neighboring layer while the values are in registers costs almost nothing:
//!
//! | fused | when | why the result is the same |
//! |---|---|---|
//! | 3×3 convolution + ReLU and batch norm in either order + 2×2 max pooling | inference | with running statistics batch norm is y = x·scale + shift, so each output tile can be finished in registers |
//! | batch norm + dropout | training | whether an element is dropped depends only on its index |
//! | the backward pass of a ReLU + that of the batch norm after it | training | batch norm keeps its input, which is 0 where the ReLU passes no gradient |
//!
//! To observe the outputs of single layers, each layer is a stage of its own.

use crate::model::{Layer, Op, Sequential, Shape};
use crate::tensor::Images;
use crate::{Error, Result};
use dfdx::shapes::HasShape;
use std::fmt;
use std::ops::Range;

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Purpose {
    /// The output of the last layer.
    Inference,
    /// The output of every layer.
    Observation,
    /// A training step. The layers before `first` need no gradient and run as in inference.
    Training { first: usize },
}

/// The stages of a pass, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(crate) stages: Vec<Stage>,
    pub(crate) output: Shape,
    /// The names of the layers, for printing.
    names: Vec<String>,
}

/// One layer, or several consecutive ones that run in one pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stage {
    /// Their indices in the model. The first layer gives the stage its operation.
    pub(crate) layers: Range<usize>,
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    /// Whether the backward pass goes through this stage.
    pub(crate) trains: bool,
    pub(crate) fused: Fused,
    pub(crate) form: Form,
}

/// What a stage computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Form {
    /// f32.
    #[default]
    F32,
    /// Input and output are [lines](crate::kernel::bf16) of bf16.
    Bf16,
    /// Weights are bf16, input and output f32.
    Bf16Weights,
}

/// What a stage does besides its first layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fused {
    /// For a convolution in inference: what happens to its output tiles.
    pub(crate) tail: Option<Tail>,
    /// For a batch norm in training: the index of the dropout layer that runs with it.
    pub(crate) dropout: Option<usize>,
    /// For a batch norm in training: whether its backward pass includes that of the ReLU in the layer before.
    pub(crate) relu_before: bool,
}

/// The layers that follow a 3×3 convolution in the same stage, in the order in which they run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tail {
    pub(crate) relu: bool,
    /// Its index in the model.
    pub(crate) batch_norm: Option<usize>,
    pub(crate) relu_after: bool,
    pub(crate) max_pool: bool,
}

/// The number of groups into which a batch norm divides a training batch of `n` images: `n / size` if `size` divides
/// `n`, otherwise 1. See [`Sequential::set_batch_norm_group`].
pub(crate) fn groups(n: usize, size: usize) -> usize {
    if size > 0 && n.is_multiple_of(size) { n / size } else { 1 }
}

impl Plan {
    /// The stages for this batch.
    pub(crate) fn of<T>(layers: &[Layer], x: &Images<T>, purpose: Purpose) -> Result<Plan> {
        let (n, h, w, c) = *x.shape();
        if h == 0 || w == 0 || c == 0 {
            return Err(Error::Shape(format!("images of {h}×{w}×{c} have no pixels; each size must be at least 1")));
        }
        Plan::new(layers, n, Shape::Map(h, w, c), purpose)
    }

    /// The stages for a batch of `n` images of this shape.
    pub(crate) fn new(layers: &[Layer], n: usize, input: Shape, purpose: Purpose) -> Result<Plan> {
        let mut stages: Vec<Stage> = vec![];
        let (mut shape, mut next) = (input, 0);
        while next < layers.len() {
            let (trains, end) = match purpose {
                Purpose::Training { first } if next >= first => (true, layers.len()),
                Purpose::Training { first } => (false, first),
                _ => (false, layers.len()),
            };
            let mut stage = Stage {
                layers: next..next + 1,
                input: shape,
                output: shape,
                trains,
                fused: Fused::default(),
                form: Form::F32,
            };
            if trains {
                stage.fuse_for_training(layers, n, &stages);
            } else if purpose != Purpose::Observation {
                stage.fuse_for_use(&layers[..end]);
            }
            for layer in &layers[stage.layers.clone()] {
                shape = layer.output(shape)?;
            }
            stage.output = shape;
            next = stage.layers.end;
            stages.push(stage);
        }
        let names = layers.iter().map(|layer| layer.name().to_string()).collect();
        Ok(Plan { stages, output: shape, names })
    }

    /// The same plan for a batch of `n` images in bf16: convolutions, the layers that follow them up to the first of
    /// another kind, and in inference the weights of dense layers but the last, whose outputs are the logits.
    pub(crate) fn in_bf16(mut self, layers: &[Layer], n: usize) -> Plan {
        let op = |stage: &Stage| layers[stage.layers.start].op();
        let last_dense = self.stages.iter().rposition(|stage| matches!(op(stage), Op::Linear { .. }));
        let mut before = Form::F32;
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let adapts = stage.trains && !layers[stage.layers.start].is_frozen();
            stage.form = match op(stage) {
                Op::Conv2d { kernel: 1 | 3, .. } => Form::Bf16,
                // 32 images share their cache lines.
                Op::BatchNorm { group, .. } if adapts && groups(n, group) > 1 && group % 32 != 0 => Form::F32,
                Op::BatchNorm { .. } | Op::Relu | Op::Dropout { .. } | Op::MaxPool2d if before == Form::Bf16 => before,
                Op::Linear { .. } if !stage.trains && last_dense != Some(index) => Form::Bf16Weights,
                _ => Form::F32,
            };
            before = stage.form;
        }
        self
    }
}

impl Stage {
    /// Fuses a 3×3 convolution with the ReLU and batch norm after it, in either order, and then with a pooling layer.
    fn fuse_for_use(&mut self, layers: &[Layer]) {
        let Op::Conv2d { kernel: 3, relu, .. } = layers[self.layers.start].op() else { return };
        let mut tail = Tail { relu, ..Tail::default() };
        for (index, layer) in layers.iter().enumerate().skip(self.layers.end) {
            match layer.op() {
                Op::Dropout { .. } => (), // does nothing in inference
                Op::Relu if tail.batch_norm.is_some() => tail.relu_after = true,
                Op::Relu => tail.relu = true,
                Op::BatchNorm { .. } if tail.batch_norm.is_none() => tail.batch_norm = Some(index),
                Op::MaxPool2d => tail.max_pool = true,
                _ => break,
            }
            self.layers.end = index + 1;
            if tail.max_pool {
                break;
            }
        }
        self.fused.tail = Some(tail);
    }

    /// Fuses a batch norm with the dropout after it, unless the batch is normalized in groups, and its backward pass
    /// with that of the ReLU before it.
    fn fuse_for_training(&mut self, layers: &[Layer], n: usize, before: &[Stage]) {
        let index = self.layers.start;
        let Op::BatchNorm { group, .. } = layers[index].op() else { return };
        let frozen = layers[index].is_frozen();
        let next = layers.get(index + 1).map(Layer::op);
        if matches!(next, Some(Op::Dropout { .. })) && (frozen || groups(n, group) == 1) {
            self.fused.dropout = Some(index + 1);
            self.layers.end = index + 2;
        }
        let passes_on = |stage: &&Stage| layers[stage.layers.start].op().passes_on_in_training(stage.input);
        let before = before.iter().rev().find(|stage| !passes_on(stage));
        self.fused.relu_before =
            !frozen && before.is_some_and(|stage| stage.trains && layers[stage.layers.start].op().ends_in_relu());
    }
}

impl Op {
    /// Whether the layer passes an input of this shape on unchanged in a training step.
    fn passes_on_in_training(self, input: Shape) -> bool {
        self.passes_on(input) || self == Op::Dropout { p: 0.0 }
    }

    /// Whether a ReLU is part of the layer.
    fn ends_in_relu(self) -> bool {
        matches!(self, Op::Conv2d { relu: true, .. } | Op::Linear { relu: true, .. })
    }
}

/// How a model runs in inference and in training. Prints as one line per stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Plans {
    /// The stages of inference.
    pub inference: Plan,
    /// The stages of a training step.
    pub training: Plan,
}

impl Sequential {
    /// Which layers run together, in inference and in a training step of `batch_size` images.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let plans = vgg::cifar_vgg16(Seed(0)).plan(128)?;
    /// assert!(plans.to_string().contains("block1_conv2 + block1_conv2_bn + block1_pool"));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if a layer cannot take its input.
    pub fn plan(&self, batch_size: usize) -> Result<Plans> {
        self.check_complete()?;
        let (h, w, c) = self.input_shape();
        let plan = |purpose| Plan::new(self.layers(), batch_size, Shape::Map(h, w, c), purpose);
        let first = self.first_trained(self.layers());
        Ok(Plans { inference: plan(Purpose::Inference)?, training: plan(Purpose::Training { first })? })
    }

    /// The index of the first layer that training changes or that drops values.
    pub(super) fn first_trained(&self, layers: &[Layer]) -> usize {
        let trained = |l: &Layer| l.learns() || matches!(l.op(), Op::Dropout { p } if p > 0.0);
        layers.iter().position(trained).unwrap_or(layers.len())
    }
}

impl fmt::Display for Plans {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Inference\n{}\n\nTraining step\n{}", self.inference, self.training)
    }
}

/// One line per stage.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names = |stage: &Stage| self.names[stage.layers.clone()].join(" + ");
        let lines: Vec<String> = self.stages.iter().map(names).collect();
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        for (i, (line, stage)) in lines.iter().zip(&self.stages).enumerate() {
            let end = if i + 1 == lines.len() { "" } else { "\n" };
            let note = if stage.fused.relu_before { "  backward with the ReLU before it" } else { "" };
            write!(f, "  {line:<width$}  {}{note}{end}", stage.output)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;

    fn model(layers: &[(&str, LayerSpec)]) -> Sequential {
        let mut model = Sequential::new((8, 8, 3), Seed(0));
        layers.iter().for_each(|(name, layer)| model.push(name, *layer).unwrap());
        model
    }

    fn stages(model: &Sequential, n: usize, purpose: Purpose) -> Vec<String> {
        let plan = Plan::new(model.layers(), n, Shape::Map(8, 8, 3), purpose).unwrap();
        plan.stages.iter().map(|stage| plan.names[stage.layers.clone()].join("+")).collect()
    }

    fn small() -> Sequential {
        model(&[
            ("conv", conv2d(4).relu().into()),
            ("norm", batch_norm().into()),
            ("drop", dropout(0.5).into()),
            ("pool", max_pool2d().into()),
            ("flat", flatten().into()),
            ("fc", linear(5).relu().into()),
            ("off", dropout(0.0).into()),
            ("norm2", batch_norm().into()),
        ])
    }

    #[test]
    fn a_convolution_in_inference_takes_its_neighbors_with_it() {
        assert_eq!(stages(&small(), 2, Purpose::Inference), ["conv+norm+drop+pool", "flat", "fc", "off", "norm2"]);
        let torch = model(&[
            ("conv", conv2d(4).into()),
            ("norm", batch_norm().into()),
            ("relu", relu().into()),
            ("norm2", batch_norm().into()),
            ("wide", conv2d(4).kernel(5).into()),
            ("relu2", relu().into()),
        ]);
        assert_eq!(stages(&torch, 2, Purpose::Inference), ["conv+norm+relu", "norm2", "wide", "relu2"]);
        let plan = Plan::new(torch.layers(), 2, Shape::Map(8, 8, 3), Purpose::Inference).unwrap();
        let tail = Tail { relu: false, batch_norm: Some(1), relu_after: true, max_pool: false };
        assert_eq!(plan.stages[0].fused.tail, Some(tail));
    }

    #[test]
    fn an_observed_layer_is_a_stage_of_its_own() {
        assert_eq!(stages(&small(), 2, Purpose::Observation).len(), small().layers().len());
    }

    #[test]
    fn a_batch_norm_in_training_takes_dropout_and_the_relu_before_it() {
        let mut model = small();
        let training = Purpose::Training { first: 0 };
        assert_eq!(stages(&model, 4, training), ["conv", "norm+drop", "pool", "flat", "fc", "off", "norm2"]);
        let relu_before = |model: &Sequential| -> Vec<bool> {
            let plan = Plan::new(model.layers(), 4, Shape::Map(8, 8, 3), training).unwrap();
            plan.stages.iter().map(|stage| stage.fused.relu_before).collect()
        };
        assert_eq!(relu_before(&model), [false, true, false, false, false, false, true]);
        model.set_batch_norm_group("norm", 2).unwrap();
        assert_eq!(stages(&model, 4, training)[..3], ["conv", "norm", "drop"]);
        model.freeze("norm").unwrap();
        assert!(!relu_before(&model)[1]);
    }

    #[test]
    fn a_pooling_that_changes_nothing_does_not_come_between_a_relu_and_its_batch_norm() {
        for (size, expected) in [(8, true), (4, false)] {
            let pool = adaptive_avg_pool2d(size, size).into();
            let model = model(&[("conv", conv2d(4).relu().into()), ("pool", pool), ("norm", batch_norm().into())]);
            let training = Purpose::Training { first: 0 };
            let plan = Plan::new(model.layers(), 2, Shape::Map(8, 8, 3), training).unwrap();
            assert_eq!(plan.stages[2].fused.relu_before, expected, "{size}");
        }
    }

    #[test]
    fn layers_before_the_first_that_learns_run_as_in_inference() {
        let model = small();
        assert_eq!(stages(&model, 2, Purpose::Training { first: 5 })[..2], ["conv+norm+drop+pool", "flat"]);
        // They are not fused with layers of the trained part.
        assert_eq!(stages(&model, 2, Purpose::Training { first: 1 })[..2], ["conv", "norm+drop"]);
        let plan = Plan::new(model.layers(), 2, Shape::Map(8, 8, 3), Purpose::Training { first: 1 }).unwrap();
        assert!(!plan.stages[1].fused.relu_before, "the convolution keeps nothing for backward");
    }

    #[test]
    fn a_plan_shows_one_line_per_stage() {
        let text = small().plan(4).unwrap().to_string();
        let expected = "\
Inference
  conv + norm + drop + pool  (None, 4, 4, 4)
  flat                       (None, 64)
  fc                         (None, 5)
  off                        (None, 5)
  norm2                      (None, 5)

Training step
  conv         (None, 8, 8, 4)
  norm + drop  (None, 8, 8, 4)  backward with the ReLU before it
  pool         (None, 4, 4, 4)
  flat         (None, 64)
  fc           (None, 5)
  off          (None, 5)
  norm2        (None, 5)  backward with the ReLU before it";
        assert_eq!(text, expected);
    }
}
