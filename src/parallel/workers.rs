//! The threads, which are rayon's: the pool that the calling thread works in, the global one, and one of our own. No
//! other file names rayon.
//!
//! A Rust program's calls use the pool that they are made in, or the global one. A pool of our own is for Python, whose
//! programs have none, and for forked children, whose global pool has lost its threads.

use core::hint::black_box;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::error::Error;
use std::format;
use std::panic::catch_unwind;
use std::sync::{Mutex, OnceLock};
use std::vec::Vec;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::thresholds::MOST_THREADS;

/// The threads of the rayon pool that this thread is a worker of; `None` on others. Never ours in Python.
#[inline]
pub(super) fn current_pool() -> Option<usize> {
    if cfg!(feature = "python") {
        return None;
    }
    rayon::current_thread_index().map(|_| rayon::current_num_threads())
}

/// The threads of the global pool, which is built where it was not; 0 where it cannot be.
pub(super) fn global_pool() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| match ThreadPoolBuilder::new().build_global() {
        // The system refuses threads. To ask once more would be a panic of rayon's.
        Err(error) if error.source().is_some() => 0,
        // The program built one before. Where it could not, and went on, rayon panics.
        _ => catch_unwind(rayon::current_num_threads).unwrap_or(0),
    })
}

/// Whether a job may be spawned: rayon allocates a few hundred bytes for one, and ends the process where it gets none.
/// What was had a moment ago, an allocator has again, but for threads that take it in between.
fn has_memory(bytes: usize) -> bool {
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(bytes).is_ok() && !black_box(room.as_mut_ptr()).is_null()
}

/// Spawns a job on the pool of the calling thread, or on the global one, if there is one.
pub(super) fn spawn(job: impl FnOnce() + Send + 'static) -> bool {
    let may = (current_pool().is_some() || global_pool() > 0) && has_memory(2048);
    if may {
        rayon::spawn(job);
    }
    may
}

/// A pool of our own. A rayon pool does not grow, so one more is built where more threads are wanted.
pub(super) struct OwnPool {
    /// How many threads were asked for so far, in all.
    asked: AtomicUsize,
    building: Mutex<()>,
    parts: [Part; PARTS],
}

/// Each part but the first is half of all before it at least, so that these are enough.
const PARTS: usize = 16;

pub(super) struct Part {
    pool: OnceLock<ThreadPool>,
    /// Helpers that were spawned and have not ended.
    helpers: AtomicUsize,
}

impl OwnPool {
    pub(super) fn new() -> Self {
        let parts = core::array::from_fn(|_| Part { pool: OnceLock::new(), helpers: AtomicUsize::new(0) });
        Self { asked: AtomicUsize::new(0), building: Mutex::new(()), parts }
    }

    /// Sees that so many threads were asked for. Where the system refuses them there are fewer, or none, and these are not
    /// asked for again.
    #[inline]
    pub(super) fn grow(&self, wanted: usize) {
        if self.asked.load(Ordering::Relaxed) < wanted {
            self.build(wanted);
        }
    }

    #[cold]
    fn build(&self, wanted: usize) {
        // Someone else is at it: do without for now.
        let Ok(_building) = self.building.try_lock() else { return };
        let asked = self.asked.load(Ordering::Relaxed);
        if asked >= wanted {
            return;
        }
        let mut threads = wanted.max(asked + asked / 2).min(MOST_THREADS - 1) - asked;
        self.asked.store(asked + threads, Ordering::Relaxed);
        let Some(part) = self.parts.iter().find(|part| part.pool.get().is_none()) else { return };
        // What rayon and std ask for without a way back.
        while threads > 0 && has_memory(threads << 12) {
            let builder = ThreadPoolBuilder::new().num_threads(threads);
            if let Ok(pool) = builder.thread_name(move |index| format!("polyglot-{}", asked + index + 1)).build() {
                let _ = part.pool.set(pool);
                return;
            }
            // Rayon gives up those that were started.
            threads /= 2;
        }
    }

    fn built(&self) -> impl Iterator<Item = (&Part, &ThreadPool)> {
        self.parts.iter().map_while(|part| Some((part, part.pool.get()?)))
    }

    /// Helpers that were spawned and have not ended.
    #[inline]
    pub(super) fn helpers(&self) -> usize {
        // Sequentially consistent here and where they end: either a helper sees the open slot, or its caller that it ends.
        self.built().map(|(part, _)| part.helpers.load(Ordering::SeqCst)).sum()
    }

    /// Spawns a helper on a thread that has none. It says on its part when it ends. False where there is no such thread.
    pub(super) fn spawn(&'static self, help: impl FnOnce(&'static Part) + Send + 'static) -> bool {
        for (part, pool) in self.parts.iter().map_while(|part| Some((part, part.pool.get()?))) {
            let one_more = |count| (count < pool.current_num_threads()).then_some(count + 1);
            if part.helpers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok() {
                let may = has_memory(2048);
                if may {
                    pool.spawn(move || help(part));
                } else {
                    part.end();
                }
                return may;
            }
        }
        false
    }
}

impl Part {
    /// A helper is about to go back to rayon.
    pub(super) fn end(&self) {
        self.helpers.fetch_sub(1, Ordering::SeqCst);
    }
}
