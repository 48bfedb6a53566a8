//! A small dataset for training runs of a second.

use vgg_lib::prelude::*;

/// 480 normalized training images of 16×16 pixels and 120 other images.
pub fn data() -> (Dataset, Dataset) {
    let data = shapes::generate(600, (16, 16), 3);
    let stats = Normalization::fit(&data);
    stats.apply(&data).split(480)
}
