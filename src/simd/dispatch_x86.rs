//! Which code runs at which CPU level, compiled for any x86-64: CPUs of the level SSE4.2 (2008 to 2013) run the code of
//! SSE2. Both give the same bits, and a level costs a fifth of all code and of the time that it takes to compile.

use fearless_simd::{Simd, Sse2};

/// Runs a kernel, an expression over the token `$simd`, compiled for each CPU level, at `$level`.
///
/// What the expression calls must be `#[inline(always)]`, so that it is compiled with that level's instructions.
macro_rules! dispatch {
    ($level:expr, $simd:pat => $kernel:expr) => {
        match $level {
            #[cfg(not(disable_dispatch_avx512))]
            fearless_simd::Level::Avx512(token) => $crate::simd::run_at!(token, $simd => $kernel),
            #[cfg(not(disable_dispatch_avx2))]
            fearless_simd::Level::Avx2(token) => $crate::simd::run_at!(token, $simd => $kernel),
            _ => {
                let token = $crate::simd::sse2();
                $crate::simd::run_at!(token, $simd => $kernel)
            }
        }
    };
}
pub(crate) use dispatch;

/// Runs a kernel with the instructions of one level, whose token it sees as some `impl Simd`.
macro_rules! run_at {
    ($token:ident, $simd:pat => $kernel:expr) => {{
        let $simd = $crate::simd::some_level($token);
        fearless_simd::Simd::vectorize(
            $token,
            #[inline(always)]
            || $kernel,
        )
    }};
}
pub(crate) use run_at;

/// The token as a type of which nothing is known but that it is a level's.
#[inline(always)]
pub(crate) fn some_level<S: Simd>(token: S) -> impl Simd {
    token
}

/// What every x86-64 has.
#[inline(always)]
pub(crate) fn sse2() -> Sse2 {
    // SAFETY: this file is compiled where the target has SSE2.
    unsafe { Sse2::assume_supported() }
}
