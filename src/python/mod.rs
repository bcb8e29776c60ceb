//! The extension module `polyglot_bridge._core`: NumPy arrays in, NumPy arrays out. These are the only modules that name
//! pyo3 and numpy; no arithmetic is done here.
#![allow(unsafe_code, reason = "one of the modules that may: raw arrays; each block says why it is sound")]
#![allow(clippy::doc_markdown, reason = "docstrings are for Python's readers, and name NumPy often")]
#![allow(clippy::unnecessary_wraps, reason = "Python functions return results")]

mod arguments;
mod attention;
mod call;
mod dims;
mod dtype;
mod elementwise;
mod embedding;
mod errors;
mod inspect;
mod launch;
mod legacy;
mod linear;
mod list;
mod matmul;
mod memory;
mod ndarray;
mod out;
mod rows;
mod same_shape;
mod sequential;
mod strides;
mod take;
mod threads;

use pyo3::prelude::*;

use self::legacy::{arrays, lists};

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! functions {
        ($($file:ident: $($name:ident),*;)*) => { $($(
            module.add_function(wrap_pyfunction!($file::$name, module)?)?;
        )*)* };
    }
    functions! {
        linear: linear;
        matmul: matmul;
        attention: attention;
        embedding: embedding, mean_pool;
        rows: softmax, log_softmax, layer_norm, rms_norm, l2_normalize;
        elementwise: relu, sigmoid, tanh, silu, gelu, scale, dropout_add;
        threads: get_num_threads, set_num_threads;
        memory: set_cache_limit, clear_cache, cache_info;
        lists: sum_of_squares, matrix_multiply, parallel_transform;
        arrays: parallel_map_numpy, parallel_map_numpy_f32, sum_of_squares_numpy, sum_of_squares_numpy_f32;
        arrays: matmul_numpy, matmul_numpy_f32;
        arrays: fused_linear, fused_linear_f32, fused_linear_relu, fused_linear_relu_f32;
        arrays: relu_numpy, relu_numpy_f32, sigmoid_numpy, sigmoid_numpy_f32;
        arrays: fused_dropout_add, fused_layer_norm, fused_softmax;
    }
    module.add_class::<threads::Threads>()?;
    module.add_class::<linear::Linear>()?;
    module.add_class::<sequential::RowOperation>()?;
    module.add_class::<sequential::Sequential>()?;
    // Not public: what pickles, saved files and the package's Python files call.
    module.setattr("_linear", wrap_pyfunction!(linear::_linear, module)?)?;
    module.setattr("_packed_linear", wrap_pyfunction!(linear::_packed_linear, module)?)?;
    module.setattr("_row_operation", wrap_pyfunction!(sequential::_row_operation, module)?)?;
    module.setattr("_info", wrap_pyfunction!(inspect::_info, module)?)?;
    module.setattr("_record_start", wrap_pyfunction!(inspect::_record_start, module)?)?;
    module.setattr("_record_stop", wrap_pyfunction!(inspect::_record_stop, module)?)?;
    module.setattr("_limit_threads", wrap_pyfunction!(threads::_limit_threads, module)?)?;
    module.setattr("_sequential", wrap_pyfunction!(sequential::_sequential, module)?)?;
    // Made now, as where there is no memory for it later that would be a panic.
    module.setattr("_Memory", module.py().get_type::<memory::Memory>())?;
    module.setattr("_Panels", module.py().get_type::<linear::Panels>())?;
    module.setattr("_Scope", module.py().get_type::<threads::Scope>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
