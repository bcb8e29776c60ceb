//! Runs operations whose result has the shape of their input, element by element or row by row along an axis, on arrays
//! of any layout. The operations themselves are in `modern`.

use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::arguments::Optional;
use super::arrays::{Array, Dtype, NdArray, for_dtype};
use super::errors::{type_name, wrong_axis};
use super::layout::{Block, OPERANDS, Plan};
use super::output::Output;
use crate::error::Error;
use crate::float::Float;
use crate::trace::{Event, note};
use crate::view::MatrixMut;

/// Work below this many nanoseconds is done without giving up the GIL, which itself costs some 50.
pub(super) const KEEP_GIL: f32 = 10_000.0;

/// An operation whose operands and result have one shape.
pub(super) trait Operation: Sync {
    /// What one element takes on one core, in nanoseconds, roughly.
    fn cost(&self) -> f32;

    /// Computes `out` from the inputs.
    ///
    /// # Safety
    ///
    /// The blocks lie in live arrays of the dtypes that the call was made with, `T` being the common one.
    unsafe fn run<T: Float>(&self, inputs: &[Block; OPERANDS], out: MatrixMut<'_, T>) -> Result<(), Error>;

    /// The same where `out` holds the first input.
    ///
    /// # Safety
    ///
    /// As for [`run`](Operation::run).
    unsafe fn run_in_place<T: Float>(&self, inputs: &[Block; OPERANDS], out: MatrixMut<'_, T>) -> Result<(), Error>;
}

/// The axis that an argument names, among `ndim`; a 0-d array counts as a row of one element.
#[inline]
pub(super) fn axis_of(op: &str, axis: &Optional<'_, '_>, ndim: usize) -> PyResult<usize> {
    match axis {
        Optional::Default => Ok(ndim.saturating_sub(1)),
        Optional::Given(axis) => find_axis(op, axis, ndim),
    }
}

fn find_axis(op: &str, axis: &Bound<'_, PyAny>, ndim: usize) -> PyResult<usize> {
    let number = match axis.cast_exact::<PyInt>() {
        Ok(number) => number.clone().into_any(),
        Err(_) => index(op, axis)?,
    };
    let dims = ndim.max(1).cast_signed();
    match number.extract::<isize>() {
        Ok(number) if (-dims..dims).contains(&number) => {
            Ok(if number < 0 { number + dims } else { number }.unsigned_abs())
        }
        _ => Err(wrong_axis(axis.py(), op, &number, ndim)),
    }
}

/// `operator.index`
fn index<'py>(op: &str, axis: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the object is alive.
    let number = unsafe { Bound::from_owned_ptr_or_err(axis.py(), pyo3::ffi::PyNumber_Index(axis.as_ptr())) };
    number.map_err(|_| {
        let kind = type_name(axis);
        pyo3::exceptions::PyTypeError::new_err(std::format!("{op}: axis must be an integer, not {kind}"))
    })
}

/// Runs `operation` on `x` and `others`, which have one shape. `axis` is the axis along which rows lie, `None` for
/// element-wise operations. `also_read` are further arrays that `out` must not be written over.
#[inline]
pub(super) fn run<'py, O: Operation>(
    op: &str,
    operation: &O,
    x: &Array<'py>,
    others: &[&NdArray<'py>],
    also_read: &[&NdArray<'py>],
    axis: Option<usize>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = x.py();
    let last = axis.is_none_or(|axis| axis + 1 >= x.ndim());
    let dense = last && x.is_c_contiguous() && others.iter().all(|other| other.is_c_contiguous());
    let output = match out {
        None if dense => Output::fresh(py, x.dtype(), x.shape())?,
        None => Output::fresh_like(x, axis)?,
        Some(out) => {
            let mut inputs = [None; 6];
            let read = [&**x].into_iter().chain(others.iter().copied()).chain(also_read.iter().copied());
            inputs.iter_mut().zip(read).for_each(|(slot, array)| *slot = Some(array));
            Output::given(op, out, x.dtype(), x.shape(), &inputs, axis)?
        }
    };
    let len = x.len();
    if len == 0 {
        return output.finish();
    }
    let target = output.target();
    let in_place = output.in_place();
    let mut data = [target.data(); OPERANDS];
    data[0] = x.data();
    for (data, other) in data[1..].iter_mut().zip(others) {
        *data = other.data();
    }
    if dense && target.is_c_contiguous() {
        let cols = match axis {
            Some(axis) => x.shape().get(axis).map_or(1, |cols| cols.unsigned_abs()),
            None => len,
        };
        let item = x.dtype().size();
        let mut blocks = [Block {
            data: target.data(),
            rows: len / cols,
            cols,
            row_stride: (cols * item).cast_signed(),
            col_stride: item.cast_signed(),
        }; OPERANDS];
        for (operand, block) in blocks.iter_mut().enumerate() {
            block.data = data[operand];
        }
        for (block, other) in blocks[1..].iter_mut().zip(others) {
            let item = other.itemsize();
            (block.row_stride, block.col_stride) = ((cols * item).cast_signed(), item.cast_signed());
        }
        let dtype = x.dtype();
        // SAFETY: dense arrays of one shape, alive during this call.
        let work = move || unsafe { on_block(operation, dtype, &blocks, in_place) };
        if len as f32 * operation.cost() < KEEP_GIL { work() } else { released(py, work) }?;
    } else {
        scattered(operation, x, others, target, data, axis, in_place)?;
    }
    output.finish()
}

/// Runs `operation` where some operand is not dense.
#[cold]
fn scattered<'py, O: Operation>(
    operation: &O,
    x: &Array<'py>,
    others: &[&NdArray<'py>],
    target: &NdArray<'py>,
    data: [*mut u8; OPERANDS],
    axis: Option<usize>,
    in_place: bool,
) -> Result<(), Error> {
    let item = x.dtype().size();
    let arrays: Vec<&NdArray<'py>> =
        [&**x].into_iter().chain(others.iter().copied()).chain((1 + others.len()..OPERANDS).map(|_| target)).collect();
    let plan = match axis {
        Some(axis) if x.ndim() > 0 => {
            let without = |values: &[npy_intp]| {
                let mut values = values.to_vec();
                values.remove(axis);
                values
            };
            let strides: Vec<Vec<npy_intp>> = arrays.iter().map(|array| without(array.strides())).collect();
            let strides: Vec<&[npy_intp]> = strides.iter().map(Vec::as_slice).collect();
            let across: Vec<isize> = arrays.iter().map(|array| array.strides()[axis]).collect();
            let cols = x.shape()[axis].unsigned_abs();
            Plan::rows(&without(x.shape()), &strides, cols, &across, OPERANDS - 1, item)
        }
        _ => {
            let strides: Vec<&[npy_intp]> = arrays.iter().map(|array| array.strides()).collect();
            Plan::elements(x.shape(), &strides, OPERANDS - 1, item)
        }
    };
    let data = Addresses(data);
    let (dtype, plan) = (x.dtype(), &plan);
    let work = move || {
        let data = data;
        // SAFETY: the plan stays within the arrays, which live during this call and have the dtypes promised.
        plan.for_each(data.0, |blocks| unsafe { on_block(operation, dtype, blocks, in_place) })
    };
    if x.len() as f32 * operation.cost() < KEEP_GIL { work() } else { released(x.py(), work) }
}

/// Runs `work` without the GIL.
pub(super) fn released<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    note(|| Event::Released);
    py.detach(work)
}

/// Addresses that cross into the part of a call that runs without the GIL.
#[derive(Clone, Copy)]
pub(super) struct Addresses(pub(super) [*mut u8; OPERANDS]);

// SAFETY: what is read and written through them is promised where they become matrices.
unsafe impl Send for Addresses {}

/// # Safety
///
/// The blocks lie in live arrays, all of `dtype` but for those that `operation` takes otherwise; the last is written.
#[inline]
unsafe fn on_block<O: Operation>(
    operation: &O,
    dtype: Dtype,
    blocks: &[Block; OPERANDS],
    in_place: bool,
) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    for_dtype!(dtype, T => unsafe {
        let out = blocks[OPERANDS - 1].matrix_mut::<T>();
        if in_place { operation.run_in_place::<T>(blocks, out) } else { operation.run::<T>(blocks, out) }
    })
}
