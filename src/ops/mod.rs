//! The operations, one a file. Each checks shapes once, splits the work, and runs a row kernel at the CPU's level.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod dropout_add;
pub(crate) mod embedding;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod map;
pub(crate) mod matmul;
pub(crate) mod packed_linear;
pub(crate) mod pool;
pub(crate) mod reduce;
#[cfg(feature = "std")]
pub(crate) mod sequential;
pub(crate) mod softmax;
