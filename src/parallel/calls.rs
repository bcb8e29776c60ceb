//! Calls that are under way, and how helpers find them. What a call and its helpers do to one another is `slot`'s
//! affair, threads are rayon's (`workers`), and how work is cut is decided in the parent module.
//!
//! Rayon's `join` and `scope` wait for a job that no worker has started yet, and to wake one takes as long as a whole
//! softmax. So helpers are spawned without being waited for: each claims chunks of open calls. In a pool of our own it
//! lingers for the next call; in a program's pool it goes back to rayon as soon as no chunk is left.
//!
//! Nothing but speed hangs on helpers: where none comes a call does all its chunks itself. Where they linger a call
//! allocates nothing; to spawn one takes a small allocation of rayon's.

use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::panic::resume_unwind;
use std::time::Instant;
use std::vec::Vec;
use std::{process, thread};

use super::count;
use super::slot::{Help, Participant, Slot, discard};
use super::split::Split;
use super::sync::{spin_until, yield_now};
use super::thresholds::{LINGER, LINGER_YIELD, LONGEST_SPIN, SLOTS, SPAWNS, SPIN, WAKE, WAKE_FOR_MANY};
use super::workers::{self, OwnPool, Part};

std::thread_local! {
    /// Whether this thread is inside a call, as its caller or as a helper: what it calls then runs on it alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What the caller does to a chunk.
type Own<'a> = &'a mut dyn FnMut(Range<usize>);
/// What a helper does, given what claims the next chunk for it.
type HelpRanges<'a> = &'a (dyn Fn(&mut dyn FnMut() -> Option<Range<usize>>) + Sync);

/// Runs `own` or `help` on each chunk, on this thread and on those that come to help.
pub(super) fn run(split: Split, own: Own<'_>, help: HelpRanges<'_>) {
    let threads = count::in_force().0.min(split.chunks);
    if threads > 1 {
        let inside = Inside::new();
        if !inside.before
            && let Some(calls) = Calls::current()
        {
            return calls.run(split, threads, own, &|claim| help(&mut || Some(split.range(claim()?))));
        }
    }
    run_alone(split, own);
}

fn run_alone(split: Split, own: Own<'_>) {
    for index in 0..split.chunks {
        own(split.range(index));
    }
}

/// Marks this thread as inside a call until dropped.
struct Inside {
    before: bool,
}

impl Inside {
    fn new() -> Self {
        Self { before: INSIDE.replace(true) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

/// Whose threads come to help a call.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// A pool of our own, whose helpers linger, and go where a call is open.
    Own,
    /// The pool that the caller works in, or the global one. A helper is for one call.
    Program,
}

/// The calls of one process, and the threads of our own.
struct Calls {
    process: u32,
    /// The process was forked from one that had made calls.
    is_forked: bool,
    cores: usize,
    /// Slots that some caller has, a bit each.
    taken: AtomicU64,
    /// Slots that may have a chunk left for the helpers of our own pool, a bit each.
    open: AtomicU64,
    /// Threads inside a call, callers and helpers.
    active: AtomicUsize,
    /// Nanoseconds of work done without help since something was last done about it.
    unaided: AtomicU64,
    pool: OwnPool,
    slots: [Slot; SLOTS],
    /// For each slot: helpers that those who enter shall spawn.
    to_spawn: [AtomicUsize; SLOTS],
}

/// The calls of this process, or of the one it was forked from. Never freed.
static CALLS: AtomicPtr<Calls> = AtomicPtr::new(ptr::null_mut());

impl Calls {
    /// `None` where there is no memory for them.
    fn current() -> Option<&'static Self> {
        // SAFETY: null or leaked.
        match unsafe { CALLS.load(Ordering::Acquire).as_ref() } {
            None => Self::renew(ptr::null_mut()),
            Some(calls) => Some(calls),
        }
    }

    /// Puts new ones in the place of `old`, unless someone has already.
    #[cold]
    fn renew(old: *mut Self) -> Option<&'static Self> {
        if !old.is_null() {
            count::forget_default();
        }
        // A box would end the process where memory is short.
        let mut room = Vec::new();
        room.try_reserve_exact(1).ok()?;
        room.push(Self {
            process: process::id(),
            is_forked: !old.is_null(),
            cores: count::cores(),
            taken: AtomicU64::new(0),
            open: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            unaided: AtomicU64::new(0),
            pool: OwnPool::new(),
            slots: core::array::from_fn(|_| Slot::new()),
            to_spawn: [const { AtomicUsize::new(0) }; SLOTS],
        });
        let mut room = ManuallyDrop::new(room);
        let new = room.as_mut_ptr();
        let calls = match CALLS.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                // Nobody has seen it.
                drop(ManuallyDrop::into_inner(room));
                other
            }
        };
        // SAFETY: what is in CALLS is never freed.
        Some(unsafe { &*calls })
    }

    /// Whose threads help the calls of this thread.
    fn source(&self) -> Source {
        #[cfg(test)]
        if super::tests::uses_own_pool() {
            return Source::Own;
        }
        let is_worker = workers::current_pool().is_some();
        if cfg!(feature = "python") || self.is_forked && !is_worker { Source::Own } else { Source::Program }
    }

    /// Runs all chunks, with the help of at most `threads - 1` others.
    fn run(&'static self, split: Split, threads: usize, own: Own<'_>, help: Help<'_>) {
        let Some(taken) = self.take_slot() else { return run_alone(split, own) };
        let (index, slot) = (taken.index, &self.slots[taken.index]);
        // SAFETY: the slot is ours, and its last owner dropped its `Open`. So do we, by a panic too, and `help` is
        // borrowed for longer.
        let mut open = unsafe { slot.open(split.chunks, threads - 1, help) };
        if threads <= self.cores {
            let chunk = Duration::from_nanos(split.cost / split.chunks as u64);
            open.spin = (2 * chunk + SPIN).min(LONGEST_SPIN);
        }
        self.offer(index, open.ticket(), split.cost, threads);
        let mut done = 0;
        while let Some(chunk) = open.claim() {
            own(split.range(chunk));
            done += 1;
        }
        drop(open);
        if done == split.chunks {
            self.unaided.fetch_add(split.cost.min(WAKE_FOR_MANY), Ordering::Relaxed);
        }
        let panic = slot.take_panic();
        drop(taken);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn take_slot(&'static self) -> Option<Taken> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let index = taken.trailing_ones() as usize;
            if index >= SLOTS {
                return None;
            }
            // Acquire: the last owner is done with it.
            let claimed = taken | 1 << index;
            match self.taken.compare_exchange_weak(taken, claimed, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    self.active.fetch_add(1, Ordering::Relaxed);
                    return Some(Taken { calls: self, index });
                }
                Err(now) => taken = now,
            }
        }
    }

    /// Shows an open slot to helpers, and spawns some if that pays.
    fn offer(&'static self, index: usize, ticket: u64, cost: u64, threads: usize) {
        let source = self.source();
        self.to_spawn[index].store(0, Ordering::Relaxed);
        let mut missing = threads.saturating_sub(self.active.load(Ordering::Relaxed)).min(threads - 1);
        let mut pays = cost >= WAKE;
        if source == Source::Own {
            self.open.fetch_or(1 << index, Ordering::SeqCst);
            missing = missing.saturating_sub(self.pool.helpers());
            let is_lonely = self.unaided.load(Ordering::Relaxed) >= WAKE_FOR_MANY;
            pays = missing > 0 && pays || is_lonely;
        }
        // Threads do not survive a fork, nor do those end there that count as active or as helpers. This call does without;
        // the next one has a pool of this process.
        if !pays || !self.is_of_this_process() {
            return;
        }
        self.unaided.store(0, Ordering::Relaxed);
        if source == Source::Own {
            // For any call, not for the chunks of this one.
            self.pool.grow(count::in_force().0 - 1);
        }
        self.to_spawn[index].store(missing.saturating_sub(SPAWNS), Ordering::Relaxed);
        let _ = (0..missing.min(SPAWNS)).all(|_| self.spawn(source, index, ticket));
    }

    fn is_of_this_process(&'static self) -> bool {
        let is = process::id() == self.process;
        if !is {
            Self::renew(ptr::from_ref(self).cast_mut());
        }
        is
    }

    fn spawn(&'static self, source: Source, index: usize, ticket: u64) -> bool {
        match source {
            Source::Own => self.pool.spawn(|part| self.serve(part)),
            Source::Program => workers::spawn(move || {
                if let Some(participant) = self.slots[index].enter(Some(ticket)) {
                    self.help(source, index, ticket, &participant);
                }
            }),
        }
    }

    /// The life of a helper in our own pool: helps open calls, and lingers for the next.
    fn serve(&'static self, part: &'static Part) {
        let mut is_scarce = false;
        loop {
            let mut found = self.find();
            // Where there are more threads than cores, who looks for work keeps others from working.
            if found.is_none() && !is_scarce {
                let mut look = || {
                    found = self.find();
                    found.is_some()
                };
                let begin = Instant::now();
                let mut sees_work = spin_until(LINGER, &mut look);
                while !sees_work && begin.elapsed() < 2 * LINGER {
                    yield_now();
                    sees_work = spin_until(LINGER_YIELD, &mut look);
                }
            }
            let Some((index, participant)) = found else { break };
            is_scarce = self.slots[index].limit() >= self.cores;
            self.help(Source::Own, index, 0, &participant);
        }
        part.end();
        // A call that opened meanwhile may have counted on this helper.
        while let Some((index, participant)) = self.find() {
            self.help(Source::Own, index, 0, &participant);
        }
    }

    /// An open slot that lets this helper in.
    fn find(&self) -> Option<(usize, Participant<'_>)> {
        let mut open = self.open.load(Ordering::SeqCst);
        while open != 0 {
            let index = open.trailing_zeros() as usize;
            let slot = &self.slots[index];
            // The caller counts as active, so one more than there are others may be.
            if self.active.load(Ordering::Relaxed) <= slot.limit()
                && let Some(participant) = slot.enter(None)
            {
                return Some((index, participant));
            }
            open &= open - 1;
        }
        None
    }

    /// Works on what is in a slot.
    fn help(&'static self, source: Source, index: usize, ticket: u64, participant: &Participant<'_>) {
        let _inside = Inside::new();
        self.active.fetch_add(1, Ordering::Relaxed);
        for _ in 0..SPAWNS {
            let to_spawn = &self.to_spawn[index];
            let left = to_spawn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_err() || !self.spawn(source, index, ticket) {
                break;
            }
        }
        participant.work();
        // While inside: later the slot may be someone else's.
        self.open.fetch_and(!(1 << index), Ordering::Relaxed);
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A slot in its caller's hands, given back when dropped.
struct Taken {
    calls: &'static Calls,
    index: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if thread::panicking() {
            // The caller's own panic is under way. A helper's must not come out of the next call; nor may dropping it
            // start yet another.
            self.calls.slots[self.index].take_panic().into_iter().for_each(discard);
        }
        self.calls.open.fetch_and(!(1 << self.index), Ordering::Relaxed);
        self.calls.active.fetch_sub(1, Ordering::Relaxed);
        // Release: the next owner sees all of the above.
        self.calls.taken.fetch_and(!(1 << self.index), Ordering::Release);
    }
}
