//! Runs a plan on an NVIDIA GPU, forward and backward: the twin of `engine/cpu`.
//!
//! Tensors that users hold stay on the CPU, and for dfdx a whole model is one operation on its tape, as on the CPU.
//! Parameters, their gradients, velocities and running statistics stay on the GPU between steps
//! ([`Values`](crate::model::Values)); a step of `fit` copies the images there and the logits back.
//!
//! Nothing here returns an error where it happens: the GPU keeps its first fault, and what is copied back is checked.

mod batch_norm;
mod conv2d;
mod pointwise;
mod pool;
mod update;

pub(crate) use update::{
    adam_update, all_finite, average, momentum_update, move_statistics, muon_updates, squared_norm,
};

use super::laps::Stopwatch;
use super::plan::{Plan, Purpose, Stage};
use super::{Statistics, Trained, TrainingPass, nhwc};
use crate::Result;
use crate::kernel::gpu::{Gpu, Memory, launch, over};
use crate::model::{Gradient, Layer, Op};
use crate::tensor::{Flat, GradientTape, Gradients, Images, Nhwc, device, dfdx_error, values};
use dfdx::prelude::*;
use std::sync::Arc;

/// Inference: the output of the last of these layers.
pub(crate) fn infer(gpu: &'static Gpu, layers: &[Layer], x: Images) -> Result<Images> {
    let plan = Plan::of(layers, &x, Purpose::Inference)?;
    let mut pass = Pass::new(gpu, layers, *x.shape(), 0);
    let y = pass.run(&plan, gpu.upload(&values(&x)), |_, _| ());
    to_images(&y, nhwc(x.shape().0, plan.output))
}

/// The outputs of the layers with these indices, in the order of `wanted`.
pub(crate) fn observe(gpu: &'static Gpu, layers: &[Layer], x: Images, wanted: &[usize]) -> Result<Vec<Images>> {
    let plan = Plan::of(layers, &x, Purpose::Observation)?;
    let mut found = vec![None; layers.len()];
    let mut pass = Pass::new(gpu, layers, *x.shape(), 0);
    pass.run(&plan, gpu.upload(&values(&x)), |stage, y| {
        if wanted.contains(&stage.layers.start) {
            found[stage.layers.start] = Some((y.clone(), nhwc(x.shape().0, stage.output)));
        }
    });
    let image = |&index: &usize| found[index].as_ref().map(|(y, shape)| to_images(y, *shape));
    wanted.iter().filter_map(image).collect()
}

/// A training pass. With `on_device`, the gradients of the parameters stay on the GPU for the optimizer.
pub(crate) fn train(
    gpu: &'static Gpu,
    layers: &[Layer],
    x: Images<GradientTape>,
    TrainingPass { seed, first, input_gradient, on_device, .. }: TrainingPass,
) -> Result<Trained> {
    let (x, mut tape) = x.split_tape();
    let plan = Plan::of(layers, &x, Purpose::Training { first })?;
    let mut pass = Pass::new(gpu, layers, *x.shape(), seed);
    pass.on_device = on_device;
    let penalty = on_device.then(|| update::penalty(gpu, layers));
    let result = pass.run(&plan, gpu.upload(&values(&x)), |_, _| ());
    let Pass { kept, statistics, .. } = pass;
    let y = to_images(&result, nhwc(x.shape().0, plan.output))?;
    drop(result);
    let penalty = penalty.map(|total| update::read(&total));
    gpu.check()?;
    let (x_ghost, y_ghost) = (x.ghost(), y.ghost());
    tape.add_backward_op(move |gradients| {
        // The gradient of the output is not read again, so it is moved out.
        let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_ghost)?);
        if let Some(dx) = backward(kept, gpu.upload(&dy), gradients, input_gradient)? {
            super::cpu::add(gradients.get_or_alloc_mut(&x_ghost)?, &dx.download());
        }
        Ok(())
    });
    Ok(Trained { y: y.put_tape(tape), statistics, penalty })
}

/// A forward pass.
struct Pass<'a> {
    gpu: &'static Gpu,
    layers: &'a [Layer],
    /// Images in the batch.
    n: usize,
    /// The seed of this step's dropout.
    seed: u64,
    on_device: bool,
    /// What the backward pass needs of each stage, with the index of the stage's first layer.
    kept: Vec<(usize, Box<dyn Backward>)>,
    statistics: Vec<Statistics>,
}

/// A stage and its input.
struct Work<'a> {
    gpu: &'static Gpu,
    stage: &'a Stage,
    layer: &'a Layer,
    layers: &'a [Layer],
    n: usize,
    on_device: bool,
    x: Arc<Memory>,
}

impl<'a> Pass<'a> {
    fn new(gpu: &'static Gpu, layers: &'a [Layer], shape: Nhwc, seed: u64) -> Pass<'a> {
        Pass { gpu, layers, n: shape.0, seed, on_device: false, kept: vec![], statistics: vec![] }
    }

    /// Runs all stages in order, and calls `seen` with the output of each.
    fn run(&mut self, plan: &Plan, x: Memory, mut seen: impl FnMut(&Stage, &Arc<Memory>)) -> Arc<Memory> {
        let mut x = Arc::new(x);
        let mut watch = Stopwatch::start();
        for stage in &plan.stages {
            let index = stage.layers.start;
            let (gpu, layers, n, on_device) = (self.gpu, self.layers, self.n, self.on_device);
            let work = Work { gpu, stage, layer: &layers[index], layers, n, on_device, x };
            let kept;
            (x, kept) = self.stage(work);
            if stage.trains
                && let Some(kept) = kept
            {
                self.kept.push((index, kept));
            }
            lap(&mut watch, gpu, index, false);
            seen(stage, &x);
        }
        x
    }

    fn stage(&mut self, work: Work) -> Output {
        match work.layer.op() {
            Op::Preprocess { mean, std, bgr } => pointwise::preprocess(work, mean, std, bgr),
            Op::Conv2d { kernel, relu, .. } => conv2d::forward(work, kernel, relu),
            Op::Linear { relu, .. } => conv2d::forward(work, 1, relu),
            Op::BatchNorm { epsilon, group, .. } => batch_norm::forward(work, epsilon, group, self),
            Op::Relu => pointwise::relu(work),
            Op::Dropout { p } => pointwise::dropout(work, p, self.seed),
            Op::MaxPool2d => pool::max(work),
            Op::GlobalAvgPool => pool::average(work),
            Op::AdaptiveAvgPool2d { height, width } => pool::adaptive(work, (height, width)),
            Op::Flatten => (work.x, None),
            Op::Softmax => pointwise::softmax(work),
        }
    }
}

impl Work<'_> {
    fn input(&self) -> Nhwc {
        nhwc(self.n, self.stage.input)
    }

    /// The number of values in the output.
    fn size(&self) -> usize {
        self.n * self.stage.output.size()
    }

    /// Memory for the output.
    fn output(&self) -> Memory {
        self.gpu.take(self.size())
    }

    /// A parameter of the layer, on the GPU.
    fn param(&self, index: usize) -> Arc<Memory> {
        self.layer.params()[index].values.on_gpu(self.gpu)
    }

    /// Where the gradients of the two learned parameters go; `None` if the layer does not learn.
    fn gradients(&self) -> Option<[Destination; 2]> {
        let params = self.layer.params();
        let destination = |index: usize| match self.on_device {
            true => Destination::OnDevice(params[index].gradient.share()),
            false => Destination::Tape(params[index].tensor().clone()),
        };
        self.layer.learns().then(|| [destination(0), destination(1)])
    }
}

/// Where the gradient of a parameter goes.
enum Destination {
    /// To the parameter, for the optimizer on the GPU.
    OnDevice(Gradient),
    /// To dfdx's gradients of this tensor.
    Tape(Flat),
}

impl Destination {
    fn put(self, gradient: Memory, gradients: &mut Gradients) -> DfdxResult<()> {
        match self {
            Destination::OnDevice(slot) => {
                if let Some(sum) = slot.take() {
                    let gpu = sum.gpu();
                    launch!(gpu, "axpby", over(sum.len()), &gradient, 1.0f32, &sum, 1.0f32, sum.len());
                }
                slot.put(gradient);
            }
            Destination::Tape(tensor) => {
                super::cpu::add(gradients.get_or_alloc_mut(&tensor)?, &gradient.download());
            }
        }
        Ok(())
    }
}

/// What a forward pass returns: the output of the stage, and what its backward pass needs.
type Output = (Arc<Memory>, Option<Box<dyn Backward>>);

/// What the forward pass of a stage keeps for the backward pass.
trait Backward: Send {
    /// Whether any parameter of the stage gets a gradient.
    fn learns(&self) -> bool {
        false
    }

    /// Delivers the gradients of the parameters and returns the gradient of the stage's input. If the latter is not
    /// `wanted`, anything may be returned.
    fn backward(self: Box<Self>, flow: Flow, gradients: &mut Gradients, wanted: bool) -> DfdxResult<Flow>;
}

type DfdxResult<T> = std::result::Result<T, CpuError>;

/// The gradient that the backward pass hands from stage to stage.
struct Flow {
    dy: Memory,
    /// Whether a batch norm has already applied the ReLU of the layer before it.
    relu_done: bool,
}

impl Flow {
    fn new(dy: Memory) -> Flow {
        Flow { dy, relu_done: false }
    }
}

/// Runs the stages backward, starting from dy. Returns the gradient of the input if `need_dx`; otherwise it stops at
/// the first stage that learns.
fn backward(
    mut kept: Vec<(usize, Box<dyn Backward>)>,
    dy: Memory,
    gradients: &mut Gradients,
    need_dx: bool,
) -> DfdxResult<Option<Memory>> {
    let gpu = dy.gpu();
    let first = if need_dx { 0 } else { kept.iter().position(|(_, stage)| stage.learns()).unwrap_or(kept.len()) };
    let mut flow = Flow::new(dy);
    let mut watch = Stopwatch::start();
    while let Some((layer, stage)) = kept.pop() {
        let index = kept.len();
        if index < first {
            return Ok(None);
        }
        flow = stage.backward(flow, gradients, need_dx || index > first)?;
        lap(&mut watch, gpu, layer, true);
    }
    Ok(need_dx.then_some(flow.dy))
}

/// Counts the time since the last lap as this layer's, if someone measures.
fn lap(watch: &mut Stopwatch, gpu: &Gpu, layer: usize, backward: bool) {
    if Stopwatch::is_read() {
        gpu.synchronize();
        watch.lap(layer, backward);
    }
}

fn to_images(memory: &Memory, shape: Nhwc) -> Result<Images> {
    let values = memory.download();
    memory.gpu().check()?;
    device().try_tensor_from_vec(values, shape).map_err(dfdx_error)
}
