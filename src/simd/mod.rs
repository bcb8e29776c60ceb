//! The only module that knows CPU levels: detects the best one once, lets a caller choose another, and holds the few
//! operations whose best form differs from level to level (16-bit conversions, non-temporal stores), and the
//! floating-point mode. Kernels are
//! generic over [`Simd`].
#![allow(unsafe_code, reason = "one of the modules that may; each block says why it is sound")]

use core::mem::{size_of, transmute_copy};
use core::sync::atomic::{AtomicU8, Ordering};

pub use fearless_simd::{Level, Simd};

#[cfg(feature = "f16")]
pub(crate) mod half;
pub(crate) mod mode;
pub(crate) mod ordering;
pub(crate) mod stores;

pub(crate) use ordering::{at_least, at_most, larger};

// For any x86-64 the crate chooses among three levels itself; for other targets, among what `fearless_simd` has.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(target_feature = "sse4.2"))))]
mod dispatch_any;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(target_feature = "sse4.2")))]
mod dispatch_x86;

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(target_feature = "sse4.2"))))]
pub(crate) use dispatch_any::dispatch;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(target_feature = "sse4.2")))]
pub(crate) use dispatch_x86::{dispatch, run_at, some_level, sse2};

/// The level in force, plus one; 0 before the first look.
static LEVEL: AtomicU8 = AtomicU8::new(0);

const _: () = assert!(size_of::<Level>() <= 1, "a level is kept in one byte");

/// The CPU level that kernels run at: the one last given to [`set_level`], else the best there is.
///
/// On x86 the CPU is asked once; without the feature `std` on x86-64 alone, and only where the target has SSE2.
/// Elsewhere the level is the one that the target was compiled for.
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
        // SAFETY: one byte, as asserted above. Of several variants whose fields have no size it is the tag, so it is
        // initialised.
        unsafe { transmute_copy::<Level, u8>(&level) }
    };
    LEVEL.store(tag + 1, Ordering::Relaxed);
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

/// Whether vectors at this level are x86 registers. Known when a kernel is compiled.
#[inline(always)]
pub(crate) fn is_x86<S: Simd>(simd: S) -> bool {
    match simd.level() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Level::Sse2(_) | Level::Sse4_2(_) | Level::Avx2(_) | Level::Avx512(_) => true,
        _ => false,
    }
}

/// Whether this level multiplies and adds in one rounding; false where that is not known. Known when a kernel is
/// compiled.
#[inline(always)]
pub(crate) fn has_fma<S: Simd>(simd: S) -> bool {
    match simd.level() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Level::Avx2(_) | Level::Avx512(_) => true,
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => true,
        _ => false,
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
pub(crate) const UNROLL: usize = if HAS_VECTORS { 2 } else { 1 };

/// The same where results are only stored: a CPU's window is full of two, so that fewer constants fetched for each
/// help.
pub(crate) const MAP_UNROLL: usize = if HAS_VECTORS { 4 } else { 1 };

/// Independent accumulators of a sum, a power of two: enough to hide the latency of an addition. Where there are no
/// vectors, the lanes of the fallback's are as many already, and more are for shorter loops.
pub(crate) const SUMS: usize = if HAS_VECTORS { 4 } else { 2 };
