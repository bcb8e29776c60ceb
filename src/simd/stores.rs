//! Non-temporal stores, which pass the cache by, for results too large for it.
#![allow(unsafe_code, reason = "one of the modules that may; each block says why it is sound")]

use core::any::TypeId;
use core::mem::size_of;
use core::ops::Range;

use fearless_simd::{Simd, SimdBase};

use crate::float::{Float, Lanes, MAX_LANES};

/// Whether vectors of `T` can be stored non-temporally at level `S`: a whole 16, 32 or 64 bytes that the CPU has an
/// instruction for.
#[inline(always)]
pub(crate) fn can_store_nt<S: Simd, T: Float>() -> bool {
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

/// How many elements lie before the first address that is a multiple of a vector's size, where elements lie at
/// multiples of their own: fewer than a vector has. On 32-bit x86 an f64 need not; then no element may be at one.
#[inline(always)]
pub(crate) fn until_aligned<S: Simd, T: Float>(target: *const T) -> usize {
    let bytes = Lanes::<S, T>::LEN * size_of::<T>();
    (bytes - target as usize % bytes) % bytes / size_of::<T>().max(1)
}

/// A non-temporal store of one vector; one into the cache where `T` need not be aligned to its size, and `target` is
/// not.
///
/// # Safety
///
/// [`can_store_nt`], and `target` is valid for writes of a vector, to whose size it is aligned where `T` is to its own.
#[inline(always)]
pub(crate) unsafe fn store_nt<S: Simd, T: Float>(lanes: Lanes<S, T>, target: *mut T) {
    let mut values = [T::ZERO; MAX_LANES];
    T::store::<S>(lanes, &mut values[..Lanes::<S, T>::LEN]);
    let bytes = Lanes::<S, T>::LEN * size_of::<T>();
    if const { align_of::<T>() < size_of::<T>() } && !(target as usize).is_multiple_of(bytes) {
        // SAFETY: `values` holds a vector, `target` has room for one, and they are apart.
        unsafe { target.copy_from_nonoverlapping(values.as_ptr(), Lanes::<S, T>::LEN) };
        return;
    }
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
            match bytes {
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

/// Non-temporal stores of these lanes, which are not a whole vector, one by one; into the cache where the CPU cannot do
/// that.
///
/// # Safety
///
/// `part` is within the vector, and `target` is valid for writes of as many elements.
#[inline(always)]
pub(crate) unsafe fn store_nt_part<S: Simd, T: Float>(lanes: Lanes<S, T>, part: Range<usize>, target: *mut T) {
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

/// Makes what [`store_nt`] wrote visible to other threads before anything that this thread writes later.
#[inline(always)]
pub(crate) fn fence() {
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
