//! Names for the layers in files from other programs.

use crate::model::Op;

/// Gives layers the names that [`vgg::build`](crate::vgg::build) gives them.
pub(super) struct LayerNames {
    block: usize,
    convolutions: usize,
    dense: usize,
    /// The name of the last convolution, pooling or dense layer, from which the layers after it derive theirs.
    last: String,
}

impl LayerNames {
    pub fn new() -> LayerNames {
        LayerNames { block: 1, convolutions: 0, dense: 0, last: "input".into() }
    }

    /// The name of the next layer.
    pub fn next(&mut self, op: Op) -> String {
        match op {
            Op::Conv2d { .. } => {
                self.convolutions += 1;
                self.last = format!("block{}_conv{}", self.block, self.convolutions);
            }
            Op::MaxPool2d => {
                self.last = format!("block{}_pool", self.block);
                (self.block, self.convolutions) = (self.block + 1, 0);
            }
            Op::Linear { .. } => {
                self.dense += 1;
                self.last = format!("fc{}", self.dense);
            }
            Op::Preprocess { .. } => return "preprocess".into(),
            Op::Flatten => return "flatten".into(),
            Op::GlobalAvgPool => return "global_avg_pool".into(),
            Op::AdaptiveAvgPool2d { .. } => return "adaptive_avg_pool".into(),
            Op::Softmax => return "softmax".into(),
            Op::Relu => return format!("{}_relu", self.last),
            Op::BatchNorm { .. } => return format!("{}_bn", self.last),
            Op::Dropout { .. } => return format!("{}_dropout", self.last),
        }
        self.last.clone()
    }
}
