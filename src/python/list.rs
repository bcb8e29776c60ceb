//! Lists for Python that end in MemoryError where there is no memory, as `PyList::new` panics.

use pyo3::prelude::*;
use pyo3::types::PyList;

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
