//! `matmul` with the shapes of `np.matmul`, and its old names. The kernels are in `gemm`.

use std::format;
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arrays::{NdArray, for_dtype, take_all};
use super::errors::Shape;
use super::layout::{Block, OPERANDS, Plan};
use super::modern::{Call, Object, Returned};
use super::output::Output;
use super::products::{COST, Dims};
use super::rowwise::{KEEP_GIL, released};
use crate::error::ShapeError;
use crate::view::{Matrix, MatrixMut};

/// A matrix of each of a, b and the result.
type Product = [Block; 3];

/// The matrices of an array that stacks them: (rows, columns, row stride, column stride).
type Face = [npy_intp; 4];

#[cold]
fn misfit(op: &str, a: &NdArray<'_>, b: &NdArray<'_>, why: &str) -> PyErr {
    let (a, b) = (Shape(a.shape()), Shape(b.shape()));
    PyValueError::new_err(format!("{op}: a has shape {a} and b has shape {b}: {why}"))
}

fn block(array: &NdArray<'_>, [rows, cols, row_stride, col_stride]: Face) -> Block {
    Block { data: array.data(), rows: rows.unsigned_abs(), cols: cols.unsigned_abs(), row_stride, col_stride }
}

/// The product of two arrays, by any of its names.
fn product<'py>(call: Call, a: Object<'_, 'py>, b: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    let op = call.op;
    let ([Some(a), Some(b)], dtype) = take_all(op, [("a", Some(a)), ("b", Some(b))])? else {
        return Err(PyValueError::new_err("an array is missing"));
    };
    call.check(dtype)?;
    let (py, item) = (a.py(), dtype.size().cast_signed());
    let (a_batch, a_face): (&[npy_intp], Face) = match (a.shape(), a.strides()) {
        ([batch @ .., m, k], [.., down, across]) => (batch, [*m, *k, *down, *across]),
        ([k], [across]) => (&[], [1, *k, *k * item, *across]),
        _ => return Err(misfit(op, &a, &b, "each needs one dimension at least")),
    };
    let (b_batch, b_face): (&[npy_intp], Face) = match (b.shape(), b.strides()) {
        ([batch @ .., k, n], [.., down, across]) => (batch, [*k, *n, *down, *across]),
        ([k], [down]) => (&[], [*k, 1, *down, item]),
        _ => return Err(misfit(op, &a, &b, "each needs one dimension at least")),
    };
    let ([m, k, ..], [b_rows, n, ..]) = (a_face, b_face);
    if k != b_rows {
        return Err(misfit(op, &a, &b, "the columns of a must be as many as the rows of b"));
    }
    let Some(batch) = broadcast(a_batch, b_batch) else {
        return Err(misfit(op, &a, &b, "their leading dimensions do not broadcast"));
    };
    let (rows, cols): ([npy_intp; 1], [npy_intp; 1]) = ([m], [n]);
    let rows: &[npy_intp] = if a.ndim() > 1 { &rows } else { &[] };
    let cols: &[npy_intp] = if b.ndim() > 1 { &cols } else { &[] };
    let shape = Dims::new(op, [&batch, rows, cols])?;
    let mut output = match out {
        None => Output::fresh(py, dtype, &shape)?,
        Some(out) => {
            let unit = (!shape.is_empty()).then(|| shape.len() - 1);
            Output::given(op, out, dtype, &shape, &[None, Some(&*a), Some(&*b)], unit)?
        }
    };
    if output.target().len() == 0 {
        return output.finish();
    }
    let width = n * item;
    let down = |target: &NdArray<'py>| match (target.strides(), rows, cols) {
        ([.., down, _], [_], [_]) | ([.., down], [_], []) => *down,
        _ => width,
    };
    if m > 1 && down(output.target()) < width || !batch.is_empty() && !output.target().is_c_contiguous() {
        output.make_dense(dtype)?;
    }
    let target = output.target();
    let count: usize = batch.iter().map(|dim| dim.unsigned_abs()).product();
    let small = count as f32 * m as f32 * n as f32 * k as f32 * COST < KEEP_GIL;
    let one = [block(&a, a_face), block(&b, b_face), block(target, [m, n, down(target), item])];
    if batch.is_empty() {
        let work = move || {
            // SAFETY: matrices within arrays of this dtype, alive during the call, the last written and apart.
            for_dtype!(dtype, T => unsafe {
                crate::matmul(one[0].matrix::<T>(), one[1].matrix::<T>(), one[2].matrix_mut::<T>())
            })
        };
        if small { work() } else { released(py, work) }?;
        return output.finish();
    }
    let steps = |array: &NdArray<'py>, own: &[npy_intp], down: npy_intp| -> Vec<npy_intp> {
        let missing = batch.len() - own.len();
        let step = |axis: usize| match axis.checked_sub(missing) {
            Some(axis) if own[axis] != 1 => array.strides()[axis],
            _ => 0,
        };
        (0..batch.len()).map(step).chain([down]).collect()
    };
    let strides = [steps(&a, a_batch, a_face[2]), steps(&b, b_batch, 0), steps(target, &batch, one[2].row_stride)];
    let products = stack(&one, &[&batch[..], &[m]].concat(), &strides, item);
    let work = move || {
        // SAFETY: products of arrays of this dtype, alive during the call; results are apart.
        for_dtype!(dtype, T => crate::matmul_batch(products.len(), |index| unsafe { matrices::<T>(&products[index]) }))
    };
    if small { work() } else { released(py, work) }?;
    output.finish()
}

/// The matrices of a product.
///
/// # Safety
///
/// The blocks lie in arrays of `T` that are alive during `'a`; nothing else reads or writes the last one.
unsafe fn matrices<'a, T: Copy>([a, b, out]: &Product) -> (Matrix<'a, T>, Matrix<'a, T>, MatrixMut<'a, T>) {
    // SAFETY: the caller's promise.
    unsafe { (a.matrix::<T>(), b.matrix::<T>(), out.matrix_mut::<T>()) }
}

/// The products of a stack; where b is the same for several, those of a lie under one another if strides allow it.
fn stack(one: &Product, shape: &[npy_intp], strides: &[Vec<npy_intp>; 3], item: npy_intp) -> Vec<Product> {
    let [a, b, out] = one;
    let strides = strides.each_ref().map(Vec::as_slice);
    let mut plan = Plan::rows(shape, &strides, out.cols, &[], 2, item.unsigned_abs());
    plan.hold(1);
    let mut products = Vec::with_capacity(plan.blocks());
    let _ = plan.for_each([a.data, b.data, out.data, out.data], |blocks: &[Block; OPERANDS]| {
        products.push([
            Block { cols: a.cols, col_stride: a.col_stride, ..blocks[0] },
            Block { data: blocks[1].data, ..*b },
            blocks[2],
        ]);
        Ok::<(), ShapeError>(())
    });
    products
}

/// The shape that two broadcast to.
pub(super) fn broadcast(a: &[npy_intp], b: &[npy_intp]) -> Option<Vec<npy_intp>> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let mut shape = long.to_vec();
    let missing = long.len() - short.len();
    for (dim, &other) in shape[missing..].iter_mut().zip(short) {
        match (*dim, other) {
            (one, other) if one == other => {}
            (1, other) => *dim = other,
            (_, 1) => {}
            _ => return None,
        }
    }
    Some(shape)
}

/// The matrix product ``a @ b``, with the shapes of `numpy.matmul`.
///
/// Parameters
/// ----------
/// a, b : array_like
///     Of shapes (..., m, k) and (..., k, n), one dtype and any strides: float16, bfloat16, float32 or float64. Leading
///     dimensions broadcast. One dimension counts as a row in `a` and as a column in `b`, and is left out of the result.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., m, n); `out` where that is given. float16 and bfloat16 are summed in float32 and rounded once.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     Shapes do not fit, or `out` is read-only.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.matmul(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]]))
/// array([[19., 22.],
///        [43., 50.]])
#[pyfunction]
#[pyo3(signature = (a, b, *, out=None))]
pub(super) fn matmul<'py>(a: Object<'_, 'py>, b: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    product(Call::legacy("matmul", "a", false), a, b, out)
}

/// ``a @ b``: `matmul`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// a, b : array_like
///     Of shapes (..., m, k) and (..., k, n) and one dtype: float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., m, n).
///
/// See Also
/// --------
/// matmul
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.matmul_numpy(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
/// array([[11.]])
#[pyfunction]
#[pyo3(signature = (a, b, *, out=None))]
pub(super) fn matmul_numpy<'py>(a: Object<'_, 'py>, b: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    product(Call::legacy("matmul_numpy", "a", false), a, b, out)
}

/// ``a @ b`` for float32 only: `matmul` takes every dtype.
///
/// Parameters
/// ----------
/// a, b : ndarray of float32
///     Of shapes (..., m, k) and (..., k, n).
/// out : ndarray, optional
///     Where to write the result.
///
/// Returns
/// -------
/// ndarray of float32
///     Of shape (..., m, n).
///
/// See Also
/// --------
/// matmul
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.matmul_numpy_f32(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32))
/// array([[2.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (a, b, *, out=None))]
pub(super) fn matmul_numpy_f32<'py>(
    a: Object<'_, 'py>,
    b: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    product(Call::legacy("matmul_numpy_f32", "a", true), a, b, out)
}
