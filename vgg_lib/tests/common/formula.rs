//! The weights and images of the fixtures, computed by the formula that `fixtures/training.py` explains.
#![allow(dead_code)] // each test uses some of it

/// The hash function lowbias32.
pub fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The values of tensor number `tensor`: pseudo-random numbers between `start - scale` and `start + scale`.
pub fn values(tensor: u32, len: usize, start: f32, scale: f32) -> Vec<f32> {
    let value = |i: u32| (hash(i.wrapping_add(tensor.wrapping_mul(0x9e37_79b9))) >> 8) as f32 / 16_777_216.0 - 0.5;
    (0..len as u32).map(|i| start + value(i) * 2.0 * scale).collect()
}

/// The initial values of parameter number `tensor` of `cifar_vgg16`.
pub fn initial(tensor: u32, layer: &str, param: &str, dims: &[usize]) -> Vec<f32> {
    let len = dims.iter().product();
    match (param, dims.len()) {
        ("weight", rank @ (2 | 4)) => {
            let field = if rank == 4 { 9 } else { 1 };
            let fans = field * (dims[rank - 2] + dims[rank - 1]);
            values(tensor, len, 0.0, (6.0 / fans as f64).sqrt() as f32)
        }
        ("weight" | "running_var", _) => values(tensor, len, 1.0, 0.1),
        ("bias", _) if layer.ends_with("_bn") => values(tensor, len, 0.0, 0.1),
        ("bias", _) => values(tensor, len, 1.0, 0.05),
        _ => values(tensor, len, 0.0, 0.1),
    }
}

/// Asserts that all values agree within `tolerance` times the largest one.
pub fn close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a} instead of {b}");
    }
}
