//! The Python exceptions of this package and how shapes and dtypes are printed in them. Nothing here checks anything.

use std::fmt;
use std::format;

use numpy::npyffi::npy_intp;
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyErrArguments, intern};

use crate::error::{Error, ShapeError};

/// A shape as Python prints it: `()`, `(3,)`, `(2, 3)`.
pub(super) struct Shape<'a>(pub(super) &'a [npy_intp]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("()"),
            [one] => write!(f, "({one},)"),
            [first, rest @ ..] => {
                write!(f, "({first}")?;
                rest.iter().try_for_each(|dim| write!(f, ", {dim}"))?;
                f.write_str(")")
            }
        }
    }
}

impl From<ShapeError> for PyErr {
    fn from(error: ShapeError) -> Self {
        PyValueError::new_err(std::string::ToString::to_string(&error))
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Shape(error) => error.into(),
            Error::OutOfMemory { .. } => PyMemoryError::new_err(NoMemory),
        }
    }
}

/// The message of a MemoryError. Of no size, so that nothing is allocated to carry it.
struct NoMemory;

impl PyErrArguments for NoMemory {
    fn arguments(self, py: Python<'_>) -> Py<PyAny> {
        intern!(py, "polyglot_bridge: there is no memory to lay operands out").clone().into_any().unbind()
    }
}

/// An argument whose shape does not fit.
#[cold]
pub(super) fn wrong_shape(op: &str, name: &str, found: &[npy_intp], expected: &[npy_intp], why: &str) -> PyErr {
    let (found, expected) = (Shape(found), Shape(expected));
    PyValueError::new_err(format!("{op}: {name} has shape {found}, expected {expected}{why}"))
}

/// An `axis` that the array does not have: `numpy.exceptions.AxisError`, whatever NumPy calls the module it lives in.
#[cold]
pub(super) fn wrong_axis(py: Python<'_>, op: &str, axis: &Bound<'_, PyAny>, ndim: usize) -> PyErr {
    let error = py
        .import("numpy.exceptions")
        .or_else(|_| py.import("numpy"))
        .and_then(|module| module.getattr("AxisError"))
        .and_then(|class| class.call1((axis, ndim, op)));
    error.map_or_else(|error| error, PyErr::from_value)
}

/// An argument that is no array of floats.
#[cold]
pub(super) fn wrong_dtype(op: &str, name: &str, dtype: &str, expected: &str) -> PyErr {
    PyTypeError::new_err(format!("{op}: {name} has dtype {dtype}, expected {expected}"))
}

/// What an object is, for an error message.
pub(super) fn type_name(object: &Bound<'_, PyAny>) -> std::string::String {
    object.get_type().name().map_or_else(|_| "object".into(), |name| std::string::ToString::to_string(&name))
}
