//! Memory that starts on a cache line: a vector that straddles two costs two accesses.

use super::simd::LANES;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Sixteen floats on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct CacheLine(pub [f32; LANES]);

/// Cache lines on large pages where the system has them: the stages walk through many megabytes with long
/// strides, which costs much in 4 KiB pages.
pub struct Memory {
    base: NonNull<CacheLine>,
    lines: usize,
}
// SAFETY: it owns its memory like a box.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    const PAGE: usize = 2 << 20;

    /// None at all.
    pub const fn empty() -> Memory {
        Memory { base: NonNull::dangling(), lines: 0 }
    }

    fn layout(lines: usize) -> Layout {
        let bytes = lines * size_of::<CacheLine>();
        let align = if bytes >= Memory::PAGE { Memory::PAGE } else { align_of::<CacheLine>() };
        Layout::from_size_align(bytes, align).expect("more memory than there are addresses")
    }

    /// Zeros.
    pub fn new(lines: usize) -> Memory {
        if lines == 0 {
            return Memory::empty();
        }
        let layout = Memory::layout(lines);
        // SAFETY: the layout is not empty; the memory is written before it is lent to anyone.
        unsafe {
            let memory = alloc(layout);
            let Some(base) = NonNull::new(memory.cast()) else { handle_alloc_error(layout) };
            #[cfg(target_os = "linux")]
            if layout.align() == Memory::PAGE {
                unsafe extern "C" {
                    fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
                }
                const MADV_HUGEPAGE: i32 = 14;
                madvise(memory, layout.size(), MADV_HUGEPAGE); // only a hint: whether it worked does not matter
            }
            memory.write_bytes(0, layout.size());
            Memory { base, lines }
        }
    }

    /// How many lines it has.
    pub fn size(&self) -> usize {
        self.lines
    }

    /// As lines.
    pub fn as_lines(&self) -> &[CacheLine] {
        // SAFETY: all of it was written when it was made.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.lines) }
    }

    /// As lines.
    pub fn lines(&mut self) -> &mut [CacheLine] {
        // SAFETY: all of it was written when it was made.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.lines) }
    }

    /// As numbers.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: as above; a line is 16 floats.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.lines * LANES) }
    }

    /// As numbers.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.lines * LANES) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.lines > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.base.as_ptr().cast(), Memory::layout(self.lines)) };
        }
    }
}
