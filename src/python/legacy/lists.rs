//! The three functions of polyglot-bridge 0.2.0 on lists: Python numbers in, Python numbers out, computed in float64.

use std::vec::Vec;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyList, PySequence, PyString};

use crate::python::arguments;
use crate::python::call::{Call, Signature};
use crate::python::errors::{Shape, error, out_of_memory, text, type_error, type_name, value_error};
use crate::python::launch::detach;
use crate::python::list::{has_attribute, list};
use crate::python::take::{Array, take_f64};
use crate::view::{Matrix, MatrixMut};

/// The numbers of a list, of another sequence or of a one-dimensional array. `shown` is the name in messages.
fn numbers(op: &str, name: &'static str, shown: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    if !object.is_exact_instance_of::<PyList>() && has_attribute(object, "__array__")? {
        let array = take_f64(op, name, shown, object)?;
        if array.ndim() != 1 {
            let shape = Shape(array.shape());
            return Err(value_error!("{op}: {shown} has shape {shape}, expected one dimension"));
        }
        return values_of(op, array);
    }
    let items = sequence(op, shown, object, "numbers")?;
    let mut values = Vec::new();
    values.try_reserve_exact(items.len()).map_err(|_| out_of_memory())?;
    // A list may grow while its numbers are asked what they are.
    for (index, item) in items.iter().enumerate() {
        values.try_reserve(1).map_err(|_| out_of_memory())?;
        values.push(number(op, shown, index, &item)?);
    }
    Ok(values)
}

/// The elements of a float64 array, in C order.
fn values_of(op: &str, array: Array<'_>) -> PyResult<Vec<f64>> {
    let array = array.into_contiguous(op)?;
    let mut values = zeros(array.len())?;
    values.copy_from_slice(array.operand(op)?.slice());
    Ok(values)
}

/// That many zeros, or a MemoryError.
fn zeros(len: usize) -> PyResult<Vec<f64>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| error::<PyMemoryError>(format_args!("no memory for {len} numbers")))?;
    values.resize(len, 0.0);
    Ok(values)
}

/// A sequence other than a string, as a list.
fn sequence<'py>(op: &str, name: &str, object: &Bound<'py, PyAny>, of: &str) -> PyResult<Bound<'py, PyList>> {
    match object.cast::<PySequence>() {
        Ok(sequence) if !object.is_instance_of::<PyString>() => match object.cast_exact::<PyList>() {
            Ok(list) => Ok(list.clone()),
            Err(_) => sequence.to_list(),
        },
        _ => Err(type_error!("{op}: {name} must be a sequence of {of}, not {}", type_name(object))),
    }
}

fn number(op: &str, name: &str, index: usize, item: &Bound<'_, PyAny>) -> PyResult<f64> {
    if let Ok(item) = item.cast_exact::<PyFloat>() {
        return Ok(item.value());
    }
    item.extract::<f64>().map_err(|error| {
        if error.is_instance_of::<PyTypeError>(item.py()) {
            type_error!("{op}: {name}[{index}] must be a number, not {}", type_name(item))
        } else {
            error
        }
    })
}

fn not_empty(op: &str, name: &str, values: Vec<f64>) -> PyResult<Vec<f64>> {
    if values.is_empty() {
        return Err(value_error!("{op}: {name} is empty"));
    }
    Ok(values)
}

/// A matrix given as a sequence of rows, or as a two-dimensional array: its values, rows and columns.
fn matrix(op: &str, name: &'static str, object: &Bound<'_, PyAny>) -> PyResult<(Vec<f64>, usize, usize)> {
    if has_attribute(object, "__array__")? {
        let array = take_f64(op, name, name, object)?;
        let &[rows, cols] = array.shape() else {
            let shape = Shape(array.shape());
            return Err(value_error!("{op}: {name} has shape {shape}, expected two dimensions"));
        };
        let values = not_empty(op, name, values_of(op, array)?)?;
        return Ok((values, rows.unsigned_abs(), cols.unsigned_abs()));
    }
    let sequence = sequence(op, name, object, "rows")?;
    let mut values = Vec::new();
    let (mut rows, mut cols) = (0, 0);
    for (index, row) in sequence.iter().enumerate() {
        let row = numbers(op, name, &text(format_args!("{name}[{index}]"))?, &row)?;
        if index == 0 {
            cols = row.len();
        } else if row.len() != cols {
            let len = row.len();
            return Err(value_error!(
                "{op}: {name} is ragged, its rows have other dimensions: {name}[0] has {cols} numbers, {name}[{index}] has {len}"
            ));
        }
        values.try_reserve(row.len()).map_err(|_| out_of_memory())?;
        values.extend_from_slice(&row);
        rows += 1;
    }
    if rows == 0 {
        return Err(value_error!("{op}: {name} is empty"));
    }
    if cols == 0 {
        return Err(value_error!("{op}: {name} has dimensions ({rows}, 0), that is, it is empty"));
    }
    Ok((values, rows, cols))
}

/// A list of numbers.
fn floats<'py>(py: Python<'py>, values: &[f64]) -> PyResult<Bound<'py, PyList>> {
    list(
        py,
        values.iter().map(|&value| {
            // SAFETY: a new reference, or null and a MemoryError.
            unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyFloat_FromDouble(value)) }
        }),
    )
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
pub(in crate::python) fn sum_of_squares(numbers: &Bound<'_, PyAny>) -> PyResult<f64> {
    const OP: &str = "sum_of_squares";
    let values = not_empty(OP, "numbers", self::numbers(OP, "numbers", "numbers", numbers)?)?;
    let sum = detach(numbers.py(), || crate::sum_of_squares(&values[..]));
    if sum.is_infinite() {
        return Err(error::<PyRuntimeError>(format_args!("{OP}: overflow: the result is infinite")));
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
pub(in crate::python) fn matrix_multiply<'py>(
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    const OP: &str = "matrix_multiply";
    let call = Call::new(Signature::new(OP), [("a", Some(a)), ("b", Some(b))])?;
    let (a, m, k) = matrix(OP, "a", a)?;
    let py = b.py();
    let (b, b_rows, n) = matrix(OP, "b", b)?;
    call.look_again()?;
    if k != b_rows {
        return Err(value_error!(
            "{OP}: a has shape ({m}, {k}) and b has shape ({b_rows}, {n}), dimensions that do not match: a's columns must be as \
             many as b's rows"
        ));
    }
    let mut out = zeros(m.saturating_mul(n))?;
    detach(py, || crate::matmul(Matrix::new(&a, m, k)?, Matrix::new(&b, k, n)?, MatrixMut::new(&mut out, m, n)?))?;
    list(py, out.chunks(n).map(|row| floats(py, row).map(Bound::into_any)))
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
pub(in crate::python) fn parallel_transform<'py>(
    data: &Bound<'py, PyAny>,
    factor: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    const OP: &str = "parallel_transform";
    let call = Call::new(Signature::new(OP), [("data", Some(data)), ("factor", Some(factor))])?;
    let factor = arguments::number(OP, "factor", factor)?;
    let mut values = not_empty(OP, "data", numbers(OP, "data", "data", data)?)?;
    call.look_again()?;
    detach(data.py(), || crate::scale_in_place(&mut values[..], factor))?;
    floats(data.py(), &values)
}
