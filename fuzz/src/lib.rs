//! Fuzz targets, one a module with a function `run` that takes bytes; and what they share: cases decoded from bytes,
//! operands laid out in memory in every way there is, and the sweep that runs an operation at each CPU level and sees
//! that it wrote what it must and nothing else. What feeds them bytes lives elsewhere: fuzz_targets/ for libFuzzer,
//! tests/fuzz.rs of the crate itself for the corpus and a few cases more in each test run.

/// Runs a generic function for the storage type that a [`values::Kind`] names.
macro_rules! for_kind {
    ($kind:expr, $function:ident($($argument:expr),*)) => {
        match $kind {
            super::values::Kind::F16 => $function::<half::f16>($($argument),*),
            super::values::Kind::Bf16 => $function::<half::bf16>($($argument),*),
            super::values::Kind::F32 => $function::<f32>($($argument),*),
            super::values::Kind::F64 => $function::<f64>($($argument),*),
        }
    };
}

#[path = "../../tests/common/mod.rs"]
mod common;

mod activation;
mod number;
mod placement;
mod values;

pub mod elementwise;
pub mod layer_norm;
pub mod linear;
pub mod reduce;
pub mod softmax;

use polyglot_bridge::simd::Level;
use polyglot_bridge::{Matrix, MatrixMut};

use self::common::{RowOp, for_each_level};
use self::number::Number;
use self::placement::{PATTERNS, Placement};

/// Runs `op` at each CPU level: on dense operands, laid out as `placement` says over two different contents of the
/// result, in place, and on a row alone. All must give the same bits, which `check` is given; nothing but the result
/// may be written.
pub(crate) fn sweep<T: Number>(
    op: &impl RowOp<T>,
    x: &[T],
    (rows, cols): (usize, usize),
    placement: &Placement,
    mut check: impl FnMut(Level, &[T]),
) {
    let laid = placement.lay(x, rows, cols);
    for_each_level(|level| {
        let mut dense = vec![T::from_raw(PATTERNS[0]); rows * cols];
        op.apart(Matrix::new(x, rows, cols).expect("dense"), MatrixMut::new(&mut dense, rows, cols).expect("dense"));
        for pattern in PATTERNS {
            let mut out = placement.room(rows, cols, pattern);
            op.apart(laid.matrix(), out.matrix());
            assert_same(&dense, &out.finish(), cols, || format!("{level:?} laid out as {placement:?}"));
        }
        let mut out = placement.room(rows, cols, PATTERNS[0]);
        out.fill(x);
        op.in_place(out.matrix());
        assert_same(&dense, &out.finish(), cols, || format!("{level:?} in place"));
        if rows > 1 {
            let row = usize::from(placement.alone) % rows;
            let range = row * cols..(row + 1) * cols;
            let mut alone = vec![T::from_raw(PATTERNS[1]); cols];
            op.apart((&x[range.clone()]).into(), (&mut alone[..]).into());
            assert_same(&dense[range], &alone, cols, || format!("{level:?}: row {row} alone"));
        }
        check(level, &dense);
    });
    laid.assert_untouched(x);
}

/// Sees that two results have the same bits; NaNs are all the same.
pub(crate) fn assert_same<T: Number>(a: &[T], b: &[T], cols: usize, what: impl Fn() -> String) {
    assert_eq!(a.len(), b.len());
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let same = a.raw() == b.raw() || a.is_nan() && b.is_nan();
        let (row, col) = (index / cols.max(1), index % cols.max(1));
        assert!(same, "{} {}: ({row}, {col}) is {b:?}, dense and apart {a:?}", T::NAME, what());
    }
}

/// The numbers that make cases beyond the corpus.
pub fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut random = common::Random::new(seed);
    move |end| random.below(end)
}
