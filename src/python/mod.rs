//! The extension module `polyglot_bridge._core`: NumPy arrays in, NumPy arrays out. These are the only rooms that name
//! pyo3 and numpy; no arithmetic is done here.
#![allow(unsafe_code, reason = "one of the rooms that may: raw arrays; each block says why it is sound")]
#![allow(clippy::doc_markdown, reason = "docstrings are for Python's readers, and name NumPy often")]
#![allow(clippy::unnecessary_wraps, reason = "Python functions return results")]

mod arguments;
mod arrays;
mod attention;
mod embedding;
mod errors;
mod inspect;
mod layers;
mod layout;
mod legacy;
mod lists;
mod matmul;
mod memory;
mod modern;
mod operations;
mod output;
mod products;
mod reduce;
mod rowwise;
mod sequential;
mod threads;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! functions {
        ($($room:ident: $($name:ident),*;)*) => { $($(
            module.add_function(wrap_pyfunction!($room::$name, module)?)?;
        )*)* };
    }
    functions! {
        products: linear;
        matmul: matmul;
        attention: attention;
        embedding: embedding, mean_pool;
        modern: l2_normalize, layer_norm, rms_norm, softmax, log_softmax, relu, sigmoid, tanh, silu, gelu, scale, dropout_add;
        threads: get_num_threads, set_num_threads;
        memory: set_cache_limit, clear_cache, cache_info;
        lists: sum_of_squares, matrix_multiply, parallel_transform;
        matmul: matmul_numpy, matmul_numpy_f32;
        legacy: parallel_map_numpy, parallel_map_numpy_f32, sum_of_squares_numpy, sum_of_squares_numpy_f32;
        products: fused_linear, fused_linear_f32, fused_linear_relu, fused_linear_relu_f32;
        legacy: relu_numpy, relu_numpy_f32, sigmoid_numpy, sigmoid_numpy_f32;
        legacy: fused_dropout_add, fused_layer_norm, fused_softmax;
    }
    module.add_class::<threads::Threads>()?;
    module.add_class::<layers::Linear>()?;
    module.add_class::<sequential::RowOperation>()?;
    module.add_class::<sequential::Sequential>()?;
    // Not public: what pickles, saved files and the package's Python files call.
    module.setattr("_linear", wrap_pyfunction!(layers::_linear, module)?)?;
    module.setattr("_packed_linear", wrap_pyfunction!(layers::_packed_linear, module)?)?;
    module.setattr("_row_operation", wrap_pyfunction!(sequential::_row_operation, module)?)?;
    module.setattr("_info", wrap_pyfunction!(inspect::_info, module)?)?;
    module.setattr("_record_start", wrap_pyfunction!(inspect::_record_start, module)?)?;
    module.setattr("_record_stop", wrap_pyfunction!(inspect::_record_stop, module)?)?;
    module.setattr("_limit_threads", wrap_pyfunction!(inspect::_limit_threads, module)?)?;
    module.setattr("_sequential", wrap_pyfunction!(sequential::_sequential, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
