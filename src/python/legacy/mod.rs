//! Every name of polyglot-bridge 0.2.0, and nothing else: those on NumPy arrays, and three on lists of numbers.

pub(super) mod arrays;
pub(super) mod lists;
