//! How many threads a call may use, and who said so. Threads themselves are `workers`'.

/// Where the number of threads comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThreadSource {
    /// The size of rayon's global pool; in Python the cores that the affinity mask and the cgroup quota leave to this
    /// process; 1 without the feature `parallel`.
    Default,
    /// The environment variable `POLYGLOT_NUM_THREADS`.
    Environment,
    /// In Python, the environment variable `OMP_NUM_THREADS`.
    OpenMp,
    /// The rayon pool that this thread is a worker of, as within `ThreadPool::install`.
    Pool,
    /// [`set_num_threads`](crate::set_num_threads).
    Call,
    /// [`with_threads`], on this thread.
    Scope,
}

/// How many threads, the calling one among them, a large operation on this thread uses at most.
///
/// The limit of the innermost [`with_threads`], else the number given to
/// [`set_num_threads`](crate::set_num_threads), else the size of the rayon pool that this thread is a worker of, else
/// `POLYGLOT_NUM_THREADS` where it is a positive whole number, else the size of rayon's global pool, which this builds
/// where nobody has. A worker's calls use no more threads than its pool has, whatever the limit. Always 1 without the
/// feature `parallel`. Results are the same bits whatever the number.
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
#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
pub(super) use threads::{cores, forget_default};
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

    use super::super::thresholds::MOST_THREADS;
    #[cfg(not(target_family = "wasm"))]
    use super::super::workers;
    use super::ThreadSource;

    /// The number given to `set_num_threads`; 0: none.
    static CALL: AtomicUsize = AtomicUsize::new(0);
    /// The number without one, four times, plus where it comes from; 0: not looked up yet.
    static DEFAULT: AtomicUsize = AtomicUsize::new(0);
    /// What a number in `DEFAULT` may come from.
    const SOURCES: [ThreadSource; 3] = [ThreadSource::Default, ThreadSource::Environment, ThreadSource::OpenMp];

    std::thread_local! {
        /// The limit of the innermost `with_threads` on this thread; 0: none.
        static SCOPE: Cell<usize> = const { Cell::new(0) };
    }

    /// The number of threads and where it comes from. No lock and no system call after the first time.
    #[inline]
    pub(in super::super) fn in_force() -> (usize, ThreadSource) {
        let given = match (SCOPE.get(), CALL.load(Ordering::Relaxed)) {
            (0, 0) => None,
            (0, call) => Some((call, ThreadSource::Call)),
            (scope, _) => Some((scope, ThreadSource::Scope)),
        };
        match (pool(), given) {
            (None, Some(given)) => given,
            (Some(pool), None) => (pool.min(MOST_THREADS), ThreadSource::Pool),
            (Some(pool), Some((threads, source))) => (threads.min(pool), source),
            (None, None) => {
                let default = match DEFAULT.load(Ordering::Relaxed) {
                    0 => look_up(),
                    default => default,
                };
                (default >> 2, SOURCES[(default & 3) % SOURCES.len()])
            }
        }
    }

    #[cfg(not(target_family = "wasm"))]
    use workers::current_pool as pool;

    #[cfg(target_family = "wasm")]
    fn pool() -> Option<usize> {
        None
    }

    #[cold]
    fn look_up() -> usize {
        // OpenMP's may be a list, with a number for each level of nesting.
        let read = |name| {
            let text = env::var(name).ok()?;
            let first = if name == "OMP_NUM_THREADS" { text.split(',').next()? } else { &text };
            first.trim().parse::<usize>().ok().filter(|&threads| threads > 0)
        };
        let (threads, source) = if let Some(threads) = read("POLYGLOT_NUM_THREADS") {
            (threads, 1)
        } else if let Some(threads) = read("OMP_NUM_THREADS").filter(|_| cfg!(feature = "python")) {
            (threads, 2)
        } else {
            (available(), 0)
        };
        let default = threads.clamp(1, MOST_THREADS) << 2 | source;
        DEFAULT.store(default, Ordering::Relaxed);
        default
    }

    /// How many threads there are for a program that says nothing.
    fn available() -> usize {
        #[cfg(not(any(feature = "python", target_family = "wasm")))]
        return workers::global_pool();
        #[cfg(any(feature = "python", target_family = "wasm"))]
        return cores();
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
    /// default. No more come than the rayon pool has that a call uses. More than 256 counts as 256.
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
    #[inline]
    pub fn with_threads<R>(threads: usize, f: impl FnOnce() -> R) -> R {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                SCOPE.set(self.0);
            }
        }
        // To look for a thread's own variable takes as long as a small kernel.
        let _restore = (threads != 0).then(|| Restore(SCOPE.replace(threads.min(MOST_THREADS))));
        f()
    }
}
