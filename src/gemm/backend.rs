//! What multiplies in this build: register tiles and a workspace where there is an allocator, else
//! [`direct`](super::direct).

#[cfg(not(feature = "std"))]
pub(crate) use super::direct::{multiply_block, multiply_panels};
#[cfg(feature = "std")]
pub(crate) use super::tiled::{multiply_block, multiply_panels};
