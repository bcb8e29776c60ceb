//! Arguments that are no arrays: numbers, and those that may be left out but not be None.

use std::convert::Infallible;
use std::format;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyFloat;

use super::errors::type_name;

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

impl Optional<'_, '_> {
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
    let is_array = object.hasattr("ndim")? && !object.getattr("ndim")?.eq(0)?;
    let number = if is_array { Err(PyTypeError::new_err("")) } else { object.extract::<f64>() };
    number.map_err(|error| {
        if error.is_instance_of::<PyTypeError>(object.py()) {
            PyTypeError::new_err(format!("{op}: {name} must be a number, not {}", type_name(object)))
        } else {
            error
        }
    })
}
