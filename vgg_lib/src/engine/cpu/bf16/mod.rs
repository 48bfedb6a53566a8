//! The operations that exist in bf16, each a twin of the file of the same name one folder up, and the way from f32 to bf16
//! and back between two stages.

mod batch_norm;
mod conv2d;
mod linear;
mod max_pool2d;
mod pointwise;

use super::{Backward, DfdxResult, Flow, Output, Pass, Work};
use crate::engine::nhwc;
use crate::engine::plan::{Form, Plan, Stage};
use crate::kernel::arena::Buffer;
use crate::kernel::bf16::{self, Map, Rows, Scheme};
use crate::model::{Op, Shape};
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn stage(work: Work, pass: &mut Pass) -> Output {
    match work.layer.op() {
        Op::Conv2d { kernel, relu, .. } => conv2d::forward(work, kernel, relu),
        Op::BatchNorm { epsilon, group, .. } => batch_norm::forward(work, epsilon, group, pass),
        Op::Relu => pointwise::relu(work),
        Op::Dropout { p } => pointwise::dropout(work, p, pass),
        Op::MaxPool2d => max_pool2d::forward(work),
        Op::Linear { relu, .. } => linear::forward(work, relu),
        op => unreachable!("the plan runs {} in f32", op.type_name()),
    }
}

/// What lines are in a pass of `n` images: whatever makes its 3×3 convolutions cheaper. Training sums over images, so that
/// they have to be rows there.
pub(super) fn rows(plan: &Plan, n: usize) -> Rows {
    if plan.stages.iter().any(|stage| stage.trains) {
        return Rows::Images;
    }
    let cost = |rows| {
        let maps = |stage: &&Stage| stage.form == Form::Bf16 && matches!(stage.input, Shape::Map(..));
        let cost = plan.stages.iter().filter(maps).map(|stage| {
            let (map, outputs) = (Map::new(rows, nhwc(n, stage.input)), stage.output.channels());
            let max_pool = stage.fused.tail.is_some_and(|tail| tail.max_pool);
            Scheme::of(map, 9, outputs, max_pool).cost(map, outputs, max_pool)
        });
        cost.sum::<usize>()
    };
    if cost(Rows::Pixels) < cost(Rows::Images) { Rows::Pixels } else { Rows::Images }
}

/// Brings the input of a stage into the form that the stage reads, if the stage `before` has left another one. Returns
/// what leads back.
pub(super) fn convert(work: &mut Work, before: Form) -> Option<Box<dyn Backward>> {
    let map = work.from();
    let wanted = work.stage.form == Form::Bf16 && !conv2d::gathers(work);
    match (before == Form::Bf16, wanted) {
        (false, true) => {
            work.x = Arc::new(packed(&work.x, map));
            Some(Box::new(Packed { map }))
        }
        (true, false) => {
            work.x = Arc::new(unpacked(&work.x, map));
            Some(backward_of_unpacked(map))
        }
        _ => None,
    }
}

fn packed(x: &Buffer, map: Map) -> Buffer {
    let mut lines = x.arena().take(map.floats());
    bf16::from_f32(x, map, lines.bf16_mut());
    lines
}

/// Lines as NHWC in f32.
pub(super) fn unpacked(x: &Buffer, map: Map) -> Buffer {
    let (n, h, w, c) = map.nhwc();
    let mut y = x.arena().take(n * h * w * c);
    bf16::to_f32(x.bf16(), map, &mut y);
    y
}

struct Packed {
    map: Map,
}

impl Backward for Packed {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        Ok(Flow::new(unpacked(&flow.dy, self.map)))
    }
}

/// The backward pass of [`unpacked`].
pub(super) fn backward_of_unpacked(map: Map) -> Box<dyn Backward> {
    Box::new(Unpacked { map })
}

struct Unpacked {
    map: Map,
}

impl Backward for Unpacked {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        Ok(Flow::new(packed(&flow.dy, self.map)))
    }
}

impl Work<'_> {
    /// The map of the input.
    fn from(&self) -> Map {
        Map::new(self.rows, self.input())
    }

    /// The map of the output.
    fn to(&self) -> Map {
        Map::new(self.rows, self.output_shape())
    }
}
