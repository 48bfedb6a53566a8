//! What a network is: layers by name in a list, each with its parameters. Data, not execution.

mod init;
mod layer;
mod sequential;

pub use init::{Init, Seed};
pub(crate) use layer::groups;
pub use layer::{
    Layer, LayerSpec, Op, Param, Shape, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d,
    preprocess, relu, softmax,
};
pub use sequential::Sequential;
