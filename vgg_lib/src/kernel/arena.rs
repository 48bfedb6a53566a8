//! Memory that is used again and again: asking the system for new memory costs a page fault every 4 KiB.
//!
//! An [`Arena`] lends a [`Buffer`], which returns its memory to the arena when it is dropped. There are three kinds:
//!
//! | for | arena | which free memory is lent |
//! |---|---|---|
//! | the intermediate results of a model | one per model, [`Arena::default`] | memory of exactly the same size |
//! | the working memory of a kernel call | one per process, [`of_process`] | the smallest that is large enough |
//! | the working memory of one task | one per thread, [`of_thread`] | the smallest that is large enough |
//!
//! All memory starts on a cache line, because a vector that straddles two lines costs two accesses.

use super::simd::LANES;
use crate::text::bytes;
use std::alloc::{Layout, alloc, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// A buffer of `len` floats for one kernel call, from memory that all threads share. Its content is arbitrary.
pub fn of_process(len: usize) -> Buffer {
    static ARENA: LazyLock<Arc<Arena>> = LazyLock::new(Arena::smallest_fit);
    ARENA.take(len)
}

/// A buffer of `len` floats for one task, from memory that this thread keeps. Its content is arbitrary.
pub fn of_thread(len: usize) -> Buffer {
    thread_local! { static ARENA: Arc<Arena> = Arena::smallest_fit(); }
    ARENA.with(|arena| arena.take(len))
}

/// Free memory, and the rule by which it is lent again.
#[derive(Default)]
pub struct Arena {
    free: Mutex<Vec<Memory>>,
    fit: Fit,
}

/// Which free memory a new buffer gets.
#[derive(Default)]
enum Fit {
    /// Memory of the same size: right where the same sizes come back in every training step.
    #[default]
    Exact,
    /// The smallest memory that is large enough. If there is none, new memory replaces the largest one, so that calls
    /// of many sizes share a few pieces of memory.
    Smallest,
}

impl Arena {
    fn smallest_fit() -> Arc<Arena> {
        Arc::new(Arena { free: Mutex::default(), fit: Fit::Smallest })
    }

    /// A buffer of `len` floats. Its content is arbitrary.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let lines = len.div_ceil(LANES);
        let memory = match self.reuse(lines) {
            Some(memory) if memory.lines >= lines => memory,
            too_small => {
                drop(too_small); // before the new memory is requested
                Memory::new(lines)
            }
        };
        Buffer { memory, len, arena: self.clone() }
    }

    /// A buffer with the same content as `values`.
    pub fn copy(self: &Arc<Self>, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// Returns all free memory to the system.
    pub fn clear(&self) {
        self.free().clear();
    }

    /// The bytes of the free memory.
    pub fn free_bytes(&self) -> usize {
        self.free().iter().map(|memory| memory.lines * size_of::<CacheLine>()).sum()
    }

    /// Free memory for `lines` cache lines, or memory that is too small and has to be replaced.
    fn reuse(&self, lines: usize) -> Option<Memory> {
        let mut free = self.free();
        let index = match self.fit {
            Fit::Exact => free.iter().rposition(|memory| memory.lines == lines),
            Fit::Smallest => {
                let enough = (0..free.len()).filter(|&i| free[i].lines >= lines).min_by_key(|&i| free[i].lines);
                enough.or_else(|| (0..free.len()).max_by_key(|&i| free[i].lines))
            }
        };
        index.map(|index| free.remove(index))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Floats that an [`Arena`] has lent.
pub struct Buffer {
    memory: Memory,
    len: usize,
    arena: Arc<Arena>,
}

impl Buffer {
    /// The buffer as bytes, four per float.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the floats are initialized, and bytes have no alignment and no invalid values.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len * 4) }
    }

    /// The buffer as bytes, four per float.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; any four bytes are a valid float.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len * 4) }
    }

    /// The buffer as cache lines; the last one may extend past its floats.
    pub fn lines_mut(&mut self) -> &mut [CacheLine] {
        &mut self.memory.lines_mut()[..self.len.div_ceil(LANES)]
    }

    /// The buffer as cache lines of bf16, two in the place of a float.
    pub fn bf16(&self) -> &[Line] {
        // SAFETY: a `CacheLine` has the size and the alignment of a `Line`, and any bits are valid.
        unsafe { std::slice::from_raw_parts(self.memory.base.as_ptr().cast(), self.len.div_ceil(LANES)) }
    }

    /// The buffer as cache lines of bf16, two in the place of a float.
    pub fn bf16_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `bf16`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base.as_ptr().cast(), self.len.div_ceil(LANES)) }
    }

    /// The arena that gets the memory back.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::EMPTY);
        self.arena.free().push(memory);
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

/// One cache line: sixteen floats.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct CacheLine(pub [f32; LANES]);

/// One cache line: 32 numbers in bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u16; 2 * LANES]);

/// Cache lines, owned like a box. Large memory lies on large pages where the system has them: the kernels walk through
/// many megabytes with long strides, which is slow in pages of 4 KiB.
pub struct Memory {
    base: NonNull<CacheLine>,
    lines: usize,
}
// SAFETY: it owns its memory like a box.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    const EMPTY: Memory = Memory { base: NonNull::dangling(), lines: 0 };
    const LARGE_PAGE: usize = 2 << 20;

    fn layout(lines: usize) -> Layout {
        let bytes = lines * size_of::<CacheLine>();
        let align = if bytes >= Memory::LARGE_PAGE { Memory::LARGE_PAGE } else { align_of::<CacheLine>() };
        Layout::from_size_align(bytes, align).expect("more memory than there are addresses")
    }

    /// `lines` cache lines of zeros.
    pub fn new(lines: usize) -> Memory {
        if lines == 0 {
            return Memory::EMPTY;
        }
        let layout = Memory::layout(lines);
        // SAFETY: the layout is not empty, and the memory is written before anyone can read it.
        unsafe {
            let memory = alloc(layout);
            // A panic, which unlike the usual abort leaves a notebook its variables.
            let Some(base) = NonNull::new(memory.cast()) else {
                panic!("there is no memory for {}; use smaller batches or a smaller model", bytes(layout.size()))
            };
            #[cfg(target_os = "linux")]
            if layout.align() == Memory::LARGE_PAGE {
                unsafe extern "C" {
                    fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
                }
                const MADV_HUGEPAGE: i32 = 14;
                madvise(memory, layout.size(), MADV_HUGEPAGE); // only a hint: its result does not matter
            }
            memory.write_bytes(0, layout.size());
            Memory { base, lines }
        }
    }

    /// The cache lines.
    pub fn lines(&self) -> &[CacheLine] {
        // SAFETY: `new` has written all of them.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.lines) }
    }

    /// The cache lines.
    pub fn lines_mut(&mut self) -> &mut [CacheLine] {
        // SAFETY: as in `lines`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.lines) }
    }

    fn floats(&self) -> &[f32] {
        // SAFETY: as in `lines`; a line is 16 floats without padding.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.lines * LANES) }
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.lines * LANES) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.lines > 0 {
            // SAFETY: `new` allocated it with this layout.
            unsafe { dealloc(self.base.as_ptr().cast(), Memory::layout(self.lines)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_arena_lends_only_memory_of_the_same_size() {
        let arena = Arc::new(Arena::default());
        let first = arena.take(100).as_ptr();
        assert_ne!(arena.take(300).as_ptr(), first);
        assert_eq!(arena.take(97).as_ptr(), first, "97 and 100 floats take seven cache lines each");
        assert_eq!(arena.free().len(), 2);
        arena.clear();
        assert!(arena.free().is_empty());
    }

    #[test]
    fn smallest_fit_arena_lends_the_smallest_sufficient_memory_or_replaces_the_largest() {
        let arena = Arena::smallest_fit();
        let (small, large) = (arena.take(100), arena.take(1000));
        let (first, second) = (small.as_ptr(), large.as_ptr());
        drop((small, large));
        assert_eq!(arena.take(50).as_ptr(), first);
        assert_eq!(arena.take(200).as_ptr(), second);
        assert_eq!(arena.take(5000).len(), 5000);
        let sizes: Vec<usize> = arena.free().iter().map(|memory| memory.lines).collect();
        assert_eq!(sizes, [7, 313], "the memory for 1,000 floats was replaced");
    }

    #[test]
    fn buffers_start_on_cache_lines_and_keep_their_length() {
        let arena = Arc::new(Arena::default());
        let mut buffer = arena.copy(&[1.0, 2.0, 3.0]);
        assert_eq!(buffer.as_ptr() as usize % align_of::<CacheLine>(), 0);
        assert_eq!((buffer.len(), buffer.bytes().len(), buffer.lines_mut().len()), (3, 12, 1));
        assert_eq!(buffer[..], [1.0, 2.0, 3.0]);
        buffer.bytes_mut()[..4].copy_from_slice(&5f32.to_ne_bytes());
        assert_eq!(buffer[0], 5.0);
        assert!(arena.take(0).is_empty());
    }

    #[test]
    fn a_thread_lends_its_memory_again_and_a_second_buffer_gets_its_own() {
        let mut buffer = of_thread(100);
        let address = buffer.as_ptr();
        assert_ne!(of_thread(100).as_ptr(), address);
        buffer.fill(1.0);
        drop(buffer);
        assert!([of_thread(100), of_thread(100)].iter().any(|buffer| buffer.as_ptr() == address));
    }
}
