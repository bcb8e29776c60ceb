//! What a slot is built on: atomics, locks and a cell, as std has them. `tests/loom.rs` compiles `slot` with loom's.

pub(super) use core::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Condvar, Mutex};
pub(super) use std::thread::yield_now;

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::time::Duration;
use std::time::Instant;

/// A cell whose users agree on turns; loom sees whether they keep to them.
pub(super) struct SharedCell<T>(UnsafeCell<T>);

impl<T> SharedCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// Spins until `done` or for this long. True if done.
pub(super) fn spin_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            spin_loop();
        }
        if start.elapsed() > limit {
            return false;
        }
    }
}
