//! Memory for intermediate results that is used again in the next step: asking the system for it anew would
//! cost a page fault every 4 KiB.

use crate::kernel::memory::Memory;
use crate::kernel::simd::LANES;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Memory that is free, by its length; and where a profile is made, what the layers took.
#[derive(Default)]
pub struct Pool {
    free: Mutex<HashMap<usize, Vec<Memory>>>,
    laps: Mutex<Option<Vec<Lap>>>,
}

/// What a part of a layer's work took.
#[derive(Clone, Copy)]
pub struct Lap {
    /// Its place in the model.
    pub layer: usize,
    pub backward: bool,
    pub time: Duration,
}

/// Measures laps, if its pool wants them.
pub struct Stopwatch {
    pool: Arc<Pool>,
    last: Instant,
}

impl Stopwatch {
    /// What was done since the last lap was for this layer.
    pub fn lap(&mut self, layer: usize, backward: bool) {
        let now = Instant::now();
        if let Some(laps) = self.pool.laps.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            laps.push(Lap { layer, backward, time: now - self.last });
        }
        self.last = now;
    }
}

/// Floats that go back to their pool when dropped.
pub struct Buffer {
    memory: Memory,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer whose content is arbitrary.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let lines = len.div_ceil(LANES);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&lines).and_then(Vec::pop);
        Buffer { memory: free.unwrap_or_else(|| Memory::new(lines)), len, pool: self.clone() }
    }

    /// Gives free buffers back to the system.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn stopwatch(self: &Arc<Self>) -> Stopwatch {
        Stopwatch { pool: self.clone(), last: Instant::now() }
    }

    /// Takes the laps measured since the last call. The first call only says that laps are wanted.
    pub fn laps(&self) -> Vec<Lap> {
        self.laps.lock().unwrap_or_else(PoisonError::into_inner).replace(vec![]).unwrap_or_default()
    }

    pub fn copy(self: &Arc<Self>, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Buffer {
    /// The memory as bytes, four for each float.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the floats are initialized, and bytes have no alignment and no invalid values.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len * 4) }
    }

    /// See [`bytes`](Self::bytes).
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; any bytes are floats.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len * 4) }
    }

    /// Where it came from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::empty());
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(memory.size()).or_default().push(memory);
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory.floats()[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory.floats_mut()[..self.len]
    }
}
