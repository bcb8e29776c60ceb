//! The job slot under loom: a caller, and two helpers that come at any moment. The source is the crate's own,
//! `src/parallel/slot.rs`, compiled once more with loom's atomics, locks and cells in place of std's, so that loom tries
//! each order of their steps, with each value that a relaxed load may see.
//!
//! Exhaustive for at most [`PREEMPTIONS`] moments in which a thread is interrupted where it could go on;
//! `LOOM_MAX_PREEMPTIONS` allows more, for minutes to hours.
#![cfg(all(feature = "parallel", not(target_family = "wasm"), not(miri)))]
#![allow(unsafe_code, reason = "the slot's own, and opening it")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// What `slot` is built on, from loom.
#[allow(unreachable_pub, reason = "as in the crate")]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(super) use loom::sync::{Condvar, Mutex};
    pub(super) use loom::thread::yield_now;

    pub(super) struct SharedCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> SharedCell<T> {
        pub(super) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            self.0.with(read)
        }

        pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            self.0.with_mut(write)
        }
    }

    /// Time does not pass: looks once.
    pub(super) fn spin_until(_limit: core::time::Duration, mut done: impl FnMut() -> bool) -> bool {
        done()
    }
}

/// As few as there can be: each multiplies the orders.
mod thresholds {
    pub(super) const YIELDS: usize = 1;
}

#[allow(dead_code, reason = "what callers alone use")]
#[path = "../src/parallel/slot.rs"]
mod slot;

use slot::Slot;

/// How many preemptions are tried at most.
const PREEMPTIONS: usize = 3;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(f);
}

/// A call's memory: each chunk is written by whoever claims it, without a lock, and read by the caller after.
struct Chunks<const N: usize>([UnsafeCell<u32>; N]);

// SAFETY: what is tested: that no two threads have a chunk at once. Loom watches each access.
unsafe impl<const N: usize> Sync for Chunks<N> {}

impl<const N: usize> Chunks<N> {
    fn new() -> Self {
        Self(std::array::from_fn(|_| UnsafeCell::new(0)))
    }

    fn visit(&self, chunk: usize) {
        // SAFETY: loom fails where another thread has it.
        self.0[chunk].with_mut(|visits| unsafe { *visits += 1 });
    }

    fn visits(&self) -> [u32; N] {
        // SAFETY: as above.
        std::array::from_fn(|chunk| self.0[chunk].with(|visits| unsafe { *visits }))
    }
}

/// One call, whose memory is gone the moment that it returns.
fn call<const N: usize>(slot: &Slot, helpers: usize) {
    let chunks = Chunks::<N>::new();
    {
        let help = |claim: &mut dyn FnMut() -> Option<usize>| {
            while let Some(chunk) = claim() {
                chunks.visit(chunk);
            }
        };
        // SAFETY: the slot is this thread's; what is opened is dropped before `help` and `chunks`.
        let open = unsafe { slot.open(N, helpers, &help) };
        while let Some(chunk) = open.claim() {
            chunks.visit(chunk);
        }
    }
    assert_eq!(chunks.visits(), [1; N]);
    assert!(slot.take_panic().is_none());
}

fn help(slot: &Slot, ticket: Option<u64>) {
    if let Some(participant) = slot.enter(ticket) {
        participant.work();
    }
}

#[test]
fn two_helpers_come_at_any_moment() {
    model(|| {
        let slot = Arc::new(Slot::new());
        let helpers = [(); 2].map(|()| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || help(&slot, None))
        });
        call::<2>(&slot, 2);
        for helper in helpers {
            helper.join().unwrap();
        }
    });
}

/// A helper that comes late finds the next call of the slot, or none, and never the memory of the one before.
#[test]
fn a_slot_is_used_again_at_once() {
    model(|| {
        let slot = Arc::new(Slot::new());
        let helper = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || (0..2).for_each(|_| help(&slot, None)))
        };
        call::<2>(&slot, 1);
        call::<2>(&slot, 1);
        helper.join().unwrap();
    });
}

/// No more are inside than the caller allows.
#[test]
fn the_limit_holds() {
    model(|| {
        let slot = Arc::new(Slot::new());
        let inside = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let helpers = [(); 2].map(|()| {
            let (slot, inside) = (Arc::clone(&slot), Arc::clone(&inside));
            thread::spawn(move || {
                if let Some(participant) = slot.enter(None) {
                    assert_eq!(inside.fetch_add(1, loom::sync::atomic::Ordering::Relaxed), 0, "two at once");
                    participant.work();
                    inside.fetch_sub(1, loom::sync::atomic::Ordering::Relaxed);
                }
            })
        });
        call::<2>(&slot, 1);
        for helper in helpers {
            helper.join().unwrap();
        }
    });
}

/// A helper spawned for one call does not enter the next: it would come from another pool.
#[test]
fn a_ticket_is_for_one_call() {
    model(|| {
        let slot = Arc::new(Slot::new());
        let help = |_: &mut dyn FnMut() -> Option<usize>| panic!("the first call is over");
        // SAFETY: dropped at once.
        let ticket = unsafe { slot.open(0, 1, &help) }.ticket();
        let helper = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || assert!(slot.enter(Some(ticket)).is_none()))
        };
        call::<1>(&slot, 1);
        helper.join().unwrap();
    });
}

/// A helper's panic reaches the caller, once, and no chunk is claimed twice.
#[test]
fn a_panic_of_a_helper_is_the_callers() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    model(|| {
        let slot = Arc::new(Slot::new());
        let helpers = [(); 2].map(|()| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || help(&slot, None))
        });
        let chunks = Chunks::<2>::new();
        let (mut own, panics) = (0, loom::sync::atomic::AtomicUsize::new(0));
        {
            let help = |claim: &mut dyn FnMut() -> Option<usize>| {
                if let Some(chunk) = claim() {
                    chunks.visit(chunk);
                    panics.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
                    panic!("from a helper");
                }
            };
            // SAFETY: the slot is this thread's; what is opened is dropped before `help` and `chunks`.
            let open = unsafe { slot.open(2, 2, &help) };
            while let Some(chunk) = open.claim() {
                chunks.visit(chunk);
                own += 1;
            }
        }
        let panics = panics.load(loom::sync::atomic::Ordering::Relaxed);
        let visits: u32 = chunks.visits().iter().sum();
        assert!(visits as usize == own + panics && chunks.visits().iter().all(|&visits| visits <= 1));
        let panic = slot.take_panic();
        assert_eq!(panic.is_some(), panics > 0, "lost, or from nowhere");
        assert_eq!(panic.map(|panic| *panic.downcast::<&str>().unwrap()), (panics > 0).then_some("from a helper"));
        assert!(slot.take_panic().is_none());
        for helper in helpers {
            helper.join().unwrap();
        }
        // Nothing of it is left for the next call.
        call::<1>(&slot, 1);
    });
    std::panic::set_hook(hook);
}

/// Where the caller itself panics, it waits for who is inside before its memory goes.
#[test]
fn a_panic_of_the_caller_waits_for_helpers() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    model(|| {
        let slot = Arc::new(Slot::new());
        let helper = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || help(&slot, None))
        };
        let chunks = Chunks::<2>::new();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let help = |claim: &mut dyn FnMut() -> Option<usize>| {
                while let Some(chunk) = claim() {
                    chunks.visit(chunk);
                }
            };
            // SAFETY: the slot is this thread's; what is opened is dropped before `help` and `chunks`.
            let open = unsafe { slot.open(2, 1, &help) };
            if let Some(chunk) = open.claim() {
                chunks.visit(chunk);
                panic!("from the caller");
            }
        }));
        // Read without a lock: nobody may be inside any more.
        assert!(chunks.visits().iter().all(|&visits| visits <= 1));
        drop(result);
        helper.join().unwrap();
        call::<1>(&slot, 1);
    });
    std::panic::set_hook(hook);
}
