//! The two traits that every kernel is written over: [`Float`], a scalar as it is stored, and [`Compute`], what it is
//! computed in. Nothing here knows an operation.

use core::fmt::Debug;

use fearless_simd::{Select, Simd, SimdBase, SimdFloat, SimdFloatElement, SimdInt, SimdMask};

/// The SIMD vector that values stored as `T` are computed in, at CPU level `S`.
pub type Lanes<S, T> = <<T as Float>::Acc as Compute>::Lanes<S>;

/// The most lanes a [`Compute`] vector has at any CPU level (16 f32 at AVX-512).
pub const MAX_LANES: usize = 16;

/// A scalar as it is stored in memory: `f32`, `f64` and, with the feature `f16`, `half::f16` and `half::bf16`.
///
/// The trait is open. Implement [`ZERO`](Float::ZERO), [`to_acc`](Float::to_acc) and [`from_acc`](Float::from_acc) for
/// a type of your own, and every kernel of this crate takes it. Override [`load`](Float::load) and
/// [`store`](Float::store) where a whole vector can be widened or narrowed faster than lane by lane.
///
/// # Examples
///
/// Numbers stored as sixteenths in one signed byte:
///
/// ```
/// use polyglot_bridge::{softmax_in_place, Float};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct Sixteenths(i8);
///
/// impl Float for Sixteenths {
///     type Acc = f32;
///     const ZERO: Self = Self(0);
///     fn to_acc(self) -> f32 {
///         f32::from(self.0) / 16.0
///     }
///     fn from_acc(value: f32) -> Self {
///         Self((value * 16.0).round_ties_even() as i8)
///     }
/// }
///
/// let mut row = [Sixteenths(16), Sixteenths(16)];
/// softmax_in_place(&mut row[..])?;
/// assert_eq!(row, [Sixteenths(8), Sixteenths(8)]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub trait Float: Copy + Debug + PartialEq + Send + Sync + 'static {
    /// The type that sums and functions of this type are computed in.
    type Acc: Compute;

    /// Zero, which pads what is shorter than a vector.
    const ZERO: Self;

    /// Widens one value, exactly.
    fn to_acc(self) -> Self::Acc;

    /// Rounds one value, to nearest, ties to even.
    fn from_acc(value: Self::Acc) -> Self;

    /// Widens one vector. `source` holds exactly `Lanes::<S, Self>::LEN` values.
    #[inline(always)]
    fn load<S: Simd>(simd: S, source: &[Self]) -> Lanes<S, Self> {
        Lanes::<S, Self>::from_fn(simd, |lane| source[lane].to_acc())
    }

    /// Rounds one vector. `target` has room for exactly `Lanes::<S, Self>::LEN` values.
    #[inline(always)]
    fn store<S: Simd>(lanes: Lanes<S, Self>, target: &mut [Self]) {
        for (value, &lane) in target.iter_mut().zip(lanes.as_slice()) {
            *value = Self::from_acc(lane);
        }
    }

    /// Calls a kernel: the copy that this crate has of it for a type of its own, else one compiled where it is used.
    #[doc(hidden)]
    #[inline]
    fn call<K: Kernel>(args: K::Args<'_, Self>) -> K::Output<Self> {
        K::any::<Self>(args)
    }
}

/// A function over every [`Float`], and a copy for each of this crate's own types: made by `kernel!`.
pub trait Kernel {
    /// What it takes, as a tuple.
    type Args<'a, T: Float>;
    /// What it gives.
    type Output<T: Float>;

    /// For any type: compiled where it is used.
    fn any<T: Float>(args: Self::Args<'_, T>) -> Self::Output<T>;

    #[cfg(not(polyglot_compile_on_use))]
    fn f32(args: Self::Args<'_, f32>) -> Self::Output<f32>;
    #[cfg(not(polyglot_compile_on_use))]
    fn f64(args: Self::Args<'_, f64>) -> Self::Output<f64>;
    #[cfg(all(feature = "f16", not(polyglot_compile_on_use)))]
    fn f16(args: Self::Args<'_, half::f16>) -> Self::Output<half::f16>;
    #[cfg(all(feature = "f16", not(polyglot_compile_on_use)))]
    fn bf16(args: Self::Args<'_, half::bf16>) -> Self::Output<half::bf16>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A type that arithmetic is done in: `f32` or `f64`. Sealed: the constants of [`math`](crate::math) exist for these two.
pub trait Compute:
    Float<Acc = Self>
    + sealed::Sealed
    + SimdFloatElement
    + num_traits::Float
    + num_traits::NumAssign
    + crate::math::constants::Constants
{
    /// A vector of this type at CPU level `S`, as wide as that level's registers.
    type Lanes<S: Simd>: SimdFloat<
            S,
            Element = Self,
            Bits: SimdInt<S, Element = <Self as SimdFloatElement>::Bits>,
            Mask: SimdMask<S> + Select<Self::Lanes<S>>,
        >;

    /// Exact for every small integer, rounded to nearest for the rest.
    fn from_f64(value: f64) -> Self;

    /// A count, exact where it is small, rounded to nearest else.
    fn from_count(count: usize) -> Self;

    /// Exact for `f32`.
    fn into_f64(self) -> f64;

    /// The vector widened to f64: its low half and its high half; for `f64` itself and a vector of zeros.
    fn widen_f64<S: Simd>(simd: S, lanes: Self::Lanes<S>) -> (S::f64s, S::f64s);
}

macro_rules! native {
    ($type:ident, $lanes:ident, |$simd:ident, $vector:ident| $widen:expr) => {
        impl Float for $type {
            type Acc = $type;
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn to_acc(self) -> $type {
                self
            }

            #[inline(always)]
            fn from_acc(value: $type) -> Self {
                value
            }

            #[inline(always)]
            fn load<S: Simd>(simd: S, source: &[Self]) -> Lanes<S, Self> {
                S::$lanes::from_slice(simd, source)
            }

            #[inline(always)]
            fn store<S: Simd>(lanes: Lanes<S, Self>, target: &mut [Self]) {
                lanes.store_slice(target);
            }

            #[cfg(not(polyglot_compile_on_use))]
            #[inline]
            fn call<K: Kernel>(args: K::Args<'_, Self>) -> K::Output<Self> {
                K::$type(args)
            }
        }

        impl Compute for $type {
            type Lanes<S: Simd> = S::$lanes;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn from_count(count: usize) -> Self {
                count as $type
            }

            #[inline(always)]
            fn into_f64(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn widen_f64<S: Simd>($simd: S, $vector: Self::Lanes<S>) -> (S::f64s, S::f64s) {
                $widen
            }
        }
    };
}

native!(f32, f32s, |_simd, lanes| fearless_simd::SimdWiden::widen(lanes));
native!(f64, f64s, |simd, lanes| (lanes, S::f64s::splat(simd, 0.0)));

#[cfg(feature = "f16")]
macro_rules! half {
    ($type:ident, $widen:ident, $narrow:ident, $widen_one:expr, $narrow_one:expr) => {
        impl Float for half::$type {
            type Acc = f32;
            const ZERO: Self = Self::ZERO;

            #[inline(always)]
            fn to_acc(self) -> f32 {
                $widen_one(self)
            }

            #[inline(always)]
            fn from_acc(value: f32) -> Self {
                $narrow_one(value)
            }

            #[inline(always)]
            fn load<S: Simd>(simd: S, source: &[Self]) -> Lanes<S, Self> {
                crate::simd::half::$widen(simd, crate::simd::half::bits(source))
            }

            #[inline(always)]
            fn store<S: Simd>(lanes: Lanes<S, Self>, target: &mut [Self]) {
                crate::simd::half::$narrow::<S>(lanes, crate::simd::half::bits_mut(target));
            }

            #[cfg(not(polyglot_compile_on_use))]
            #[inline]
            fn call<K: Kernel>(args: K::Args<'_, Self>) -> K::Output<Self> {
                K::$type(args)
            }
        }
    };
}

#[cfg(feature = "f16")]
half!(f16, widen_f16, narrow_f16, crate::simd::half::widen_one, crate::simd::half::narrow_one);
#[cfg(feature = "f16")]
half!(bf16, widen_bf16, narrow_bf16, half::bf16::to_f32, half::bf16::from_f32);
