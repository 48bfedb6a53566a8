//! The one matrix product that everything else here is made of, on AMX tiles or with ordinary vectors: those of AVX512-BF16
//! (VDPBF16PS) where the CPU has it.
//!
//! AMX's intrinsics are unstable in Rust, so this is `asm!`. One block of it holds the whole product: between two, the
//! compiler would be free to use the tiles.

use crate::kernel::arena::{CacheLine, Line};
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use std::sync::OnceLock;

/// Channels of a chunk, lines of a block.
pub(super) const SIDE: usize = 32;

/// 32×32 sums, row after row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; SIDE]; SIDE]);

impl Sums {
    pub(super) const ZERO: Sums = Sums([[0.0; SIDE]; SIDE]);
    /// The cache lines that it takes.
    pub(super) const LINES: usize = size_of::<Sums>() / size_of::<CacheLine>();
}

/// Where the factors of one product lie, in lines from the start of A and of B. 32 lines are read from each.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(super) struct Step {
    pub(super) a: i32,
    pub(super) b: i32,
}

/// Whether this process may use tiles of bf16. Asks the system for permission, once.
pub fn has_tiles() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        return tiles::permitted();
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        return false;
    })
}

/// What multiplies blocks on this thread.
pub struct Unit(Option<Tiles>);

impl Unit {
    /// AMX tiles if they are available, otherwise ordinary vectors.
    ///
    /// While the value lives the thread's tiles are configured. So it must not outlive a task: live tiles make each
    /// context switch slower.
    pub fn new() -> Unit {
        #[cfg(test)]
        if WITHOUT_TILES.get() {
            return Unit(None);
        }
        Unit(has_tiles().then(Tiles::configure))
    }

    /// C = Σ A·B over the steps, or with `add` C += Σ A·B.
    ///
    /// A step's A is twice 16 lines, the rows of its 32×32 matrix; the second 16 begin `second` lines after the first. Its
    /// B is two tiles of 16 lines for 16 columns each. Line i of a tile holds the rows 2i and 2i + 1 of the matrix,
    /// interleaved: the two numbers of a column side by side.
    ///
    /// # Safety
    /// The lines of each step can be read from `a` and `b`.
    #[inline(always)]
    pub(super) unsafe fn multiply(
        &self,
        (a, second): (*const Line, usize),
        b: *const Line,
        steps: &[Step],
        c: &mut Sums,
        add: bool,
    ) {
        match &self.0 {
            // SAFETY: the caller's promise.
            Some(tiles) => unsafe { tiles.multiply((a, second), b, steps, c, add) },
            None => run_bf16(Vectors { a, second, b, steps, c, add }),
        }
    }
}

#[cfg(test)]
thread_local! { static WITHOUT_TILES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) } }

/// Runs `work` on two threads of its own, on which [`Unit::new`] never gives tiles.
#[cfg(test)]
pub fn without_tiles<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(|_| WITHOUT_TILES.set(true));
    threads.build().expect("two threads").install(work)
}

/// [`Unit::multiply`] with ordinary vectors.
struct Vectors<'a> {
    a: *const Line,
    second: usize,
    b: *const Line,
    steps: &'a [Step],
    c: &'a mut Sums,
    add: bool,
}

impl VectorLoop for Vectors<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Rows whose sums are kept in registers.
        const ROWS: usize = 8;
        let Vectors { a, second, b, steps, c, add } = self;
        if !add {
            *c = Sums::ZERO;
        }
        for step in steps {
            // SAFETY: the promise of `Unit::multiply`.
            let (a, b) = unsafe { (a.offset(step.a as isize), b.offset(step.b as isize)) };
            let [a, a2] = [a, a.wrapping_add(second)].map(|a| unsafe { &*a.cast::<[Line; LANES]>() });
            // SAFETY: as above.
            let b = unsafe { &*b.cast::<[Line; SIDE]>() };
            let rows = a.chunks_exact(ROWS).chain(a2.chunks_exact(ROWS));
            for (rows, c) in rows.zip(c.0.chunks_exact_mut(ROWS)) {
                // SAFETY: every array has whole vectors.
                unsafe {
                    let mut sums = [[s.splat(0.0); 2]; ROWS];
                    for (sums, c) in sums.iter_mut().zip(c.iter()) {
                        *sums = [s.load(c.as_ptr()), s.load(c.as_ptr().add(LANES))];
                    }
                    for (pair, (left, right)) in b[..LANES].iter().zip(&b[LANES..]).enumerate() {
                        let (left, right) = (s.load(left.0.as_ptr().cast()), s.load(right.0.as_ptr().cast()));
                        for (sums, row) in sums.iter_mut().zip(rows) {
                            let x = u32::from(row.0[2 * pair]) | u32::from(row.0[2 * pair + 1]) << 16;
                            *sums = [s.dot(sums[0], x, left), s.dot(sums[1], x, right)];
                        }
                    }
                    for (sums, c) in sums.into_iter().zip(c) {
                        s.store(c.as_mut_ptr(), sums[0]);
                        s.store(c.as_mut_ptr().add(LANES), sums[1]);
                    }
                }
            }
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
use no_tiles::Tiles;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use tiles::Tiles;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod no_tiles {
    use super::{Line, Step, Sums};

    /// There are none here.
    pub enum Tiles {}

    impl Tiles {
        pub fn configure() -> Tiles {
            unreachable!("no tiles are available")
        }

        pub unsafe fn multiply(&self, _: (*const Line, usize), _: *const Line, _: &[Step], _: &mut Sums, _: bool) {
            match *self {}
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use super::{Line, Step, Sums};
    use std::arch::{asm, x86_64::__cpuid_count};
    use std::cell::Cell;
    use std::marker::PhantomData;

    /// Whether the CPU has bf16 tiles and the conversions, the system saves tiles at a context switch, and allows them
    /// to this process. A virtual machine may hide any of these.
    pub fn permitted() -> bool {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        /// Bits of XCR0 for the state that the system saves: TILECFG and TILEDATA.
        const TILE_STATE: u32 = 3 << 17;
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILEDATA: usize = 18;
        if !is_x86_feature_detected!("avx512bf16") || !is_x86_feature_detected!("avx512bw") {
            return false;
        }
        let needed = AMX_BF16 | AMX_TILE;
        if __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & needed != needed {
            return false;
        }
        let state: u32;
        // SAFETY: XGETBV exists where AVX-512 was detected.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack, preserves_flags))
        };
        if state & TILE_STATE != TILE_STATE {
            return false;
        }
        // For all threads of the process. Without it, the first tile instruction would end the process with SIGILL.
        let answer: isize;
        // SAFETY: this call changes nothing but the permission.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack)
            );
        }
        answer == 0
    }

    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// All eight tiles with 16 rows of 64 bytes.
    static CONFIG: Config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    thread_local! {
        /// Values of `Tiles` on this thread: rayon may run a task within another.
        static USERS: Cell<u32> = const { Cell::new(0) };
    }

    /// This thread's tiles, configured while the value lives.
    pub struct Tiles(PhantomData<*mut ()>);

    impl Tiles {
        /// Only if they are permitted.
        pub fn configure() -> Tiles {
            if USERS.replace(USERS.get() + 1) == 0 {
                // SAFETY: tiles are permitted, and the configuration is valid.
                unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, preserves_flags)) };
            }
            Tiles(PhantomData)
        }

        /// See [`Unit::multiply`](super::Unit::multiply).
        ///
        /// # Safety
        /// As there.
        #[inline(always)]
        pub unsafe fn multiply(
            &self,
            (a, second): (*const Line, usize),
            b: *const Line,
            steps: &[Step],
            c: &mut Sums,
            add: bool,
        ) {
            // SAFETY: the caller's promise. Tiles and flags are clobbered; the stack is not touched.
            unsafe {
                asm!(
                    "test {add:e}, {add:e}; jz 2f",
                    "tileloadd tmm0, [{c} + {c_row}]",
                    "tileloadd tmm1, [{c} + {c_row} + 64]",
                    "tileloadd tmm2, [{c} + {c_row} + 2048]",
                    "tileloadd tmm3, [{c} + {c_row} + 2112]",
                    "jmp 3f",
                    "2: tilezero tmm0; tilezero tmm1; tilezero tmm2; tilezero tmm3",
                    "3:",
                    "test {n}, {n}; jz 5f",
                    "4:",
                    "movsxd {at}, dword ptr [{step}]; shl {at}, 6; add {at}, {a}",
                    "movsxd {bt}, dword ptr [{step} + 4]; shl {bt}, 6; add {bt}, {b}",
                    // The next step's B, which usually follows.
                    ".irp line, 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47; prefetcht0 [{bt} + 64 * \\line]; .endr",
                    ".irp line, 48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63; prefetcht0 [{bt} + 64 * \\line]; .endr",
                    "tileloadd tmm4, [{at} + {row}]",
                    "tileloadd tmm6, [{bt} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{bt} + {row} + 1024]",
                    "add {at}, {second}",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{at} + {row}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {step}, 8; dec {n}; jnz 4b",
                    "5:",
                    "tilestored [{c} + {c_row}], tmm0",
                    "tilestored [{c} + {c_row} + 64], tmm1",
                    "tilestored [{c} + {c_row} + 2048], tmm2",
                    "tilestored [{c} + {c_row} + 2112], tmm3",
                    add = in(reg) u32::from(add),
                    c = in(reg) c.0.as_mut_ptr(),
                    c_row = in(reg) 128usize,
                    row = in(reg) 64usize,
                    a = in(reg) a,
                    second = in(reg) second * size_of::<Line>(),
                    b = in(reg) b,
                    step = inout(reg) steps.as_ptr() => _,
                    n = inout(reg) steps.len() => _,
                    at = out(reg) _,
                    bt = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            USERS.set(USERS.get() - 1);
            if USERS.get() == 0 {
                // SAFETY: configured above.
                unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
            }
        }
    }
}
