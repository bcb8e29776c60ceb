//! exp, tanh, erf and their relatives, written once over [`Compute`] lanes. No libm call, no table, no branch a lane.

/// Constants of the functions, for each compute type.
pub trait Constants {}
impl Constants for f32 {}
impl Constants for f64 {}
