//! `matmul` with the shapes of `np.matmul`. The kernels are in `gemm`.

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;

use super::call::{Call, Names, Object, Returned, Signature};
use super::dims::Dims;
use super::dtype::for_dtype;
use super::errors::{Shape, value_error};
use super::launch;
use super::linear::COST;
use super::ndarray::{NdArray, Place};
use super::out::{Output, Slot};
use super::strides::Plan;
use super::take::{Array, slots, take_all};

#[cold]
fn misfit(op: &str, a: &NdArray<'_>, b: &NdArray<'_>, why: &str) -> PyErr {
    let (a, b) = (Shape(a.shape()), Shape(b.shape()));
    value_error!("{op}: a has shape {a} and b has shape {b}: {why}")
}

/// All but the last so many dimensions.
fn leading(dims: &[npy_intp], last: usize) -> &[npy_intp] {
    &dims[..dims.len().saturating_sub(last)]
}

/// The product of two arrays, by any of its names.
pub(super) fn product<'py>(
    signature: Signature,
    a: Object<'_, 'py>,
    b: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let op = signature.op;
    let (mut slots, arrays) = (slots(), [("a", Some(a)), ("b", Some(b))]);
    let call = &Call::with(signature, arrays, [("out", out)], &mut slots)?;
    let dtype = take_all(op, arrays, &mut slots).map_err(|error| call.blame(error))?;
    let [Some(a), Some(b)] = &slots else { return Err(value_error!("{op}: an array is missing")) };
    call.look_again()?;
    signature.check(dtype)?;
    match (a.shape(), b.shape()) {
        (&[m, k], &[rows, n]) if out.is_none() && rows == k && a.is_c_contiguous() && b.is_c_contiguous() => {
            dense(call, a, b, [m, k, n])
        }
        _ => any(call, a, b, out),
    }
}

/// The dense matrix of a dense `a`, of m rows of k, and a dense `b`, of k rows of n: what most calls want, in little code.
fn dense<'py>(call: &Call<'py>, a: &Array<'py>, b: &Array<'py>, [m, k, n]: [npy_intp; 3]) -> Returned<'py> {
    let dtype = a.dtype();
    let mut slot = Slot::default();
    let output = Output::fresh(&mut slot, a.py(), dtype, &[m, n])?;
    if m == 0 || n == 0 {
        return output.finish(call.op);
    }
    let [m, k, n] = [m, k, n].map(npy_intp::unsigned_abs);
    let work = m as f32 * n as f32 * k as f32;
    launch::write(call, [Some(&**a), Some(&**b)], output, work * COST, move |operands, mut out| {
        let [Some(a), Some(b)] = operands else { return Ok(()) };
        let out = out.dense(m, n);
        for_dtype!(dtype, T => crate::matmul(a.dense_matrix::<T>(m, k), b.dense_matrix::<T>(k, n), out.matrix::<T>()))
    })
}

/// Arrays of any layout and any dimensions.
#[inline(never)]
fn any<'py>(call: &Call<'py>, a: &Array<'py>, b: &Array<'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    let (op, dtype) = (call.op, a.dtype());
    let (py, item) = (a.py(), dtype.size().cast_signed());
    if a.ndim() == 0 || b.ndim() == 0 {
        return Err(misfit(op, a, b, "each needs one dimension at least"));
    }
    // One dimension counts as a row in a and as a column in b.
    let a_place = Place::of(a);
    let b_place = if b.ndim() > 1 {
        Place::of(b)
    } else {
        Place { rows: b.len(), cols: 1, row_stride: b.strides()[0], ..Place::default() }
    };
    let (m, k, n) = (a_place.rows, a_place.cols, b_place.cols);
    if k != b_place.rows {
        return Err(misfit(
            op,
            a,
            b,
            "their inner dimensions differ: the columns of a must be as many as the rows of b",
        ));
    }
    let (a_batch, b_batch) = (leading(a.shape(), 2), leading(b.shape(), 2));
    let mut batch = Dims::EMPTY;
    if !broadcast(op, a_batch, b_batch, &mut batch)? {
        return Err(misfit(op, a, b, "their leading dimensions do not broadcast"));
    }
    let (rows, cols) = ([m.cast_signed()], [n.cast_signed()]);
    let rows: &[npy_intp] = if a.ndim() > 1 { &rows } else { &[] };
    let cols: &[npy_intp] = if b.ndim() > 1 { &cols } else { &[] };
    let mut shape = Dims::EMPTY;
    [&batch, rows, cols].into_iter().try_for_each(|part| shape.append(op, part))?;
    let mut slot = Slot::default();
    let mut output = match out {
        None => Output::fresh(&mut slot, py, dtype, &shape)?,
        Some(out) => {
            let unit = (!shape.is_empty()).then(|| shape.len() - 1);
            Output::given(
                &mut slot,
                call,
                out,
                dtype,
                &shape,
                &[None, Some(&**a), Some(&**b)],
                core::iter::empty(),
                unit,
            )?
        }
    };
    if output.written().len() == 0 {
        return output.finish(call.op);
    }
    let width = n.cast_signed() * item;
    let down = |written: &NdArray<'py>| match (&*written.strides(), rows, cols) {
        ([.., down, _], [_], [_]) | ([.., down], [_], []) => *down,
        _ => width,
    };
    if m > 1 && down(output.written()) < width || !batch.is_empty() && !output.written().is_c_contiguous() {
        output.make_dense(dtype)?;
    }
    let place = Place { offset: 0, rows: m, cols: n, row_stride: down(output.written()), col_stride: item };
    let count = batch.iter().map(|dim| dim.unsigned_abs()).product::<usize>();
    let work = count as f32 * m as f32 * n as f32 * k as f32;
    if batch.is_empty() {
        return launch::write(call, [Some(&**a), Some(&**b)], output, work * COST, move |operands, mut out| {
            let [Some(a), Some(b)] = operands else { return Ok(()) };
            let (a, b, out) = (a.block(a_place), b.block(b_place), out.block(place));
            for_dtype!(dtype, T => crate::matmul(a.matrix::<T>(), b.matrix::<T>(), out.matrix::<T>()))
        });
    }
    // Where b is the same for several products, those of a lie under one another if strides allow it.
    let walked = Dims::new(op, &[&batch, &[m.cast_signed(), n.cast_signed()]])?;
    let steps = |array: &NdArray<'py>, own: &[npy_intp], down: npy_intp| {
        let missing = batch.len() - own.len();
        let step = |axis: usize| match axis.checked_sub(missing) {
            Some(axis) if own[axis] != 1 => array.strides()[axis],
            _ => 0,
        };
        Dims::collect(walked.len(), (0..batch.len()).map(step).chain([down, item]))
    };
    let strides = [
        steps(a, a_batch, a_place.row_stride)?,
        steps(b, b_batch, 0)?,
        steps(output.written(), &batch, place.row_stride)?,
    ];
    let strides = strides.each_ref().map(|strides| &**strides);
    let mut plan = Plan::rows(&walked, strides, walked.len() - 1, n, 2, item.unsigned_abs())?;
    plan.hold(1)?;
    let a_cols = a_place.col_stride;
    launch::write(call, [Some(&**a), Some(&**b)], output, work * COST, move |operands, out| {
        let [Some(a), Some(b)] = operands else { return Ok(()) };
        let ([a_place, _, place], [a_reach, b_reach, reach]) = (plan.places(0), plan.reach());
        let a_place = Place { cols: k, col_stride: a_cols, ..a_place };
        for_dtype!(dtype, T => {
            let (a, b) = (a.matrices::<T>(a_place, a_reach), b.matrices::<T>(b_place, b_reach));
            let out = out.matrices::<T>(place, reach);
            crate::matmul_batch(plan.blocks(), |index| {
                let [in_a, in_b, in_out] = plan.offsets(index);
                // SAFETY: different products of a plan have no element of the result in common, as `out` has none twice,
                // and `matmul_batch` asks for each product again only when it is done with the former matrix of it.
                (a.at(in_a), b.at(in_b), unsafe { out.at(in_out) })
            })
        })
    })
}

/// Appends the shape that two broadcast to. False where they do not.
#[inline]
pub(super) fn broadcast(op: &str, a: &[npy_intp], b: &[npy_intp], both: &mut Dims) -> PyResult<bool> {
    if a.is_empty() && b.is_empty() { Ok(true) } else { broadcast_some(op, a, b, both) }
}

fn broadcast_some(op: &str, a: &[npy_intp], b: &[npy_intp], both: &mut Dims) -> PyResult<bool> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let missing = long.len() - short.len();
    for (axis, &dim) in long.iter().enumerate() {
        let dim = match axis.checked_sub(missing).map(|axis| short[axis]) {
            None | Some(1) => dim,
            Some(other) if dim == 1 || dim == other => other,
            Some(_) => return Ok(false),
        };
        both.append(op, &[dim])?;
    }
    Ok(true)
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
    product(Signature::named("matmul", &Names { x: "a", ..Names::USUAL }), a, b, out)
}
