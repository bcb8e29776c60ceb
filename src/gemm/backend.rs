//! What multiplies in this build: register tiles and a workspace where there is an allocator, else [`direct`](super::direct).

#[cfg(not(feature = "std"))]
pub(crate) use super::direct::{multiply_block, multiply_panels};
#[cfg(feature = "std")]
pub(crate) use super::tiled::{multiply_block, multiply_panels};

/// Packed panels of one block of k.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedPanels<'a, C> {
    pub(crate) numbers: &'a [C],
    /// From a panel to the next.
    pub(crate) len: usize,
}
