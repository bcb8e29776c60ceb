//! Lists, tuples, dicts, strings, names and numbers for Python, and boxes, that end in MemoryError where there is no
//! memory: `PyList::new`, `getattr` with a `&str` and their like panic, and `Box::new` ends the process.

use std::boxed::Box;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::error::NoMemory;

/// The extension module's own name.
pub(super) const CORE: &str = "polyglot_bridge._core";

/// A list of these items. It grows, since the collector can find it meanwhile: so it never has empty places.
pub(super) fn list<'py>(
    py: Python<'py>,
    mut items: impl Iterator<Item = PyResult<Bound<'py, PyAny>>>,
) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: a new list, or null and a MemoryError.
    let list = unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyList_New(0)) }?.cast_into::<PyList>()?;
    items.try_for_each(|item| list.append(item?))?;
    Ok(list)
}

/// A tuple of these items. That of a list, as a tuple has all its places from the beginning.
pub(super) fn tuple<'py>(
    py: Python<'py>,
    items: impl Iterator<Item = PyResult<Bound<'py, PyAny>>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let list = list(py, items)?;
    // SAFETY: of a list that we hold, a new tuple, or null and a MemoryError.
    let tuple = unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyList_AsTuple(list.as_ptr())) }?;
    Ok(tuple.cast_into::<PyTuple>()?)
}

/// A dict without items: setting one ends in an error where there is no memory.
pub(super) fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: a new dict, or null and a MemoryError.
    let dict = unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyDict_New()) }?;
    Ok(dict.cast_into::<PyDict>()?)
}

/// A string.
pub(super) fn string<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    PyString::from_bytes(py, text.as_bytes()).map(Bound::into_any)
}

/// An attribute of an object.
pub(super) fn attribute<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    object.getattr(PyString::from_bytes(object.py(), name.as_bytes())?)
}

/// Whether an object has an attribute.
pub(super) fn has_attribute(object: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    object.hasattr(PyString::from_bytes(object.py(), name.as_bytes())?)
}

/// An attribute of a module, which is imported for it.
pub(super) fn imported<'py>(py: Python<'py>, module: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import(PyString::from_bytes(py, module.as_bytes())?)?;
    attribute(&module, name)
}

/// An integer.
pub(super) fn integer(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: a new integer, or null and a MemoryError.
    unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyLong_FromUnsignedLongLong(number)) }
}

/// A float.
pub(super) fn float(py: Python<'_>, number: f64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: a new float, or null and a MemoryError.
    unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyFloat_FromDouble(number)) }
}

/// A value in a box.
pub(super) fn boxed<T>(value: T) -> Result<Box<T>, NoMemory> {
    let no_memory = NoMemory { bytes: size_of::<T>() };
    let mut values = Vec::new();
    values.try_reserve_exact(1).map_err(|_| no_memory)?;
    values.push(value);
    let array = <Box<[T; 1]>>::try_from(values.into_boxed_slice()).map_err(|_| no_memory)?;
    // SAFETY: a box of an array of one `T`, which is laid out as the `T` is.
    Ok(unsafe { Box::from_raw(Box::into_raw(array).cast::<T>()) })
}
