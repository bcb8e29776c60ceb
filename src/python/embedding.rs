//! What stands before and behind a transformer: `embedding` and `mean_pool`. The kernels are in `ops`.

use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::call::{Call, Object, Returned, Signature};
use super::dims::Dims;
use super::dtype::{Dtype, for_dtype};
use super::errors::{Shape, out_of_memory, type_error, value_error, wrong_shape};
use super::launch;
use super::ndarray::NdArray;
use super::out::{Output, Slot};
use super::take::{Array, take, take_ids, take_own, take_selection};
use crate::float::Float;
use crate::ops::embedding::{embedding as look_up, embedding_wide};
use crate::ops::pool::mean_pool_bytes;

/// What one element takes on one core, in nanoseconds, roughly.
const COST: f32 = 0.3;

/// As many values as `items` gives, or a MemoryError.
fn collect<T>(len: usize, items: impl Iterator<Item = PyResult<T>>) -> PyResult<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| out_of_memory())?;
    for item in items.take(len) {
        values.push(item?);
    }
    Ok(values)
}

/// What `take` makes of an argument that may be a tuple of several.
fn several<'py, T>(
    argument: Object<'_, 'py>,
    mut take: impl FnMut(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    match argument.cast::<PyTuple>() {
        Ok(tuple) => collect(tuple.len(), tuple.iter().map(|item| take(&item))),
        Err(_) => collect(1, [take(argument)].into_iter()),
    }
}

/// Numbers of rows of their own, each of which is in range: nobody can change these while they are used.
fn numbers(op: &str, ids: &NdArray<'_>, table: &Array<'_>) -> PyResult<Vec<usize>> {
    let rows = table.shape()[0].unsigned_abs();
    let number = |id: i128| match usize::try_from(id) {
        Ok(number) if number < rows => Ok(number),
        _ => {
            let shape = Shape(table.shape());
            Err(value_error!("{op}: ids has {id}, which is out of range for a table of shape {shape}"))
        }
    };
    collect(ids.len(), ids.operand(op)?.integers().map(number))
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
    let arguments = [("ids", Some(ids)), ("table", Some(table)), ("dtype", dtype), ("out", out)];
    let call = &Call::new(Signature::new(OP), arguments)?;
    let ids = several(ids, |ids| take_ids(OP, "ids", ids)).map_err(|error| call.blame(error))?;
    let tables = several(table, |table| take_own(OP, "table", table)).map_err(|error| call.blame(error))?;
    let named = dtype.map(|dtype| Dtype::from_argument(OP, dtype)).transpose()?;
    call.look_again()?;
    let (count, ids_count) = (tables.len(), ids.len());
    if count == 0 || count != ids_count {
        return Err(value_error!("{OP}: there are {ids_count} arrays of ids and {count} tables"));
    }
    let (shape, stored) = (ids[0].shape(), tables[0].dtype());
    let two_dimensions = |found: &[npy_intp]| {
        let found = Shape(found);
        value_error!("{OP}: table has shape {found}, expected two dimensions")
    };
    let &[_, features] = tables[0].shape() else { return Err(two_dimensions(tables[0].shape())) };
    for table in &tables {
        if table.dtype() != stored {
            let (one, other) = (stored.name(), table.dtype().name());
            return Err(type_error!("{OP}: a table has dtype {one} and another has dtype {other}"));
        }
        match table.shape() {
            &[rows, found] if found != features => {
                let why = format_args!(", as the first table has");
                return Err(wrong_shape(OP, "table", &[rows, found], &[rows, features], why));
            }
            [_, _] => {}
            found => return Err(two_dimensions(found)),
        }
    }
    let wide = stored.compute();
    let dtype = named.unwrap_or(stored);
    if dtype != stored && dtype != wide {
        let (dtype, stored, wide) = (dtype.name(), stored.name(), wide.name());
        return Err(type_error!("{OP}: dtype is {dtype}, expected {stored} or {wide}"));
    }
    for ids in &ids {
        if ids.shape() != shape {
            let why = format_args!(", the shape of the first");
            return Err(wrong_shape(OP, "ids", ids.shape(), shape, why));
        }
    }
    let shape = Dims::new(OP, &[shape, &[features]])?;
    let numbers = collect(count, ids.iter().zip(&tables).map(|(ids, table)| numbers(OP, ids, table)))?;
    let mut slot = Slot::default();
    let mut output = match out {
        None => Output::fresh(&mut slot, py, dtype, &shape)?,
        Some(out) => {
            let tables = collect(count, tables.iter().map(|table| Ok(Some(&**table))))?;
            // Ids were copied: what becomes of them no longer matters.
            let inputs = collect(count + 1, [Ok(None)].into_iter().chain(tables.into_iter().map(Ok)))?;
            Output::given(&mut slot, call, out, dtype, &shape, &inputs, core::iter::empty(), Some(shape.len() - 1))?
        }
    };
    output.make_dense(dtype)?;
    let len = output.written().len();
    if len == 0 {
        return output.finish(call.op);
    }
    let features = features.unsigned_abs();
    let work = len as f32 * count as f32 * COST;
    launch::write(call, &tables[..], output, work, move |tables, mut out| {
        let out = out.dense(len / features, features);
        for_dtype!(stored, T => {
            let tables = tables.iter().map(|table| table.matrix().matrix::<T>());
            let parts = collect(count, tables.zip(&numbers).map(|(table, numbers)| Ok((table, &numbers[..]))))?;
            if dtype == stored {
                look_up(&parts, out.matrix::<T>())?;
            } else {
                embedding_wide::<T>(&parts, out.matrix::<<T as Float>::Acc>())?;
            }
            Ok::<(), PyErr>(())
        })
    })
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
    let call = &Call::new(Signature::new(OP), [("x", Some(x)), ("mask", mask), ("out", out)])?;
    let mut x_slot = None;
    let x = take(OP, "x", x, &mut x_slot).map_err(|error| call.blame(error))?;
    let (py, dtype) = (x.py(), x.dtype());
    let (batch, tokens, features) = match x.shape() {
        [batch @ .., tokens, features] => (batch, *tokens, *features),
        found => {
            let found = Shape(found);
            return Err(value_error!("{OP}: x has shape {found}, expected two dimensions or more"));
        }
    };
    let mask = mask.map(|mask| take_selection(OP, "mask", mask)).transpose().map_err(|error| call.blame(error))?;
    call.look_again()?;
    if let Some(mask) = &mask {
        let expected = Dims::new(OP, &[batch, &[tokens]])?;
        if mask.shape() != &*expected {
            let why = format_args!(", one for each row of x");
            return Err(wrong_shape(OP, "mask", mask.shape(), &expected, why));
        }
    }
    let shape = Dims::new(OP, &[batch, &[features]])?;
    let mut slot = Slot::default();
    let mut output = match out {
        None => Output::fresh(&mut slot, py, dtype, &shape)?,
        Some(out) => {
            let inputs = [None, Some(&**x), mask.as_ref()];
            Output::given(&mut slot, call, out, dtype, &shape, &inputs, core::iter::empty(), Some(shape.len() - 1))?
        }
    };
    output.make_dense(dtype)?;
    let mut dense = None;
    let x = x.contiguous(OP, &mut dense)?;
    let len = output.written().len();
    if len == 0 {
        return output.finish(call.op);
    }
    let (tokens, features) = (tokens.unsigned_abs(), features.unsigned_abs());
    let rows = len / features;
    launch::write(call, [Some(&**x), mask.as_ref()], output, x.len() as f32 * COST, move |[x, mask], mut out| {
        let Some(x) = x else { return Ok(()) };
        let mask = mask.map(|mask| mask.dense(rows, tokens).bytes());
        let (x, out) = (x.dense(rows * tokens, features), out.dense(rows, features));
        for_dtype!(dtype, T => mean_pool_bytes(x.matrix::<T>(), mask, out.matrix::<T>()))
    })
}
