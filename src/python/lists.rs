//! The three functions of polyglot-bridge 0.2.0 on lists: Python numbers in, Python numbers out, computed in float64.

use std::format;
use std::ptr;
use std::vec::Vec;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyList, PySequence, PyString};

use super::arguments;
use super::arrays::{Array, take_f64};
use super::errors::{Shape, type_name};
use crate::view::{Matrix, MatrixMut};

/// The numbers of a list, of another sequence or of a one-dimensional array.
fn numbers(op: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    if let Ok(list) = object.cast_exact::<PyList>() {
        return list.iter().enumerate().map(|(index, item)| number(op, name, index, &item)).collect();
    }
    if object.hasattr("__array__")? {
        let array = take_f64(op, name, object)?;
        if array.ndim() != 1 {
            let shape = Shape(array.shape());
            return Err(PyValueError::new_err(format!("{op}: {name} has shape {shape}, expected one dimension")));
        }
        return values_of(&array);
    }
    let items = sequence(op, name, object, "numbers")?;
    items.iter().enumerate().map(|(index, item)| number(op, name, index, &item)).collect()
}

/// The elements of a float64 array, in C order.
fn values_of(array: &Array<'_>) -> PyResult<Vec<f64>> {
    let array = array.contiguous()?;
    let mut values = zeros(array.len())?;
    if !values.is_empty() {
        // SAFETY: a contiguous float64 array of as many elements.
        unsafe { ptr::copy_nonoverlapping(array.data(), values.as_mut_ptr().cast::<u8>(), size_of_val(&values[..])) };
    }
    Ok(values)
}

/// That many zeros, or a MemoryError.
fn zeros(len: usize) -> PyResult<Vec<f64>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| PyMemoryError::new_err(format!("no memory for {len} numbers")))?;
    values.resize(len, 0.0);
    Ok(values)
}

/// A sequence other than a string, as a list.
fn sequence<'py>(op: &str, name: &str, object: &Bound<'py, PyAny>, of: &str) -> PyResult<Bound<'py, PyList>> {
    match object.cast::<PySequence>() {
        Ok(sequence) if !object.is_instance_of::<PyString>() => sequence.to_list(),
        _ => {
            let kind = type_name(object);
            Err(PyTypeError::new_err(format!("{op}: {name} must be a sequence of {of}, not {kind}")))
        }
    }
}

fn number(op: &str, name: &str, index: usize, item: &Bound<'_, PyAny>) -> PyResult<f64> {
    if let Ok(item) = item.cast_exact::<PyFloat>() {
        return Ok(item.value());
    }
    item.extract::<f64>().map_err(|error| {
        if error.is_instance_of::<PyTypeError>(item.py()) {
            let kind = type_name(item);
            PyTypeError::new_err(format!("{op}: {name}[{index}] must be a number, not {kind}"))
        } else {
            error
        }
    })
}

fn not_empty(op: &str, name: &str, values: Vec<f64>) -> PyResult<Vec<f64>> {
    if values.is_empty() {
        return Err(PyValueError::new_err(format!("{op}: {name} is empty")));
    }
    Ok(values)
}

/// A matrix given as a sequence of rows, or as a two-dimensional array: its values, rows and columns.
fn matrix(op: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<(Vec<f64>, usize, usize)> {
    if object.hasattr("__array__")? {
        let array = take_f64(op, name, object)?;
        let &[rows, cols] = array.shape() else {
            let shape = Shape(array.shape());
            return Err(PyValueError::new_err(format!("{op}: {name} has shape {shape}, expected two dimensions")));
        };
        let values = values_of(&array)?;
        return if values.is_empty() {
            Err(PyValueError::new_err(format!("{op}: {name} is empty")))
        } else {
            Ok((values, rows.unsigned_abs(), cols.unsigned_abs()))
        };
    }
    let sequence = sequence(op, name, object, "rows")?;
    let mut values = Vec::new();
    let (mut rows, mut cols) = (0, 0);
    for (index, row) in sequence.iter().enumerate() {
        let row = numbers(op, &format!("{name}[{index}]"), &row)?;
        if index == 0 {
            cols = row.len();
        } else if row.len() != cols {
            let len = row.len();
            return Err(PyValueError::new_err(format!(
                "{op}: {name} is ragged: {name}[0] has {cols} numbers, {name}[{index}] has {len}"
            )));
        }
        values.extend_from_slice(&row);
        rows += 1;
    }
    if rows == 0 || cols == 0 {
        return Err(PyValueError::new_err(format!("{op}: {name} is empty")));
    }
    Ok((values, rows, cols))
}

/// The sum of the squares of a sequence of numbers.
///
/// Parameters
/// ----------
/// numbers : sequence of float
///     A list, another sequence, or a one-dimensional array.
///
/// Returns
/// -------
/// float
///     The sum, computed in float64.
///
/// Raises
/// ------
/// ValueError
///     `numbers` is empty.
/// RuntimeError
///     The result is infinite.
/// TypeError
///     An item is no number.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.sum_of_squares([1.0, 2.0, 3.0])
/// 14.0
#[pyfunction]
#[pyo3(name = "sum_of_squares", signature = (numbers))]
pub(super) fn sum_of_squares(numbers: &Bound<'_, PyAny>) -> PyResult<f64> {
    const OP: &str = "sum_of_squares";
    let values = not_empty(OP, "numbers", self::numbers(OP, "numbers", numbers)?)?;
    let sum = numbers.py().detach(|| crate::sum_of_squares(&values[..]));
    if sum.is_infinite() {
        return Err(PyRuntimeError::new_err(format!("{OP}: the result is infinite")));
    }
    Ok(sum)
}

/// The product of two matrices given as lists of rows.
///
/// Parameters
/// ----------
/// a, b : sequence of sequences of float
///     Of m rows of k numbers and k rows of n numbers; two-dimensional arrays as well.
///
/// Returns
/// -------
/// list of list of float
///     m rows of n numbers, computed in float64.
///
/// Raises
/// ------
/// ValueError
///     A matrix is empty or ragged, or the shapes do not fit.
/// TypeError
///     An item is no number.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.matrix_multiply([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]])
/// [[19.0, 22.0], [43.0, 50.0]]
#[pyfunction]
pub(super) fn matrix_multiply<'py>(a: &Bound<'py, PyAny>, b: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    const OP: &str = "matrix_multiply";
    let (a, m, k) = matrix(OP, "a", a)?;
    let py = b.py();
    let (b, b_rows, n) = matrix(OP, "b", b)?;
    if k != b_rows {
        return Err(PyValueError::new_err(format!(
            "{OP}: a has shape ({m}, {k}) and b has shape ({b_rows}, {n}): a's columns must be as many as b's rows"
        )));
    }
    let mut out = zeros(m.saturating_mul(n))?;
    py.detach(|| crate::matmul(Matrix::new(&a, m, k)?, Matrix::new(&b, k, n)?, MatrixMut::new(&mut out, m, n)?))?;
    let rows: Vec<Bound<'py, PyList>> = out.chunks(n).map(|row| PyList::new(py, row)).collect::<PyResult<_>>()?;
    PyList::new(py, rows)
}

/// Each number of a sequence times a factor.
///
/// Parameters
/// ----------
/// data : sequence of float
///     A list, another sequence, or a one-dimensional array.
/// factor : float
///     What to multiply by.
///
/// Returns
/// -------
/// list of float
///     The products, in float64.
///
/// Raises
/// ------
/// ValueError
///     `data` is empty.
/// TypeError
///     An item, or `factor`, is no number.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.parallel_transform([1.0, 2.0, 3.0], 2.0)
/// [2.0, 4.0, 6.0]
#[pyfunction]
pub(super) fn parallel_transform<'py>(
    data: &Bound<'py, PyAny>,
    factor: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    const OP: &str = "parallel_transform";
    let factor = arguments::number(OP, "factor", factor)?;
    let mut values = not_empty(OP, "data", numbers(OP, "data", data)?)?;
    data.py().detach(|| crate::scale_in_place(&mut values[..], factor))?;
    PyList::new(data.py(), values)
}
