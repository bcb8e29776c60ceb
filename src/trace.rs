//! What a call did, for `polyglot_bridge.explain`: copies and splits tell it here while a thread records, which costs
//! the others one load. Nothing is decided here. Part of the Python build alone.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::cell::RefCell;
use std::string::String;
use std::vec::Vec;

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Work was cut into blocks for several threads.
    Split {
        /// How many blocks.
        blocks: usize,
        /// How many threads may take them, the calling one among them.
        threads: usize,
        /// What all of them take on one core, by estimate.
        nanoseconds: u64,
    },
    /// A product went one way.
    Plan {
        /// Which.
        name: &'static str,
        /// The rows and columns of its register tile, 0 where there is none.
        tile: (usize, usize),
    },
    /// Numbers were copied before or after the kernel ran.
    Copy {
        /// Which and why.
        what: String,
        /// How many.
        bytes: usize,
    },
    /// How the result came to be.
    Result {
        /// Where it lies.
        place: &'static str,
        /// How large it is.
        bytes: usize,
    },
    /// The GIL was given up while the kernel ran.
    Released,
}

/// How many threads record.
static RECORDING: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    /// What this thread recorded, where it does.
    static EVENTS: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// Notes what happened, where this thread records.
#[inline]
pub(crate) fn note(event: impl FnOnce() -> Event) {
    if RECORDING.load(Ordering::Relaxed) != 0 {
        record(event());
    }
}

/// Where there is no memory for it, or the thread is about to end, it is not noted.
#[cold]
fn record(event: Event) {
    let _ = EVENTS.try_with(|events| {
        if let Ok(mut events) = events.try_borrow_mut()
            && let Some(events) = events.as_mut()
            && events.try_reserve(1).is_ok()
        {
            events.push(event);
        }
    });
}

/// Starts recording on this thread, afresh.
pub(crate) fn start() {
    if EVENTS.try_with(|events| events.replace(Some(Vec::new())).is_none()) == Ok(true) {
        RECORDING.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends recording on this thread, and gives what was recorded.
pub(crate) fn stop() -> Vec<Event> {
    let events = EVENTS.try_with(RefCell::take).ok().flatten();
    if events.is_some() {
        RECORDING.fetch_sub(1, Ordering::Relaxed);
    }
    events.unwrap_or_default()
}
