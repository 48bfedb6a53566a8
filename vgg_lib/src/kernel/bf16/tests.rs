//! The kernels in bf16 against their definitions: convolutions against f64, everything else against the f32 kernels on
//! the same rounded numbers. Everywhere with ordinary vectors, and on a CPU that has AMX with its tiles.

use super::*;
use crate::kernel::arena::{Arena, Buffer, Line};
use crate::kernel::elementwise::{self, Dropout};
use crate::kernel::epilogue::Epilogue;
use crate::kernel::gemm::Matrix;
use crate::kernel::simd::{Level, Simd, VectorLoop, limited, narrow, run_bf16, widen};
use crate::kernel::{batch_norm as f32_batch_norm, pool as f32_pool};
use crate::tensor::Nhwc;
use std::sync::Arc;

/// Runs a test with ordinary vectors, and then with tiles if there are any.
fn with_each_unit(test: impl Fn() + Sync) {
    without_tiles(&test);
    if has_tiles() {
        test();
    }
}

/// Numbers of bf16 from −1 to 1.
struct Random(u32);

impl Random {
    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| widen(narrow(self.next()))).collect()
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1664525).wrapping_add(1013904223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Lines full of NaN, so that a test sees what was not written.
fn lines(map: Map) -> Buffer {
    let mut buffer = Arc::new(Arena::default()).take(map.floats());
    buffer.bf16_mut().fill(Line([0x7fff; 32]));
    buffer
}

fn packed(values: &[f32], map: Map) -> Buffer {
    let mut buffer = lines(map);
    from_f32(values, map, buffer.bf16_mut());
    buffer
}

fn unpacked(buffer: &Buffer, map: Map) -> Vec<f32> {
    let mut values = vec![f32::NAN; map.n * map.h * map.w * map.c];
    to_f32(buffer.bf16(), map, &mut values);
    values
}

/// Whether all lines that hold no value are zero.
fn rest_is_zero(buffer: &Buffer, map: Map) -> bool {
    let mut copy = packed(&vec![0.0; map.n * map.h * map.w * map.c], map);
    let ones = packed(&vec![1.0; map.n * map.h * map.w * map.c], map);
    copy.bf16_mut().iter_mut().zip(buffer.bf16()).zip(ones.bf16()).enumerate().all(|(i, ((_, line), one))| {
        let beyond = map.rows == Rows::Pixels && i % map.chunk_lines() > (map.h + 2) * map.down();
        beyond || (0..32).all(|k| one.0[k] != 0 || line.0[k] == 0)
    })
}

/// The largest deviation, divided by the largest value.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let worst = |m: f64, (g, w): (&f32, &f64)| if g.is_nan() { f64::NAN } else { m.max((f64::from(*g) - w).abs()) };
    got.iter().zip(want).fold(0.0, worst) / largest
}

/// The exact y (with bias and ReLU), dx and dw of a convolution with this many taps.
struct Exact {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

fn exact((n, h, w, c): Nhwc, x: &[f32], weight: &[f32], bias: &[f32], dy: &[f32]) -> Exact {
    let (o, taps) = (bias.len(), weight.len() / c / bias.len());
    let mut exact = Exact { y: vec![0.0; dy.len()], dx: vec![0.0; x.len()], dw: vec![0.0; weight.len()] };
    for position in 0..n * h * w {
        let (row, column) = (position / w % h, position % w);
        for tap in 0..taps {
            let (down, right) = if taps == 9 { (tap / 3, tap % 3) } else { (1, 1) };
            if !(1..=h).contains(&(row + down)) || !(1..=w).contains(&(column + right)) {
                continue;
            }
            let from = position + down * w + right - w - 1;
            for (k, j) in (0..c).flat_map(|k| (0..o).map(move |j| (k, j))) {
                let [xk, g, d] = [x[from * c + k], weight[(tap * c + k) * o + j], dy[position * o + j]].map(f64::from);
                exact.y[position * o + j] += xk * g;
                exact.dx[from * c + k] += d * g;
                exact.dw[(tap * c + k) * o + j] += xk * d;
            }
        }
    }
    exact.y.iter_mut().enumerate().for_each(|(i, y)| *y = (*y + f64::from(bias[i % o])).max(0.0));
    exact
}

/// Half of the last bit of bf16, and a little for the sums.
const ROUNDED: f64 = 0.004;

/// All ways to compute a convolution with this many taps.
fn ways(taps: usize) -> Vec<(Rows, Scheme)> {
    let direct = Scheme::Direct(taps);
    let mut ways = vec![(Rows::Images, direct), (Rows::Pixels, direct)];
    ways.extend((taps == 9).then_some((Rows::Pixels, Scheme::Winograd)));
    ways
}

#[test]
fn convolutions_match_f64_on_odd_shapes() {
    let shapes: [(Nhwc, usize, usize); 12] = [
        ((2, 20, 17, 100), 70, 9),
        ((3, 2, 1, 33), 32, 9),
        ((33, 5, 6, 64), 32, 9),
        ((40, 2, 2, 64), 96, 9),
        ((7, 3, 3, 48), 40, 9),
        ((32, 16, 9, 32), 64, 9),
        ((3, 1, 1, 70), 33, 9),
        ((50, 9, 8, 3), 64, 9),
        ((2, 7, 7, 64), 64, 9),
        ((1, 5, 40, 32), 32, 9),
        ((35, 4, 3, 40), 50, 1),
        ((3, 1, 7, 5), 3, 1),
    ];
    with_each_unit(|| {
        for (shape @ (n, h, w, c), o, taps) in shapes {
            let mut random = Random(7);
            let [x, dy] = [c, o].map(|c| random.numbers(n * h * w * c));
            let (weight, bias) = (random.numbers(taps * c * o), random.numbers(o));
            let want = exact(shape, &x, &weight, &bias, &dy);
            for (rows, scheme) in ways(taps) {
                let map = Map::new(rows, shape);
                let to = map.channels(o);
                let (from, epilogue) =
                    (packed(&x, map), Epilogue { bias: Some(&bias), relu: true, ..Epilogue::default() });
                let mut y = lines(to);
                forward(from.bf16(), map, &Filters::new(&weight, scheme, c, o), epilogue, y.bf16_mut());
                let got = error(&unpacked(&y, to), &want.y);
                // Winograd rounds sums of pixels and of weights, too.
                let limit = if scheme == Scheme::Winograd { 1.5 * ROUNDED } else { ROUNDED };
                assert!(got < limit, "{map:?} {o} {scheme:?}: y {got}");
                if rows == Rows::Pixels {
                    assert!(rest_is_zero(&y, to), "{map:?} {o}");
                    continue;
                }
                let (gradient, mut dx) = (packed(&dy, to), lines(map));
                backward_data(gradient.bf16(), to, &weight, c, dx.bf16_mut());
                let got = error(&unpacked(&dx, map), &want.dx);
                assert!(got < ROUNDED, "{map:?} {o} {taps}: dx {got}");
                let mut dw = vec![0.5; weight.len()];
                backward_weight(from.bf16(), map, gradient.bf16(), o, &mut dw);
                dw.iter_mut().for_each(|dw| *dw -= 0.5);
                let got = error(&dw, &want.dw);
                assert!(got < 2e-6, "{map:?} {o} {taps}: dw {got}");
            }
        }
    });
}

/// Large and many maps are divided into tasks otherwise.
#[test]
fn many_blocks_match_few() {
    with_each_unit(|| {
        for ((n, h, w, c, o), rows, scheme) in [
            ((64, 32, 32, 64, 64), Rows::Images, Scheme::Direct(9)),
            ((32, 4, 4, 512, 512), Rows::Images, Scheme::Direct(9)),
            ((1, 56, 56, 128, 64), Rows::Pixels, Scheme::Direct(9)),
            ((1, 56, 56, 128, 64), Rows::Pixels, Scheme::Winograd),
            ((5, 13, 14, 512, 256), Rows::Pixels, Scheme::Winograd),
        ] {
            let mut random = Random(3);
            let (x, weight) = (random.numbers(n * h * w * c), random.numbers(9 * c * o));
            let filters = Filters::new(&weight, scheme, c, o);
            let map = Map::new(rows, (n, h, w, c));
            let mut y = lines(map.channels(o));
            forward(packed(&x, map).bf16(), map, &filters, Epilogue::default(), y.bf16_mut());
            let y = unpacked(&y, map.channels(o));
            // Some pixels by the definition.
            for i in (0..y.len()).step_by(y.len() / 300 + 1) {
                let (position, j) = (i / o, i % o);
                let (row, column) = (position / w % h, position % w);
                let mut sum = 0.0;
                for tap in 0..9 {
                    if (1..=h).contains(&(row + tap / 3)) && (1..=w).contains(&(column + tap % 3)) {
                        let from = position + tap / 3 * w + tap % 3 - w - 1;
                        let product = |k: usize| f64::from(x[from * c + k]) * f64::from(weight[(tap * c + k) * o + j]);
                        sum += (0..c).map(product).sum::<f64>();
                    }
                }
                // The m of Winograd's products are about as large as the largest sums.
                let more = if scheme == Scheme::Winograd { 0.01 * ((9 * c) as f64).sqrt() } else { 1e-3 };
                assert!((f64::from(y[i]) - sum).abs() < 0.004 * sum.abs() + more, "{map:?} {i}: {} {sum}", y[i]);
            }
        }
    });
}

#[test]
fn epilogue_matches_separate_layers() {
    with_each_unit(|| {
        for (rows, scheme) in ways(9) {
            for (h, w) in [(4, 6), (5, 3), (1, 4), (9, 9), (7, 36)] {
                let (c, o, mut random) = (40, 50, Random(5));
                let n = if rows == Rows::Images { 33 } else { 2 };
                let map = Map::new(rows, (n, h, w, c));
                let to = map.channels(o);
                let (x, filters) = (packed(&random.numbers(n * h * w * c), map), random.numbers(9 * c * o));
                let [bias, scale, shift] = [0, 1, 2].map(|_| random.numbers(o));
                let filters = Filters::new(&filters, scheme, c, o);
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    relu: true,
                    affine: Some((&scale, &shift)),
                    relu_after: true,
                    max_pool: false,
                };
                let (mut whole, mut separate) = (lines(to), lines(to.pooled()));
                forward(x.bf16(), map, &filters, epilogue, whole.bf16_mut());
                max_forward(whole.bf16(), to, separate.bf16_mut(), None);
                let mut pooled = lines(to.pooled());
                forward(x.bf16(), map, &filters, Epilogue { max_pool: true, ..epilogue }, pooled.bf16_mut());
                assert_eq!(unpacked(&pooled, to.pooled()), unpacked(&separate, to.pooled()), "{map:?}");
                assert!(rest_is_zero(&pooled, to.pooled()) || rows == Rows::Images, "{map:?}");
                // The affine part against f32.
                let mut plain = lines(to);
                let first = Epilogue { affine: None, relu_after: false, ..epilogue };
                forward(x.bf16(), map, &filters, first, plain.bf16_mut());
                let plain = unpacked(&plain, to).into_iter().enumerate();
                let want = plain.map(|(i, v)| f64::from((v * scale[i % o] + shift[i % o]).max(0.0)));
                assert!(error(&unpacked(&whole, to), &want.collect::<Vec<_>>()) < 2.0 * ROUNDED, "{map:?}");
            }
        }
    });
}

/// Winograd where it has fewer products, also counting those that it computes in vain.
#[test]
fn scheme_is_the_faster_one() {
    let map = |rows, side| Map::new(rows, (1, side, side, 256));
    let winograd = [(56, 256, false), (56, 256, true), (28, 512, false), (28, 512, true), (14, 512, false)];
    for (side, outputs, pool) in winograd {
        assert_eq!(Scheme::of(map(Rows::Pixels, side), 9, outputs, pool), Scheme::Winograd, "{side}");
    }
    // Seven pairs in a block of 16; too few outputs to pay for the transform.
    for (side, outputs, pool) in [(14, 512, true), (112, 128, false), (112, 128, true), (1, 512, false)] {
        assert_eq!(Scheme::of(map(Rows::Pixels, side), 9, outputs, pool), Scheme::Direct(9), "{side}");
    }
    assert_eq!(Scheme::of(map(Rows::Images, 56), 9, 256, false), Scheme::Direct(9));
    assert_eq!(Scheme::of(map(Rows::Pixels, 56), 1, 256, false), Scheme::Direct(1));
}

#[test]
fn gathered_pixels_give_the_same_convolution() {
    let shapes = [
        (Rows::Images, (35, 5, 4, 3)),
        (Rows::Pixels, (3, 5, 4, 3)),
        (Rows::Images, (2, 5, 4, 1)),
        (Rows::Pixels, (2, 3, 1, 2)),
    ];
    for (rows, (n, h, w, c)) in shapes {
        let (o, mut random) = (40, Random(1));
        let x = random.numbers(n * h * w * c);
        let (weight, map) = (random.numbers(9 * c * o), Map::new(rows, (n, h, w, c)));
        let (to, wide) = (map.channels(o), map.channels(9 * c));
        let (mut y, mut direct, mut columns) = (lines(to), lines(to), lines(wide));
        gather(&x, wide, columns.bf16_mut());
        forward(
            columns.bf16(),
            wide,
            &Filters::new(&weight, Scheme::Direct(1), 9 * c, o),
            Epilogue::default(),
            y.bf16_mut(),
        );
        let filters = Filters::new(&weight, Scheme::Direct(9), c, o);
        forward(packed(&x, map).bf16(), map, &filters, Epilogue::default(), direct.bf16_mut());
        let direct: Vec<f64> = unpacked(&direct, to).into_iter().map(f64::from).collect();
        assert!(error(&unpacked(&y, to), &direct) < ROUNDED, "{map:?}");
    }
}

#[test]
fn every_value_of_bf16_survives_the_way_there_and_back() {
    for shape @ (n, h, w, c) in [(33, 3, 2, 70), (2, 4, 5, 31), (1, 1, 1, 1)] {
        let x = Random(2).numbers(n * h * w * c);
        for rows in [Rows::Images, Rows::Pixels] {
            let map = Map::new(rows, shape);
            let there = packed(&x, map);
            assert!(rest_is_zero(&there, map), "{map:?}");
            assert_eq!(unpacked(&there, map), x, "{map:?}");
        }
    }
}

#[test]
fn layers_between_convolutions_match_f32() {
    for (shape @ (n, h, w, c), rows) in
        [((40, 5, 4, 33), Rows::Images), ((64, 2, 2, 64), Rows::Images), ((3, 6, 7, 40), Rows::Pixels)]
    {
        let (map, mut random) = (Map::new(rows, shape), Random(9));
        let len = n * h * w * c;
        let (x, dy) = (random.numbers(len), random.numbers(len));
        let (from, mask) = (packed(&x, map), Dropout::new(0.4, 77));
        let close = |got: &Buffer, want: &[f32], what: &str| {
            let want: Vec<f64> = want.iter().map(|&v| f64::from(v)).collect();
            let error = error(&unpacked(got, map), &want);
            assert!(error < ROUNDED, "{map:?} {what}: {error}");
            assert!(rest_is_zero(got, map), "{map:?} {what}");
        };
        let (mut y, mut want) = (lines(map), vec![0.0; len]);
        relu(from.bf16(), map, y.bf16_mut());
        elementwise::relu(&x, &mut want);
        close(&y, &want, "relu");
        let (mut gradient, mut dx) = (packed(&dy, map), dy.clone());
        relu_backward(gradient.bf16_mut(), y.bf16(), map);
        elementwise::relu_backward(&mut dx, &want);
        close(&gradient, &dx, "relu backward");
        dropout(from.bf16(), map, mask, y.bf16_mut());
        mask.apply(&x, &mut want);
        close(&y, &want, "dropout");
        let [got, want_sums] = [column_sums(from.bf16(), map), elementwise::column_sums(&x, c)];
        assert!(error(&got, &want_sums.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()) < 1e-5, "{map:?}");
        // Batch norm.
        let (mean, variance) = f32_batch_norm::statistics(&x, c);
        let (got_mean, got_variance) = statistics(from.bf16(), map, 0..n);
        for k in 0..c {
            assert!(
                (mean[k] - got_mean[k]).abs() < 1e-5 && (variance[k] - got_variance[k]).abs() < 1e-5,
                "{map:?} {k}"
            );
        }
        let (scale, shift) = (random.numbers(c), random.numbers(c));
        affine(from.bf16(), map, 0..n, [&scale, &shift], Some(mask), y.bf16_mut());
        f32_batch_norm::affine(&x, &scale, &shift, Some(mask), &mut want);
        close(&y, &want, "affine");
        let inv_std: Vec<f32> = variance.iter().map(|v| 1.0 / (v + 1e-3).sqrt()).collect();
        for (relu, mask) in [(true, Some(mask)), (false, None)] {
            let (mut gradient, mut dx) = (packed(&dy, map), dy.clone());
            let moments = (&mean[..], &inv_std[..]);
            let constants = [&mean[..], &inv_std, &scale];
            let got = backward((gradient.bf16_mut(), from.bf16()), map, 0..n, constants, mask, relu, |_| ());
            let want = f32_batch_norm::backward(&mut dx, &x, moments, &scale, mask, relu, |_| ());
            close(&gradient, &dx, "batch norm backward");
            for (got, want) in [(&got.gamma, &want.gamma), (&got.beta, &want.beta), (&got.dx, &want.dx)] {
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() < 1e-3, "{map:?}: {got} {want}");
                }
            }
        }
    }
}

#[test]
fn statistics_of_a_group_of_images_are_those_of_the_group() {
    let (map, x) = (Map::new(Rows::Images, (80, 3, 3, 5)), Random(4).numbers(80 * 9 * 5));
    let from = packed(&x, map);
    for images in [0..32, 32..64, 64..80] {
        let (mean, variance) = f32_batch_norm::statistics(&x[images.start * 45..images.end * 45], 5);
        let got = statistics(from.bf16(), map, images);
        assert!((0..5).all(|k| (mean[k] - got.0[k]).abs() < 1e-6 && (variance[k] - got.1[k]).abs() < 1e-6));
    }
}

#[test]
fn pooling_matches_f32() {
    for (shape @ (n, h, w, c), rows) in
        [((40, 6, 4, 33), Rows::Images), ((2, 5, 7, 64), Rows::Pixels), ((33, 3, 3, 3), Rows::Images)]
    {
        let (map, mut random) = (Map::new(rows, shape), Random(6));
        let to = map.pooled();
        // Few values, so that many are equal.
        let x: Vec<f32> = random.numbers(n * h * w * c).into_iter().map(|v| (4.0 * v).round() / 4.0 + 0.0).collect();
        let size = n * to.h * to.w * c;
        let (mut y, mut index) = (lines(to), vec![9u8; to.lines() * 32]);
        max_forward(packed(&x, map).bf16(), map, y.bf16_mut(), Some(&mut index));
        let (mut want, mut want_index) = (vec![0.0; size], vec![0; size]);
        f32_pool::max_forward(&x, shape, &mut want, &mut want_index);
        assert_eq!(unpacked(&y, to), want, "{map:?}");
        let dy = random.numbers(size);
        let (mut dx, mut want) = (lines(map), vec![0.0; x.len()]);
        max_backward(packed(&dy, to).bf16(), map, &index, dx.bf16_mut());
        f32_pool::max_backward(&dy, shape, &want_index, &mut want);
        assert_eq!(unpacked(&dx, map), want, "{map:?}");
        assert!(rest_is_zero(&dx, map));
    }
}

#[test]
fn a_nan_is_the_largest_in_its_pooling_window() {
    let map = Map::new(Rows::Images, (1, 2, 2, 2));
    for nan in [f32::NAN, -f32::NAN] {
        let mut y = lines(map.pooled());
        let x = packed(&[1.0, -3.0, 2.0, -1.0, nan, -4.0, f32::INFINITY, -2.0], map);
        max_forward(x.bf16(), map, y.bf16_mut(), None);
        let y = unpacked(&y, map.pooled());
        assert!(y[0].is_nan() && y[1] == -1.0, "{y:?}");
    }
}

#[test]
fn dense_layers_match_f64() {
    with_each_unit(|| {
        for (n, inputs, o) in [(1, 300, 70), (4, 64, 10), (5, 300, 70), (40, 33, 32)] {
            let mut random = Random(8);
            let (x, weight, bias) = (random.numbers(n * inputs), random.numbers(inputs * o), random.numbers(o));
            let want = exact((n, 1, 1, inputs), &x, &weight, &bias, &vec![0.0; n * o]).y;
            let mut y = vec![f32::NAN; n * o];
            linear_forward(&x, n, &Filters::new(&weight, Scheme::Direct(1), inputs, o), &bias, true, &mut y);
            assert!(error(&y, &want) < ROUNDED, "{n} {inputs} {o}: {}", error(&y, &want));
        }
    });
}

/// Stores 32 floats in bf16 and loads them.
struct Convert<'a>(&'a [f32; 32], &'a mut [u16; 32], &'a mut [f32; 32]);

impl VectorLoop for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: each array has 32 values.
        unsafe {
            s.store_bf16(self.1.as_mut_ptr(), [s.load(self.0.as_ptr()), s.load(self.0[16..].as_ptr())]);
            let [low, high] = s.load_bf16(self.1.as_ptr());
            s.store(self.2.as_mut_ptr(), low);
            s.store(self.2[16..].as_mut_ptr(), high);
        }
    }
}

#[test]
fn every_instruction_set_rounds_alike() {
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN, 1e-40, -1e-44];
    let ties =
        [0x3f80_8000u32, 0x3f81_8000, 0xbf80_8001, 0x3f80_7fff, 0x7f7f_ffff, 0x0080_0000, 0x007f_ffff, 0x7f80_0001];
    let mut random = Random(11);
    let mut numbers: [f32; 32] = std::array::from_fn(|_| random.next());
    numbers[..10].copy_from_slice(&special);
    numbers[10..18].copy_from_slice(&ties.map(f32::from_bits));
    assert_eq!(ties.map(|bits| narrow(f32::from_bits(bits)))[..4], [0x3f80, 0x3f82, 0xbf81, 0x3f80]);
    for level in Level::supported() {
        let (mut bits, mut back) = ([0; 32], [0.0; 32]);
        limited(level, || run_bf16(Convert(&numbers, &mut bits, &mut back)));
        assert_eq!(bits, numbers.map(narrow), "{level:?}");
        assert_eq!(back.map(f32::to_bits), bits.map(|x| widen(x).to_bits()), "{level:?}");
    }
}

#[test]
fn nan_and_infinity_pass_through_a_convolution() {
    with_each_unit(|| {
        for (bad, (rows, scheme)) in
            [f32::NAN, f32::INFINITY].into_iter().flat_map(|bad| ways(9).into_iter().map(move |way| (bad, way)))
        {
            let map = Map::new(rows, (2, 3, 3, 32));
            let mut x = vec![1.0; 2 * 9 * 32];
            x[4 * 32] = bad;
            let mut y = lines(map);
            let epilogue = Epilogue { relu: true, ..Epilogue::default() };
            forward(
                packed(&x, map).bf16(),
                map,
                &Filters::new(&[0.5; 9 * 32 * 32], scheme, 32, 32),
                epilogue,
                y.bf16_mut(),
            );
            let y = unpacked(&y, map);
            assert!(y[..9 * 32].iter().all(|y| !y.is_finite()), "{bad}");
            assert!(y[9 * 32..].iter().all(|y| y.is_finite()), "only in the image that has it");
        }
    });
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let map = Map::new(Rows::Images, (96, 4, 4, 64));
    let (x, dy) = (packed(&Random(1).numbers(96 * 16 * 64), map), packed(&Random(2).numbers(96 * 16 * 64), map));
    let run = || {
        let mut dw = vec![0.0; 9 * 64 * 64];
        backward_weight(x.bf16(), map, dy.bf16(), 64, &mut dw);
        dw
    };
    assert_eq!(run(), run());
}

/// Sizes that are no multiples of 32, both ways in which a matrix can lie, and an inner side of several pieces.
#[test]
fn matrix_products_match_f64() {
    with_each_unit(|| {
        let mut random = Random(9);
        for (m, k, n) in [(32, 64, 32), (70, 100, 33), (5, 1, 3), (40, 3000, 400)] {
            for (a_lies, b_lies, accumulate) in [(false, false, false), (true, false, true), (false, true, true)] {
                let [a, b, start] = [m * k, k * n, m * n].map(|len| random.numbers(len));
                let view = |values, rows, cols, turned| {
                    if turned { Matrix::new(values, cols, rows).t() } else { Matrix::new(values, rows, cols) }
                };
                let mut dst = start.clone();
                gemm(&mut dst, view(&a, m, k, a_lies), view(&b, k, n, b_lies), accumulate);
                let at = |values: &[f32], (row, rows), (col, cols), turned| {
                    f64::from(values[if turned { col * rows + row } else { row * cols + col }])
                };
                for (i, &found) in dst.iter().enumerate() {
                    let (row, col) = (i / n, i % n);
                    let sum: f64 =
                        (0..k).map(|j| at(&a, (row, m), (j, k), a_lies) * at(&b, (j, k), (col, n), b_lies)).sum();
                    let expected = sum + if accumulate { f64::from(start[i]) } else { 0.0 };
                    assert!((f64::from(found) - expected).abs() < 1e-4, "{m}×{k}×{n}, {i}: {found} for {expected}");
                }
            }
        }
    });
}

#[test]
fn symmetric_products_match_f64() {
    with_each_unit(|| {
        for n in [1, 5, 70, 96] {
            let mut random = Random(2);
            let half: Vec<f32> = (0..n * n).map(|_| random.next()).collect();
            let a: Vec<f32> = (0..n * n).map(|i| half[i] + half[i % n * n + i / n]).collect();
            let at = |row: usize, col: usize| f64::from(a[row * n + col]);
            let square = (0..n * n).map(|i| 2.0 + (0..n).map(|k| at(i / n, k) * at(k, i % n)).sum::<f64>());
            let square: Vec<f64> = square.collect();
            let error_of = |product: fn(&mut [f32], Matrix, Matrix, bool)| {
                let (a, mut dst) = (Matrix::new(&a, n, n), vec![2.0; n * n]);
                product(&mut dst, a, a.t(), true);
                error(&dst, &square)
            };
            assert!(error_of(symmetric_gemm) < 0.008, "{n}: {}", error_of(symmetric_gemm));
            assert!(error_of(split_symmetric_gemm) < 3e-5, "{n}: {}", error_of(split_symmetric_gemm));
        }
    });
}
