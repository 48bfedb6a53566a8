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

/// The result of `run`, and the most bytes that it held at once. It runs on a thread of its own, the only one of a
/// rayon pool, so all of its allocations are counted and none of other tests.
pub fn taken<T: Send>(run: impl FnOnce() -> T + Send) -> (T, usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let before = NOW.get();
        PEAK.set(before);
        let result = run();
        (result, (PEAK.get() - before).max(0) as usize)
    })
}
