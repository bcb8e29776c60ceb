//! Large results in memory from the crate's cache, which their arrays give back when they are freed; and the cache as
//! Python sees it.

use numpy::npyffi::{NPY_ARRAY_BEHAVED, PY_ARRAY_API, PyArray_Descr, npy_intp};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt};

use super::dtype::array_type;
use super::errors::{error, type_error, type_name, value_error};
use super::list::{attribute, dict, integer, string};
use crate::cache::{self, Buffer};

/// Results of at least as many bytes come from the cache.
pub(super) const LARGE: usize = cache::SMALLEST_KEPT;

/// The memory of a result: the base object of its array.
#[pyclass(name = "_Memory", module = "polyglot_bridge._core", frozen)]
#[derive(Debug)]
pub(super) struct Memory {
    #[expect(dead_code, reason = "owned, to be given back with the array")]
    buffer: Buffer,
}

/// An uninitialised array over a buffer of the cache.
///
/// # Safety
///
/// `descr` is a new reference, `strides` is null or has as many items as `shape`, and describes a dense array of `bytes`.
pub(super) unsafe fn large<'py>(
    py: Python<'py>,
    descr: *mut PyArray_Descr,
    shape: &[npy_intp],
    strides: *mut npy_intp,
    bytes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the caller's promise: the descriptor is an object that is ours.
    let descr = unsafe { Bound::from_owned_ptr(py, descr.cast()) };
    let Some(buffer) = cache::take(bytes) else {
        return Err(error::<PyMemoryError>(format_args!("no {bytes} bytes for a result")));
    };
    debug_assert!(buffer.capacity() >= bytes, "the cache gave less than it was asked for");
    let data = buffer.as_mut_ptr();
    let memory = Bound::new(py, Memory { buffer })?;
    // SAFETY: the buffer has room for the elements, is aligned for them, and lives as long as the array's base object,
    // the reference to which NumPy takes over, as it does that to the descriptor.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            array_type(py),
            descr.into_ptr().cast(),
            shape.len() as i32,
            shape.as_ptr().cast_mut(),
            strides,
            data.cast(),
            NPY_ARRAY_BEHAVED,
            core::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        match PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), memory.into_ptr()) {
            0 => Ok(array),
            _ => Err(PyErr::fetch(py)),
        }
    }
}

/// Sets how many bytes of freed results are kept for results to come; 256 MB unless ``POLYGLOT_CACHE_MB`` says otherwise.
///
/// Large results come from this cache, because the first touch of fresh memory costs more than most operations do.
///
/// Parameters
/// ----------
/// bytes : int
///     0 keeps nothing. What is kept beyond the limit is freed at once.
///
/// Raises
/// ------
/// ValueError
///     `bytes` is negative.
/// TypeError
///     `bytes` is no integer.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.set_cache_limit(256 * 2**20)
#[pyfunction]
pub(super) fn set_cache_limit(bytes: &Bound<'_, PyAny>) -> PyResult<()> {
    let number = match bytes.cast::<PyInt>() {
        Ok(number) => number.clone().into_any(),
        Err(_) => attribute(bytes, "__index__")
            .and_then(|index| index.call0())
            .map_err(|_| type_error!("set_cache_limit: bytes must be an integer, not {}", type_name(bytes)))?,
    };
    match number.extract::<usize>() {
        Ok(limit) => cache::set_limit(limit),
        Err(_) if number.gt(0)? => cache::set_limit(usize::MAX),
        Err(_) => {
            return Err(value_error!("set_cache_limit: bytes must not be negative, not {number}"));
        }
    }
    Ok(())
}

/// Frees what is kept for results to come. Arrays that are in use keep their memory.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.clear_cache()
#[pyfunction]
pub(super) fn clear_cache(py: Python<'_>) {
    py.detach(cache::clear);
}

/// What the cache holds, for those who want to know.
///
/// Returns
/// -------
/// dict
///     "buffers" and "bytes" that are kept, the "limit" in bytes, and how often a large result found a buffer ("hits")
///     and how often it did not ("misses").
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.cache_info()["bytes"] <= pb.cache_info()["limit"]
/// True
#[pyfunction]
pub(super) fn cache_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // The first time this reads the environment: see `launch::detach`.
    cache::limit();
    let cache::Statistics { buffers, bytes, limit, hits, misses } = py.detach(cache::statistics);
    let info = dict(py)?;
    let sizes = [("buffers", buffers as u64), ("bytes", bytes as u64), ("limit", limit as u64)];
    for (name, number) in sizes.into_iter().chain([("hits", hits), ("misses", misses)]) {
        info.set_item(string(py, name)?, integer(py, number)?)?;
    }
    Ok(info)
}
