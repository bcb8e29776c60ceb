//! What stands before and behind a transformer: `embedding` and `mean_pool`. The kernels are in `ops`.

use std::format;
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{Array, MaskArray, NdArray, for_dtype, take, take_mask};
use super::errors::{Shape, type_name, wrong_shape};
use super::layers::{compute, dtype_of};
use super::layout::Block;
use super::modern::{Object, Returned};
use super::output::Output;
use super::products::{Dims, block_of};
use super::rowwise::{KEEP_GIL, released};
use crate::float::Float;
use crate::ops::embedding::{embedding as look_up, embedding_wide};
use crate::ops::pool::mean_pool_bytes;

/// What one element takes on one core, in nanoseconds, roughly.
const COST: f32 = 0.3;

/// An argument that may be a tuple of several.
fn several<'py>(argument: Object<'_, 'py>) -> Vec<Bound<'py, PyAny>> {
    argument.cast::<PyTuple>().map_or_else(|_| std::vec![argument.clone()], |tuple| tuple.iter().collect())
}

/// Numbers of rows, as `intp` side by side.
fn take_ids<'py>(ids: Object<'_, 'py>) -> PyResult<NdArray<'py>> {
    let numpy = ids.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (ids,))?;
    let kind = array.getattr("dtype")?.getattr("kind")?.extract::<char>()?;
    let empty = array.getattr("size")?.extract::<usize>()? == 0;
    if !matches!(kind, 'i' | 'u') && !empty {
        let dtype = array.getattr("dtype")?;
        return Err(PyTypeError::new_err(format!("embedding: ids has dtype {dtype}, expected integers")));
    }
    let array = numpy.call_method1("asarray", (array, "intp", "C"))?;
    NdArray::any(&array)
        .ok_or_else(|| PyTypeError::new_err(format!("embedding: ids must be an array, not {}", type_name(ids))))
}

/// Rows of tables by number: ``table[ids]``, or the sum of several such.
///
/// Parameters
/// ----------
/// ids : array_like of int, or tuple of them
///     Numbers of rows, of any shape.
/// table : array_like, or tuple of them
///     Of shape (rows, features), one for each array of `ids`, of one dtype: float16, bfloat16, float32 or float64.
/// dtype : dtype or str, optional
///     That of the result: that of the tables, or float32 where those are of two bytes.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype.
///
/// Returns
/// -------
/// ndarray
///     Of the shape of `ids` and (features,); `out` where that is given. Sums are taken in order, in float32 for tables of
///     two bytes, and rounded once.
///
/// Raises
/// ------
/// TypeError
///     `ids` are no integers, a table is no array of floats, or tables differ in dtype.
/// ValueError
///     An id is out of range, or shapes do not fit.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> words, places = np.array([[1.0], [2.0]]), np.array([[10.0], [20.0], [30.0]])
/// >>> pb.embedding(([1, 0, 1], [0, 1, 2]), (words, places))
/// array([[12.],
///        [21.],
///        [32.]])
#[pyfunction]
#[pyo3(signature = (ids, table, *, dtype=None, out=None))]
pub(super) fn embedding<'py>(
    ids: Object<'_, 'py>,
    table: Object<'_, 'py>,
    dtype: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    const OP: &str = "embedding";
    let py = ids.py();
    let (ids, tables) = (several(ids), several(table));
    let (count, ids_count) = (tables.len(), ids.len());
    if count == 0 || count != ids_count {
        return Err(PyValueError::new_err(format!("{OP}: there are {ids_count} arrays of ids and {count} tables")));
    }
    let ids = ids.iter().map(take_ids).collect::<PyResult<Vec<NdArray<'py>>>>()?;
    let tables = tables.iter().map(|table| take(OP, "table", table)).collect::<PyResult<Vec<Array<'py>>>>()?;
    let (shape, stored) = (ids[0].shape(), tables[0].dtype());
    let features = match tables[0].shape() {
        &[_, features] => features,
        found => {
            let found = Shape(found);
            return Err(PyValueError::new_err(format!("{OP}: table has shape {found}, expected two dimensions")));
        }
    };
    for table in &tables {
        if table.dtype() != stored {
            let (one, other) = (stored.name(), table.dtype().name());
            return Err(PyTypeError::new_err(format!("{OP}: a table has dtype {one} and another has dtype {other}")));
        }
        match table.shape() {
            &[rows, found] if found != features => {
                return Err(wrong_shape(OP, "table", &[rows, found], &[rows, features], ", as the first table has"));
            }
            [_, _] => {}
            found => {
                let found = Shape(found);
                return Err(PyValueError::new_err(format!("{OP}: table has shape {found}, expected two dimensions")));
            }
        }
    }
    let wide = compute(stored);
    let dtype = dtype.map(|dtype| dtype_of(py, dtype)).transpose()?.unwrap_or(stored);
    if dtype != stored && dtype != wide {
        let (dtype, stored, wide) = (dtype.name(), stored.name(), wide.name());
        return Err(PyTypeError::new_err(format!("{OP}: dtype is {dtype}, expected {stored} or {wide}")));
    }
    for (ids, table) in ids.iter().zip(&tables) {
        if ids.shape() != shape {
            return Err(wrong_shape(OP, "ids", ids.shape(), shape, ", the shape of the first"));
        }
        let rows = table.shape()[0];
        if let Some(id) = numbers(ids).iter().find(|id| !(0..rows).contains(*id)) {
            let rows = Shape(table.shape());
            return Err(PyValueError::new_err(format!(
                "{OP}: ids has {id}, which is out of range for a table of shape {rows}"
            )));
        }
    }
    let shape = Dims::new(OP, [shape, &[features], &[]])?;
    let mut output = match out {
        None => Output::fresh(py, dtype, &shape)?,
        Some(out) => {
            let mut inputs = std::vec![None];
            inputs.extend(ids.iter().map(Some));
            inputs.extend(tables.iter().map(|table| Some(&**table)));
            Output::given(OP, out, dtype, &shape, &inputs, Some(shape.len() - 1))?
        }
    };
    output.make_dense(dtype)?;
    let target = output.target();
    if target.len() == 0 {
        return output.finish();
    }
    let out = rows_of(target, features);
    let parts: Vec<(Block, &[usize])> = ids
        .iter()
        .zip(&tables)
        .map(|(ids, table)| {
            let ids = numbers(ids);
            // SAFETY: the same numbers, none of which is negative.
            (block_of(table), unsafe { core::slice::from_raw_parts(ids.as_ptr().cast(), ids.len()) })
        })
        .collect();
    let work = target.len() as f32 * count as f32 * COST;
    let run = move || {
        for_dtype!(stored, T => {
            // SAFETY: blocks of live arrays of this dtype.
            let parts: Vec<_> = parts.iter().map(|(table, ids)| (unsafe { table.matrix::<T>() }, *ids)).collect();
            // SAFETY: the result is an array of its own, of one dtype or the other.
            unsafe {
                if dtype == stored {
                    look_up(&parts, out.matrix_mut::<T>())
                } else {
                    embedding_wide::<T>(&parts, out.matrix_mut::<<T as Float>::Acc>())
                }
            }
        })
    };
    if work < KEEP_GIL { run() } else { released(py, run) }?;
    output.finish()
}

/// The numbers of an array that `take_ids` made.
fn numbers<'a>(ids: &'a NdArray<'_>) -> &'a [npy_intp] {
    match ids.len() {
        0 => &[],
        // SAFETY: a contiguous array of `intp`, alive during the call, which nothing writes to meanwhile.
        len => unsafe { core::slice::from_raw_parts(ids.data().cast(), len) },
    }
}

/// A dense array as rows of so many elements.
fn rows_of(array: &NdArray<'_>, cols: npy_intp) -> Block {
    let (len, item) = (array.len(), array.itemsize().cast_signed());
    let cols = cols.unsigned_abs();
    let row_stride = cols.cast_signed() * item;
    Block { data: array.data(), rows: len / cols.max(1), cols, row_stride, col_stride: item }
}

/// The mean of each sequence's rows, but for those that a mask hides.
///
/// Parameters
/// ----------
/// x : array_like
///     Of shape (..., tokens, features): float16, bfloat16, float32 or float64.
/// mask : array_like of bool or int, optional
///     Of shape (..., tokens): True for rows that count. What the others hold does not matter, were it NaN.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., features); `out` where that is given. A sequence of which no row counts becomes zeros. float16 and
///     bfloat16 are summed in float32 and rounded once.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `mask` holds neither bools nor integers.
/// ValueError
///     Shapes do not fit, or `out` is read-only.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.mean_pool(np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, 0.0]]), [True, True, False])
/// array([2., 4.])
#[pyfunction]
#[pyo3(signature = (x, mask=None, *, out=None))]
pub(super) fn mean_pool<'py>(
    x: Object<'_, 'py>,
    mask: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    const OP: &str = "mean_pool";
    let x = take(OP, "x", x)?;
    let (py, dtype) = (x.py(), x.dtype());
    let (batch, tokens, features) = match x.shape() {
        [batch @ .., tokens, features] => (batch, *tokens, *features),
        found => {
            let found = Shape(found);
            return Err(PyValueError::new_err(format!("{OP}: x has shape {found}, expected two dimensions or more")));
        }
    };
    let mask = match mask.map(|mask| take_mask(OP, "mask", mask, dtype)).transpose()? {
        None => None,
        Some(MaskArray::Selects(mask)) if mask.is_c_contiguous() => Some(mask),
        Some(MaskArray::Selects(mask)) => NdArray::any(&mask.into_object().call_method0("copy")?),
        Some(MaskArray::Multiplies(mask)) => {
            let found = mask.dtype().name();
            return Err(PyTypeError::new_err(format!("{OP}: mask has dtype {found}, expected bool or integers")));
        }
    };
    if let Some(mask) = &mask {
        let expected = Dims::new(OP, [batch, &[tokens], &[]])?;
        if mask.shape() != &*expected {
            return Err(wrong_shape(OP, "mask", mask.shape(), &expected, ", one for each row of x"));
        }
    }
    let shape = Dims::new(OP, [batch, &[features], &[]])?;
    let mut output = match out {
        None => Output::fresh(py, dtype, &shape)?,
        Some(out) => Output::given(OP, out, dtype, &shape, &[None, Some(&*x), mask.as_ref()], Some(shape.len() - 1))?,
    };
    output.make_dense(dtype)?;
    let x = x.contiguous()?;
    let target = output.target();
    if target.len() == 0 {
        return output.finish();
    }
    let (source, result) = (rows_of(&x, features), rows_of(target, features));
    let mask = mask.map(|mask| Block {
        data: mask.data(),
        rows: result.rows,
        cols: tokens.unsigned_abs(),
        row_stride: tokens,
        col_stride: 1,
    });
    let work = x.len() as f32 * COST;
    let run = move || {
        // SAFETY: dense arrays of this dtype and a mask of bytes, alive during the call; the result is one of its own.
        for_dtype!(dtype, T => unsafe {
            let mask = mask.map(|mask| mask.matrix::<u8>());
            mean_pool_bytes(source.matrix::<T>(), mask, result.matrix_mut::<T>())
        })
    };
    if work < KEEP_GIL { run() } else { released(py, run) }?;
    output.finish()
}
