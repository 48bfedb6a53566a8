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

/// Asserts that all values agree within `tolerance` times the largest one.
pub fn close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a} instead of {b}");
    }
}
