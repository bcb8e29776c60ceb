//! How many threads calls may use, as Python sees it. The counting is done in `parallel`.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::errors::{error, text, type_error, type_name, value_error};

/// A number of threads: an integer of at least one.
fn count(op: &str, n: &Bound<'_, PyAny>) -> PyResult<usize> {
    let number = match n.cast::<PyInt>() {
        Ok(number) => number.clone().into_any(),
        Err(_) => {
            n.call_method0("__index__").map_err(|_| type_error!("{op}: n must be an integer, not {}", type_name(n)))?
        }
    };
    match number.extract::<isize>() {
        Ok(number) if number >= 1 => Ok(number.unsigned_abs()),
        _ => Err(value_error!("{op}: n must be an integer from 1 on, not {number}")),
    }
}

/// The number of threads, the calling one among them, that a call from this thread uses at most.
///
/// Returns
/// -------
/// int
///     The limit of the innermost `threads` block, else what `set_num_threads` set, else the environment variable
///     ``POLYGLOT_NUM_THREADS``, else the cores that the affinity mask and the cgroup quota leave to the process.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.get_num_threads() >= 1
/// True
#[pyfunction]
pub(super) fn get_num_threads() -> usize {
    crate::num_threads()
}

/// Sets the number of threads that calls of this process use at most. Results do not depend on it.
///
/// Parameters
/// ----------
/// n : int or None
///     At least 1; the calling thread counts. None goes back to the default.
///
/// Raises
/// ------
/// ValueError
///     `n` is less than 1.
/// TypeError
///     `n` is no integer.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.set_num_threads(1)
/// >>> pb.get_num_threads()
/// 1
/// >>> pb.set_num_threads(None)
#[pyfunction]
pub(super) fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    crate::set_num_threads(if n.is_none() { 0 } else { count("set_num_threads", n)? });
    Ok(())
}

/// A block of code whose calls use at most `n` threads; other Python threads are not concerned.
///
/// Parameters
/// ----------
/// n : int
///     At least 1; the calling thread counts.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> with pb.threads(1):
/// ...     pb.get_num_threads()
/// 1
#[pyclass(name = "threads", module = "polyglot_bridge", frozen)]
#[derive(Debug)]
pub(super) struct Threads {
    n: usize,
    /// The limits outside of the blocks that were entered, the innermost last.
    outer: std::sync::Mutex<std::vec::Vec<usize>>,
}

#[pymethods]
impl Threads {
    #[new]
    fn new(n: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { n: count("threads", n)?, outer: std::sync::Mutex::default() })
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        let this = slf.get();
        let outer = crate::parallel::swap_scope(this.n);
        this.outer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outer);
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        let outer = self.outer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let outer =
            outer.ok_or_else(|| error::<PyRuntimeError>(format_args!("threads: left without having been entered")))?;
        crate::parallel::swap_scope(outer);
        Ok(())
    }

    fn __repr__(&self) -> PyResult<std::string::String> {
        text(format_args!("polyglot_bridge.threads({})", self.n))
    }
}
