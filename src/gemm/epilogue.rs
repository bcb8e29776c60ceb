//! What happens to complete sums: bias, residual, activation, rounding to the storage type. Shared by all ways to
//! compute sums; activations themselves are in `math::activation`.

#[cfg(not(feature = "std"))]
use core::ops::Range;

use fearless_simd::{Select, Simd, SimdBase};

use super::problem::{Bias, FusedEpilogue, Residual};
#[cfg(feature = "std")]
use crate::float::Compute;
use crate::float::{Float, Lanes, MAX_LANES};
use crate::macros::{bug, lane_fn};
use crate::math::activation::Activation;
#[cfg(feature = "std")]
use crate::simd::MAP_UNROLL;
use crate::view::MatrixMut;

/// A vector of up to as many values as it has lanes, then zeros.
#[inline(always)]
fn load_some<S: Simd, T: Float>(simd: S, values: &[T]) -> Lanes<S, T> {
    let lanes = Lanes::<S, T>::LEN;
    if values.len() == lanes {
        return T::load(simd, values);
    }
    let mut whole = [T::ZERO; MAX_LANES];
    for (target, &value) in whole.iter_mut().zip(values) {
        *target = value;
    }
    T::load(simd, &whole[..lanes])
}

/// Rounds and writes the lanes of a vector that `target` holds.
#[inline(always)]
fn store_some<S: Simd, T: Float>(lanes: Lanes<S, T>, target: &mut [T]) {
    if target.len() == Lanes::<S, T>::LEN {
        return T::store::<S>(lanes, target);
    }
    let mut whole = [T::ZERO; MAX_LANES];
    T::store::<S>(lanes, &mut whole[..Lanes::<S, T>::LEN]);
    for (target, &value) in target.iter_mut().zip(&whole) {
        *target = value;
    }
}

impl<T: Float> FusedEpilogue<'_, T> {
    /// The bias, widened, then zeros; without one -0, which leaves each sum as it is.
    #[inline(always)]
    pub(super) fn load_bias<S: Simd>(&self, simd: S, target: &mut [T::Acc]) {
        #[inline(always)]
        fn widen<S: Simd, T: Float>(simd: S, values: &[T], target: &mut [T::Acc]) {
            let lanes = Lanes::<S, T>::LEN;
            for (target, values) in target.chunks_exact_mut(lanes).zip(values.chunks(lanes)) {
                <T::Acc as Float>::store::<S>(load_some::<S, T>(simd, values), target);
            }
        }
        match self.bias {
            Bias::None => target.fill(-T::Acc::ZERO),
            Bias::Stored(values) => widen(simd, values, target),
            Bias::Computed(values) => widen(simd, values, target),
            #[cfg(feature = "std")]
            Bias::Uniform(value) => target.fill(value),
        }
    }

    /// Finishes the sums of these columns of a row and stores them in `target`, in few steps. False, and nothing
    /// stored, where there is more to do than a bias and relu, or part of a vector.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub(super) fn store_whole<S: Simd, const V: usize>(
        &self,
        simd: S,
        mut sums: [Lanes<S, T>; V],
        cols: Range<usize>,
        target: &mut [T],
    ) -> bool {
        #[inline(always)]
        fn add<S: Simd, T: Float>(simd: S, sums: &mut [Lanes<S, T>], values: Option<&[T]>) -> bool {
            let Some(values) = values else { return bug!(false) };
            for (sum, values) in sums.iter_mut().zip(values.chunks_exact(Lanes::<S, T>::LEN)) {
                *sum += T::load(simd, values);
            }
            true
        }
        let lanes = Lanes::<S, T>::LEN;
        let relu = self.activation == Activation::Relu;
        let is_light = relu || self.activation == Activation::None;
        if !is_light || !matches!(self.residual, Residual::None) || target.len() != V * lanes {
            return false;
        }
        let has_bias = match self.bias {
            Bias::None => true,
            Bias::Stored(values) => add::<S, T>(simd, &mut sums, values.get(cols)),
            Bias::Computed(values) => add::<S, T::Acc>(simd, &mut sums, values.get(cols)),
        };
        let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
        for (&sum, target) in sums.iter().zip(target.chunks_exact_mut(lanes)) {
            T::store::<S>(if relu { sum.simd_le(zero).select(zero, sum) } else { sum }, target);
        }
        has_bias
    }

    /// Finishes sums and stores them in `out`, which begins at a row and a column of the whole: row r's begin at
    /// `r * stride`, and there and in `bias` are whole vectors.
    #[inline(always)]
    pub(super) fn store<S: Simd>(
        &self,
        simd: S,
        sums: &mut [T::Acc],
        stride: usize,
        bias: &[T::Acc],
        position: (usize, usize),
        mut out: MatrixMut<'_, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let (rows, stride) = (out.rows(), stride.max(lanes));
        let Some(sums) = sums.get_mut(..rows * stride) else { return bug!() };
        let bias = bias.get(..stride).unwrap_or(bias);
        let added = !matches!(self.residual, Residual::None);
        if added {
            self.add::<S>(simd, sums, stride, bias, position, &mut out);
        }
        let relu = self.activation == Activation::Relu;
        let light = relu || self.activation == Activation::None;
        let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
        if !light {
            #[cfg(feature = "std")]
            {
                let bias = (!added).then_some(bias);
                // Whole rows of the compute type are written where they belong, others are rounded or cut below.
                let whole = if out.cols() == stride { out.reborrow().same_type() } else { None };
                let is_done = whole.is_some();
                activate::<S, T::Acc>(simd, self.activation, (sums, stride), bias, whole);
                if is_done {
                    return;
                }
            }
            #[cfg(not(feature = "std"))]
            {
                if !added {
                    for (sum, &bias) in sums.iter_mut().zip(bias.iter().cycle()) {
                        *sum += bias;
                    }
                }
                (self.code)(sums);
            }
        }
        for (index, sums) in sums.chunks_exact(stride).enumerate() {
            let Some(target) = out.row_mut(index) else { return bug!() };
            let vectors = sums.chunks_exact(lanes).zip(bias.chunks_exact(lanes)).zip(target.chunks_mut(lanes));
            for ((sums, bias), target) in vectors {
                let mut value = <T::Acc as Float>::load(simd, sums);
                if light {
                    if !added {
                        value += <T::Acc as Float>::load(simd, bias);
                    }
                    if relu {
                        value = value.simd_le(zero).select(zero, value);
                    }
                }
                store_some::<S, T>(value, target);
            }
        }
    }

    /// Adds bias and residual.
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        simd: S,
        sums: &mut [T::Acc],
        stride: usize,
        bias: &[T::Acc],
        (row, col): (usize, usize),
        out: &mut MatrixMut<'_, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        for (index, sums) in sums.chunks_exact_mut(stride).enumerate() {
            let Some(held) = out.row_mut(index) else { return bug!() };
            let residual = match self.residual {
                Residual::Matrix(residual) => residual.block(row + index..row + index + 1, col..col + held.len()),
                _ => (&*held).into(),
            };
            let side_by_side = residual.row(0);
            let vectors = sums.chunks_exact_mut(lanes).zip(bias.chunks_exact(lanes));
            for (start, (sums, bias)) in (0..held.len()).step_by(lanes).zip(vectors) {
                let residual = match side_by_side {
                    Some(row) => load_some::<S, T>(
                        simd,
                        row.get(start..row.len().min(start + lanes)).unwrap_or_else(|| bug!(&[])),
                    ),
                    // Zeros past the last column.
                    None => Lanes::<S, T>::from_fn(
                        simd,
                        lane_fn!(|lane| residual.get(0, start + lane).unwrap_or(T::ZERO).to_acc()),
                    ),
                };
                let sum = <T::Acc as Float>::load(simd, sums) + <T::Acc as Float>::load(simd, bias);
                <T::Acc as Float>::store::<S>(sum + residual, sums);
            }
        }
    }
}

/// Applies `activation` to rows of whole vectors, (all of them, how long each is), after `bias` is added to each row,
/// and writes them to `out` or back. A function of its own, as all storage types share it.
#[cfg(feature = "std")]
#[inline(never)]
fn activate<S: Simd, C: Compute>(
    simd: S,
    activation: Activation,
    sums: (&mut [C], usize),
    bias: Option<&[C]>,
    out: Option<MatrixMut<'_, C>>,
) {
    simd.vectorize(lane_fn!(|| {
        macro_rules! in_step {
                ($($variant:ident)*) => {
                    match activation {
                        $(Activation::$variant => each_few::<S, C>(
                            simd,
                            sums,
                            bias,
                            out,
                            lane_fn!(|vectors| Activation::$variant.apply_unrolled::<S, C, MAP_UNROLL>(simd, vectors)),
                        ),)*
                        Activation::None | Activation::Relu => {}
                    }
                };
            }
        in_step!(Sigmoid Tanh Silu Gelu GeluTanh);
    }));
}

#[cfg(feature = "std")]
#[inline(always)]
fn each_few<S: Simd, C: Compute>(
    simd: S,
    (sums, stride): (&mut [C], usize),
    bias: Option<&[C]>,
    mut out: Option<MatrixMut<'_, C>>,
    apply: impl Fn([C::Lanes<S>; MAP_UNROLL]) -> [C::Lanes<S>; MAP_UNROLL],
) {
    let lanes = C::Lanes::<S>::LEN;
    let step = MAP_UNROLL * lanes;
    let (mut row, mut col) = (0, 0);
    // What is too short is filled up, so that there is one copy of `apply`, and nothing in it depends on how much there
    // is.
    let mut padded = [C::ZERO; MAP_UNROLL * MAX_LANES];
    for few in sums.chunks_mut(step) {
        let len = few.len();
        let is_short = len < step;
        let values = if is_short {
            padded[..len].copy_from_slice(few);
            &mut padded[..step]
        } else {
            &mut *few
        };
        let mut vectors = [C::Lanes::<S>::splat(simd, C::ZERO); MAP_UNROLL];
        let mut places = [(0, 0); MAP_UNROLL];
        for index in 0..MAP_UNROLL {
            vectors[index] = C::load(simd, &values[index * lanes..(index + 1) * lanes]);
            if let Some(bias) = bias.and_then(|bias| bias.get(col..col + lanes)) {
                vectors[index] += C::load(simd, bias);
            }
            places[index] = (row, col);
            col += lanes;
            if col >= stride {
                (row, col) = (row + 1, 0);
            }
        }
        let vectors = apply(vectors);
        for index in 0..MAP_UNROLL {
            let (row, col) = places[index];
            let place = out.as_mut().and_then(|out| out.row_mut(row)).and_then(|row| row.get_mut(col..col + lanes));
            C::store::<S>(vectors[index], place.unwrap_or(&mut values[index * lanes..(index + 1) * lanes]));
        }
        if is_short && out.is_none() {
            few.copy_from_slice(&padded[..len]);
        }
    }
}
