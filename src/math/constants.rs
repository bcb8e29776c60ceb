//! The numbers that the functions of this room are made of, for f32 and for f64. No function here.

use fearless_simd::SimdFloatElement;

/// Constants of the functions, for each compute type. Implemented for `f32` and `f64` only.
#[doc(hidden)]
#[allow(missing_docs, reason = "not for use outside of the crate")]
pub trait Constants: SimdFloatElement + 'static {
    /// Bits of a mantissa.
    const MANTISSA_BITS: u32;
    const MANTISSA_MASK: Self::Bits;

    const LOG2_E: Self;
    /// ln 2 cut so short that its product with any exponent is exact, and what was cut off: the pair of Cody and Waite.
    const LN_2_HIGH: Self;
    const LN_2_LOW: Self;

    /// 1.5 * 2^MANTISSA_BITS: adding it rounds to an integer, which is then found in the lowest bits. Plus the
    /// exponent offset that [`exp_nonpositive`](super::exp_nonpositive) wants.
    const ROUND_TINY: Self;
    /// 2^-offset, which takes that offset out again and rounds once, where the result is subnormal.
    const TINY: Self;
    /// The same plus twice the exponent bias.
    const ROUND_DOUBLE_BIAS: Self;
    /// Below it e^x rounds to 0.
    const EXP_MIN: Self;
    /// Above it e^x rounds to infinity.
    const EXP_MAX: Self;
    /// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
    const EXP: &'static [Self];

    const MIN_NORMAL: Self;
    /// Takes subnormals to normal numbers.
    const NORMALIZE: Self;
    const NORMALIZE_EXPONENT: Self;
    const ONE_BITS: Self::Bits;
    const SQRT_HALF_BITS: Self::Bits;
    /// 2^MANTISSA_BITS, whose lowest bits count ones, and the same plus the exponent bias.
    const COUNT_BITS: Self::Bits;
    const COUNT_BIASED: Self;
    /// (ln((1 + s) / (1 - s)) - 2s) / s^3 in s^2, for |s| <= 0.1716
    const LN: &'static [Self];
}

impl Constants for f32 {
    const MANTISSA_BITS: u32 = 23;
    const MANTISSA_MASK: u32 = 0x007f_ffff;
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693145751953125;
    const LN_2_LOW: f32 = 1.42860677e-6;
    const ROUND_TINY: f32 = 12582912.0 + 24.0;
    const TINY: f32 = 1.0 / 16777216.0;
    const ROUND_DOUBLE_BIAS: f32 = 12582912.0 + 254.0;
    const EXP_MIN: f32 = -104.0;
    const EXP_MAX: f32 = 89.0;
    const EXP: &'static [f32] =
        &[0.0013882524897667676, 0.00836652066243699, 0.04166719979452763, 0.16666543620431792, 0.49999998154343198];
    const MIN_NORMAL: f32 = f32::MIN_POSITIVE;
    const NORMALIZE: f32 = 16777216.0;
    const NORMALIZE_EXPONENT: f32 = -24.0;
    const ONE_BITS: u32 = 0x3f80_0000;
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    const COUNT_BITS: u32 = 0x4b00_0000;
    const COUNT_BIASED: f32 = 8388608.0 + 127.0;
    const LN: &'static [f32] = &[2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0];
}

impl Constants for f64 {
    const MANTISSA_BITS: u32 = 52;
    const MANTISSA_MASK: u64 = 0x000f_ffff_ffff_ffff;
    const LOG2_E: f64 = core::f64::consts::LOG2_E;
    const LN_2_HIGH: f64 = 0.693147180559890330187045037746429443359375;
    const LN_2_LOW: f64 = 5.497923018708371155e-14;
    const ROUND_TINY: f64 = 6755399441055744.0 + 54.0;
    const TINY: f64 = 1.0 / 18014398509481984.0;
    const ROUND_DOUBLE_BIAS: f64 = 6755399441055744.0 + 2046.0;
    const EXP_MIN: f64 = -746.0;
    const EXP_MAX: f64 = 710.0;
    const EXP: &'static [f64] = &[
        2.5053761047656856798e-8,
        2.7626038626974826469e-7,
        2.7557407577940924738e-6,
        0.000024801505271629877099,
        0.00019841269718979731341,
        0.0013888888931567035922,
        0.00833333333338955742,
        0.041666666666576746552,
        0.16666666666666589285,
        0.50000000000000051802,
    ];
    const MIN_NORMAL: f64 = f64::MIN_POSITIVE;
    const NORMALIZE: f64 = 18014398509481984.0;
    const NORMALIZE_EXPONENT: f64 = -54.0;
    const ONE_BITS: u64 = 0x3ff0_0000_0000_0000;
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
    const COUNT_BITS: u64 = 0x4330_0000_0000_0000;
    const COUNT_BIASED: f64 = 4503599627370496.0 + 1023.0;
    const LN: &'static [f64] = &[
        2.0 / 23.0,
        2.0 / 21.0,
        2.0 / 19.0,
        2.0 / 17.0,
        2.0 / 15.0,
        2.0 / 13.0,
        2.0 / 11.0,
        2.0 / 9.0,
        2.0 / 7.0,
        2.0 / 5.0,
        2.0 / 3.0,
    ];
}
