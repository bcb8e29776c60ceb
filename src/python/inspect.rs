//! What the package tells about itself: CPU level, threads, build, and what one call did. The words are chosen in
//! Python.

use std::format;
use std::string::String;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList};

use super::list::{dict, integer, list, string, tuple};
use crate::parallel::ThreadSource;
use crate::simd;
use crate::trace::{self, Event};

/// How many threads a call uses at most. Exported under its own name, so that threadpoolctl can tell this library from
/// others.
// SAFETY: nothing else has a symbol of this name, which begins with the package's.
#[unsafe(no_mangle)]
pub(super) extern "C" fn polyglot_bridge_get_num_threads() -> core::ffi::c_int {
    core::ffi::c_int::try_from(crate::num_threads()).unwrap_or(core::ffi::c_int::MAX)
}

/// The name of the CPU level in force.
pub(super) fn level_name() -> String {
    let text = format!("{:?}", simd::level());
    text.split(['(', ' ', '{']).next().unwrap_or("").into()
}

/// The instruction sets that kernels can make use of, and whether this CPU has them.
fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        macro_rules! ask {
            ($($name:tt),*) => { std::vec![$(($name, std::arch::is_x86_feature_detected!($name))),*] };
        }
        ask!["sse2", "sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"]
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::vec![("neon", std::arch::is_aarch64_feature_detected!("neon"))]
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

/// What `python -m polyglot_bridge` prints.
#[pyfunction]
pub(super) fn _info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = dict(py)?;
    let set = |name, value: Bound<'_, PyAny>| info.set_item(string(py, name)?, value);
    let truth = |is_so: bool| PyBool::new(py, is_so).to_owned().into_any();
    set("version", string(py, env!("CARGO_PKG_VERSION"))?)?;
    set("level", string(py, &level_name())?)?;
    let features = dict(py)?;
    for (name, has) in cpu_features() {
        features.set_item(string(py, name)?, truth(has))?;
    }
    set("cpu_features", features.into_any())?;
    let (threads, source) = super::threads::limited(py, || (crate::num_threads(), crate::thread_source()));
    set("threads", integer(py, threads as u64)?)?;
    let source = match source {
        ThreadSource::Default => "default",
        ThreadSource::Environment => "environment",
        ThreadSource::OpenMp => "openmp",
        ThreadSource::Pool => "pool",
        ThreadSource::Call => "call",
        ThreadSource::Scope => "scope",
    };
    set("threads_from", string(py, source)?)?;
    set("most_threads", integer(py, crate::parallel::MOST_THREADS as u64)?)?;
    set("cores", integer(py, std::thread::available_parallelism().map_or(1, usize::from) as u64)?)?;
    set("cache", super::memory::cache_info(py)?.into_any())?;
    set("target", string(py, &format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))?)?;
    set("optimised", truth(!cfg!(debug_assertions)))?;
    let compiled = [
        ("std", cfg!(feature = "std")),
        ("libm", cfg!(feature = "libm")),
        ("f16", cfg!(feature = "f16")),
        ("parallel", cfg!(feature = "parallel")),
        ("python", cfg!(feature = "python")),
    ];
    let compiled = compiled.into_iter().filter(|&(_, is_on)| is_on).map(|(name, _)| string(py, name));
    set("features", list(py, compiled)?.into_any())?;
    Ok(info)
}

/// Starts recording what calls from this thread do.
#[pyfunction]
pub(super) fn _record_start() {
    trace::start();
}

/// Ends recording: (kind, text, first number, second number) for each event.
#[pyfunction]
pub(super) fn _record_stop(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let events = trace::stop().into_iter().map(|event| {
        let (kind, what, first, second) = match event {
            Event::Split { blocks, threads, nanoseconds } => ("split", format!("{nanoseconds}"), blocks, threads),
            Event::Plan { name, tile: (rows, cols) } => ("plan", name.into(), rows, cols),
            Event::Copy { what, bytes } => ("copy", what, bytes, 0),
            Event::Result { place, bytes } => ("result", place.into(), bytes, 0),
            Event::Released => ("released", String::new(), 0, 0),
        };
        let row = [string(py, kind), string(py, &what), integer(py, first as u64), integer(py, second as u64)];
        tuple(py, row.into_iter()).map(Bound::into_any)
    });
    list(py, events)
}
