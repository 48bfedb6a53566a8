//! The speed of each operation, at every shape of `cifar_vgg16` (batch 128) and VGG16 (224×224, batch 8).
//!
//!     cargo bench -p vgg_lib --features bench                    # all
//!     cargo bench -p vgg_lib --features bench -- conv_forward    # one operation
//!     cargo bench -p vgg_lib --features bench -- 64x32x32        # one shape
//!
//! `item/s` is FLOP/s for convolutions, counted as in direct convolution (2·9·pixels·c·o) for every algorithm, and input
//! values per second for the other operations. `RAYON_NUM_THREADS` sets the number of threads.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box_drop};
use std::fmt;
use vgg_lib::kernel::{batch_norm, conv2d, pool};

fn main() {
    divan::main();
}

/// A convolution of n images of side×side pixels from c to o channels.
#[derive(Clone, Copy)]
struct Conv {
    n: usize,
    side: usize,
    c: usize,
    o: usize,
}

impl fmt::Display for Conv {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}x{}x{} to {}", self.n, self.side, self.side, self.c, self.o)
    }
}

impl Conv {
    fn flop(self) -> ItemsCount {
        ItemsCount::new(2 * 9 * self.n * self.side * self.side * self.c * self.o)
    }

    fn input(self) -> Vec<f32> {
        numbers(self.n * self.side * self.side * self.c)
    }

    fn output(self) -> Vec<f32> {
        numbers(self.n * self.side * self.side * self.o)
    }

    fn weight(self) -> Vec<f32> {
        numbers(9 * self.c * self.o)
    }

    fn shape(self) -> (usize, usize, usize, usize) {
        (self.n, self.side, self.side, self.c)
    }
}

/// The distinct convolutions of both networks: each block halves the side of the maps.
fn convolutions() -> impl Iterator<Item = Conv> {
    [(128, 32), (8, 224)].into_iter().flat_map(|(n, side)| {
        [
            (1, 3, 64),
            (1, 64, 64),
            (2, 64, 128),
            (2, 128, 128),
            (4, 128, 256),
            (4, 256, 256),
            (8, 256, 512),
            (8, 512, 512),
            (16, 512, 512),
        ]
        .map(|(smaller, c, o)| Conv { n, side: side / smaller, c, o })
    })
}

/// The maps before poolings; in `cifar_vgg16` they also go through batch norm.
fn maps() -> impl Iterator<Item = Conv> {
    convolutions().filter(|conv| conv.c == conv.o)
}

#[divan::bench(args = convolutions())]
fn conv_forward(bencher: Bencher, conv: Conv) {
    let (x, weight, bias, mut y) = (conv.input(), conv.weight(), numbers(conv.o), conv.output());
    let run = || conv2d::forward(&x, conv.shape(), 3, &weight, Some(&bias), true, &mut y);
    bencher.counter(conv.flop()).bench_local(run);
}

#[divan::bench(args = convolutions())]
fn conv_backward_data(bencher: Bencher, conv: Conv) {
    let (dy, weight, mut dx) = (conv.output(), conv.weight(), conv.input());
    bencher.counter(conv.flop()).bench_local(|| conv2d::backward_data(&dy, conv.shape(), 3, &weight, &mut dx));
}

#[divan::bench(args = convolutions())]
fn conv_backward_weight(bencher: Bencher, conv: Conv) {
    let (x, dy, mut dw) = (conv.input(), conv.output(), conv.weight());
    bencher.counter(conv.flop()).bench_local(|| conv2d::backward_weight(&x, conv.shape(), 3, &dy, &mut dw));
}

#[divan::bench(args = maps())]
fn max_pool_forward(bencher: Bencher, map: Conv) {
    let x = map.input();
    let (mut y, mut index) = (vec![0.0; x.len() / 4], vec![0; x.len() / 4]);
    let run = || pool::max_forward(&x, map.shape(), &mut y, &mut index);
    bencher.counter(ItemsCount::new(x.len())).bench_local(run);
}

#[divan::bench(args = maps())]
fn max_pool_backward(bencher: Bencher, map: Conv) {
    let x = map.input();
    let (mut dx, mut y, mut index) = (vec![0.0; x.len()], vec![0.0; x.len() / 4], vec![0; x.len() / 4]);
    pool::max_forward(&x, map.shape(), &mut y, &mut index);
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| pool::max_backward(&y, map.shape(), &index, &mut dx));
}

#[divan::bench(args = maps())]
fn batch_norm_forward(bencher: Bencher, map: Conv) {
    let (x, scale, shift) = (map.input(), numbers(map.c), numbers(map.c));
    let mut y = vec![0.0; x.len()];
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| {
        black_box_drop(batch_norm::statistics(&x, map.c));
        batch_norm::affine(&x, &scale, &shift, None, &mut y);
    });
}

#[divan::bench(args = maps())]
fn batch_norm_backward(bencher: Bencher, map: Conv) {
    let (x, mut dy) = (map.input(), map.input());
    let (mean, inv_std) = (vec![0.0; map.c], vec![1.0; map.c]); // with these, dy stays finite over all repetitions
    let gamma = vec![1.0; map.c];
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| {
        black_box_drop(batch_norm::backward(&mut dy, &x, (&mean, &inv_std), &gamma, None, false, |_| ()));
    });
}

/// `n` numbers between −0.5 and 0.5.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 8) as f32 / 16_777_216.0 - 0.5).collect()
}
