//! The matrix product under `linear`, `matmul` and `PackedLinear`: five loops around a micro-kernel (K. Goto and R. A.
//! van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008; F. G. Van Zee and R. A. van de Geijn,
//! "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", 2015). The papers' C += A B is here out += x
//! weight, with m rows, n columns and k steps.
//!
//! ```text
//! for blocks of out, jc by NC and ic by up to 1024      partition     each a task of some thread
//! └ for pc in 0..k by KC              (loop 4)          macro_kernel
//!   └ for jc in the block by NC       (loop 5)          macro_kernel  B, kc x nc: packed, or read in place
//!     └ for ic in the block by MC     (loop 3)          macro_kernel  A, mc x kc: packed, or read in place
//!       └ for jr in jc by NR          (loop 2)          macro_kernel  kc x nr of B stay in the first-level cache
//!         └ for ir in ic by MR        (loop 1)          micro_kernel
//!           └ for p in 0..kc                            micro_kernel  rank-1 update of mr x nr sums in registers
//!
//!            n by NC, NR                  k by KC               n by NC, NR
//!           ┌───┬───┬───┐               ┌──────┬──────┐         ┌───┬───┬───┐
//!  m by MC, │   │   │   │               │  A   │      │ k by KC │ B │   │   │
//!      MR   ├───┼───┼───┤       +=      ├──────┼──────┤    x    ├───┼───┼───┤
//!           │   │out│   │               │  x   │      │         │   │   │   │ weight
//!           └───┴───┴───┘               └──────┴──────┘         └───┴───┴───┘
//! ```
//!
//! Loops 5 and 4 are exchanged within a block, as its columns are few: so a block of k is packed just before it is
//! used. NR is some panels of 64 bytes of the compute type; the panel is the unit in which a weight is packed, at every
//! CPU level.
//!
//! | file | what is in it |
//! |---|---|
//! | `problem` | what a product is: operands, epilogue, cost |
//! | `plan` | which way a block goes: the five loops, or few rows without them |
//! | [`partition`] | blocks for threads (around loop 4), and a weight that is packed once for all of them |
//! | `macro_kernel` | loops 5 to 2 of one block, and the way of few rows |
//! | `micro_kernel` | loop 1 and the register tile |
//! | [`pack`] | A and B in panels, and whole weights |
//! | `gemv_rows`, `gemv_columns`, `dot` | few rows, and a weight that is read in place |
//! | `operands` | storage types, of which the macro-kernel knows nothing |
//! | [`epilogue`] | bias, residual, activation, rounding |
//! | `backend` | which of `tiled`, all of the above, and `direct`, all of it without std, a build has |
//!
//! Each output is computed in one fixed order, whatever path computes it: k is cut into equal blocks of at most [`KC`],
//! each block is a chain of multiply-adds from zero in order of k, and the blocks are added in order. So its bits
//! depend on its row, its column, k and the CPU level alone: not on the other rows and columns, not on how operands lie
//! in memory, not on threads.

use fearless_simd::{Simd, SimdBase};

use crate::float::Compute;

/// Calls `$body` for each index below `$count`, which is at most 16. Not a loop: LLVM leaves one that it finds long as
/// a loop, and then keeps in memory what it changes.
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

pub(crate) mod backend;
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
#[cfg(feature = "std")]
pub(crate) mod plan;
pub(crate) mod problem;
#[cfg(feature = "std")]
mod tiled;

/// The most steps of a block of k: so many that little time goes into adding blocks up, few enough for the panels of a
/// tile to stay in the cache's first level, or pass through it from the second in time, while rows pass. Part of what a
/// result's bits depend on.
pub(crate) const KC: usize = 512;

/// The columns of a panel of a packed weight whose compute type is `C`: one cache line of them, at every CPU level.
pub(crate) const fn panel_width<C>() -> usize {
    64 / size_of::<C>()
}

/// kc, the length of a block of k, but for the last: as even as can be, at most [`KC`]. Depends on k alone, as a
/// result's bits depend on it.
pub(crate) fn kc_of(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC).max(1)).max(1)
}

/// How many vectors a panel is wide: 1, 2 or 4.
pub(crate) const fn vectors_per_panel<S: Simd, C: Compute>() -> usize {
    panel_width::<C>() / C::Lanes::<S>::LEN
}
