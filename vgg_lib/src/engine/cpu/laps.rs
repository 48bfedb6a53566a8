//! How long each layer's work takes, for [`profile`](crate::model::Sequential::profile).

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// The time of a part of a layer's work.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    /// The layer's index in the model.
    pub layer: usize,
    pub backward: bool,
    pub time: Duration,
}

// A pass, forward and backward, runs on the thread that asks for it.
thread_local! { static LAPS: RefCell<Option<Vec<Lap>>> = const { RefCell::new(None) } }

/// Does `work` and says what each layer of the passes in it took.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, Vec<Lap>) {
    LAPS.set(Some(vec![]));
    let result = work();
    (result, LAPS.take().unwrap_or_default())
}

/// Measures laps, if somebody asked for them.
pub struct Stopwatch {
    last: Instant,
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch { last: Instant::now() }
    }

    /// The time since the last lap was for this layer.
    pub fn lap(&mut self, layer: usize, backward: bool) {
        let now = Instant::now();
        LAPS.with_borrow_mut(|laps| {
            if let Some(laps) = laps {
                laps.push(Lap { layer, backward, time: now - self.last });
            }
        });
        self.last = now;
    }
}
