//! The numbers that the functions of this module are made of, for f32 and for f64. No function here.
//!
//! The polynomials are minimax approximations found by `tools/coefficients.py` (Remez exchange, in 160 bits) and then
//! rounded; what each approximates and on which interval stands at its declaration, the error it makes, relative to the
//! function's value, at its values. Coefficients run from the highest power down.

use fearless_simd::SimdFloatElement;

/// Constants of the functions, for each compute type. Implemented for `f32` and `f64` only.
#[doc(hidden)]
#[allow(missing_docs, reason = "not for use outside of the crate")]
pub trait Constants: SimdFloatElement + 'static {
    const HALF: Self;
    const ONE: Self;
    const TWO: Self;
    const SQRT_2: Self;

    /// Bits of a mantissa, without the leading one.
    const MANTISSA_BITS: u32;
    const EXPONENT_BIAS: Self;
    /// The sign's bit.
    const SIGN: Self::Bits;
    /// Keeps so few bits of a number that its square is exact, and its product with
    /// [`GELU_TANH_HIGH`](Constants::GELU_TANH_HIGH).
    const UPPER_HALF: Self::Bits;

    /// 1.5 * 2^[`MANTISSA_BITS`](Constants::MANTISSA_BITS): adding it rounds to an integer, found in the lowest bits.
    const ROUND: Self;
    const LOG2_E: Self;
    /// ln 2 cut so short that its product with any exponent is exact, and what was cut off: the pair of Cody and Waite.
    const LN_2_HIGH: Self;
    const LN_2_LOW: Self;
    /// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
    const EXP: &'static [Self];
    /// (2^f - 1) / f for |f| <= 1/2
    const EXP2: &'static [Self];
    /// Below it e^x rounds to 0.
    const EXP_MIN: Self;
    /// Above it e^x rounds to infinity.
    const EXP_MAX: Self;
    /// An exponent that keeps e^x normal for each x that [`EXP_MIN`](Constants::EXP_MIN) lets pass, and more.
    const TINY_EXPONENT: Self;
    /// 2^-[`TINY_EXPONENT`](Constants::TINY_EXPONENT)
    const TINY: Self;

    /// From here on the sigmoid of x rounds to 1.
    const SIGMOID_MAX: Self;
    /// An exponent that keeps 1 + e^-x from overflow, and e^-x normal, between [`EXP_MIN`](Constants::EXP_MIN) and
    /// [`SIGMOID_MAX`](Constants::SIGMOID_MAX).
    const SIGMOID_EXPONENT: Self;
    /// 2^[`SIGMOID_EXPONENT`](Constants::SIGMOID_EXPONENT)
    const SIGMOID_ONE: Self;

    /// Whether tanh is within two units in the last place by its formula alone, where products are not rounded.
    const TANH_NEEDS_NO_CORRECTION: bool;
    /// From here on tanh x rounds to 1.
    const TANH_MAX: Self;

    /// From here on erf x rounds to 1.
    const ERF_MAX: Self;
    /// Where erf is a polynomial.
    const ERF_NEAR: Self;
    /// erf(x) / x - 1 in x^2, for |x| <= [`ERF_NEAR`](Constants::ERF_NEAR)
    const ERF: &'static [Self];

    /// sqrt(8 / pi)
    const MILLS_SLOPE: Self;
    /// (Phi(-x) e^(x^2 / 2) (2 + x sqrt(8 / pi)) - 1) / x^2 for x >= 0, Phi being the normal distribution function, is this
    /// polynomial over another, whose coefficients these are after a one.
    const MILLS: &'static [Self];
    const MILLS_DIVISOR: &'static [Self];
    /// Below minus this, gelu rounds to 0.
    const GELU_MAX: Self;

    /// Below it the tanh form of gelu rounds to 0.
    const GELU_TANH_MIN: Self;
    /// Above it the tanh form of gelu rounds to x.
    const GELU_TANH_MAX: Self;
    /// 2 sqrt(2 / pi) cut short, and what was cut off.
    const GELU_TANH_HIGH: Self;
    const GELU_TANH_LOW: Self;
    /// 2 sqrt(2 / pi) * 0.044715
    const GELU_TANH_CUBIC: Self;

    const MIN_NORMAL: Self;
    /// Takes subnormals to normal numbers, and the exponent that makes up for it.
    const NORMALIZE: Self;
    const NORMALIZE_EXPONENT: Self;
    const MANTISSA_MASK: Self::Bits;
    const ONE_BITS: Self::Bits;
    const SQRT_HALF_BITS: Self::Bits;
    /// The bits of 2^[`MANTISSA_BITS`](Constants::MANTISSA_BITS), whose lowest bits count ones.
    const COUNT_BITS: Self::Bits;
    /// That number plus the exponent bias.
    const COUNT_BIASED: Self;
    /// (ln((1 + s) / (1 - s)) - 2s) / s^3 in s^2, for |s| <= 3 - 2 sqrt 2
    const LN: &'static [Self];
}

impl Constants for f32 {
    const HALF: f32 = 0.5;
    const ONE: f32 = 1.0;
    const TWO: f32 = 2.0;
    const SQRT_2: f32 = core::f32::consts::SQRT_2;

    const MANTISSA_BITS: u32 = 23;
    const EXPONENT_BIAS: f32 = 127.0;
    const SIGN: u32 = 1 << 31;
    const UPPER_HALF: u32 = 0xffff_f000;

    const ROUND: f32 = 12582912.0;
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693145751953125;
    const LN_2_LOW: f32 = 1.42860682030941723212e-6;
    // 2^-26.2 of e^r - 1
    const EXP: &'static [f32] = &[0.00138825165071, 0.00836652052321, 0.0416671999273, 0.166665436218, 0.49999998154];
    // 2^-26.47 of 2^f - 1
    const EXP2: &'static [f32] =
        &[0.000154035124125, 0.00133907468717, 0.00961823753821, 0.0555035741242, 0.240226497944, 0.693147187931];
    const EXP_MIN: f32 = -104.0;
    const EXP_MAX: f32 = 89.0;
    const TINY_EXPONENT: f32 = 32.0;
    const TINY: f32 = 1.0 / 4294967296.0;

    const SIGMOID_MAX: f32 = 40.0;
    const SIGMOID_EXPONENT: f32 = -40.0;
    const SIGMOID_ONE: f32 = 1.0 / 1099511627776.0;

    const TANH_NEEDS_NO_CORRECTION: bool = true;
    const TANH_MAX: f32 = 10.0;

    const ERF_MAX: f32 = 4.0;
    const ERF_NEAR: f32 = 0.8;
    // 2^-28.3
    const ERF: &'static [f32] =
        &[-0.000653815924546, 0.00508564822855, -0.0268211407479, 0.112831222601, -0.376126024822, 0.128379164056];

    const MILLS_SLOPE: f32 = 1.59576912161;
    // 0.05 * 2^-25 of Phi up to 2; above, as much absolute of gelu and 2^-14 of Phi, whichever is less
    const MILLS: &'static [f32] = &[-0.363891348512, -1.97270003692, -4.12795292956];
    const MILLS_DIVISOR: &'static [f32] = &[7.65888903108, 26.0630895984, 43.8481894587, 30.2150226375];
    const GELU_MAX: f32 = 14.45;

    const GELU_TANH_MIN: f32 = -10.8;
    const GELU_TANH_MAX: f32 = 8.0;
    const GELU_TANH_HIGH: f32 = 1.595703125;
    const GELU_TANH_LOW: f32 = 6.599660573071175978424e-5;
    const GELU_TANH_CUBIC: f32 = 0.07135481627260024877634;

    const MIN_NORMAL: f32 = f32::MIN_POSITIVE;
    const NORMALIZE: f32 = 16777216.0;
    const NORMALIZE_EXPONENT: f32 = -24.0;
    const MANTISSA_MASK: u32 = 0x007f_ffff;
    const ONE_BITS: u32 = 0x3f80_0000;
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    const COUNT_BITS: u32 = 0x4b00_0000;
    const COUNT_BIASED: f32 = 8388608.0 + 127.0;
    // 2^-30.2
    const LN: &'static [f32] = &[0.298718613311, 0.399775370249, 0.666667764147];
}

impl Constants for f64 {
    const HALF: f64 = 0.5;
    const ONE: f64 = 1.0;
    const TWO: f64 = 2.0;
    const SQRT_2: f64 = core::f64::consts::SQRT_2;

    const MANTISSA_BITS: u32 = 52;
    const EXPONENT_BIAS: f64 = 1023.0;
    const SIGN: u64 = 1 << 63;
    const UPPER_HALF: u64 = 0xffff_ffff_f800_0000;

    const ROUND: f64 = 6755399441055744.0;
    const LOG2_E: f64 = core::f64::consts::LOG2_E;
    const LN_2_HIGH: f64 = 0.693147180559890330187045037746429443359375;
    const LN_2_LOW: f64 = 5.4979230187083711747e-14;
    // 2^-55.6 of e^r - 1
    const EXP: &'static [f64] = &[
        2.5053761941135394404e-8,
        2.7626038035649276299e-7,
        2.7557407585452163559e-6,
        0.000024801505273536288037,
        0.00019841269718958435864,
        0.0013888888931564912561,
        0.0083333333333895732404,
        0.041666666666576755665,
        0.16666666666666589254,
        0.50000000000000051791,
    ];
    // 2^-55.65 of 2^f - 1
    const EXP2: &'static [f64] = &[
        4.4455359198786599911e-10,
        7.0725652914247675206e-9,
        1.01781213214540733e-7,
        1.3215442706317528965e-6,
        0.000015252733701135307536,
        0.00015403530441509969052,
        0.001333355814653173027,
        0.0096181291076070483312,
        0.055504108664821236156,
        0.24022650695910097915,
        core::f64::consts::LN_2,
    ];
    const EXP_MIN: f64 = -746.0;
    const EXP_MAX: f64 = 710.0;
    const TINY_EXPONENT: f64 = 100.0;
    const TINY: f64 = 1.0 / 1267650600228229401496703205376.0;

    const SIGMOID_MAX: f64 = 40.0;
    const SIGMOID_EXPONENT: f64 = -100.0;
    const SIGMOID_ONE: f64 = 1.0 / 1267650600228229401496703205376.0;

    const TANH_NEEDS_NO_CORRECTION: bool = false;
    const TANH_MAX: f64 = 20.0;

    const ERF_MAX: f64 = 6.0;
    const ERF_NEAR: f64 = 0.8;
    // 2^-58.1
    const ERF: &'static [f64] = &[
        1.1069818199507241149e-8,
        -1.5824737297205110446e-7,
        1.6416660620548911476e-6,
        -0.000014923253507464122952,
        0.00012055251330271843816,
        -0.0008548325231088984374,
        0.0052239776008618918031,
        -0.026866170643162559026,
        0.11283791670947043669,
        -0.37612638903183623875,
        0.12837916709551257072,
    ];

    const MILLS_SLOPE: f64 = 1.5957691216057307118;
    // 0.09 * 2^-54 of Phi up to 2; above, as much absolute of gelu and 2^-7 of Phi up to 8.5, whichever is less
    const MILLS: &'static [f64] = &[
        -1.2412170421419276428e-6,
        -0.36332357952693289149,
        -6.4988103111993368958,
        -52.129076178084608316,
        -234.59411333470275809,
        -596.38097142238554985,
        -736.36528542768155551,
    ];
    const MILLS_DIVISOR: &'static [f64] = &[
        20.076573008806722334,
        185.83747115567836244,
        1015.729574542600269,
        3511.503707071183292,
        7632.2485858357822751,
        9611.5837799920130136,
        5389.8881008701098601,
    ];
    const GELU_MAX: f64 = 38.6;

    const GELU_TANH_MIN: f64 = -21.6;
    const GELU_TANH_MAX: f64 = 8.0;
    const GELU_TANH_HIGH: f64 = 1.595769107341766357421875;
    const GELU_TANH_LOW: f64 = 1.426396435433790923974e-8;
    const GELU_TANH_CUBIC: f64 = 0.07135481627260024877634;

    const MIN_NORMAL: f64 = f64::MIN_POSITIVE;
    const NORMALIZE: f64 = 18014398509481984.0;
    const NORMALIZE_EXPONENT: f64 = -54.0;
    const MANTISSA_MASK: u64 = 0x000f_ffff_ffff_ffff;
    const ONE_BITS: u64 = 0x3ff0_0000_0000_0000;
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
    const COUNT_BITS: u64 = 0x4330_0000_0000_0000;
    const COUNT_BIASED: f64 = 4503599627370496.0 + 1023.0;
    // 2^-59.5
    const LN: &'static [f64] = &[
        0.14796104450974313667,
        0.15314035938309574816,
        0.18183564862432309843,
        0.22222198563573386301,
        0.28571428742473912804,
        0.39999999999414326384,
        0.66666666666667344593,
    ];
}
