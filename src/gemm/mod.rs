//! The matrix product under `linear`, `matmul` and `PackedLinear`. [`partition`] cuts a product into blocks and hands them
//! to threads; [`macro_kernel`] computes one of them, whatever its storage types, which [`operands`] knows; [`micro_kernel`] is the
//! inner loop, [`pack`] lays operands out for the cache; [`gemv_rows`] and
//! [`gemv_columns`] are for few rows and a weight that is read where it lies. Without std [`direct`] takes the place of [`macro_kernel`].
//!
//! Each output is computed in one fixed order, whatever path computes it: k is cut into equal blocks of at most [`KC`], each
//! block is a chain of multiply-adds from zero in order of k, and the blocks are added in order. So its bits depend
//! on its row, its column, k and the CPU level alone: not on the other rows and columns, not on how operands lie in
//! memory, not on threads.

use fearless_simd::{Simd, SimdBase};

use crate::float::Compute;

/// Calls `$body` for each index below `$count`, which is at most 16. Not a loop: LLVM leaves one that it finds long as a
/// loop, and then keeps in memory what it changes.
#[cfg(feature = "std")]
macro_rules! each_index {
    ($count:expr, $body:ident) => {
        each_index!($count, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($count:expr, $body:ident, $($index:literal)*) => {$(
        if $index < $count {
            $body($index);
        }
    )*};
}

#[cfg(not(feature = "std"))]
mod direct;
#[cfg(feature = "std")]
mod dot;
pub(crate) mod epilogue;
#[cfg(feature = "std")]
mod gemv_columns;
#[cfg(feature = "std")]
mod gemv_rows;
#[cfg(feature = "std")]
pub(crate) mod macro_kernel;
#[cfg(feature = "std")]
pub(crate) mod micro_kernel;
#[cfg(feature = "std")]
pub(crate) mod operands;
pub(crate) mod pack;
pub(crate) mod partition;
pub(crate) mod problem;

/// The most steps of a block of k: so many that little time goes into adding blocks up, few enough for the panels of a
/// tile to stay in the cache's first level, or pass through it from the second in time, while rows pass. Part of what a
/// result's bits depend on.
pub(crate) const KC: usize = 512;

/// The columns of a panel of a packed weight whose compute type is `C`: one cache line of them, at every CPU level.
pub(crate) const fn panel_width<C>() -> usize {
    64 / size_of::<C>()
}

/// The length of a block of k, but for the last: as even as can be, at most [`KC`]. Depends on k alone, as a
/// result's bits depend on it.
pub(crate) fn kc_of(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC).max(1)).max(1)
}

/// How many vectors a panel is wide.
pub(crate) const fn vectors_per_panel<S: Simd, C: Compute>() -> usize {
    panel_width::<C>() / C::Lanes::<S>::LEN
}
