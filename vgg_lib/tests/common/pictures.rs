//! A small data set for trainings that take a second.

use vgg_lib::prelude::*;

/// 480 normalized pictures of 16×16 to train on and 120 others.
pub fn data() -> (Dataset, Dataset) {
    let data = shapes::generate(600, (16, 16), 3);
    let stats = Normalization::fit(&data);
    stats.apply(&data).split(480)
}
