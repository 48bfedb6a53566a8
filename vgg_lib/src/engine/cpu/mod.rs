//! Runs a plan with the CPU kernels, forward and backward.
//!
//! Each file here is one operation: its forward pass, what that keeps, and directly below it the backward pass.
//!
//! For dfdx, a whole model is one operation on its tape. Intermediate results stay in buffers of an arena, which the
//! next step reuses. Nothing is kept twice: a convolution with ReLU and the batch norm after it share one buffer, and
//! dropout keeps none.

mod adaptive_avg_pool2d;
mod batch_norm;
mod bf16;
mod conv2d;
mod dropout;
mod global_avg_pool;
mod linear;
mod loss;
mod max_pool2d;
mod preprocess;
mod relu;
mod softmax;
mod update;

pub(crate) use loss::cross_entropy;
pub(crate) use update::{adam_update, finish_update, momentum_update, muon_updates, squared_norm};

use super::laps::Stopwatch;
use super::plan::{Form, Plan, Purpose, Stage};
use super::{Exchange, Place, Statistics, Trained, TrainingPass, dropout_mask, memory, nhwc};
use crate::Result;
use crate::kernel::arena::{Arena, Buffer};
use crate::kernel::bf16::{Map, Rows};
use crate::kernel::elementwise::{self, Dropout};
use crate::kernel::threads;
use crate::model::{Layer, Op};
use crate::tensor::{Flat, GradientTape, Gradients, Images, Nhwc, as_slice, device, dfdx_error};
use dfdx::prelude::*;
use std::sync::Arc;

/// Inference: the output of the last of these layers.
pub(crate) fn infer(layers: &[Layer], x: Images, place: Place) -> Result<Images> {
    let plan = plan(layers, &x, Purpose::Inference, &[], place)?;
    let mut pass = Pass::new(layers, &plan, *x.shape(), 0);
    let y = pass.run(&plan, to_buffer(place.arena, &x), |_, _| ());
    to_images(&y, nhwc(x.shape().0, plan.output))
}

/// The outputs of the layers with these indices, in the order of `wanted`.
pub(crate) fn observe(layers: &[Layer], x: Images, wanted: &[usize], place: Place) -> Result<Vec<Images>> {
    let plan = plan(layers, &x, Purpose::Observation, wanted, place)?;
    let mut found = vec![None; layers.len()];
    let mut pass = Pass::new(layers, &plan, *x.shape(), 0);
    let rows = pass.rows;
    pass.run(&plan, to_buffer(place.arena, &x), |stage, y| {
        if wanted.contains(&stage.layers.start) {
            let shape = nhwc(x.shape().0, stage.output);
            let y = match stage.form {
                Form::Bf16 => Arc::new(bf16::unpacked(y, Map::new(rows, shape))),
                _ => y.clone(),
            };
            found[stage.layers.start] = Some((y, shape));
        }
    });
    let image = |&index: &usize| found[index].as_ref().map(|(y, shape)| to_images(y, *shape));
    wanted.iter().filter_map(image).collect()
}

/// A training pass. Returns its output and the batch statistics of its batch norms.
pub(crate) fn train(
    layers: &[Layer],
    x: Images<GradientTape>,
    TrainingPass { seed, first, input_gradient, exchange, .. }: TrainingPass,
    place: Place,
) -> Result<Trained> {
    let (x, mut tape) = x.split_tape();
    let plan = plan(layers, &x, Purpose::Training { first }, &[], place)?;
    let mut pass = Pass::new(layers, &plan, *x.shape(), seed);
    pass.exchange = exchange.clone();
    let result = pass.run(&plan, to_buffer(place.arena, &x), |_, _| ());
    let Pass { kept, statistics, .. } = pass;
    let y = to_images(&result, nhwc(x.shape().0, plan.output))?;
    drop(result);
    let (x_ghost, y_ghost, arena) = (x.ghost(), y.ghost(), place.arena.clone());
    tape.add_backward_op(move |gradients| {
        // The gradient of the output is not read again, so it is moved out.
        let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_ghost)?);
        let dy = arena.copy(&dy);
        if let Some(dx) = backward(kept, dy, gradients, input_gradient, exchange.as_deref())? {
            add(gradients.get_or_alloc_mut(&x_ghost)?, &dx);
        }
        Ok(())
    });
    Ok(Trained { y: y.put_tape(tape), statistics, penalty: None })
}

/// The stages of a pass that keeps the outputs of the layers `observed`, after a check that it fits in memory.
fn plan(layers: &[Layer], x: &Images, purpose: Purpose, observed: &[usize], place: Place) -> Result<Plan> {
    let plan = Plan::of(layers, x, purpose)?;
    let plan = if place.bf16 { plan.in_bf16(layers, x.shape().0) } else { plan };
    memory::check_pass(layers, &plan, x.shape().0, observed, place.arena)?;
    Ok(plan)
}

/// A forward pass.
struct Pass<'a> {
    layers: &'a [Layer],
    /// Images in the batch.
    n: usize,
    /// The seed of this step's dropout.
    seed: u64,
    /// What lines of bf16 are.
    rows: Rows,
    /// What the backward pass needs of each stage, with the index of the stage's first layer.
    kept: Vec<(usize, Box<dyn Backward>)>,
    statistics: Vec<Statistics>,
    /// The step of all ranks, if there are several.
    exchange: Option<Arc<Exchange>>,
}

/// A stage and its input.
struct Work<'a> {
    stage: &'a Stage,
    layer: &'a Layer,
    layers: &'a [Layer],
    n: usize,
    rows: Rows,
    x: Arc<Buffer>,
}

impl<'a> Pass<'a> {
    fn new(layers: &'a [Layer], plan: &Plan, shape: Nhwc, seed: u64) -> Pass<'a> {
        threads::pin();
        let rows = bf16::rows(plan, shape.0);
        Pass { layers, n: shape.0, seed, rows, kept: vec![], statistics: vec![], exchange: None }
    }

    /// Runs all stages in order, and calls `seen` with the output of each.
    fn run(&mut self, plan: &Plan, x: Buffer, mut seen: impl FnMut(&Stage, &Arc<Buffer>)) -> Arc<Buffer> {
        let mut x = Arc::new(x);
        let mut watch = Stopwatch::start();
        let (n, rows, layers) = (self.n, self.rows, self.layers);
        let mut before = Form::F32;
        for stage in &plan.stages {
            let index = stage.layers.start;
            let mut work = Work { stage, layer: &layers[index], layers, n, rows, x };
            let conversion = bf16::convert(&mut work, before);
            let kept;
            (x, kept) = self.stage(work);
            if stage.trains {
                self.kept.extend([conversion, kept].into_iter().flatten().map(|kept| (index, kept)));
            }
            watch.lap(index, false);
            seen(stage, &x);
            before = stage.form;
        }
        match plan.stages.last() {
            Some(stage) if before == Form::Bf16 => {
                let map = Map::new(rows, nhwc(n, stage.output));
                if stage.trains {
                    self.kept.push((stage.layers.start, bf16::backward_of_unpacked(map)));
                }
                Arc::new(bf16::unpacked(&x, map))
            }
            _ => x,
        }
    }

    /// What the dropout layer with this index drops in this rank's part of the batch.
    fn dropout_mask(&self, p: f32, layer: usize, stage: &Stage) -> Option<Dropout> {
        let first = self.exchange.as_ref().map_or(0, |exchange| exchange.first_image());
        dropout_mask(p, layer, self.seed).map(|mask| mask.starting_at(first * stage.output.size()))
    }

    fn stage(&mut self, work: Work) -> Output {
        if work.stage.form != Form::F32 {
            return bf16::stage(work, self);
        }
        match work.layer.op() {
            Op::Preprocess { mean, std, bgr } => preprocess::forward(work, mean, std, bgr),
            Op::Conv2d { kernel, relu, .. } => conv2d::forward(work, kernel, relu),
            Op::Linear { relu, .. } => linear::forward(work, relu),
            Op::BatchNorm { epsilon, group, .. } => batch_norm::forward(work, epsilon, group, self),
            Op::Relu => relu::forward(work),
            Op::Dropout { p } => dropout::forward(work, p, self),
            Op::MaxPool2d => max_pool2d::forward(work),
            Op::GlobalAvgPool => global_avg_pool::forward(work),
            Op::AdaptiveAvgPool2d { height, width } => adaptive_avg_pool2d::forward(work, (height, width)),
            Op::Flatten => (work.x, None),
            Op::Softmax => softmax::forward(work),
        }
    }
}

impl Work<'_> {
    fn input(&self) -> Nhwc {
        nhwc(self.n, self.stage.input)
    }

    fn output_shape(&self) -> Nhwc {
        nhwc(self.n, self.stage.output)
    }

    /// A buffer for the output.
    fn output(&self) -> Buffer {
        self.take(self.n * self.stage.output.size())
    }

    fn take(&self, len: usize) -> Buffer {
        self.x.arena().take(len)
    }

    /// The two learned parameters of the layer: kernel and bias, or γ and β.
    fn params(&self) -> [Flat; 2] {
        [self.layer.tensor(0).clone(), self.layer.tensor(1).clone()]
    }
}

/// What a forward pass returns: the output of the stage, and what its backward pass needs.
type Output = (Arc<Buffer>, Option<Box<dyn Backward>>);

/// What the forward pass of a stage keeps for the backward pass.
trait Backward: Send {
    /// Whether any parameter of the stage gets a gradient.
    fn learns(&self) -> bool {
        false
    }

    /// Adds the gradients of the parameters to `gradients` and returns the gradient of the stage's input. If the latter
    /// is not `wanted`, anything may be returned.
    fn backward(self: Box<Self>, flow: Flow, gradients: &mut Gradients, wanted: bool) -> DfdxResult<Flow>;
}

type DfdxResult<T> = std::result::Result<T, CpuError>;

/// The gradient that the backward pass hands from stage to stage.
struct Flow {
    dy: Buffer,
    /// Σ dy over all positions, if a batch norm has already applied the ReLU of the layer before it.
    sums: Option<Vec<f32>>,
}

impl Flow {
    fn new(dy: Buffer) -> Flow {
        Flow { dy, sums: None }
    }

    fn take(&self, len: usize) -> Buffer {
        self.dy.arena().take(len)
    }

    /// Applies the backward pass of the ReLU to dy. If the bias `learns`, returns its gradient, which is the sum of dy
    /// over all positions. If the batch norm after this layer has already done both, returns its sums.
    fn before_relu(&mut self, after_relu: Option<Arc<Buffer>>, outputs: usize, learns: bool) -> Vec<f32> {
        if let Some(sums) = self.sums.take() {
            return sums;
        }
        if let Some(y) = after_relu {
            elementwise::relu_backward(&mut self.dy, &y);
        }
        if learns { elementwise::column_sums(&self.dy, outputs) } else { vec![] }
    }
}

/// Runs the stages backward, starting from dy, and adds the gradients of the parameters to `gradients`, of which an
/// `exchange` tells the other ranks. Returns the gradient of the input if `need_dx`; otherwise it stops at the first stage
/// that learns.
fn backward(
    mut kept: Vec<(usize, Box<dyn Backward>)>,
    dy: Buffer,
    gradients: &mut Gradients,
    need_dx: bool,
    exchange: Option<&Exchange>,
) -> DfdxResult<Option<Buffer>> {
    let first = if need_dx { 0 } else { kept.iter().position(|(_, stage)| stage.learns()).unwrap_or(kept.len()) };
    let mut flow = Flow::new(dy);
    let mut watch = Stopwatch::start();
    while let Some((layer, stage)) = kept.pop() {
        let index = kept.len();
        if index < first {
            return Ok(None);
        }
        flow = stage.backward(flow, gradients, need_dx || index > first)?;
        exchange.map_or(Ok(()), |exchange| exchange.backward(layer, gradients))?;
        watch.lap(layer, true);
    }
    Ok(need_dx.then_some(flow.dy))
}

fn values(tensor: &Flat) -> &[f32] {
    as_slice(tensor).expect("parameters are contiguous")
}

/// sum += values.
pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
}

fn to_buffer(arena: &Arc<Arena>, x: &Images) -> Buffer {
    match as_slice(x) {
        Some(values) => arena.copy(values),
        None => arena.copy(&x.as_vec()),
    }
}

fn to_images(buffer: &Buffer, shape: Nhwc) -> Result<Images> {
    device().try_tensor_from_vec(buffer.to_vec(), shape).map_err(dfdx_error)
}
