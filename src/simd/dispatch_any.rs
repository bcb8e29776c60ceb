//! Which code runs at which CPU level, where `fearless_simd` knows best: all levels of the target.

/// Runs a kernel, an expression over the token `$simd`, compiled for each CPU level, at `$level`.
///
/// What the expression calls must be `#[inline(always)]`, so that it is compiled with that level's instructions.
macro_rules! dispatch {
    ($level:expr, $simd:pat => $kernel:expr) => {
        fearless_simd::dispatch!($level, $simd => $kernel)
    };
}
pub(crate) use dispatch;
