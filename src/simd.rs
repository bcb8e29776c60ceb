//! The only room that knows CPU levels: detects the best one once, lets a caller choose another, and holds the few
//! operations whose best form differs from level to level (16-bit conversions, stores past the cache). Kernels are generic over [`Simd`].
#![allow(unsafe_code, reason = "one of the rooms that may; each block says why it is sound")]

use core::any::TypeId;
use core::mem::{size_of, transmute_copy};
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

pub use fearless_simd::{Level, Simd};
use fearless_simd::{Select, SimdBase};

use crate::float::{Compute, Float, Lanes, MAX_LANES};

/// Runs a kernel, an expression over the token `$simd`, compiled for each CPU level, at `$level`.
///
/// What the expression calls must be `#[inline(always)]`, so that it is compiled with that level's instructions.
macro_rules! dispatch {
    ($level:expr, $simd:pat => $kernel:expr) => {
        fearless_simd::dispatch!($level, $simd => $kernel)
    };
}
pub(crate) use dispatch;

/// The level in force, plus one; 0 before the first look.
static LEVEL: AtomicU8 = AtomicU8::new(0);

const _: () = assert!(size_of::<Level>() <= 1, "a level is kept in one byte");

/// The CPU level that kernels run at: the one last given to [`set_level`], else the best there is.
///
/// On x86 the CPU is asked once; without the feature `std` on x86-64 alone, and only where the target has SSE2. Elsewhere
/// the level is the one that the target was compiled for.
///
/// # Examples
///
/// ```
/// println!("{:?}", polyglot_bridge::simd::level());
/// ```
#[inline]
pub fn level() -> Level {
    let code = LEVEL.load(Ordering::Relaxed);
    if code == 0 {
        return detect();
    }
    let tag = code - 1;
    // SAFETY: `set_level` made `tag` from a `Level` that existed, so it is a valid tag, and the proof that the level
    // carries (the CPU has these instructions) holds for the whole process. A level of size 0 reads no byte.
    unsafe { transmute_copy::<u8, Level>(&tag) }
}

#[cold]
fn detect() -> Level {
    #[cfg(not(all(not(feature = "std"), target_arch = "x86_64", target_feature = "sse2", not(target_env = "sgx"))))]
    let level = Level::try_detect().unwrap_or(Level::baseline());
    #[cfg(all(not(feature = "std"), target_arch = "x86_64", target_feature = "sse2", not(target_env = "sgx")))]
    let level = cpuid::level().unwrap_or(Level::baseline());
    set_level(level);
    level
}

/// Asks an x86-64 CPU what it has where std cannot. A program for which the answer is too good, a kernel that does not
/// keep the larger registers for its own threads, says so with [`set_level`].
#[cfg(all(not(feature = "std"), target_arch = "x86_64", target_feature = "sse2", not(target_env = "sgx")))]
mod cpuid {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    use fearless_simd::{Avx2, Avx512, Level, Simd, Sse4_2};

    const fn bits(places: &[u32]) -> u32 {
        let (mut bits, mut at) = (0, 0);
        while at < places.len() {
            bits |= 1 << places[at];
            at += 1;
        }
        bits
    }

    // Places in what `cpuid` answers, from Intel's manual, volume 2A, and AMD's, volume 3, appendix E.
    /// Leaf 1, edx: fxsr.
    const FXSR: u32 = bits(&[24]);
    /// Leaf 1, ecx: sse3, ssse3, cmpxchg16b, sse4.1, sse4.2, popcnt.
    const V2: u32 = bits(&[0, 9, 13, 19, 20, 23]);
    /// Leaf 1, ecx: fma, movbe, xsave, osxsave, avx, f16c.
    const V3: u32 = bits(&[12, 22, 26, 27, 28, 29]);
    /// Leaf 7, ebx: bmi1, avx2, bmi2.
    const V3_MORE: u32 = bits(&[3, 5, 8]);
    /// Leaf 0x8000_0001, ecx: lzcnt.
    const LZCNT: u32 = bits(&[5]);
    /// Leaf 1, ecx: pclmulqdq, aes, rdrand.
    const ICE_LAKE: u32 = bits(&[1, 25, 30]);
    /// Leaf 7, ebx: avx512f, avx512dq, rdseed, adx, avx512ifma, avx512cd, sha, avx512bw, avx512vl.
    const ICE_LAKE_MORE: u32 = bits(&[16, 17, 18, 19, 21, 28, 29, 30, 31]);
    /// Leaf 7, ecx: avx512vbmi, avx512vbmi2, gfni, vaes, vpclmulqdq, avx512vnni, avx512bitalg, avx512vpopcntdq.
    const ICE_LAKE_MOST: u32 = bits(&[1, 6, 8, 9, 10, 11, 12, 14]);
    /// Leaf 13, subleaf 1, eax: xsaveopt, xsavec, xsaves.
    const SAVING: u32 = bits(&[0, 1, 3]);
    /// What the operating system keeps of a thread's registers: those of SSE and AVX; and those of AVX-512.
    const SAVED: u64 = 0b110;
    const SAVED_512: u64 = 0b1110_0110;

    /// The best level of this CPU, if it is better than what every x86-64 has.
    pub(super) fn level() -> Option<Level> {
        let has = |found: u32, wanted: u32| found & wanted == wanted;
        let (most, most_extended) = (__cpuid(0).eax, __cpuid(0x8000_0000).eax);
        let first = __cpuid(1);
        if !(has(first.edx, FXSR) && has(first.ecx, V2)) {
            return None;
        }
        // SAFETY: the CPU has what the level stands for, as just read.
        let sse4_2 = unsafe { Sse4_2::assume_supported() }.level();
        if most < 7 || most_extended < 0x8000_0001 || !has(first.ecx, V3) {
            return Some(sse4_2);
        }
        let seventh = __cpuid_count(7, 0);
        // SAFETY: osxsave, among `V3`, says that there is the instruction and that it may be used.
        let saved = unsafe { _xgetbv(0) };
        let is_v3 = has(seventh.ebx, V3_MORE) && has(__cpuid(0x8000_0001).ecx, LZCNT) && saved & SAVED == SAVED;
        if !is_v3 {
            return Some(sse4_2);
        }
        let is_ice_lake = has(first.ecx, ICE_LAKE)
            && has(seventh.ebx, ICE_LAKE_MORE)
            && has(seventh.ecx, ICE_LAKE_MOST)
            && most >= 13
            && has(__cpuid_count(13, 1).eax, SAVING)
            && saved & SAVED_512 == SAVED_512;
        // SAFETY: the CPU has what the level stands for and the operating system keeps its registers, as just read.
        Some(unsafe { if is_ice_lake { Avx512::assume_supported().level() } else { Avx2::assume_supported().level() } })
    }
}

/// Makes every later call run at `level`: for tests, to compare levels, and for targets without `std` whose CPU is
/// known to have more than the target was compiled for.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::simd;
///
/// let best = simd::level();
/// simd::set_level(simd::Level::baseline());
/// simd::set_level(best);
/// ```
pub fn set_level(level: Level) {
    let tag = if size_of::<Level>() == 0 {
        0
    } else {
        // SAFETY: of several variants whose fields have no size the one byte is the tag, so it is initialised.
        unsafe { transmute_copy::<Level, u8>(&level) }
    };
    LEVEL.store(tag + 1, Ordering::Relaxed);
}

/// Whether vectors of `T` can be written past the cache at level `S`: a whole 16, 32 or 64 bytes that the CPU has an
/// instruction for.
#[inline(always)]
pub(crate) fn can_stream<S: Simd, T: Float>() -> bool {
    let bytes = Lanes::<S, T>::LEN * size_of::<T>();
    cfg!(all(any(target_arch = "x86", target_arch = "x86_64"), target_feature = "sse2"))
        && is_plain::<T>()
        && matches!(bytes, 16 | 32 | 64)
        && bytes <= S::u8s::LEN
}

/// Whether each byte of a `T` is part of its value: so for the crate's own types, unknown for a user's.
#[inline(always)]
fn is_plain<T: 'static>() -> bool {
    let this = TypeId::of::<T>();
    #[cfg(feature = "f16")]
    if this == TypeId::of::<half::f16>() || this == TypeId::of::<half::bf16>() {
        return true;
    }
    this == TypeId::of::<f32>() || this == TypeId::of::<f64>()
}

/// How many elements lie before the first address that [`stream`] may write to: fewer than a vector has.
#[inline(always)]
pub(crate) fn until_aligned<S: Simd, T: Float>(target: *const T) -> usize {
    let bytes = Lanes::<S, T>::LEN * size_of::<T>();
    (bytes - target as usize % bytes) % bytes / size_of::<T>().max(1)
}

/// Writes one vector past the cache.
///
/// # Safety
///
/// [`can_stream`], and `target` is valid for writes of a vector and aligned to its size.
#[inline(always)]
pub(crate) unsafe fn stream<S: Simd, T: Float>(lanes: Lanes<S, T>, target: *mut T) {
    let mut values = [T::ZERO; MAX_LANES];
    T::store::<S>(lanes, &mut values[..Lanes::<S, T>::LEN]);
    #[cfg(all(any(target_arch = "x86", target_arch = "x86_64"), target_feature = "sse2"))]
    {
        #[cfg(target_arch = "x86")]
        use core::arch::x86 as arch;
        #[cfg(target_arch = "x86_64")]
        use core::arch::x86_64 as arch;
        let source = values.as_ptr();
        // SAFETY: `values` holds a vector of plain bytes, `target` has room for one and is aligned; and a level whose
        // vectors have 32 or 64 bytes has AVX or AVX-512.
        unsafe {
            match Lanes::<S, T>::LEN * size_of::<T>() {
                64 => arch::_mm512_stream_si512(target.cast(), arch::_mm512_loadu_si512(source.cast())),
                32 => arch::_mm256_stream_si256(target.cast(), arch::_mm256_loadu_si256(source.cast())),
                _ => arch::_mm_stream_si128(target.cast(), arch::_mm_loadu_si128(source.cast())),
            }
        }
    }
    #[cfg(not(all(any(target_arch = "x86", target_arch = "x86_64"), target_feature = "sse2")))]
    // SAFETY: the caller's promise.
    unsafe {
        target.copy_from_nonoverlapping(values.as_ptr(), Lanes::<S, T>::LEN);
    }
}

/// Writes these lanes, which are not a whole vector, past the cache, one by one; into it where the CPU cannot do that.
///
/// # Safety
///
/// `part` is within the vector, and `target` is valid for writes of as many elements.
#[inline(always)]
pub(crate) unsafe fn stream_part<S: Simd, T: Float>(lanes: Lanes<S, T>, part: Range<usize>, target: *mut T) {
    if part.is_empty() {
        return;
    }
    let mut values = [T::ZERO; MAX_LANES];
    T::store::<S>(lanes, &mut values[..Lanes::<S, T>::LEN]);
    for index in 0..part.len() {
        // SAFETY: the caller's promise.
        unsafe {
            let (source, target) = (values.as_ptr().add(part.start + index), target.add(index));
            #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
            {
                use core::arch::x86_64::{_mm_stream_si32, _mm_stream_si64};
                match size_of::<T>() {
                    8 if is_plain::<T>() => _mm_stream_si64(target.cast(), source.cast::<i64>().read_unaligned()),
                    4 if is_plain::<T>() => _mm_stream_si32(target.cast(), source.cast::<i32>().read_unaligned()),
                    _ => *target = *source,
                }
            }
            #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
            {
                *target = *source;
            }
        }
    }
}

/// Makes what [`stream`] wrote visible to other threads before anything that this thread writes later.
#[inline(always)]
pub(crate) fn finish_stores() {
    #[cfg(all(target_arch = "x86", target_feature = "sse2"))]
    use core::arch::x86::_mm_sfence;
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    use core::arch::x86_64::_mm_sfence;
    #[cfg(all(any(target_arch = "x86", target_arch = "x86_64"), target_feature = "sse2"))]
    // SAFETY: SSE is part of the baseline where SSE2 is.
    unsafe {
        _mm_sfence();
    }
}

/// Asks for the cache line at `address`, any address, before it is needed; a hint only.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
    // SAFETY: a prefetch of any address at all does nothing but fill the cache.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse")))]
    let _ = address;
}

/// The same, into the cache's second level: for what is needed later.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn prefetch_far<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
    // SAFETY: as above.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse")))]
    let _ = address;
}

/// How many vectors a register tile may accumulate in, beside those for its operands, where a cache line takes
/// `vectors` vectors: AVX-512 has 32 registers, and so has NEON; the other levels have 16, and targets without SIMD
/// as many as hold 16 numbers.
#[cfg(feature = "std")]
pub(crate) const fn accumulators(vectors: usize) -> usize {
    match vectors {
        1 => 24,
        2 => 12,
        _ if cfg!(target_arch = "aarch64") => 24,
        _ if cfg!(any(target_arch = "x86", target_arch = "x86_64", target_arch = "wasm32")) => 12,
        _ => 4,
    }
}

/// The larger of a lane and `bound`; NaN where the lane is NaN.
#[inline(always)]
pub(crate) fn at_least<S: Simd, C: Compute>(simd: S, lanes: C::Lanes<S>, bound: C) -> C::Lanes<S> {
    let bound = C::Lanes::<S>::splat(simd, bound);
    // x86's instruction gives its second operand where one is NaN; others are free to give either.
    if is_x86(simd) { bound.max(lanes) } else { lanes.simd_lt(bound).select(bound, lanes) }
}

/// The smaller of a lane and `bound`; NaN where the lane is NaN.
#[inline(always)]
pub(crate) fn at_most<S: Simd, C: Compute>(simd: S, lanes: C::Lanes<S>, bound: C) -> C::Lanes<S> {
    let bound = C::Lanes::<S>::splat(simd, bound);
    if is_x86(simd) { bound.min(lanes) } else { lanes.simd_gt(bound).select(bound, lanes) }
}

/// Whether vectors at this level are x86 registers. Known when a kernel is compiled.
#[inline(always)]
fn is_x86<S: Simd>(simd: S) -> bool {
    match simd.level() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Level::Sse2(_) | Level::Sse4_2(_) | Level::Avx2(_) | Level::Avx512(_) => true,
        _ => false,
    }
}

/// Whether this level multiplies and adds in one rounding; false where that is not known. Known when a kernel is compiled.
#[inline(always)]
pub(crate) fn fuses<S: Simd>(simd: S) -> bool {
    match simd.level() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Level::Avx2(_) | Level::Avx512(_) => true,
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => true,
        _ => false,
    }
}

/// The larger of two; either where one is NaN.
#[inline(always)]
pub(crate) fn larger<S: Simd, C: Compute>(simd: S, a: C::Lanes<S>, b: C::Lanes<S>) -> C::Lanes<S> {
    // Without vectors the vector type's own asks after NaN, for which such CPUs have no instruction.
    if HAS_VECTORS {
        a.max(b)
    } else {
        let _ = simd;
        a.simd_lt(b).select(b, a)
    }
}

/// Whether the target has vectors at all.
pub(crate) const HAS_VECTORS: bool = cfg!(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
));

/// Vectors that functions of many steps work on together where their results are summed as well: two keep a CPU busy
/// that starts several instructions at once. Others have no registers to spare.
pub(crate) const IN_STEP: usize = if HAS_VECTORS { 2 } else { 1 };

/// The same where results are only stored: a CPU's window is full of two, so that fewer constants fetched for each help.
pub(crate) const MAPPED_IN_STEP: usize = if HAS_VECTORS { 4 } else { 1 };

/// Independent accumulators of a sum, a power of two: enough to hide the latency of an addition. Where there are no
/// vectors, the lanes of the fallback's are as many already, and more are for shorter loops.
pub(crate) const SUMS: usize = if HAS_VECTORS { 4 } else { 2 };

/// What the FPU of a Cortex-M4F, and of its successors, has instructions for and core no functions. By way of integer
/// registers, since the compiler lets no program name the registers of an FPU for single precision alone.
///
/// Stable Rust does not tell a target's features on Arm. It tells that floats are passed in the FPU's registers
/// (`eabihf`), that there is no operating system, and that there are no atomics of 64 bits, as each Cortex-R and
/// Cortex-A has: what is left is the M profile, whose FPUs all have these instructions.
#[cfg(all(
    feature = "f16",
    target_arch = "arm",
    target_os = "none",
    target_abi = "eabihf",
    not(target_has_atomic = "64")
))]
mod cortex_m {
    use core::arch::asm;

    /// binary16 to f32.
    #[inline(always)]
    pub(super) fn widen_f16(bits: u16) -> f32 {
        let mut value = u32::from(bits);
        // SAFETY: arithmetic in registers.
        unsafe {
            asm!("vmov s0, {value}", "vcvtb.f32.f16 s0, s0", "vmov {value}, s0", value = inout(reg) value, out("s0") _,
                options(pure, nomem, nostack, preserves_flags));
        }
        f32::from_bits(value)
    }

    /// f32 to binary16, to nearest, ties to even.
    #[inline(always)]
    pub(super) fn narrow_f16(value: f32) -> u16 {
        let mut bits = value.to_bits();
        // SAFETY: arithmetic in registers.
        unsafe {
            asm!("vmov s0, {bits}", "vcvtb.f16.f32 s0, s0", "vmov {bits}, s0", bits = inout(reg) bits, out("s0") _,
                options(pure, nomem, nostack, preserves_flags));
        }
        bits as u16
    }
}

/// binary16 to f32, one value.
#[cfg(feature = "f16")]
#[inline(always)]
pub(crate) fn widen_one(value: half::f16) -> f32 {
    #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
    return cortex_m::widen_f16(value.to_bits());
    #[allow(unreachable_code, reason = "reached on every other target")]
    value.to_f32()
}

/// f32 to binary16, one value.
#[cfg(feature = "f16")]
#[inline(always)]
pub(crate) fn narrow_one(value: f32) -> half::f16 {
    #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
    return half::f16::from_bits(cortex_m::narrow_f16(value));
    #[allow(unreachable_code, reason = "reached on every other target")]
    half::f16::from_f32(value)
}

#[cfg(feature = "f16")]
pub(crate) use sixteen_bits::{bits, bits_mut, narrow_bf16, narrow_f16, widen_bf16, widen_f16};

#[cfg(feature = "f16")]
mod sixteen_bits {
    use core::slice;

    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    use fearless_simd::Level;
    use fearless_simd::{Bytes, Select, Simd, SimdBase, SimdFloat};

    /// A float of sixteen bits, transparent over them.
    pub(crate) trait SixteenBits: Copy {}
    impl SixteenBits for half::f16 {}
    impl SixteenBits for half::bf16 {}

    /// The bits of each value. `half` has a function for it, which is called for each vector instead of inlined.
    #[inline(always)]
    pub(crate) fn bits<T: SixteenBits>(values: &[T]) -> &[u16] {
        // SAFETY: a `SixteenBits` is a `u16`, and takes any bits.
        unsafe { slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
    }

    /// The bits of each value, to write.
    #[inline(always)]
    pub(crate) fn bits_mut<T: SixteenBits>(values: &mut [T]) -> &mut [u16] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
    }

    /// binary16 to f32, one vector. Every value is exact; a NaN stays a NaN.
    #[inline(always)]
    pub(crate) fn widen_f16<S: Simd>(simd: S, source: &[u16]) -> S::f32s {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        match simd.level() {
            Level::Avx2(avx2) => return S::f32s::from_slice(simd, &x86::widen_8(avx2, first(source))),
            Level::Avx512(avx512) => return S::f32s::from_slice(simd, &x86::widen_16(avx512, first(source))),
            _ => {}
        }
        #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
        return S::f32s::from_fn(
            simd,
            #[inline(always)]
            |lane| super::cortex_m::widen_f16(source[lane]),
        );
        #[allow(unreachable_code, reason = "reached on every other target")]
        widen_f16_by_bits(simd, source)
    }

    #[inline(always)]
    fn widen_f16_by_bits<S: Simd>(simd: S, source: &[u16]) -> S::f32s {
        let bits = S::u32s::from_fn(simd, |lane| u32::from(source[lane]));
        // Exponent and mantissa, moved to their f32 places, then the exponent bias made up for by a multiplication,
        // which is exact and puts subnormals right as well.
        let magnitude = S::f32s::from_bits(((bits & 0x7fff) << 13).bitcast()) * f32::from_bits((254 - 15) << 23);
        let infinite = S::u32s::splat(simd, 0x7f80_0000);
        let special = (bits & 0x7fff).simd_ge(S::u32s::splat(simd, 0x7c00));
        let magnitude: S::u32s = magnitude.bitcast();
        let magnitude = special.select(magnitude | infinite, magnitude);
        (magnitude | ((bits & 0x8000) << 16)).bitcast()
    }

    /// f32 to binary16, to nearest, ties to even, one vector.
    #[inline(always)]
    pub(crate) fn narrow_f16<S: Simd>(lanes: S::f32s, target: &mut [u16]) {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        match fearless_simd::ExtractToken::token(&lanes).level() {
            Level::Avx2(avx2) => {
                return put(target, x86::narrow_8(avx2, first(lanes.as_slice())));
            }
            Level::Avx512(avx512) => {
                return put(target, x86::narrow_16(avx512, first(lanes.as_slice())));
            }
            _ => {}
        }
        #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
        {
            for (value, &lane) in target.iter_mut().zip(lanes.as_slice()) {
                *value = super::cortex_m::narrow_f16(lane);
            }
            return;
        }
        #[allow(unreachable_code, reason = "reached on every other target")]
        narrow_f16_by_bits::<S>(lanes, target);
    }

    #[inline(always)]
    fn narrow_f16_by_bits<S: Simd>(lanes: S::f32s, target: &mut [u16]) {
        use fearless_simd::ExtractToken;
        let simd = lanes.token();
        let bits: S::u32s = lanes.bitcast();
        let sign = bits & 0x8000_0000;
        let magnitude = bits ^ sign;
        let splat = |value| S::u32s::splat(simd, value);
        // Normal results: rebias the exponent, round to nearest even by adding just under half, plus the last bit kept.
        let odd = (magnitude >> 13) & 1;
        let normal = (magnitude + splat(0x0fff_u32.wrapping_sub(112 << 23)) + odd) >> 13;
        // Subnormal results: adding 0.5 makes the FPU round at the right place.
        let as_float: S::f32s = magnitude.bitcast();
        let subnormal: S::u32s = (as_float + 0.5_f32).bitcast();
        let subnormal = subnormal - splat(0x3f00_0000);
        let is_subnormal = magnitude.simd_lt(splat(113 << 23));
        let result = is_subnormal.select(subnormal, normal);
        let overflows = magnitude.simd_ge(splat(0x4780_0000));
        let result = overflows.select(splat(0x7c00), result);
        let is_nan = magnitude.simd_gt(splat(0x7f80_0000));
        let result = is_nan.select(splat(0x7e00), result) | (sign >> 16);
        for (value, &lane) in target.iter_mut().zip(result.as_slice()) {
            *value = lane as u16;
        }
    }

    /// bfloat16 to f32, one vector, exact.
    #[inline(always)]
    pub(crate) fn widen_bf16<S: Simd>(simd: S, source: &[u16]) -> S::f32s {
        let bits = S::u32s::from_fn(simd, |lane| u32::from(source[lane]));
        (bits << 16).bitcast()
    }

    /// f32 to bfloat16, to nearest, ties to even, one vector.
    #[inline(always)]
    pub(crate) fn narrow_bf16<S: Simd>(lanes: S::f32s, target: &mut [u16]) {
        use fearless_simd::ExtractToken;
        let simd = lanes.token();
        let bits: S::u32s = lanes.bitcast();
        let odd = (bits >> 16) & 1;
        let rounded = (bits + S::u32s::splat(simd, 0x7fff) + odd) >> 16;
        let is_nan = (bits & 0x7fff_ffff).simd_gt(S::u32s::splat(simd, 0x7f80_0000));
        let result = is_nan.select((bits >> 16) | 0x40, rounded);
        for (value, &lane) in target.iter_mut().zip(result.as_slice()) {
            *value = lane as u16;
        }
    }

    /// The first `N` values as an array: a plain copy once the length is known, and no panic where it is not.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    #[inline(always)]
    fn first<T: Copy + Default, const N: usize>(source: &[T]) -> [T; N] {
        source.first_chunk().copied().unwrap_or([T::default(); N])
    }

    /// Writes `values` to the first places of `target`: a plain copy once the length is known.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    #[inline(always)]
    fn put<T, const N: usize>(target: &mut [T], values: [T; N]) {
        if let Some(target) = target.first_chunk_mut() {
            *target = values;
        }
    }

    /// The conversions that the CPU has instructions for.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    mod x86 {
        #[cfg(target_arch = "x86")]
        use core::arch::x86::*;
        #[cfg(target_arch = "x86_64")]
        use core::arch::x86_64::*;
        use core::mem::transmute;

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn widen_8(_token: Avx2, source: [u16; 8]) -> [f32; 8] {
                // SAFETY: plain data of the same size on both sides.
                unsafe { transmute(_mm256_cvtph_ps(transmute::<[u16; 8], __m128i>(source))) }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn narrow_8(_token: Avx2, source: [f32; 8]) -> [u16; 8] {
                // SAFETY: plain data of the same size on both sides.
                unsafe {
                    transmute(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(transmute::<[f32; 8], __m256>(source)))
                }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn widen_16(_token: Avx512, source: [u16; 16]) -> [f32; 16] {
                // SAFETY: plain data of the same size on both sides.
                unsafe { transmute(_mm512_cvtph_ps(transmute::<[u16; 16], __m256i>(source))) }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn narrow_16(_token: Avx512, source: [f32; 16]) -> [u16; 16] {
                // SAFETY: plain data of the same size on both sides.
                unsafe {
                    transmute(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(transmute::<[f32; 16], __m512>(source)))
                }
            }
        );
    }
}
