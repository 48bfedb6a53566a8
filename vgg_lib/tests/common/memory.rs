//! Measures how much memory a piece of code allocates, with an allocator that counts per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Bytes that this thread has allocated minus those it has freed.
    static NOW: Cell<isize> = const { Cell::new(0) };
    /// The largest value of `NOW` since [`taken`] began.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all the work; two numbers are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get() + layout.size() as isize);
        PEAK.set(PEAK.get().max(NOW.get()));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.set(NOW.get() - layout.size() as isize);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of `run`, and the most bytes that it held at once. All of its work runs on one thread, the only one of a
/// rayon pool, so its allocations are counted and those of other tests are not.
pub fn taken<T: Send>(run: impl FnOnce() -> T + Send) -> (T, usize) {
    let count = || {
        let before = NOW.get();
        PEAK.set(before);
        let result = run();
        (result, (PEAK.get() - before).max(0) as usize)
    };
    alone(count)
}

/// Runs `work` in a pool of one thread, or right here if this is one: a new pool takes longer than reading a tiny file.
pub fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if rayon::current_thread_index().is_some() && rayon::current_num_threads() == 1 {
        return work();
    }
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}
