//! Independent streams of random numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Random numbers that depend on `seed` and `number` alone. Different numbers give independent streams.
pub(super) fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}
