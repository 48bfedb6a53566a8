//! Vectors of 16 floats on any CPU, and the choice of the instruction set at run time.
//!
//! A loop is written once, as a [`VectorLoop`]. [`run`] compiles it three times and calls the best version that this
//! CPU supports:
//!
//! | version | needs | a vector is |
//! |---|---|---|
//! | AVX-512 | avx512f, avx512bw, avx512dq, avx512vl | one register |
//! | AVX2 | avx2, fma | two registers |
//! | plain | what the compiler may assume anyway | an array that the compiler vectorizes (NEON on aarch64) |
//!
//! A loop either uses the vector operations of [`Simd`], or it is an ordinary loop over slices, which the compiler
//! vectorizes for each version. The compiler never contracts a·b + c to an FMA by itself, so an ordinary loop gives the
//! same bits in all versions.
//!
//! Everything that a loop calls must be `#[inline(always)]`: only code that is inlined into the entry points of `run`
//! is compiled for their instruction set.

/// Floats per vector.
pub const LANES: usize = 16;

/// Operations on vectors of [`LANES`] floats. A value of this type proves that the CPU has the instruction set: only
/// [`run`] creates one.
///
/// # Safety
/// No value of an implementation may exist on a CPU without its instruction set.
pub unsafe trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// The block of a matrix product that is kept in registers: rows × vectors.
    const ROWS: usize;
    /// See [`ROWS`](Self::ROWS).
    const VECTORS: usize;
    #[cfg(test)]
    const LEVEL: Level;

    fn splat(self, value: f32) -> Self::V;
    /// # Safety
    /// `LANES` floats can be read.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` floats can be written.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// Stores a vector past the caches, if the instruction set can. A [`fence`](Self::fence) must follow before other
    /// threads read it.
    ///
    /// # Safety
    /// As [`store`](Self::store), and `to` is aligned to a cache line.
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to, v) }
    }
    /// Ends a run of [`stream`](Self::stream): ordinary synchronization does not order such stores.
    #[inline(always)]
    fn fence(self) {}
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// a if a > b, otherwise b. So if either is NaN, the result is b.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a if a > b or a is NaN, otherwise b. So if either is NaN, the result is NaN.
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V;
    /// 0 where mask ≤ 0, and v elsewhere.
    fn positive(self, mask: Self::V, v: Self::V) -> Self::V;

    /// 32 numbers in bf16, as floats.
    ///
    /// # Safety
    /// They can be read.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> [Self::V; 2] {
        // SAFETY: the caller's promise; each array has `LANES` floats.
        unsafe {
            [from, from.add(LANES)].map(|from| {
                let mut part = [0.0f32; LANES];
                part.iter_mut().enumerate().for_each(|(i, value)| *value = widen(*from.add(i)));
                self.load(part.as_ptr())
            })
        }
    }

    /// 16 pairs of numbers in bf16, as floats: the first of each pair, then the second.
    ///
    /// # Safety
    /// As [`load_bf16`](Self::load_bf16).
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u16) -> [Self::V; 2] {
        // SAFETY: the caller's promise; each array has `LANES` floats.
        unsafe {
            [0, 1].map(|second| {
                let mut part = [0.0f32; LANES];
                part.iter_mut().enumerate().for_each(|(i, value)| *value = widen(*from.add(2 * i + second)));
                self.load(part.as_ptr())
            })
        }
    }

    /// sum + a₀·b₀ + a₁·b₁ for 16 pairs b of numbers in bf16, a line as its bits, and one pair a, the first number in the
    /// lower half.
    #[inline(always)]
    fn dot(self, sum: Self::V, a: u32, b: Self::V) -> Self::V {
        let mut bits = [0.0f32; LANES];
        // SAFETY: the arrays have 16 floats.
        unsafe {
            self.store(bits.as_mut_ptr(), b);
            let (mut even, mut odd) = ([0.0f32; LANES], [0.0f32; LANES]);
            for k in 0..LANES {
                let pair = bits[k].to_bits();
                (even[k], odd[k]) = (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
            }
            let sum = self.fma(self.splat(f32::from_bits(a << 16)), self.load(even.as_ptr()), sum);
            self.fma(self.splat(f32::from_bits(a & 0xffff_0000)), self.load(odd.as_ptr()), sum)
        }
    }

    /// Interleaves two rows of 32 numbers: the first of both, the second of both, and so on. 16 pairs go to each line.
    ///
    /// # Safety
    /// The rows can be read, and the lines written.
    #[inline(always)]
    unsafe fn interleave(self, [a, b]: [*const u16; 2], to: [*mut u16; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            for k in 0..2 * LANES {
                let to = to[k / LANES].add(k % LANES * 2);
                (*to, *to.add(1)) = (*a.add(k), *b.add(k));
            }
        }
    }

    /// Stores 32 floats in bf16, rounded as [`narrow`] does.
    ///
    /// # Safety
    /// 32 numbers can be written.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: [Self::V; 2]) {
        // SAFETY: the caller's promise; each array has `LANES` floats.
        unsafe {
            for (to, v) in [to, to.add(LANES)].into_iter().zip(v) {
                let mut part = [0.0f32; LANES];
                self.store(part.as_mut_ptr(), v);
                part.iter().enumerate().for_each(|(i, &value)| *to.add(i) = narrow(value));
            }
        }
    }

    /// The transpose: vector i of the result holds element i of each row.
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut from = [[0.0f32; LANES]; LANES];
        let mut to = from;
        // SAFETY: each line has `LANES` floats.
        unsafe {
            from.iter_mut().zip(rows).for_each(|(line, row)| self.store(line.as_mut_ptr(), row));
            for (i, line) in to.iter_mut().enumerate() {
                line.iter_mut().zip(&from).for_each(|(value, row)| *value = row[i]);
            }
            std::array::from_fn(|i| self.load(to[i].as_ptr()))
        }
    }

    /// Loads the floats whose bits are set in `lanes`, and zeros for the others.
    ///
    /// # Safety
    /// These floats can be read.
    #[inline(always)]
    unsafe fn load_where(self, from: *const f32, lanes: u16) -> Self::V {
        let mut part = [0.0f32; LANES];
        // SAFETY: the caller's promise; `part` has a whole vector.
        unsafe {
            for (i, value) in part.iter_mut().enumerate() {
                if lanes >> i & 1 == 1 {
                    *value = *from.wrapping_add(i);
                }
            }
            self.load(part.as_ptr())
        }
    }

    /// Loads `lanes` floats and fills the vector up with zeros.
    ///
    /// # Safety
    /// `lanes` floats can be read. If `lanes` is 0, `from` may be any pointer.
    #[inline(always)]
    unsafe fn load_lanes(self, from: *const f32, lanes: usize) -> Self::V {
        // SAFETY: the caller's promise; `part` has a whole vector.
        unsafe {
            if lanes == LANES {
                return self.load(from);
            }
            let mut part = [0.0f32; LANES];
            if lanes > 0 {
                std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), lanes);
            }
            self.load(part.as_ptr())
        }
    }

    /// Stores the first `lanes` floats of a vector.
    ///
    /// # Safety
    /// `lanes` floats can be written.
    #[inline(always)]
    unsafe fn store_lanes(self, to: *mut f32, v: Self::V, lanes: usize) {
        // SAFETY: as in `load_lanes`.
        unsafe {
            if lanes == LANES {
                return self.store(to, v);
            }
            let mut part = [0.0f32; LANES];
            self.store(part.as_mut_ptr(), v);
            if lanes > 0 {
                std::ptr::copy_nonoverlapping(part.as_ptr(), to, lanes);
            }
        }
    }
}

/// A number in bf16 as a float.
#[inline(always)]
pub fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// The nearest number in bf16: of two equally near ones the even one, 0 for denormal numbers, NaN for NaN. This is what
/// VCVTNE2PS2BF16 does.
#[inline(always)]
pub fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let (nan, denormal) = (bits & 0x7fff_ffff > 0x7f80_0000, bits & 0x7f80_0000 == 0);
    let rounded = if denormal { bits >> 16 & 0x8000 } else { rounded };
    (if nan { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// A loop that [`run`] compiles for each instruction set.
pub trait VectorLoop {
    /// What the loop returns.
    type Output;

    /// Must be `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Fewer than 16 values at the end of a slice, followed by zeros.
#[inline(always)]
pub fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// The versions of a loop, narrowest vectors first.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Level {
    Plain,
    Avx2,
    Avx512,
}

#[cfg(test)]
impl Level {
    /// The levels that this CPU supports, widest vectors first.
    pub fn supported() -> Vec<Level> {
        let levels = [Level::Avx512, Level::Avx2, Level::Plain].into_iter();
        levels.filter(|&level| limited(level, || run(CurrentLevel)) == level).collect()
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Level::Plain => "plain",
            Level::Avx2 => "AVX2",
            Level::Avx512 => "AVX-512",
        }
    }
}

/// Tells which version of a loop [`run`] chooses.
#[cfg(test)]
struct CurrentLevel;

#[cfg(test)]
impl VectorLoop for CurrentLevel {
    type Output = Level;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Level {
        S::LEVEL
    }
}

#[cfg(test)]
thread_local! { static LIMIT: std::cell::Cell<Level> = const { std::cell::Cell::new(Level::Avx512) } }

/// Runs `work` on two threads of its own, on which [`run`] chooses no version above `level`.
#[cfg(test)]
pub fn limited<R: Send>(level: Level, work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(move |_| LIMIT.set(level));
    threads.build().expect("two threads").install(work)
}

/// Runs the version of the loop with the widest vectors that this CPU supports.
pub fn run<L: VectorLoop>(vector_loop: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    {
        // The same list as in `has_avx512`.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn avx512<L: VectorLoop>(vector_loop: L) -> L::Output {
            // SAFETY: the caller has checked that the CPU has AVX-512.
            vector_loop.run(unsafe { x86::Avx512::<false>::new() })
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<L: VectorLoop>(vector_loop: L) -> L::Output {
            // SAFETY: the caller has checked that the CPU has AVX2 and FMA.
            vector_loop.run(unsafe { x86::Avx2::new() })
        }
        let has_avx512 = has_avx512();
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        #[cfg(test)]
        let (has_avx512, has_avx2) =
            (has_avx512 && LIMIT.get() >= Level::Avx512, has_avx2 && LIMIT.get() >= Level::Avx2);
        if has_avx512 {
            // SAFETY: just checked.
            return unsafe { avx512(vector_loop) };
        }
        if has_avx2 {
            // SAFETY: just checked.
            return unsafe { avx2(vector_loop) };
        }
    }
    vector_loop.run(Plain)
}

/// Like [`run`], for loops over bf16: there is one more version, with AVX512-BF16.
pub fn run_bf16<L: VectorLoop>(vector_loop: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        unsafe fn avx512_bf16<L: VectorLoop>(vector_loop: L) -> L::Output {
            // SAFETY: the caller has checked that the CPU has these.
            vector_loop.run(unsafe { x86::Avx512::<true>::new() })
        }
        let has_bf16 = has_bf16();
        #[cfg(test)]
        let has_bf16 = has_bf16 && LIMIT.get() >= Level::Avx512;
        if has_bf16 {
            // SAFETY: just checked.
            return unsafe { avx512_bf16(vector_loop) };
        }
    }
    run(vector_loop)
}

/// Whether the CPU has instructions for bf16.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return has_avx512() && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// An array of 16 floats, which the compiler vectorizes as well as it can.
#[derive(Clone, Copy)]
pub struct Plain;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut c = [0.0; LANES];
    for i in 0..LANES {
        c[i] = f(a[i], b[i]);
    }
    c
}

// SAFETY, here and in each method: it needs no instruction set; the caller promises that pointers are valid.
unsafe impl Simd for Plain {
    type V = [f32; LANES];
    #[cfg(test)]
    const LEVEL: Level = Level::Plain;
    const ROWS: usize = 3;
    const VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        unsafe { from.cast::<[f32; LANES]>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        unsafe { to.cast::<[f32; LANES]>().write(v) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // `mul_add` is a slow library call unless the target is known to have FMA.
        let fused = cfg!(target_arch = "aarch64");
        let mut d = c;
        for i in 0..LANES {
            d[i] = if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] };
        }
        d
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if (a > b) | a.is_nan() { a } else { b })
    }
    #[inline(always)]
    fn positive(self, mask: Self::V, v: Self::V) -> Self::V {
        zip(mask, v, |mask, v| if mask <= 0.0 { 0.0 } else { v })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[cfg(test)]
    use super::Level;
    use super::{LANES, Simd};
    use std::arch::x86_64::*;

    /// One 512-bit register. With `BF16`, the CPU converts to bf16 by itself.
    #[derive(Clone, Copy)]
    pub struct Avx512<const BF16: bool>(());

    impl<const BF16: bool> Avx512<BF16> {
        /// # Safety
        /// The CPU has AVX-512 F, BW, DQ and VL, and if `BF16` AVX512-BF16.
        #[inline(always)]
        pub unsafe fn new() -> Self {
            Self(())
        }
    }

    #[inline(always)]
    fn mask(lanes: usize) -> __mmask16 {
        ((1u32 << lanes) - 1) as __mmask16
    }

    /// 16 numbers in bf16 as floats.
    ///
    /// # Safety
    /// The CPU has AVX-512, and the numbers can be read.
    #[inline(always)]
    unsafe fn wide(from: *const u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    /// 16 floats in bf16, rounded as [`narrow`](super::narrow) does.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    #[inline(always)]
    unsafe fn rounded(v: __m512) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40_0000));
            let denormal = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
            let up = _mm512_mask_and_epi32(up, denormal, bits, _mm512_set1_epi32(i32::MIN));
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(up))
        }
    }

    /// 32 floats in bf16, rounded as [`narrow`](super::narrow) does.
    ///
    /// # Safety
    /// The CPU has AVX-512, and if `BF16` AVX512-BF16.
    #[inline(always)]
    unsafe fn bits<const BF16: bool>([low, high]: [__m512; 2]) -> __m512i {
        // SAFETY: the caller's promise; both types are 512 bits.
        unsafe {
            if BF16 {
                return std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            }
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rounded(low)), rounded(high))
        }
    }

    // SAFETY, here and in each method: the intrinsics need AVX-512F, which a value of the type proves; the caller
    // promises that pointers are valid.
    unsafe impl<const BF16: bool> Simd for Avx512<BF16> {
        type V = __m512;
        #[cfg(test)]
        const LEVEL: Level = Level::Avx512;
        const ROWS: usize = 6;
        const VECTORS: usize = 4;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        fn fence(self) {
            unsafe { _mm_sfence() }
        }
        #[inline(always)]
        unsafe fn stream(self, to: *mut f32, v: __m512) {
            unsafe { _mm512_stream_ps(to, v) }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn max_or_nan(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mask_max_ps(a, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a, b) }
        }
        #[inline(always)]
        fn positive(self, mask: __m512, v: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(mask, _mm512_setzero_ps()), v) }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, from: *const u16) -> [__m512; 2] {
            unsafe { [wide(from), wide(from.add(LANES))] }
        }
        #[inline(always)]
        unsafe fn load_pairs(self, from: *const u16) -> [__m512; 2] {
            unsafe {
                let pairs = _mm512_loadu_si512(from.cast());
                let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(!0xffff));
                [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
            }
        }
        #[inline(always)]
        fn dot(self, sum: __m512, a: u32, b: __m512) -> __m512 {
            unsafe {
                let (a, b) = (_mm512_set1_epi32(a as i32), _mm512_castps_si512(b));
                if BF16 {
                    // SAFETY: both types are 512 bits.
                    let a = std::mem::transmute::<__m512i, __m512bh>(a);
                    return _mm512_dpbf16_ps(sum, a, std::mem::transmute::<__m512i, __m512bh>(b));
                }
                let upper = _mm512_set1_epi32(!0xffff);
                let (even, odd) = (_mm512_slli_epi32::<16>(b), _mm512_and_si512(b, upper));
                let sum =
                    _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)), _mm512_castsi512_ps(even), sum);
                _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, upper)), _mm512_castsi512_ps(odd), sum)
            }
        }
        #[inline(always)]
        unsafe fn interleave(self, [a, b]: [*const u16; 2], to: [*mut u16; 2]) {
            unsafe {
                let (a, b) = (_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast()));
                // Words 0, 32, 1, 33 … of the 64 in both, as pairs in 32 bits.
                let pairs = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
                let low = _mm512_or_si512(
                    _mm512_mullo_epi32(pairs, _mm512_set1_epi32(0x1_0001)),
                    _mm512_set1_epi32(32 << 16),
                );
                let high = _mm512_or_si512(low, _mm512_set1_epi32(0x10_0010));
                _mm512_storeu_si512(to[0].cast(), _mm512_permutex2var_epi16(a, low, b));
                _mm512_storeu_si512(to[1].cast(), _mm512_permutex2var_epi16(a, high, b));
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut u16, v: [__m512; 2]) {
            unsafe { _mm512_storeu_si512(to.cast(), bits::<BF16>(v)) }
        }
        #[inline(always)]
        fn transpose(self, r: [__m512; LANES]) -> [__m512; LANES] {
            let mut out = r;
            unsafe {
                // First transpose the 4×4 blocks, then exchange whole blocks.
                let mut quarter = [[r[0]; 4]; 4];
                for (g, quarter) in quarter.iter_mut().enumerate() {
                    let [a, b, c, d] = [r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]];
                    let pd = |v| _mm512_castps_pd(v);
                    let (low, high) = (pd(_mm512_unpacklo_ps(a, b)), pd(_mm512_unpackhi_ps(a, b)));
                    let (low2, high2) = (pd(_mm512_unpacklo_ps(c, d)), pd(_mm512_unpackhi_ps(c, d)));
                    *quarter = [
                        _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2)),
                        _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2)),
                    ];
                }
                for k in 0..4 {
                    let [a, b, c, d] = [quarter[0][k], quarter[1][k], quarter[2][k], quarter[3][k]];
                    let (ab, ab2) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
                    let (cd, cd2) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d));
                    out[k] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                    out[4 + k] = _mm512_shuffle_f32x4::<0xDD>(ab, cd);
                    out[8 + k] = _mm512_shuffle_f32x4::<0x88>(ab2, cd2);
                    out[12 + k] = _mm512_shuffle_f32x4::<0xDD>(ab2, cd2);
                }
            }
            out
        }
        #[inline(always)]
        unsafe fn load_where(self, from: *const f32, lanes: u16) -> __m512 {
            // SAFETY: lanes outside the mask are not accessed.
            unsafe { _mm512_maskz_loadu_ps(lanes, from) }
        }
        #[inline(always)]
        unsafe fn load_lanes(self, from: *const f32, lanes: usize) -> __m512 {
            // SAFETY: lanes outside the mask are not accessed.
            unsafe { _mm512_maskz_loadu_ps(mask(lanes), from) }
        }
        #[inline(always)]
        unsafe fn store_lanes(self, to: *mut f32, v: __m512, lanes: usize) {
            // SAFETY: as in `load_lanes`.
            unsafe { _mm512_mask_storeu_ps(to, mask(lanes), v) }
        }
    }

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    impl Avx2 {
        /// # Safety
        /// The CPU has AVX2 and FMA.
        #[inline(always)]
        pub unsafe fn new() -> Self {
            Self(())
        }
    }

    // SAFETY, here and in each method: the intrinsics need AVX2 and FMA, which a value of the type proves; the caller
    // promises that pointers are valid.
    unsafe impl Simd for Avx2 {
        type V = [__m256; 2];
        #[cfg(test)]
        const LEVEL: Level = Level::Avx2;
        const ROWS: usize = 6;
        const VECTORS: usize = 1;

        #[inline(always)]
        fn splat(self, value: f32) -> Self::V {
            unsafe { [_mm256_set1_ps(value); 2] }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> Self::V {
            unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES / 2))] }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32, v: Self::V) {
            unsafe {
                _mm256_storeu_ps(to, v[0]);
                _mm256_storeu_ps(to.add(LANES / 2), v[1]);
            }
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
            let half = |a, b| unsafe { _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) };
            [half(a[0], b[0]), half(a[1], b[1])]
        }
        #[inline(always)]
        fn positive(self, mask: Self::V, v: Self::V) -> Self::V {
            let half = |mask, v| unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(mask, _mm256_setzero_ps()), v) };
            [half(mask[0], v[0]), half(mask[1], v[1])]
        }
    }
}
