//! Winograd's convolution against its definition in f64, on odd shapes and with each instruction set.

use super::{backward_data, backward_weight, forward};
use crate::kernel::epilogue::Epilogue;
use crate::kernel::simd::{Level, limited};
use crate::tensor::Nhwc;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
    }
}

/// Calls `f(index in x, index in weight, index in y)` for every product of a convolution.
fn products((n, h, w, c): Nhwc, out: usize, mut f: impl FnMut(usize, usize, usize)) {
    for position in 0..n * h * w {
        let (i, j) = (position / w % h, position % w);
        for tap in 0..9 {
            let (a, b) = (i + tap / 3, j + tap % 3);
            if (1..=h).contains(&a) && (1..=w).contains(&b) {
                let x = (position / (h * w) * h + a - 1) * w + b - 1;
                for ch in 0..c {
                    for o in 0..out {
                        f(x * c + ch, (tap * c + ch) * out + o, position * out + o);
                    }
                }
            }
        }
    }
}

/// The largest deviation, divided by the largest value.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert!(got.iter().all(|g| g.is_finite()));
    let largest = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0f64, |m, (&g, w)| m.max((f64::from(g) - w).abs())) / largest
}

/// The errors of y, dx and dw.
fn check(shape: Nhwc, out: usize, bias: bool, relu: bool, random: &mut Random) -> [f64; 3] {
    let (n, h, w, c) = shape;
    let (x, weight, dy) = (random.floats(n * h * w * c), random.floats(9 * c * out), random.floats(n * h * w * out));
    let b = random.floats(out);
    let mut y64: Vec<f64> = (0..n * h * w * out).map(|i| if bias { f64::from(b[i % out]) } else { 0.0 }).collect();
    let mut dx64 = vec![0.0; x.len()];
    let dw0 = random.floats(weight.len());
    let mut dw64: Vec<f64> = dw0.iter().map(|&v| f64::from(v)).collect();
    products(shape, out, |i, k, o| {
        y64[o] += f64::from(x[i]) * f64::from(weight[k]);
        dx64[i] += f64::from(dy[o]) * f64::from(weight[k]);
        dw64[k] += f64::from(x[i]) * f64::from(dy[o]);
    });
    if relu {
        y64.iter_mut().for_each(|v| *v = v.max(0.0));
    }
    let (mut y, mut dx, mut dw) = (vec![f32::NAN; y64.len()], vec![f32::NAN; x.len()], dw0);
    let epilogue = Epilogue { bias: bias.then_some(&b[..]), relu, ..Epilogue::default() };
    forward(&x, shape, &weight, epilogue, &mut y);
    backward_data(&dy, shape, &weight, &mut dx);
    backward_weight(&x, shape, &dy, &mut dw);
    [error(&y, &y64), error(&dx, &dx64), error(&dw, &dw64)]
}

#[test]
fn matches_f64_on_odd_shapes() {
    for level in Level::supported() {
        let mut random = Random(1);
        let mut worst = [0.0f64; 3];
        for round in 0..150 {
            let size = if round % 3 == 0 { 2 } else { 13 };
            let (h, w) = if round % 5 == 0 { (2, 2) } else { (1 + random.below(size), 1 + random.below(size)) };
            let shape = (1 + random.below(5), h, w, 1 + random.below(70));
            let out = 1 + random.below(70);
            let (bias, relu) = (random.below(2) == 0, random.below(2) == 0);
            let e = limited(level, || check(shape, out, bias, relu, &mut random));
            assert!(e.iter().all(|&e| e < 2e-5), "{level:?} {shape:?} -> {out}: {e:?}");
            (0..3).for_each(|i| worst[i] = worst[i].max(e[i]));
        }
        println!("{level:?}: {worst:?}");
    }
}

#[test]
fn matches_f64_on_the_shapes_of_vgg() {
    for (n, c, out, h) in
        [(2, 64, 64, 32), (2, 64, 128, 16), (5, 128, 256, 8), (65, 96, 160, 4), (40, 256, 128, 2), (3, 512, 512, 4)]
    {
        let e = check((n, h, h, c), out, true, false, &mut Random(7));
        println!("{c}->{out}@{h}: {e:?}");
        assert!(e.iter().all(|&e| e < 2e-5), "{c}->{out}@{h}: {e:?}");
    }
}

#[test]
fn two_calls_give_the_same_bits() {
    let mut random = Random(3);
    for (shape, out) in [((9, 32, 32, 64), 64), ((20, 8, 8, 128), 256), ((33, 4, 4, 256), 96), ((33, 2, 2, 256), 96)] {
        let (n, h, w, c) = shape;
        let (x, weight, dy) =
            (random.floats(n * h * w * c), random.floats(9 * c * out), random.floats(n * h * w * out));
        let once = || {
            let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
            forward(&x, shape, &weight, Epilogue { relu: true, ..Epilogue::default() }, &mut y);
            backward_data(&dy, shape, &weight, &mut dx);
            backward_weight(&x, shape, &dy, &mut dw);
            (y, dx, dw)
        };
        assert!(once() == once());
    }
}
