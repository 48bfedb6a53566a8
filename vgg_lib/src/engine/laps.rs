//! Measures how long each layer takes, for [`profile`](crate::model::Sequential::profile).

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// The time of a layer's forward or backward pass.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    /// The layer's index in the model.
    pub layer: usize,
    pub backward: bool,
    pub time: Duration,
}

// Both passes run on the thread that calls them.
thread_local! { static LAPS: RefCell<Option<Vec<Lap>>> = const { RefCell::new(None) } }

/// Runs `work` and returns, with its result, the time of each layer in the passes that it ran.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, Vec<Lap>) {
    LAPS.set(Some(vec![]));
    let result = work();
    (result, LAPS.take().unwrap_or_default())
}

/// Records laps, if [`timed`] is running.
pub struct Stopwatch {
    last: Instant,
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch { last: Instant::now() }
    }

    /// Whether [`timed`] is running.
    pub fn is_read() -> bool {
        LAPS.with_borrow(Option::is_some)
    }

    /// Counts the time since the last lap as this layer's.
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
