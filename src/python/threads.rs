//! How many threads calls may use, as Python sees it. The counting is done in `parallel`; here are the scopes, which
//! belong to a context of `contextvars`, as tasks and threads have one each.
//!
//! A context variable holds a tuple of scopes, the innermost last. To leave a scope marks it as left, wherever that is
//! done; who looks takes the innermost that was not. So scopes may end in any order.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyTuple};

use super::errors::{error, out_of_memory, text, type_error, type_name, value_error};
use super::list::{attribute, imported};

/// A number of threads: an integer of at least one.
fn count(op: &str, n: &Bound<'_, PyAny>) -> PyResult<usize> {
    let number = match n.cast::<PyInt>() {
        Ok(number) => number.clone().into_any(),
        Err(_) => attribute(n, "__index__")
            .and_then(|index| index.call0())
            .map_err(|_| type_error!("{op}: n must be an integer, not {}", type_name(n)))?,
    };
    match number.extract::<isize>() {
        Ok(number) if number >= 1 => Ok(number.unsigned_abs()),
        _ => Err(value_error!("{op}: n must be an integer from 1 on, not {number}")),
    }
}

/// The number of threads, the calling one among them, that a call from here uses at most.
///
/// Returns
/// -------
/// int
///     The limit of the innermost `threads` block, else what `set_num_threads` set, else the environment variable
///     ``POLYGLOT_NUM_THREADS``, else ``OMP_NUM_THREADS`` (of a list the first), else the cores that the affinity mask and
///     the cgroup quota leave to the process.
///
/// Examples
/// --------
/// >>> import polyglot_bridge as pb
/// >>> pb.get_num_threads() >= 1
/// True
#[pyfunction]
pub(super) fn get_num_threads(py: Python<'_>) -> usize {
    limited(py, crate::num_threads)
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

/// How many scopes are open, in all contexts: where there is none no call looks for its own.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The context variable, made when the first scope is entered.
static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// A limit that was set, and holds until it is left.
#[pyclass(frozen)]
#[derive(Debug)]
pub(super) struct Scope {
    n: usize,
    is_open: AtomicBool,
    /// It was set by threadpoolctl, which does not say when it is left.
    is_foreign: bool,
}

impl Scope {
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    fn leave(&self) {
        if self.is_open.swap(false, Ordering::Relaxed) {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The scopes of this context that are open, the innermost last.
fn open_scopes(py: Python<'_>) -> PyResult<Vec<Bound<'_, Scope>>> {
    let mut scopes = Vec::new();
    if let Some(variable) = VARIABLE.get(py)
        && let Ok(all) = attribute(variable.bind(py), "get")?.call1((py.None(),))?.cast::<PyTuple>()
    {
        scopes.try_reserve(all.len() + 1).map_err(|_| out_of_memory())?;
        scopes.extend(
            all.iter()
                .filter_map(|scope| scope.cast_into().ok())
                .filter(|scope: &Bound<'_, Scope>| scope.get().is_open()),
        );
    }
    Ok(scopes)
}

/// Makes these the scopes of this context.
fn set_scopes(py: Python<'_>, scopes: Vec<Bound<'_, Scope>>) -> PyResult<()> {
    let make = || imported(py, "contextvars", "ContextVar")?.call1(("polyglot_bridge.threads",)).map(Bound::unbind);
    let variable = VARIABLE.get_or_try_init(py, make)?.bind(py);
    attribute(variable, "set")?.call1((PyTuple::new(py, scopes)?,)).map(drop)
}

/// Opens a scope within those that are open.
fn enter<'py>(
    py: Python<'py>,
    mut scopes: Vec<Bound<'py, Scope>>,
    n: usize,
    is_foreign: bool,
) -> PyResult<Bound<'py, Scope>> {
    let scope = Bound::new(py, Scope { n, is_open: AtomicBool::new(true), is_foreign })?;
    scopes.try_reserve(1).map_err(|_| out_of_memory())?;
    scopes.push(scope.clone());
    set_scopes(py, scopes)?;
    OPEN.fetch_add(1, Ordering::Relaxed);
    Ok(scope)
}

/// The limit of this context's innermost scope; 0: none. Looking for it may run finalisers.
#[inline]
pub(super) fn limit(py: Python<'_>) -> usize {
    if OPEN.load(Ordering::Relaxed) == 0 { 0 } else { innermost(py).unwrap_or(0) }
}

#[cold]
fn innermost(py: Python<'_>) -> PyResult<usize> {
    Ok(open_scopes(py)?.last().map_or(0, |scope| scope.get().n))
}

/// Runs `f` with the limit of this context's innermost scope.
#[inline]
pub(super) fn limited<R>(py: Python<'_>, f: impl FnOnce() -> R) -> R {
    crate::with_threads(limit(py), f)
}

/// Limits this context to `n` threads, or lifts that limit where `n` is what holds without it: as threadpoolctl asks,
/// which sets a number, and later the one from before.
#[pyfunction]
pub(super) fn _limit_threads(py: Python<'_>, n: usize) -> PyResult<()> {
    let mut scopes = open_scopes(py)?;
    if let Some(scope) = scopes.pop_if(|scope| scope.get().is_foreign) {
        scope.get().leave();
    }
    if n == limited(py, crate::num_threads) {
        set_scopes(py, scopes)
    } else {
        enter(py, scopes, n.max(1), true).map(drop)
    }
}

/// A block of code whose calls use at most `n` threads. It belongs to its task and thread: others are not concerned.
///
/// Blocks may end in any order, as in tasks that take turns: leaving one removes its own limit and no other, and the
/// innermost that is still open counts. A generator that is suspended within a block lends its limit to whoever called
/// it, until it goes on or is closed, as it has no context of its own. One object may be entered more than once.
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
    /// The scopes that were entered and not left, the last one last.
    entered: Mutex<Vec<Py<Scope>>>,
}

#[pymethods]
impl Threads {
    #[new]
    fn new(n: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { n: count("threads", n)?, entered: Mutex::default() })
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let (this, py) = (slf.get(), slf.py());
        let scope = enter(py, open_scopes(py)?, this.n, false)?;
        // Nothing else is called with this lock held.
        let mut entered = this.entered.lock().unwrap_or_else(PoisonError::into_inner);
        if entered.try_reserve(1).is_err() {
            scope.get().leave();
            return Err(out_of_memory());
        }
        entered.push(scope.unbind());
        drop(entered);
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let mut scopes = open_scopes(py)?;
        let left = {
            let mut entered = self.entered.lock().unwrap_or_else(PoisonError::into_inner);
            // The innermost of this context that is ours; where there is none, as in a generator that is closed from
            // elsewhere, the last.
            let place = |scope: &Bound<'_, Scope>| entered.iter().rposition(|own| own.is(scope));
            let index = scopes.iter().rev().find_map(place).or(entered.len().checked_sub(1));
            index.map(|index| entered.remove(index))
        };
        let left =
            left.ok_or_else(|| error::<PyRuntimeError>(format_args!("threads: left without having been entered")))?;
        left.get().leave();
        let before = scopes.len();
        scopes.retain(|scope| scope.get().is_open());
        if scopes.len() < before { set_scopes(py, scopes) } else { Ok(()) }
    }

    fn __repr__(&self) -> PyResult<std::string::String> {
        text(format_args!("polyglot_bridge.threads({})", self.n))
    }
}
