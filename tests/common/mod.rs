//! What the integration tests share: a sweep over CPU levels, pseudo-random data, references in f64, and distances
//! between floats. No test lives here.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use polyglot_bridge::simd::{self, Level};
use polyglot_bridge::{Compute, Float, Matrix, MatrixMut};

/// The CPU level is one for the whole process: tests that set or depend on it hold this.
static LEVEL: Mutex<()> = Mutex::new(());

/// Every level that this CPU can run, from the scalar fallback to the best; or only the one that POLYGLOT_TEST_LEVEL
/// names, for emulated CPUs, which are slow.
pub(crate) fn levels() -> Vec<Level> {
    let mut levels = all_levels();
    if let Ok(name) = std::env::var("POLYGLOT_TEST_LEVEL") {
        levels.retain(|level| format!("{level:?}").starts_with(&name));
        assert!(!levels.is_empty(), "this CPU has no level {name}");
    }
    levels
}

fn all_levels() -> Vec<Level> {
    let best = Level::try_detect().unwrap_or(Level::baseline());
    let mut levels = vec![Level::fallback()];
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        levels.extend(best.as_sse2().map(Level::Sse2));
        levels.extend(best.as_sse4_2().map(Level::Sse4_2));
        levels.extend(best.as_avx2().map(Level::Avx2));
        levels.extend(best.as_avx512().map(Level::Avx512));
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    levels.push(best);
    levels
}

/// Gives the level back when it goes out of scope, also by a panic.
struct Restore {
    level: Level,
    _guard: MutexGuard<'static, ()>,
}

impl Drop for Restore {
    fn drop(&mut self) {
        simd::set_level(self.level);
    }
}

/// Runs `test` at each level of [`levels`], and puts the level back that was in force. One sweep runs at a time.
pub(crate) fn for_each_level(mut test: impl FnMut(Level)) {
    let guard = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let _restore = Restore { level: simd::level(), _guard: guard };
    for level in levels() {
        simd::set_level(level);
        test(level);
    }
}

/// Holds the level still while `test` runs.
pub(crate) fn at_one_level<R>(test: impl FnOnce() -> R) -> R {
    let _guard = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    test()
}

/// Pseudo-random numbers that are the same in each run (xorshift64*, Marsaglia 2003).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Evenly spread over 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Evenly spread over a range.
    pub(crate) fn uniform(&mut self, range: Range<f64>) -> f64 {
        range.start + (range.end - range.start) * self.unit()
    }

    /// Normally distributed, mean 0 and variance 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// An integer below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() >> 16) as usize % end.max(1)
    }

    /// `len` normally distributed numbers, each rounded to `T`.
    pub(crate) fn normals<T: Float>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| from_f64(self.normal())).collect()
    }
}

/// Rounded to `T`.
pub(crate) fn from_f64<T: Float>(value: f64) -> T {
    T::from_acc(T::Acc::from_f64(value))
}

/// Exact.
pub(crate) fn to_f64<T: Float>(value: T) -> f64 {
    value.to_acc().into_f64()
}

/// All of them, exact.
pub(crate) fn all_to_f64<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&value| to_f64(value)).collect()
}

/// All of them, rounded to `T`.
pub(crate) fn all_from_f64<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&value| from_f64(value)).collect()
}

/// The relative error that rounding to a compute type may have: 2^-24 or 2^-53.
pub(crate) fn compute_roundoff<T: Float>() -> f64 {
    if size_of::<T::Acc>() == 8 { 2.0_f64.powi(-53) } else { 2.0_f64.powi(-24) }
}

/// A storage type and the facts of it that tests need.
pub(crate) trait Storage: Float {
    const NAME: &'static str;
    /// Bits of the mantissa, the hidden one counted.
    const DIGITS: i32;
    /// The exponent of the smallest normal number.
    const LEAST_EXPONENT: i32;

    /// Half the distance to the next float at `value`: the error of one correct rounding.
    fn half_ulp(value: f64) -> f64 {
        let exponent = if value == 0.0 { Self::LEAST_EXPONENT } else { exponent(value).max(Self::LEAST_EXPONENT) };
        power_of_two(exponent - Self::DIGITS)
    }

    fn half_unit() -> f64 {
        power_of_two(-Self::DIGITS)
    }
}

impl Storage for f32 {
    const NAME: &'static str = "f32";
    const DIGITS: i32 = 24;
    const LEAST_EXPONENT: i32 = -126;
}

impl Storage for f64 {
    const NAME: &'static str = "f64";
    const DIGITS: i32 = 53;
    const LEAST_EXPONENT: i32 = -1022;
}

#[cfg(feature = "f16")]
impl Storage for half::f16 {
    const NAME: &'static str = "f16";
    const DIGITS: i32 = 11;
    const LEAST_EXPONENT: i32 = -14;
}

#[cfg(feature = "f16")]
impl Storage for half::bf16 {
    const NAME: &'static str = "bf16";
    const DIGITS: i32 = 8;
    const LEAST_EXPONENT: i32 = -126;
}

/// The exponent of a finite value other than 0, so that 1 <= |value| / 2^exponent < 2.
pub(crate) fn exponent(value: f64) -> i32 {
    if value.is_subnormal() {
        return exponent(value * 2.0_f64.powi(60)) - 60;
    }
    ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// 2^exponent, subnormal ones too; 0 below.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    if exponent >= -1022 { 2.0_f64.powi(exponent) } else { 2.0_f64.powi(exponent + 200) * 2.0_f64.powi(-200) }
}

/// How many floats lie from `a` to `b`; a NaN is 0 from a NaN and far from all else.
pub(crate) fn ulps_f32(a: f32, b: f32) -> u64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u64::MAX };
    }
    let place = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    place(a).abs_diff(place(b))
}

/// [`ulps_f32`] for f64.
pub(crate) fn ulps_f64(a: f64, b: f64) -> u64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u64::MAX };
    }
    let place = |x: f64| {
        let bits = i128::from(x.to_bits() & (u64::MAX >> 1));
        if x.is_sign_negative() { -bits } else { bits }
    };
    u64::try_from(place(a).abs_diff(place(b))).unwrap_or(u64::MAX)
}

/// A sum whose error is far below that of a plain f64 sum (Neumaier 1974).
pub(crate) fn exact_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for value in values {
        let total = sum + value;
        lost += if sum.abs() >= value.abs() { (sum - total) + value } else { (value - total) + sum };
        sum = total;
    }
    sum + lost
}

/// Lengths around each vector width there is, and around the blocks of the reductions.
pub(crate) const LENGTHS: [usize; 26] =
    [0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257, 509, 1000, 4099];

/// How the operands of a call lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Dense,
    /// Gaps between the rows of input and output.
    Strided,
    /// The input is a transposed view, the output dense.
    Transposed,
    InPlace,
    /// In place, with gaps between the rows.
    InPlaceStrided,
}

impl Layout {
    pub(crate) const ALL: [Self; 5] =
        [Self::Dense, Self::Strided, Self::Transposed, Self::InPlace, Self::InPlaceStrided];
}

/// What a test calls: an operation and its twin that works in place.
pub(crate) trait RowOp<T: Float> {
    fn apart(&self, x: Matrix<'_, T>, out: MatrixMut<'_, T>);
    fn in_place(&self, x: MatrixMut<'_, T>);
}

/// A [`RowOp`] of two closures.
pub(crate) struct Op<F, G>(pub(crate) F, pub(crate) G);

impl<T: Float, F: Fn(Matrix<'_, T>, MatrixMut<'_, T>), G: Fn(MatrixMut<'_, T>)> RowOp<T> for Op<F, G> {
    fn apart(&self, x: Matrix<'_, T>, out: MatrixMut<'_, T>) {
        self.0(x, out);
    }

    fn in_place(&self, x: MatrixMut<'_, T>) {
        self.1(x);
    }
}

/// Runs `op` on the dense values `x` laid out as `layout` has it; sees that nothing between or behind the rows was
/// written. The result is dense again.
pub(crate) fn run<T: Float>(op: &impl RowOp<T>, x: &[T], rows: usize, cols: usize, layout: Layout) -> Vec<T> {
    const GAP: usize = 3;
    // A value that no operation would write by chance.
    let guard: T = from_f64(-77.0);
    let strided = matches!(layout, Layout::Strided | Layout::InPlaceStrided);
    let stride = if strided { cols + GAP } else { cols };
    let spread = |values: &[T]| {
        let mut data = vec![guard; rows * stride + GAP];
        for row in 0..rows {
            data[row * stride..][..cols].copy_from_slice(&values[row * cols..][..cols]);
        }
        data
    };
    let mut out = match layout {
        Layout::InPlace | Layout::InPlaceStrided => spread(x),
        _ => vec![guard; rows * stride + GAP],
    };
    let target = MatrixMut::with_stride(&mut out, rows, cols, stride).expect("shape");
    match layout {
        Layout::Dense => op.apart(Matrix::new(x, rows, cols).expect("shape"), target),
        Layout::Strided => {
            op.apart(Matrix::with_strides(&spread(x), rows, cols, stride, 1).expect("shape"), target);
        }
        Layout::Transposed => {
            let mut columns = Vec::with_capacity(x.len());
            for col in 0..cols {
                columns.extend((0..rows).map(|row| x[row * cols + col]));
            }
            op.apart(Matrix::new(&columns, cols, rows).expect("shape").transpose(), target);
        }
        Layout::InPlace | Layout::InPlaceStrided => op.in_place(target),
    }
    let mut result = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        result.extend_from_slice(&out[row * stride..][..cols]);
        assert!(out[row * stride + cols..(row + 1) * stride].iter().all(|&value| value == guard), "wrote in a gap");
    }
    assert!(out[rows * stride..].iter().all(|&value| value == guard), "wrote behind the end");
    result
}

/// Runs a generic test for each storage type.
#[allow(unused_macros, reason = "not every test binary has generic tests")]
macro_rules! for_each_type {
    ($($(#[$doc:meta])* $test:ident => $generic:ident),* $(,)?) => {$(
        mod $test {
            $(#[$doc])*
            #[test]
            fn f32() {
                super::$generic::<f32>();
            }
            #[test]
            fn f64() {
                super::$generic::<f64>();
            }
            #[cfg(feature = "f16")]
            #[test]
            fn f16() {
                super::$generic::<half::f16>();
            }
            #[cfg(feature = "f16")]
            #[test]
            fn bf16() {
                super::$generic::<half::bf16>();
            }
        }
    )*};
}
