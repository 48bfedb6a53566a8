//! Adaptive average pooling against PyTorch (fixtures/adaptive_pool.py).
#![cfg(not(feature = "cuda"))]

#[path = "common/formula.rs"]
mod formula;

use dfdx::prelude::{Backward, HasShape, SumTo, Trace};
use formula::close;
use ndarray::Array4;
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::Result;
use vgg_lib::prelude::*;

fn open() -> NpzReader<File> {
    NpzReader::new(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adaptive_pool.npz")).unwrap())
        .unwrap()
}

fn batch(npz: &mut NpzReader<File>, name: &str) -> Images {
    let array: Array4<f32> = npz.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let shape = array.dim();
    images(array.into_raw_vec_and_offset().0, shape).unwrap()
}

#[test]
fn outputs_and_gradients_match_torch() {
    let mut npz = open();
    for (name, height, width) in
        [("7x7", 7, 7), ("14x10", 7, 7), ("9x5", 4, 3), ("3x3", 7, 7), ("1x1", 3, 2), ("6x5", 1, 1)]
    {
        let name = format!("{name}_{height}x{width}");
        let [x, y, dy, dx] = ["x", "y", "dy", "dx"].map(|part| batch(&mut npz, &format!("{name}.{part}")));
        let (_, h, w, c) = *x.shape();
        let mut model = Sequential::new((h, w, c), Seed(0));
        model.push("pool", adaptive_avg_pool2d(height, width)).unwrap();
        let found = model.forward_mut(x.leaky_trace()).unwrap();
        assert_eq!(found.shape(), y.shape(), "{name}");
        close(&format!("{name}.y"), &found.as_vec(), &y.as_vec(), 1e-6);
        close(&name, &model.forward(x.clone()).unwrap().as_vec(), &y.as_vec(), 1e-6);
        let gradients = (found * dy).sum().backward();
        close(&format!("{name}.dx"), &gradients.get(&x).as_vec(), &dx.as_vec(), 1e-6);
    }
}

#[test]
fn receptive_fields_go_through_square_windows() -> Result<()> {
    let mut model = Sequential::new((6, 6, 3), Seed(0));
    model.push("conv", conv2d(2))?;
    model.push("pool", adaptive_avg_pool2d(3, 3))?;
    let field = |size| model.receptive_fields(size).map(|fields| fields.rows[1].field_and_jump);
    assert_eq!(field((3, 3, 3))?, Some((3, 1)), "nothing is pooled");
    assert_eq!(field((12, 12, 3))?, Some((6, 4)));
    assert_eq!((field((12, 6, 3))?, field((7, 7, 3))?), (None, None));
    Ok(())
}

#[test]
fn a_pooling_that_cannot_be_is_a_sentence() {
    let pushed = |layers: &[LayerSpec]| {
        let mut model = Sequential::new((6, 4, 3), Seed(0));
        let mut results = layers.iter().enumerate().map(|(i, layer)| model.push(&format!("layer{i}"), *layer));
        results.find_map(|result| result.err()).unwrap().to_string()
    };
    for (height, width) in [(0, 7), (7, 0)] {
        let error = pushed(&[adaptive_avg_pool2d(height, width).into()]);
        let expected = "an adaptive pooling needs a height and a width of at least 1, not ";
        assert_eq!(error, format!("{expected}{height}×{width}"));
    }
    let error = pushed(&[flatten().into(), adaptive_avg_pool2d(7, 7).into()]);
    assert!(error.contains("'layer1' (AdaptiveAvgPool2D) needs a height and a width but gets (None, 72)"), "{error}");
    let error = pushed(&[adaptive_avg_pool2d(usize::MAX, 7).into()]);
    assert!(error.contains("more values than a computer can address"), "{error}");
}
