//! What happens to complete sums: bias, residual, activation, rounding to the storage type. Shared by all ways to
//! compute sums; activations themselves are in `ops::activation`.

use fearless_simd::{Select, Simd, SimdBase};

use super::driver::{Bias, Finish, Residual};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::ops::activation::Activation;
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

/// Rounds and writes the lanes of a vector that `target` has room for.
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

impl<T: Float> Finish<'_, T> {
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
            Bias::One(value) => target.fill(value),
        }
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
        (row, col): (usize, usize),
        mut out: MatrixMut<'_, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let (rows, stride) = (out.rows(), stride.max(1));
        let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
        let relu = self.activation == Activation::Relu;
        let light = relu || self.activation == Activation::None;
        for (index, sums) in sums.chunks_mut(stride).take(rows).enumerate() {
            let Some(target) = out.row_mut(index) else { return };
            let residual = match self.residual {
                Residual::Matrix(residual) => residual.block(row + index..row + index + 1, col..col + target.len()),
                _ => (&[]).into(),
            };
            let side_by_side = residual.row(0).unwrap_or(&[]);
            let vectors = sums.chunks_exact_mut(lanes).zip(bias.chunks_exact(lanes)).zip(target.chunks_mut(lanes));
            for (vector, ((sums, bias), target)) in vectors.enumerate() {
                let mut value = <T::Acc as Float>::load(simd, sums) + <T::Acc as Float>::load(simd, bias);
                let place = vector * lanes..vector * lanes + target.len();
                match self.residual {
                    Residual::None => {}
                    Residual::Out => value += load_some::<S, T>(simd, target),
                    Residual::Matrix(_) => {
                        value += match side_by_side.get(place.clone()) {
                            Some(part) => load_some::<S, T>(simd, part),
                            None => Lanes::<S, T>::from_fn(
                                simd,
                                #[inline(always)]
                                |lane| residual.get(0, place.start + lane).unwrap_or(T::ZERO).to_acc(),
                            ),
                        };
                    }
                }
                if light {
                    let value = if relu { value.simd_le(zero).select(zero, value) } else { value };
                    store_some::<S, T>(value, target);
                } else {
                    <T::Acc as Float>::store::<S>(value, sums);
                }
            }
        }
        if light {
            return;
        }
        activate::<S, T::Acc>(simd, self.activation, sums.get_mut(..rows * stride).unwrap_or(&mut []));
        for (index, sums) in sums.chunks(stride).take(rows).enumerate() {
            let Some(target) = out.row_mut(index) else { return };
            for (sums, target) in sums.chunks_exact(lanes).zip(target.chunks_mut(lanes)) {
                store_some::<S, T>(<T::Acc as Float>::load(simd, sums), target);
            }
        }
    }
}

/// Applies `activation` to whole vectors, several in step. A function of its own, as all storage types share it.
#[inline(never)]
fn activate<S: Simd, C: Compute>(simd: S, activation: Activation, values: &mut [C]) {
    simd.vectorize(
        #[inline(always)]
        || {
            macro_rules! in_step {
                ($($variant:ident)*) => {
                    match activation {
                        $(Activation::$variant => each_pair::<S, C>(
                            simd,
                            values,
                            #[inline(always)]
                            |pair| Activation::$variant.apply_several::<S, C, 2>(simd, pair),
                        ),)*
                        Activation::None | Activation::Relu => {}
                    }
                };
            }
            in_step!(Sigmoid Tanh Silu Gelu GeluTanh);
        },
    );
}

#[inline(always)]
fn each_pair<S: Simd, C: Compute>(simd: S, values: &mut [C], apply: impl Fn([C::Lanes<S>; 2]) -> [C::Lanes<S>; 2]) {
    let lanes = C::Lanes::<S>::LEN;
    let mut pairs = values.chunks_exact_mut(2 * lanes);
    for pair in pairs.by_ref() {
        let (low, high) = pair.split_at_mut(lanes);
        let result = apply([C::load(simd, low), C::load(simd, high)]);
        C::store::<S>(result[0], low);
        C::store::<S>(result[1], high);
    }
    for rest in pairs.into_remainder().chunks_exact_mut(lanes) {
        let value = C::load(simd, rest);
        C::store::<S>(apply([value, value])[0], rest);
    }
}
