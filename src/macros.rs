//! What any kernel may say: `bug!` for what cannot happen, `lane_fn!` for a closure over vectors.

/// What was checked does not fit: a bug of this crate. It panics where debug assertions are on, as in tests; elsewhere
/// it is nothing, or the value that it is given, so that no code for a panic is linked into firmware.
macro_rules! bug {
    () => {
        debug_assert!(false, "a length that was checked does not fit")
    };
    ($value:expr) => {{
        debug_assert!(false, "a length that was checked does not fit");
        $value
    }};
}
pub(crate) use bug;

/// A closure that is inlined into the function for a CPU level that calls it, as whatever runs inside `dispatch!` must
/// be. For an argument: on its own it would lose the types that its parameters get from there.
macro_rules! lane_fn {
    ($($closure:tt)*) => {
        #[inline(always)]
        $($closure)*
    };
}
pub(crate) use lane_fn;
