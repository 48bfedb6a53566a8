//! 3×3 and 1×1 convolution in bf16.

use super::super::conv2d::with_epilogue;
use super::super::{Backward, DfdxResult, Flow, Output, Work, add, values};
use super::unpacked;
use crate::kernel::arena::Buffer;
use crate::kernel::bf16::{self, Map, Scheme};
use crate::kernel::conv2d::Filters;
use crate::kernel::epilogue::Epilogue;
use crate::model::Op;
use crate::tensor::{Flat, Gradients};
use std::sync::Arc;

/// Whether the convolution reads f32, because it has few channels, usually those of an image. Then the 9 pixels that an
/// output depends on fit into one line: one block product instead of nine.
pub(super) fn gathers(work: &Work) -> bool {
    matches!(work.layer.op(), Op::Conv2d { kernel: 3, .. }) && 9 * work.stage.input.channels() <= 32
}

pub(super) fn forward(work: Work, kernel: usize, relu: bool) -> Output {
    let (image, to) = (work.from(), work.to());
    let gathered = gathers(&work);
    let (x, map, taps) = if gathered {
        let map = image.channels(9 * image.c);
        let mut columns = work.take(map.floats());
        bf16::gather(&work.x, map, columns.bf16_mut());
        (Arc::new(columns), map, 1)
    } else {
        (work.x.clone(), image, kernel * kernel)
    };
    let [weight, bias] = work.params();
    let mut y = work.take(to.floats());
    if let Some(tail) = work.stage.fused.tail {
        let scheme = Scheme::of(map, taps, to.c, tail.max_pool);
        let new = || Filters::Bf16(bf16::Filters::new(values(&weight), scheme, map.c, to.c));
        let filters = work.layer.filters(|filters| matches!(filters, Filters::Bf16(f) if f.fit(scheme)), new);
        with_epilogue(&work, |epilogue| bf16::forward(x.bf16(), map, filters.bf16(), epilogue, y.bf16_mut()));
        return (Arc::new(y), None);
    }
    let epilogue = Epilogue { bias: Some(values(&bias)), relu, ..Epilogue::default() };
    bf16::forward_once(x.bf16(), map, values(&weight), to.c, epilogue, y.bf16_mut());
    let y = Arc::new(y);
    let (learns, after_relu) = (work.layer.learns(), relu.then(|| y.clone()));
    (y, Some(Box::new(Kept { x, map, image, gathered, to, weight, bias, after_relu, learns })))
}

struct Kept {
    x: Arc<Buffer>,
    /// The map of x.
    map: Map,
    /// The map of the input, which x was perhaps gathered from.
    image: Map,
    gathered: bool,
    to: Map,
    weight: Flat,
    bias: Flat,
    /// The output, if it went through a ReLU.
    after_relu: Option<Arc<Buffer>>,
    learns: bool,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        self.learns
    }

    fn backward(self: Box<Self>, mut flow: Flow, gradients: &mut Gradients, wanted: bool) -> DfdxResult<Flow> {
        let Kept { x, map, image, gathered, to, weight, bias, after_relu, learns } = *self;
        let sums = flow.sums.take().unwrap_or_else(|| {
            if let Some(y) = after_relu {
                bf16::relu_backward(flow.dy.bf16_mut(), y.bf16(), to);
            }
            if learns { bf16::column_sums(flow.dy.bf16(), to) } else { vec![] }
        });
        if learns {
            add(gradients.get_or_alloc_mut(&bias)?, &sums);
            bf16::backward_weight(x.bf16(), map, flow.dy.bf16(), to.c, gradients.get_or_alloc_mut(&weight)?);
        }
        if !wanted {
            return Ok(flow);
        }
        let mut dx = flow.take(image.floats());
        bf16::backward_data(flow.dy.bf16(), to, values(&weight), image.c, dx.bf16_mut());
        Ok(Flow::new(if gathered { unpacked(&dx, image) } else { dx }))
    }
}
