//! Memory for intermediate results that is used again in the next step: asking the system for it anew would
//! cost a page fault every 4 KiB.

use super::memory::Memory;
use super::simd::LANES;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Memory that is free, by its length.
#[derive(Default)]
pub struct Arena {
    free: Mutex<HashMap<usize, Vec<Memory>>>,
}

/// Floats that go back to their arena when dropped.
pub struct Buffer {
    memory: Memory,
    len: usize,
    arena: Arc<Arena>,
}

impl Arena {
    /// A buffer whose content is arbitrary.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let lines = len.div_ceil(LANES);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&lines).and_then(Vec::pop);
        Buffer { memory: free.unwrap_or_else(|| Memory::new(lines)), len, arena: self.clone() }
    }

    /// Gives free buffers back to the system.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    /// Where its memory comes from.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::empty());
        let mut free = self.arena.free.lock().unwrap_or_else(PoisonError::into_inner);
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
