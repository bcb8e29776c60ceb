//! Fused machine-learning inference kernels, written once, from a server down to a microcontroller.
//!
//! Each operation reads borrowed slices or [`Matrix`] views, writes into what the caller gives it (or in place, under
//! the same name with `_in_place`) and returns a [`ShapeError`] where shapes do not fit, or, where it may need memory beside
//! these, an [`Error`]. Nothing panics, and nothing is written where there is an error. A build without `std` allocates
//! nothing.
//!
//! | operation | |
//! |---|---|
//! | [`linear`], [`matmul`] | products, with bias, residual and activation in one pass ([`Epilogue`]) |
//! | [`softmax`], [`log_softmax`] | over rows |
//! | [`layer_norm`], [`rms_norm`] | over rows, with optional weight and bias; [`add_layer_norm`] adds a residual first |
//! | [`l2_normalize`], [`mean_pool`], [`embedding`] | over rows: scaled to length 1, their mean, looked up by number |
//! | [`relu`], [`sigmoid`], [`tanh`], [`silu`], [`gelu`], [`gelu_tanh`] | element by element; [`Activation`] names them |
//! | [`attention`] | scaled dot-product attention of one head; [`attention_batch`] for many |
//! | [`scale`], [`map`], [`dropout_add`] | element by element |
//! | [`sum_of_squares`] | one number |
//!
//! They take every [`Float`]: `f32`, `f64`, with the feature `f16` also `half::f16` and `half::bf16`, and types of your
//! own. Results are the same bits for any number of threads, and for a row alone or in a batch.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `std` | yes | buffers for packing, products by register tiles, CPU detection on more targets than x86-64 |
//! | `libm` | | the few scalar functions that core lacks; needed where `std` is off |
//! | `f16` | | `half::f16` and `half::bf16` |
//! | `parallel` | | large calls on the threads of a rayon pool: the one that a call is made in, or the global one |
//! | `python` | | the CPython extension module; turns on `std`, `f16` and `parallel` |
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

#[cfg(not(any(feature = "std", feature = "libm")))]
compile_error!(
    "polyglot-bridge needs one of the cargo features `std` (the default) and `libm` (for targets without std): \
     add `features = [\"libm\"]` next to `default-features = false`"
);

#[cfg(any(feature = "python", all(test, feature = "std")))]
mod cache;
mod error;
mod float;
mod gemm;
mod kernel;
mod macros;
pub mod math;
mod ops;
mod parallel;
#[cfg(feature = "python")]
mod python;
pub mod simd;
#[cfg(feature = "python")]
mod trace;
mod view;
mod workspace;

pub use error::{Error, Shape, ShapeError};
pub use float::{Compute, Float, Lanes, MAX_LANES};
pub use gemm::problem::Residual;
pub use math::activation::Activation;
pub use ops::activation::{
    activate, activate_in_place, gelu, gelu_in_place, gelu_tanh, gelu_tanh_in_place, relu, relu_in_place, sigmoid,
    sigmoid_in_place, silu, silu_in_place, tanh, tanh_in_place,
};
pub use ops::attention::{AttentionMask, AttentionOptions, attention, attention_batch};
pub use ops::dropout_add::{Mask, dropout_add, dropout_add_in_place};
pub use ops::embedding::{embedding, embedding_wide};
pub use ops::layer_norm::{
    add_layer_norm, add_layer_norm_in_place, l2_normalize, l2_normalize_in_place, layer_norm, layer_norm_in_place,
    rms_norm, rms_norm_in_place,
};
pub use ops::linear::{Epilogue, linear};
pub use ops::map::{map, map_in_place, scale, scale_in_place};
pub use ops::matmul::{matmul, matmul_batch};
pub use ops::packed_linear::{PackedLinear, pack_constant};
pub use ops::pool::mean_pool;
pub use ops::reduce::sum_of_squares;
#[cfg(feature = "std")]
pub use ops::sequential::{Layer, RowOperation, Sequential, Wide};
pub use ops::softmax::{log_softmax, log_softmax_in_place, softmax, softmax_in_place};
#[cfg(feature = "parallel")]
pub use parallel::set_num_threads;
pub use parallel::{ThreadSource, num_threads, thread_source, with_threads};
pub use view::{Matrix, MatrixMut};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
