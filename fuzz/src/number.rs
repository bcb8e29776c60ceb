//! Storage types as the fuzz targets see them: their bits, and when a result is close enough.

use polyglot_bridge::Float;

use super::common::{Storage, to_f64};

/// A storage type and its bits.
pub(crate) trait Number: Storage {
    /// From this magnitude on, rounding gives infinity.
    const OVERFLOW: f64;
    /// The exponent of the largest finite value.
    const MOST_EXPONENT: i32;

    /// The lowest bits of `raw` as a value.
    fn from_raw(raw: u64) -> Self;
    fn raw(self) -> u64;

    fn is_nan(self) -> bool {
        to_f64(self).is_nan()
    }
}

macro_rules! number {
    ($type:ty, $bits:ty, $most_exponent:literal, $overflow:expr) => {
        impl Number for $type {
            const OVERFLOW: f64 = $overflow;
            const MOST_EXPONENT: i32 = $most_exponent;

            fn from_raw(raw: u64) -> Self {
                Self::from_bits(raw as $bits)
            }

            fn raw(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    };
}

// The largest finite value and half a unit in its last place.
const F32_OVERFLOW: f64 = f32::MAX as f64 + 2.028_240_960_365_167e31 / 2.0;
number!(f32, u32, 127, F32_OVERFLOW);
number!(f64, u64, 1023, f64::INFINITY);
number!(half::f16, u16, 15, 65520.0);
number!(half::bf16, u16, 127, 3.396_177_529_230_496e38);

/// The compute type's largest finite value.
pub(crate) fn most<T: Float>() -> f64 {
    if size_of::<T::Acc>() == 8 { f64::MAX } else { f64::from(f32::MAX) }
}

/// The compute type's smallest subnormal.
pub(crate) fn least<T: Float>() -> f64 {
    if size_of::<T::Acc>() == 8 { f64::from_bits(1) } else { f64::from(f32::from_bits(1)) }
}

/// Sees that `found` is `right` but for an error of `bound` and one rounding to `T`.
pub(crate) fn assert_close<T: Number>(found: T, right: f64, bound: f64, what: impl Fn() -> String) {
    let wide = to_f64(found);
    let close = if right.is_nan() || wide.is_nan() {
        right.is_nan() && wide.is_nan()
    } else if wide.is_infinite() || right.is_infinite() {
        let reaches = |value: f64| value.is_infinite() || value.abs() + bound >= T::OVERFLOW.min(f64::MAX);
        wide.is_sign_negative() == right.is_sign_negative() && reaches(right) && reaches(wide)
            || wide.is_finite()
                && wide.abs() + bound + T::half_ulp(wide) >= T::OVERFLOW.min(f64::MAX)
                && wide * right > 0.0
    } else {
        (wide - right).abs() <= bound + T::half_ulp(right)
    };
    assert!(
        close,
        "{} {}: found {found:?}, right is {right:e}, off by {:e}, allowed {bound:e} and a rounding of {:e}",
        T::NAME,
        what(),
        (wide - right).abs(),
        T::half_ulp(if right.is_finite() { right } else { 0.0 }),
    );
}
