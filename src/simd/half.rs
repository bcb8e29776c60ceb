//! 16-bit conversions: what the CPU has instructions for, and by bits where it has none.
#![allow(unsafe_code, reason = "one of the modules that may; each block says why it is sound")]

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
        // SAFETY: arithmetic in registers that are named, by an instruction that these FPUs have.
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
        // SAFETY: arithmetic in registers that are named, by an instruction that these FPUs have.
        unsafe {
            asm!("vmov s0, {bits}", "vcvtb.f16.f32 s0, s0", "vmov {bits}, s0", bits = inout(reg) bits, out("s0") _,
                options(pure, nomem, nostack, preserves_flags));
        }
        bits as u16
    }
}

/// binary16 to f32, one value.
#[inline(always)]
pub(crate) fn widen_one(value: half::f16) -> f32 {
    #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
    return cortex_m::widen_f16(value.to_bits());
    #[allow(unreachable_code, reason = "reached on every other target")]
    value.to_f32()
}

/// f32 to binary16, one value.
#[inline(always)]
pub(crate) fn narrow_one(value: f32) -> half::f16 {
    #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
    return half::f16::from_bits(cortex_m::narrow_f16(value));
    #[allow(unreachable_code, reason = "reached on every other target")]
    half::f16::from_f32(value)
}

pub(crate) use sixteen_bits::{bits, bits_mut, narrow_bf16, narrow_f16, widen_bf16, widen_f16};

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
        // SAFETY: a `SixteenBits` is one of the two types above, transparent over a `u16`.
        unsafe { slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
    }

    /// The bits of each value, to write.
    #[inline(always)]
    pub(crate) fn bits_mut<T: SixteenBits>(values: &mut [T]) -> &mut [u16] {
        // SAFETY: as above, and it takes any bits.
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
        return S::f32s::from_fn(simd, crate::macros::lane_fn!(|lane| super::cortex_m::widen_f16(source[lane])));
        #[allow(unreachable_code, reason = "reached on every other target")]
        widen_f16_by_bits(simd, source)
    }

    #[inline(always)]
    fn widen_f16_by_bits<S: Simd>(simd: S, source: &[u16]) -> S::f32s {
        let bits = load(simd, source);
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
        store::<S>(result, target);
    }

    /// bfloat16 to f32, one vector, exact.
    #[inline(always)]
    pub(crate) fn widen_bf16<S: Simd>(simd: S, source: &[u16]) -> S::f32s {
        (load(simd, source) << 16).bitcast()
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
        store::<S>(is_nan.select((bits >> 16) | 0x40, rounded), target);
    }

    /// One vector of sixteen bits a lane, zeros above them. Written lane by lane the compiler takes each apart.
    #[inline(always)]
    fn load<S: Simd>(simd: S, source: &[u16]) -> S::u32s {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        match simd.level() {
            Level::Sse2(sse2) => return S::u32s::from_slice(simd, &x86::load_4(sse2, first(source))),
            Level::Avx2(avx2) => return S::u32s::from_slice(simd, &x86::load_8(avx2, first(source))),
            Level::Avx512(avx512) => return S::u32s::from_slice(simd, &x86::load_16(avx512, first(source))),
            _ => {}
        }
        S::u32s::from_fn(simd, |lane| u32::from(source[lane]))
    }

    /// The low sixteen bits of each lane; those above are zeros.
    #[inline(always)]
    fn store<S: Simd>(lanes: S::u32s, target: &mut [u16]) {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        match fearless_simd::ExtractToken::token(&lanes).level() {
            Level::Sse2(sse2) => return put(target, x86::store_4(sse2, first(lanes.as_slice()))),
            Level::Avx2(avx2) => return put(target, x86::store_8(avx2, first(lanes.as_slice()))),
            Level::Avx512(avx512) => return put(target, x86::store_16(avx512, first(lanes.as_slice()))),
            _ => {}
        }
        for (value, &lane) in target.iter_mut().zip(lanes.as_slice()) {
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

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn load_4(_token: Sse2, source: [u16; 4]) -> [u32; 4] {
                // SAFETY: plain data of the same size on both sides.
                unsafe {
                    let low = _mm_set_epi64x(0, transmute::<[u16; 4], i64>(source));
                    transmute(_mm_unpacklo_epi16(low, _mm_setzero_si128()))
                }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn load_8(_token: Avx2, source: [u16; 8]) -> [u32; 8] {
                // SAFETY: plain data of the same size on both sides.
                unsafe { transmute(_mm256_cvtepu16_epi32(transmute::<[u16; 8], __m128i>(source))) }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn load_16(_token: Avx512, source: [u16; 16]) -> [u32; 16] {
                // SAFETY: plain data of the same size on both sides.
                unsafe { transmute(_mm512_cvtepu16_epi32(transmute::<[u16; 16], __m256i>(source))) }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn store_4(_token: Sse2, source: [u32; 4]) -> [u16; 4] {
                // SAFETY: plain data of the same size on both sides.
                unsafe {
                    // What packs without saturating is SSE4.1: so the sign is made to follow from bit 15.
                    let lanes = _mm_srai_epi32::<16>(_mm_slli_epi32::<16>(transmute::<[u32; 4], __m128i>(source)));
                    let packed = transmute::<__m128i, [[u16; 4]; 2]>(_mm_packs_epi32(lanes, lanes));
                    packed[0]
                }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn store_8(_token: Avx2, source: [u32; 8]) -> [u16; 8] {
                // SAFETY: plain data of the same size on both sides.
                unsafe {
                    let lanes = transmute::<[u32; 8], __m256i>(source);
                    // Both halves pack by themselves: the second is brought beside the first.
                    let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(lanes, lanes));
                    transmute(_mm256_castsi256_si128(packed))
                }
            }
        );

        fearless_simd::kernel!(
            #[inline(always)]
            pub(super) fn store_16(_token: Avx512, source: [u32; 16]) -> [u16; 16] {
                // SAFETY: plain data of the same size on both sides.
                unsafe { transmute(_mm512_cvtepi32_epi16(transmute::<[u32; 16], __m512i>(source))) }
            }
        );
    }
}
