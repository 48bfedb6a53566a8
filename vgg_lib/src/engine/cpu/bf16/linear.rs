//! The dense layer in inference, with weights in bf16: reading them takes most of its time.

use super::super::{Output, Work, values};
use crate::kernel::bf16::{self, Scheme};
use crate::kernel::conv2d::Filters;
use std::sync::Arc;

pub(super) fn forward(work: Work, relu: bool) -> Output {
    let (inputs, outputs) = (work.stage.input.size(), work.stage.output.size());
    let new = || Filters::Bf16(bf16::Filters::new(values(work.layer.tensor(0)), Scheme::Direct(1), inputs, outputs));
    let filters = work.layer.filters(|filters| matches!(filters, Filters::Bf16(_)), new);
    let mut y = work.output();
    bf16::linear_forward(&work.x, work.n, filters.bf16(), values(work.layer.tensor(1)), relu, &mut y);
    (Arc::new(y), None)
}
