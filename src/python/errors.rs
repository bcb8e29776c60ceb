//! The Python exceptions of this package and how shapes and dtypes are printed in them. Nothing here checks anything.
//!
//! A message that there is no memory for ends as a MemoryError, like everything else that there is no memory for.

use std::fmt::{self, Write};
use std::string::String;

use numpy::npyffi::npy_intp;
use pyo3::PyTypeInfo;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use super::list::imported;
use crate::error::{Error, ShapeError};

/// A `ValueError` with a message.
macro_rules! value_error {
    ($($message:tt)*) => {
        $crate::python::errors::error::<pyo3::exceptions::PyValueError>(::core::format_args!($($message)*))
    };
}
pub(super) use value_error;

/// A `TypeError` with a message.
macro_rules! type_error {
    ($($message:tt)*) => {
        $crate::python::errors::error::<pyo3::exceptions::PyTypeError>(::core::format_args!($($message)*))
    };
}
pub(super) use type_error;

/// An exception of the class `E` with a message.
#[cold]
pub(super) fn error<E: PyTypeInfo>(message: fmt::Arguments<'_>) -> PyErr {
    match text(message) {
        Ok(text) => PyErr::new::<E, _>(text),
        Err(error) => error,
    }
}

/// Formatted text, or a MemoryError.
pub(super) fn text(content: fmt::Arguments<'_>) -> PyResult<String> {
    /// A string that says so where there is no memory to grow.
    struct Text(String);

    impl Write for Text {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0.try_reserve(part.len()).map_err(|_| fmt::Error)?;
            self.0.push_str(part);
            Ok(())
        }
    }

    let mut text = Text(String::new());
    text.write_fmt(content).map(|()| text.0).map_err(|_| out_of_memory())
}

/// A `MemoryError`, made without allocating.
#[cold]
pub(super) fn out_of_memory() -> PyErr {
    PyErr::new::<PyMemoryError, _>(())
}

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
        value_error!("{error}")
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Shape(error) => error.into(),
            Error::OutOfMemory { bytes } => {
                self::error::<PyMemoryError>(format_args!("no {bytes} bytes to compute in"))
            }
        }
    }
}

/// An argument whose shape does not fit.
#[cold]
pub(super) fn wrong_shape(
    op: &str,
    name: &str,
    found: &[npy_intp],
    expected: &[npy_intp],
    why: fmt::Arguments<'_>,
) -> PyErr {
    value_error!("{op}: {name} has shape {}, expected {}{why}", Shape(found), Shape(expected))
}

/// An `axis` that the array does not have: `numpy.exceptions.AxisError`, whatever NumPy calls the module it lives in.
#[cold]
pub(super) fn wrong_axis(py: Python<'_>, op: &str, axis: &Bound<'_, PyAny>, ndim: usize) -> PyErr {
    let error = imported(py, "numpy.exceptions", "AxisError")
        .or_else(|_| imported(py, "numpy", "AxisError"))
        .and_then(|class| class.call1((axis, ndim, op)));
    error.map_or_else(|error| error, PyErr::from_value)
}

/// An argument that is no array of floats.
#[cold]
pub(super) fn wrong_dtype(op: &str, name: &str, dtype: &str, expected: impl fmt::Display) -> PyErr {
    type_error!("{op}: {name} has dtype {dtype}, expected {expected}")
}

/// What an object is, for an error message.
pub(super) fn type_name<'py>(object: &Bound<'py, PyAny>) -> Name<'py> {
    Name(object.get_type())
}

/// The name of a type.
pub(super) struct Name<'py>(Bound<'py, pyo3::types::PyType>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name() {
            Ok(name) => name.fmt(f),
            Err(_) => f.write_str("object"),
        }
    }
}
