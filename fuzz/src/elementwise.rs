//! Activations, scale, map and dropout_add against the same arithmetic, an element at a time.

use arbitrary::{Arbitrary, Unstructured};
use polyglot_bridge::{
    Activation, Mask, Matrix, MatrixMut, activate, activate_in_place, dropout_add, dropout_add_in_place, map,
    map_in_place, scale, scale_in_place,
};

use super::activation::{Choice, activated};
use super::common::{Op, compute_roundoff, to_f64};
use super::number::{Number, assert_close, least, most};
use super::placement::{Laid, Placement};
use super::sweep;
use super::values::{Kind, Values, shape};

#[derive(Arbitrary, Clone, Debug)]
struct Case {
    kind: Kind,
    rows: u8,
    cols: u8,
    operation: Operation,
    placement: Placement,
    x: Values,
}

#[derive(Arbitrary, Clone, Debug)]
enum Operation {
    Activation(Choice),
    Scale(Values),
    Map,
    DropoutAdd { select: bool, mask: Values, residual: Values, scale: Values, place: Placement },
}

/// Checks the case that these bytes encode, if they encode one.
pub fn run(bytes: &[u8]) {
    if let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) {
        for_kind!(case.kind, check_for(&case));
    }
}

fn check_for<T: Number>(case: &Case) {
    let shape = shape(case.rows, case.cols);
    let x: Vec<T> = case.x.make(shape.0 * shape.1);
    match &case.operation {
        Operation::Activation(choice) => check_activation(case, &x, shape, choice.activation()),
        Operation::Scale(factor) => check_scale(case, &x, shape, factor.one::<T>().to_acc()),
        Operation::Map => check_map(case, &x, shape),
        Operation::DropoutAdd { .. } => check_dropout_add(case, &x, shape),
    }
}

fn check_activation<T: Number>(case: &Case, x: &[T], shape: (usize, usize), activation: Activation) {
    let op = Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| activate(activation, x, out).expect("shapes"),
        |x: MatrixMut<'_, T>| activate_in_place(activation, x).expect("shapes"),
    );
    let rights: Vec<(f64, f64)> = x.iter().map(|&x| activated::<T>(activation, to_f64(x))).collect();
    sweep(&op, x, shape, &case.placement, |level, found| {
        for ((x, &(right, bound)), &found) in x.iter().zip(&rights).zip(found) {
            assert_close(found, right, bound, || format!("{level:?} {activation:?} of {x:?}"));
        }
    });
}

fn check_scale<T: Number>(case: &Case, x: &[T], shape: (usize, usize), factor: T::Acc) {
    let op = Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| scale(x, factor, out).expect("shapes"),
        |x: MatrixMut<'_, T>| scale_in_place(x, factor).expect("shapes"),
    );
    sweep(&op, x, shape, &case.placement, |level, found| {
        for (&x, &found) in x.iter().zip(found) {
            let right = T::from_acc(x.to_acc() * factor);
            let same = found.raw() == right.raw() || found.is_nan() && right.is_nan();
            assert!(same, "{} {level:?}: {x:?} times {factor:?} is {right:?}, not {found:?}", T::NAME);
        }
    });
}

fn check_map<T: Number>(case: &Case, x: &[T], shape: (usize, usize)) {
    let flip = |x: T| T::from_raw(!x.raw());
    let op = Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| map(x, out, flip).expect("shapes"),
        |x: MatrixMut<'_, T>| map_in_place(x, flip).expect("shapes"),
    );
    sweep(&op, x, shape, &case.placement, |level, found| {
        for (&x, &found) in x.iter().zip(found) {
            assert_eq!(flip(x).raw(), found.raw(), "{} {level:?}: map of {x:?} gave {found:?}", T::NAME);
        }
    });
}

fn check_dropout_add<T: Number>(case: &Case, x: &[T], (rows, cols): (usize, usize)) {
    let Operation::DropoutAdd { select, mask, residual, scale, place } = &case.operation else { return };
    let mask: Vec<T> = mask.make(x.len());
    let flags: Vec<bool> = mask.iter().map(|value| value.raw() & 1 == 1).collect();
    let residual: Vec<T> = residual.make(x.len());
    let factor = scale.one::<T>().to_acc();
    let laid = (place.lay(&mask, rows, cols), place.lay(&residual, rows, cols));
    // A row alone is run with its own part of the other operands: which row that is follows from where it lies.
    let operands =
        |rows_asked: usize| Operands { laid: &laid, flags: &flags, rows, cols, rows_asked, alone: alone(case, rows) };
    let op = Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
            let operands = operands(x.rows());
            dropout_add(x, operands.residual(), operands.mask(*select), factor, out).expect("shapes");
        },
        |x: MatrixMut<'_, T>| {
            let operands = operands(x.rows());
            dropout_add_in_place(x, operands.residual(), operands.mask(*select), factor).expect("shapes");
        },
    );
    sweep(&op, x, (rows, cols), &case.placement, |level, found| {
        for (index, &found) in found.iter().enumerate() {
            let (x, residual) = (to_f64(x[index]), to_f64(residual[index]));
            let weight = if *select { f64::from(u8::from(flags[index])) } else { to_f64(mask[index]) };
            let factor = to_f64(factor);
            let what = || format!("{level:?}: {x:e} * {weight:e} * {factor:e} + {residual:e}, select {select}");
            if *select && !flags[index] {
                assert_close(found, residual, 0.0, what);
                continue;
            }
            let first = x * weight;
            let product = first * factor;
            let right = product + residual;
            let finite = [x, weight, factor, residual].into_iter().all(f64::is_finite);
            let size = first.abs().max(product.abs()).max(residual.abs());
            // Where finite factors overflow, it is not said when.
            let overflows = product.is_infinite() && [x, weight, factor].into_iter().all(f64::is_finite);
            if right.is_nan() && !finite && !overflows {
                assert!(found.is_nan(), "{} {}: found {found:?}, right is NaN", T::NAME, what());
            } else if finite && size < most::<T>() / 4.0 {
                let roundoff = compute_roundoff::<T>();
                // For f64 the reference is rounded as often as the kernel.
                let times = if size_of::<T::Acc>() == 8 { 2.0 } else { 1.0 };
                let bound =
                    times * (3.0 * roundoff * (product.abs() + residual.abs()) + (2.0 + factor.abs()) * least::<T>());
                assert_close(found, right, bound, what);
            }
        }
    });
    laid.0.assert_untouched(&mask);
    laid.1.assert_untouched(&residual);
}

/// The row that `sweep` runs alone.
fn alone(case: &Case, rows: usize) -> usize {
    usize::from(case.placement.alone) % rows.max(1)
}

/// Mask and residual, or one row of them.
struct Operands<'a, T> {
    laid: &'a (Laid<T>, Laid<T>),
    flags: &'a [bool],
    rows: usize,
    cols: usize,
    rows_asked: usize,
    alone: usize,
}

impl<'a, T: Number> Operands<'a, T> {
    fn range(&self) -> std::ops::Range<usize> {
        if self.rows_asked == self.rows { 0..self.rows } else { self.alone..self.alone + 1 }
    }

    fn residual(&self) -> Matrix<'a, T> {
        self.laid.1.matrix().block(self.range(), 0..self.cols)
    }

    fn mask(&self, select: bool) -> Mask<'a, T> {
        if select {
            let flags = Matrix::new(self.flags, self.rows, self.cols).expect("dense");
            return flags.block(self.range(), 0..self.cols).into();
        }
        Mask::Multiply(self.laid.0.matrix().block(self.range(), 0..self.cols))
    }
}
