//! Lists for Python, and boxes, that end in MemoryError where there is no memory: `PyList::new` panics, and `Box::new`
//! ends the process.

use std::boxed::Box;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::NoMemory;

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
