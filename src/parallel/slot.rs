//! The job slot: where a caller offers the chunks of one call to helpers, and leaves without waiting for any that has
//! not come. All of the hand-off between threads is here; who spawns helpers, and when, is told elsewhere.
//!
//! A caller opens the slot and starts to claim chunks at once, from the front; helpers enter and claim from the back,
//! so that two threads keep to the same halves call after call. When no chunk is left the caller closes the slot, and
//! waits only for participants that are inside. Who comes later finds it closed and touches nothing.

use core::any::Any;
use core::mem;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::boxed::Box;
use std::panic::catch_unwind;
use std::sync::PoisonError;
use std::thread;

use super::sync::{AtomicU64, Condvar, Mutex, Ordering, SharedCell, spin_until, yield_now};

/// What a helper does, given what claims the next chunk for it.
pub(super) type Help<'a> = &'a (dyn Fn(&mut dyn FnMut() -> Option<usize>) + Sync);
/// What a panic carries.
pub(super) type Panic = Box<dyn Any + Send>;

/// The slot lets helpers in.
const OPEN: u64 = 1 << 63;
/// The caller sleeps until the last helper has left.
const AWAITED: u64 = 1 << 62;
/// How often the slot was opened, so that a helper that was spawned for an earlier call knows.
const TICKET: u64 = ((1 << 30) - 1) << 32;
/// How many helpers may be inside, and how many are.
const LIMIT_SHIFT: u32 = 16;
const INSIDE: u64 = (1 << LIMIT_SHIFT) - 1;

fn limit(state: u64) -> u64 {
    state >> LIMIT_SHIFT & INSIDE
}

/// One place for one call at a time. It lives as long as the process, so that a late helper may look at it whenever it
/// likes.
#[repr(align(128))]
pub(super) struct Slot {
    /// The bits above.
    state: AtomicU64,
    /// Chunks claimed from the front in the low half, from the back in the high half.
    claims: AtomicU64,
    /// Written by the caller while the slot is closed and nobody inside; read by those inside.
    job: SharedCell<Option<(Help<'static>, usize)>>,
    /// Where a caller that set `AWAITED` sleeps. Not by its thread's handle: std would allocate one for a thread that
    /// it did not start.
    leaving: Mutex<()>,
    left: Condvar,
    /// The first panic of a helper.
    panic: Mutex<Option<Panic>>,
}

// SAFETY: `job` is written by the caller that has the slot, while it is closed and empty, and read by those inside, who
// came in after; what it holds is `Send` and `Sync`, as the rest is.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Send for Slot {}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            claims: AtomicU64::new(0),
            job: SharedCell::new(None),
            leaving: Mutex::new(()),
            left: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    /// Lets up to `helpers` helpers in, who run `help` on `chunks` chunks.
    ///
    /// # Safety
    ///
    /// The caller has this slot for itself, and it is closed and empty, as its last owner left it. It drops the result
    /// before `help` ends.
    pub(super) unsafe fn open(&self, chunks: usize, helpers: usize, help: Help<'_>) -> Open<'_> {
        // SAFETY: only the lifetime changes. Who reads `help` is inside, and `Open` waits for those.
        let help = unsafe { mem::transmute::<Help<'_>, Help<'static>>(help) };
        // SAFETY: nobody else is inside, and nobody comes in before the slot is open, below.
        self.job.with_mut(|job| unsafe { *job = Some((help, chunks)) });
        self.claims.store(0, Ordering::Relaxed);
        let ticket = (self.state.load(Ordering::Relaxed) & TICKET).wrapping_add(1 << 32) & TICKET;
        // Release: the job.
        self.state.store(OPEN | ticket | (helpers as u64 & INSIDE) << LIMIT_SHIFT, Ordering::Release);
        Open { slot: self, chunks, ticket, spin: Duration::ZERO }
    }

    /// Goes in, if the slot is open, for the call of this ticket if one is given, and has room.
    pub(super) fn enter(&self, ticket: Option<u64>) -> Option<Participant<'_>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let is_other = ticket.is_some_and(|ticket| state & TICKET != ticket);
            if state & OPEN == 0 || is_other || state & INSIDE >= limit(state) {
                return None;
            }
            // Acquire: the job.
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Participant(self)),
                Err(now) => state = now,
            }
        }
    }

    /// How many helpers may be inside.
    pub(super) fn limit(&self) -> usize {
        limit(self.state.load(Ordering::Relaxed)) as usize
    }

    /// The panic of a helper, after all have left.
    pub(super) fn take_panic(&self) -> Option<Panic> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Leaves no chunk to claim: after a panic.
    fn give_up(&self, chunks: usize) {
        self.claims.fetch_add((chunks as u64) << 32, Ordering::Relaxed);
    }
}

/// An open slot, in its caller's hands. Dropped, also by a panic, it closes and waits for those inside.
pub(super) struct Open<'a> {
    slot: &'a Slot,
    chunks: usize,
    ticket: u64,
    /// How long the caller spins for the last helper before it yields its core.
    pub(super) spin: Duration,
}

impl Open<'_> {
    /// What a helper enters with that is for this call alone.
    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Claims the next chunk for the caller.
    pub(super) fn claim(&self) -> Option<usize> {
        let claims = self.slot.claims.fetch_add(1, Ordering::Relaxed);
        let (front, back) = (claims as u32 as usize, (claims >> 32) as usize);
        (front + back < self.chunks).then_some(front)
    }

    fn wait(&self) {
        let state = &self.slot.state;
        // Acquire: what those who left wrote.
        let is_empty = || state.load(Ordering::Acquire) & INSIDE == 0;
        if spin_until(self.spin, is_empty) {
            return;
        }
        // Someone's core was taken away, perhaps by this very thread.
        for _ in 0..super::thresholds::YIELDS {
            yield_now();
            if is_empty() {
                return;
            }
        }
        let mut leaving = self.slot.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if state.fetch_or(AWAITED, Ordering::Acquire) & INSIDE == 0 {
            return;
        }
        while state.load(Ordering::Acquire) & AWAITED != 0 {
            leaving = self.slot.left.wait(leaving).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // The rest is in vain.
            self.slot.give_up(self.chunks);
        }
        // Acquire: what those who left wrote.
        if self.slot.state.fetch_and(!OPEN, Ordering::Acquire) & INSIDE != 0 {
            self.wait();
        }
    }
}

/// A helper's stay inside a slot.
pub(super) struct Participant<'a>(&'a Slot);

impl Participant<'_> {
    /// Works on chunks until none is left. A panic is kept for the caller.
    pub(super) fn work(&self) {
        // SAFETY: written before the slot was open, which `enter` saw (acquire), and not again before this participant
        // has left, for which the caller waits.
        let Some((help, chunks)) = self.0.job.with(|job| unsafe { *job }) else { return };
        let mut claim = || {
            let claims = self.0.claims.fetch_add(1 << 32, Ordering::Relaxed);
            let (front, back) = (claims as u32 as usize, (claims >> 32) as usize);
            (front + back < chunks).then(|| chunks - 1 - back)
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| help(&mut claim))) {
            self.0.give_up(chunks);
            let mut first = self.0.panic.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() {
                *first = Some(panic);
            } else {
                drop(first);
                discard(panic);
            }
        }
    }
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        // Release: what this one did. Acquire: what others did who left before, for the caller to see.
        let state = self.0.state.fetch_sub(1, Ordering::AcqRel);
        if state & AWAITED != 0 && state & INSIDE == 1 {
            // The caller sleeps, or is about to with this lock in its hands.
            let _leaving = self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.state.fetch_and(!AWAITED, Ordering::Release);
            self.0.left.notify_one();
        }
    }
}

/// Drops a panic that nobody will hear of. What it carries may panic as it goes; that one is not looked into.
pub(super) fn discard(panic: Panic) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(another);
    }
}
