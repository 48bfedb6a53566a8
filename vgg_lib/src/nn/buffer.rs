//! Memory for intermediate results that is used again in the next step: asking the system for it anew would
//! cost a page fault every 4 KiB.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that are free, by length.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<usize, Vec<Vec<f32>>>>);

/// Floats that go back to their pool when dropped.
pub struct Buffer {
    values: Vec<f32>,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer whose content is arbitrary.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&len).and_then(Vec::pop);
        Buffer { values: free.unwrap_or_else(|| vec![0.0; len]), pool: self.clone() }
    }

    /// Gives free buffers back to the system.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn copy(self: &Arc<Self>, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Buffer {
    /// Where it came from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        let mut free = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(values.len()).or_default().push(values);
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}
