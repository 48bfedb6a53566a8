//! Memory of the GPU.
//!
//! Freed memory is kept and lent again for the same size: allocating is slow and waits for the GPU. Because all work
//! runs in one order, memory may be lent again while the GPU still uses it for earlier work.

use super::device::{Fault, Gpu, lock};
use rayon::prelude::*;
use std::ffi::c_void;
use std::ptr::null_mut;

/// Floats on the GPU.
pub struct Memory {
    gpu: &'static Gpu,
    pointer: u64,
    len: usize,
}

/// Pinned memory of the CPU, from which the GPU reads while the CPU goes on: two pieces, used in turn.
#[derive(Default)]
pub(super) struct Staging {
    pieces: [Piece; 2],
    next: usize,
}

struct Piece {
    pointer: *mut c_void,
    size: usize,
    /// Recorded after the last copy from it.
    event: *mut c_void,
}

impl Default for Piece {
    fn default() -> Piece {
        Piece { pointer: null_mut(), size: 0, event: null_mut() }
    }
}

/// The largest copy that goes through pinned memory, in bytes.
const STAGED: usize = 64 << 20;
/// Floats that a thread copies at a time.
const CHUNK: usize = 1 << 18;

impl Gpu {
    /// Memory for `len` floats. Its content is arbitrary.
    pub fn take(&'static self, len: usize) -> Memory {
        let size = size_of_floats(len);
        let kept = lock(&self.free).get_mut(&size).and_then(Vec::pop);
        let pointer = kept.unwrap_or_else(|| self.allocate(size));
        Memory { gpu: self, pointer, len }
    }

    /// Memory with these values.
    pub fn upload(&'static self, values: &[f32]) -> Memory {
        let memory = self.take(values.len());
        if self.is_faulty() || values.is_empty() {
            return memory;
        }
        let size = size_of_val(values);
        let mut staging = lock(&self.staging);
        let from = if size > STAGED { values.as_ptr().cast() } else { staging.fill(self, values) };
        // SAFETY: both sides have this size. Pinned memory stays; from other memory the driver has copied on return.
        let code = unsafe { (self.driver.upload)(memory.pointer, from, size, self.stream) };
        self.expect(code, "copying to the GPU");
        staging.record(self);
        memory
    }

    /// Memory full of zeros.
    pub fn zeros(&'static self, len: usize) -> Memory {
        let memory = self.take(len);
        memory.clear_from(0);
        memory
    }

    /// Returns the memory that is kept for the next pass to the driver.
    pub fn release_memory(&self) {
        self.bind();
        let free = std::mem::take(&mut *lock(&self.free));
        for pointer in free.into_values().flatten() {
            // SAFETY: nothing else points to it; the driver waits for work that uses it.
            let code = unsafe { (self.driver.free)(pointer) };
            self.expect(code, "freeing memory");
        }
    }

    /// New memory; if there is none, after releasing what is kept. 0 if the GPU is full.
    fn allocate(&self, size: usize) -> u64 {
        if self.is_faulty() {
            return 0;
        }
        self.bind();
        let mut pointer = 0;
        // SAFETY: the pointer is to a local variable.
        let mut allocate = || unsafe { (self.driver.allocate)(&mut pointer, size) };
        if allocate() == 0 {
            return pointer;
        }
        self.release_memory();
        if allocate() != 0 {
            self.fail(Fault::Memory(size));
            return 0;
        }
        pointer
    }
}

impl Staging {
    /// Copies the values into the next piece, once the GPU has read its old content.
    fn fill(&mut self, gpu: &Gpu, values: &[f32]) -> *const c_void {
        self.next = 1 - self.next;
        let piece = &mut self.pieces[self.next];
        let size = size_of_val(values);
        // SAFETY: the event and the memory belong to the piece, and the memory has at least this size.
        unsafe {
            if piece.event.is_null() {
                gpu.expect((gpu.driver.create_event)(&mut piece.event, 2), "creating an event");
            } else {
                gpu.expect((gpu.driver.wait_for_event)(piece.event), "waiting for the GPU");
            }
            if piece.size < size {
                // The old piece is small, and stays until the process ends.
                let grown = size.next_power_of_two();
                if (gpu.driver.allocate_pinned)(&mut piece.pointer, grown) != 0 {
                    *piece = Piece { event: piece.event, ..Piece::default() };
                    return values.as_ptr().cast();
                }
                piece.size = grown;
            }
            let pinned = std::slice::from_raw_parts_mut(piece.pointer.cast::<f32>(), values.len());
            pinned.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        }
        piece.pointer
    }

    fn record(&mut self, gpu: &Gpu) {
        let event = self.pieces[self.next].event;
        if !event.is_null() {
            // SAFETY: the event and the stream stay.
            gpu.expect(unsafe { (gpu.driver.record_event)(event, gpu.stream) }, "recording an event");
        }
    }
}

#[allow(clippy::len_without_is_empty)] // there is no empty memory that anyone asks about
impl Memory {
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// The number of floats.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// The address of the float at this index.
    pub fn at(&self, index: usize) -> u64 {
        self.pointer + 4 * index as u64
    }

    /// Sets the values from this index on to 0.
    pub fn clear_from(&self, index: usize) {
        if self.gpu.is_faulty() || index >= self.len {
            return;
        }
        self.gpu.bind();
        // SAFETY: the memory has these floats.
        let code = unsafe { (self.gpu.driver.fill)(self.at(index), 0, self.len - index, self.gpu.stream) };
        self.gpu.expect(code, "filling memory");
    }

    /// Waits for the GPU and returns the values. After a fault, all are NaN.
    pub fn download(&self) -> Vec<f32> {
        let mut values = vec![f32::NAN; self.len];
        if self.gpu.is_faulty() || values.is_empty() {
            return values;
        }
        self.gpu.bind();
        // SAFETY: both sides have this size, and the call below waits for the copy.
        let code = unsafe {
            (self.gpu.driver.download)(values.as_mut_ptr().cast(), self.pointer, 4 * self.len, self.gpu.stream)
        };
        self.gpu.expect(code, "copying from the GPU");
        self.gpu.synchronize();
        if self.gpu.is_faulty() {
            values.fill(f32::NAN);
        }
        values
    }

    /// A copy on the GPU.
    pub fn duplicate(&self) -> Memory {
        let copy = self.gpu.take(self.len);
        if !self.gpu.is_faulty() && self.len > 0 {
            // SAFETY: both sides have this size.
            let code = unsafe { (self.gpu.driver.copy)(copy.pointer, self.pointer, 4 * self.len, self.gpu.stream) };
            self.gpu.expect(code, "copying on the GPU");
        }
        copy
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.pointer != 0 {
            lock(&self.gpu.free).entry(size_of_floats(self.len)).or_default().push(self.pointer);
        }
    }
}

/// Bytes, in steps of 512.
fn size_of_floats(len: usize) -> usize {
    (4 * len).next_multiple_of(512).max(512)
}
