//! How many threads a call may use, and who said so. Threads themselves are `pool`'s.

/// Where the number of threads comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThreadSource {
    /// The cores that the affinity mask and the cgroup quota leave to this process; 1 without the feature `parallel`.
    Default,
    /// The environment variable `POLYGLOT_NUM_THREADS`.
    Environment,
    /// [`set_num_threads`](crate::set_num_threads).
    Call,
    /// [`with_threads`], on this thread.
    Scope,
}

/// How many threads, the calling one among them, a large operation on this thread uses at most.
///
/// The limit of the innermost [`with_threads`], else the number given to
/// [`set_num_threads`](crate::set_num_threads), else `POLYGLOT_NUM_THREADS` where it is a positive whole number, else
/// as many as the affinity mask and the cgroup quota allow. Always 1 without the feature `parallel`. Results are the
/// same bits whatever the number.
///
/// # Examples
///
/// ```
/// assert!(polyglot_bridge::num_threads() >= 1);
/// ```
#[inline]
pub fn num_threads() -> usize {
    in_force().0
}

/// Where [`num_threads`] comes from.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{ThreadSource, thread_source, with_threads};
///
/// let source = with_threads(1, thread_source);
/// # #[cfg(feature = "parallel")]
/// assert_eq!(source, ThreadSource::Scope);
/// ```
pub fn thread_source() -> ThreadSource {
    in_force().1
}

#[cfg(feature = "parallel")]
pub(super) use threads::in_force;
#[cfg(feature = "python")]
pub(crate) use threads::swap_scope;
#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
pub(super) use threads::{MOST_THREADS, cores, forget_default};
#[cfg(feature = "parallel")]
pub use threads::{set_num_threads, with_threads};

#[cfg(not(feature = "parallel"))]
fn in_force() -> (usize, ThreadSource) {
    (1, ThreadSource::Default)
}

/// Runs `f`; this build has no threads to limit, see the feature `parallel`.
///
/// # Examples
///
/// ```
/// assert_eq!(polyglot_bridge::with_threads(1, || 2 + 2), 4);
/// ```
#[cfg(not(feature = "parallel"))]
pub fn with_threads<R>(_threads: usize, f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(feature = "parallel")]
mod threads {
    use core::cell::Cell;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::{env, thread};

    use super::ThreadSource;

    /// The most threads that a call may use.
    pub(in super::super) const MOST_THREADS: usize = 256;
    /// The number given to `set_num_threads`; 0: none.
    static CALL: AtomicUsize = AtomicUsize::new(0);
    /// The number without one, twice, plus one where the environment gave it; 0: not looked up yet.
    static DEFAULT: AtomicUsize = AtomicUsize::new(0);

    std::thread_local! {
        /// The limit of the innermost `with_threads` on this thread; 0: none.
        static SCOPE: Cell<usize> = const { Cell::new(0) };
    }

    /// The number of threads and where it comes from. No lock and no system call after the first time.
    #[inline]
    pub(in super::super) fn in_force() -> (usize, ThreadSource) {
        let scope = SCOPE.get();
        if scope != 0 {
            return (scope, ThreadSource::Scope);
        }
        let call = CALL.load(Ordering::Relaxed);
        if call != 0 {
            return (call, ThreadSource::Call);
        }
        let default = match DEFAULT.load(Ordering::Relaxed) {
            0 => look_up(),
            default => default,
        };
        (default >> 1, if default & 1 == 1 { ThreadSource::Environment } else { ThreadSource::Default })
    }

    #[cold]
    fn look_up() -> usize {
        let given = env::var("POLYGLOT_NUM_THREADS").ok();
        let given = given.and_then(|text| text.trim().parse::<usize>().ok()).filter(|&threads| threads > 0);
        let default = match given {
            Some(threads) => threads.min(MOST_THREADS) << 1 | 1,
            None => cores() << 1,
        };
        DEFAULT.store(default, Ordering::Relaxed);
        default
    }

    /// The cores that the affinity mask and the cgroup quota leave to this process.
    pub(in super::super) fn cores() -> usize {
        thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
    }

    /// Looks environment and cores up again next time: a forked child may have been given others.
    #[cfg(not(target_family = "wasm"))]
    pub(in super::super) fn forget_default() {
        DEFAULT.store(0, Ordering::Relaxed);
    }

    /// Sets how many threads, the calling one among them, operations of this process use at most; 0 goes back to the
    /// default. More than there are cores is allowed. More than 256 counts as 256.
    ///
    /// # Examples
    ///
    /// ```
    /// polyglot_bridge::set_num_threads(3);
    /// assert_eq!(polyglot_bridge::num_threads(), 3);
    /// polyglot_bridge::set_num_threads(0);
    /// ```
    pub fn set_num_threads(threads: usize) {
        CALL.store(threads.min(MOST_THREADS), Ordering::Relaxed);
    }

    /// Sets the limit of the calling thread, 0 for none, and returns what it was: for scopes that are not closures.
    #[cfg(feature = "python")]
    pub(crate) fn swap_scope(threads: usize) -> usize {
        SCOPE.replace(threads.min(MOST_THREADS))
    }

    /// Runs `f` with at most `threads` threads, the calling one among them, for the operations that `f` calls on this
    /// thread; 0 sets no limit of its own. Other threads are not concerned. More than 256 counts as 256.
    ///
    /// # Examples
    ///
    /// ```
    /// use polyglot_bridge::{num_threads, with_threads};
    ///
    /// assert_eq!(with_threads(1, num_threads), 1);
    /// ```
    pub fn with_threads<R>(threads: usize, f: impl FnOnce() -> R) -> R {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                SCOPE.set(self.0);
            }
        }
        let outer = SCOPE.get();
        let _restore = Restore(outer);
        if threads != 0 {
            SCOPE.set(threads.min(MOST_THREADS));
        }
        f()
    }
}
