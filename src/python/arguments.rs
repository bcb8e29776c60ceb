//! Arguments that are no arrays: numbers, axes, and those that may be left out but not be None. Python code may run here:
//! `__float__`, `__index__`.

use std::convert::Infallible;

use numpy::PyUntypedArray;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use super::errors::{type_error, type_name, wrong_axis};
use super::list::{attribute, has_attribute};
use super::take::refuse_masked;

/// An argument with a default. None is passed on, to be refused: elsewhere `axis=None` means all axes at once.
#[derive(Clone, Debug)]
pub(super) enum Optional<'a, 'py> {
    Default,
    Given(Borrowed<'a, 'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Optional<'a, 'py> {
    type Error = Infallible;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Self::Given(object))
    }
}

impl<'py> Optional<'_, 'py> {
    /// What was given.
    #[inline]
    pub(super) fn object(&self) -> Option<&Bound<'py, PyAny>> {
        match self {
            Self::Default => None,
            Self::Given(object) => Some(object),
        }
    }

    /// The number that was given, or else `default`.
    #[inline]
    pub(super) fn number(&self, op: &str, name: &str, default: f64) -> PyResult<f64> {
        match self {
            Self::Default => Ok(default),
            Self::Given(object) => number(op, name, object),
        }
    }
}

/// A real number; strings, complex numbers and arrays of one dimension or more are none.
#[inline]
pub(super) fn number(op: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<f64> {
    match object.cast_exact::<PyFloat>() {
        Ok(number) => Ok(number.value()),
        Err(_) => convert(op, name, object),
    }
}

#[cold]
fn convert(op: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<f64> {
    // NumPy gives its arrays of one element a value, and warns of it.
    let is_array = has_attribute(object, "ndim")? && !attribute(object, "ndim")?.eq(0)?;
    let wrong = || type_error!("{op}: {name} must be a number, not {}", type_name(object));
    if is_array {
        return Err(wrong());
    }
    if object.cast::<PyUntypedArray>().is_ok() {
        refuse_masked(op, name, object)?;
    }
    object
        .extract::<f64>()
        .map_err(|error| if error.is_instance_of::<PyTypeError>(object.py()) { wrong() } else { error })
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
    number.map_err(|_| type_error!("{op}: axis must be an integer, not {}", type_name(axis)))
}
