//! Threads, and how work reaches them. What is split and how is decided in the parent module.
//!
//! A caller opens a [`Door`], starts on the blocks at once and tells sleeping workers; whoever is there claims blocks
//! from one atomic counter, the caller from the front and workers from the back, so that two threads keep to the same
//! halves call after call. When no block is left the caller closes the door and waits only for those who are inside.
//! A worker that wakes too late finds the door closed and touches nothing, so a call never waits for a thread to wake.
//!
//! That is why there is no rayon here: its `join` and `scope` wait for a job which no worker has started yet. Medians
//! on two cores of a virtual Zen 3, busy with other things as well: two empty halves through `install` and `join` on a
//! pool of two 18 microseconds back to back and 74 after pauses of 300, through `in_place_scope` on a pool of one 35
//! and 22. Here 16 microseconds of work take 9.4 on two threads back to back, and 17 after a pause, as on one. To wake
//! a thread takes the caller 9 to 19 there, which is why it is not done for less work than that.
//!
//! Nothing but speed hangs on workers: with none of them alive (they could not be started, or this is a forked child)
//! a call does all its blocks itself. Where workers are awake a call allocates nothing here; what starting them takes is
//! std's.

use core::any::Any;
use core::cell::{Cell, UnsafeCell};
use core::fmt::Write;
use core::hint::spin_loop;
use core::mem::{self, ManuallyDrop};
use core::ops::Range;
use core::panic::AssertUnwindSafe;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::boxed::Box;
use std::panic::{catch_unwind, resume_unwind};
use std::process;
use std::string::String;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;
use std::vec::Vec;

use super::count::{self, MOST_THREADS};
use super::split::Split;

/// The calls that may be under way at once with help; further ones run alone.
const DOORS: usize = 32;
/// The bounds of what waking a thread is taken to cost, in nanoseconds: work below it wakes nobody. Within them the
/// pool learns: the price rises where a thread that was woken came too late to do anything, as on a busy machine, and
/// falls where it did a good part.
const PRICE: (u64, u64) = (30_000, 500_000);
/// Where many small calls come one after the other, threads are woken once in this many nanoseconds of work. They find
/// the next calls while they spin. Where calls are far apart it is in vain, but costs a few per cent at most.
const WORTH_TRYING: u64 = 400_000;
/// How long a worker without work looks for some: longer than a block, in case the caller is still at one. Then it
/// does so as long again, letting others have its core if they want it.
const SPIN: Duration = Duration::from_micros(75);
/// How often it lets others have its core then.
const YIELD: Duration = Duration::from_micros(3);
/// How long a caller looks for the last worker to leave before it gives its core away, beyond what a block takes.
const WAIT: Duration = Duration::from_micros(5);
/// But not longer than this, however long a block takes.
const LONGEST_WAIT: Duration = Duration::from_micros(200);
/// How many others a worker wakes before it starts, so that the time to wake n is the logarithm of n.
const WAKES: usize = 2;

std::thread_local! {
    /// Whether this thread is a worker, or a caller inside its call: what it calls then runs on it alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What the caller does to a block.
type Own<'a> = &'a mut dyn FnMut(Range<usize>);
/// What a worker does, given what claims the next block for it.
type Help<'a> = &'a (dyn Fn(&mut dyn FnMut() -> Option<Range<usize>>) + Sync);
type Panic = Box<dyn Any + Send>;

/// Runs `own` or `help` on each block, on this thread and on those that come to help.
pub(super) fn run(split: Split, own: Own<'_>, help: Help<'_>) {
    let (threads, _) = count::in_force();
    let threads = threads.min(split.blocks);
    if threads > 1 && !INSIDE.replace(true) {
        let _outside = Outside;
        if let Some(pool) = Pool::current(threads) {
            return pool.run(split, threads, own, help);
        }
    }
    run_alone(split, own);
}

fn run_alone(split: Split, own: Own<'_>) {
    for index in 0..split.blocks {
        own(split.range(index));
    }
}

/// Drops a panic that nobody will hear of. What it carries may panic as it goes; that one is not looked into.
fn discard(panic: Panic) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(another);
    }
}

/// Marks this thread as outside a call again when dropped.
struct Outside;

impl Drop for Outside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// The state of a door: whether it is open, whether the caller sleeps until the last one left, how many workers may
/// be inside, and how many are.
mod gate {
    pub(super) const OPEN: u64 = 1 << 63;
    pub(super) const AWAITED: u64 = 1 << 62;
    const LIMIT_SHIFT: u32 = 32;
    const INSIDE: u64 = (1 << LIMIT_SHIFT) - 1;

    pub(super) fn open(limit: usize) -> u64 {
        OPEN | (limit as u64) << LIMIT_SHIFT
    }

    pub(super) fn limit(state: u64) -> u64 {
        (state & !(OPEN | AWAITED)) >> LIMIT_SHIFT
    }

    pub(super) fn inside(state: u64) -> u64 {
        state & INSIDE
    }
}

/// What those who entered a door work on.
#[derive(Clone, Copy)]
struct Job {
    split: Split,
    /// Borrowed by the caller, who does not return while someone is inside.
    help: Help<'static>,
}

/// A place where one caller at a time offers blocks. It lives as long as the process, so that a late worker may look
/// at it whenever it likes.
#[repr(align(128))]
struct Door {
    /// See [`gate`].
    state: AtomicU64,
    /// Blocks claimed from the front in the low half, from the back in the high half.
    claims: AtomicU64,
    /// Sleeping workers that those who enter shall wake.
    to_wake: AtomicUsize,
    /// Written by the caller while the door is closed and nobody inside; read by those inside.
    job: UnsafeCell<Option<Job>>,
    /// Where a caller that set `AWAITED` sleeps until the last one inside leaves. Not by its thread's name: a thread that std
    /// did not start would allocate one, and one that ends has none.
    leaving: Mutex<()>,
    left: Condvar,
    /// The first panic of a worker.
    panic: Mutex<Option<Panic>>,
}

// SAFETY: `job` is written by the caller that owns the door, while it is closed and empty, and read by those inside,
// who came in after; what it holds is `Send` and `Sync`, as the rest is.
unsafe impl Sync for Door {}

impl Door {
    const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            claims: AtomicU64::new(0),
            to_wake: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            leaving: Mutex::new(()),
            left: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    /// Lets workers in.
    ///
    /// # Safety
    ///
    /// The door is closed, nobody is inside, and the caller owns it. It must drop the result before `help` ends.
    unsafe fn open(&self, split: Split, threads: usize, cores: usize, help: Help<'_>) -> Opened<'_> {
        // SAFETY: only the lifetime changes. Who reads `help` is inside, and `Opened` waits for those.
        let help = unsafe { mem::transmute::<Help<'_>, Help<'static>>(help) };
        // SAFETY: nobody else is inside, and nobody comes in before the store below.
        unsafe { *self.job.get() = Some(Job { split, help }) };
        self.claims.store(0, Ordering::Relaxed);
        self.state.store(gate::open(threads - 1), Ordering::Release);
        Opened {
            door: self,
            blocks: split.blocks,
            block: (threads <= cores).then(|| Duration::from_nanos(split.cost / split.blocks as u64)),
        }
    }

    /// Goes in, if the door is open and fewer are inside than may be.
    fn enter(&self, active: &AtomicUsize) -> Option<Inside<'_>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            // The caller counts as active, so one more than there are others may be.
            let crowded = active.load(Ordering::Relaxed) as u64 > gate::limit(state);
            if state & gate::OPEN == 0 || gate::inside(state) >= gate::limit(state) || crowded {
                return None;
            }
            // Acquire: what the caller wrote before it opened.
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Inside(self)),
                Err(now) => state = now,
            }
        }
    }

    /// Claims the next block for the caller.
    fn claim_front(&self, blocks: usize) -> Option<usize> {
        let claims = self.claims.fetch_add(1, Ordering::Relaxed);
        let (front, back) = (claims as u32 as usize, (claims >> 32) as usize);
        (front + back < blocks).then_some(front)
    }

    /// Claims the next block for a worker.
    fn claim_back(&self, blocks: usize) -> Option<usize> {
        let claims = self.claims.fetch_add(1 << 32, Ordering::Relaxed);
        let (front, back) = (claims as u32 as usize, (claims >> 32) as usize);
        (front + back < blocks).then(|| blocks - 1 - back)
    }

    /// Leaves no block to claim: after a panic.
    fn give_up(&self, blocks: usize) {
        self.claims.fetch_add((blocks as u64) << 32, Ordering::Relaxed);
    }
}

/// An open door, in its caller's hands. Dropped, also by a panic, it closes and waits for those inside.
struct Opened<'a> {
    door: &'a Door,
    blocks: usize,
    /// How long a block takes; `None` where there are more threads than cores, and who waits should do so asleep.
    block: Option<Duration>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // The rest is in vain.
            self.door.give_up(self.blocks);
        }
        // Acquire: what those who left wrote.
        let state = self.door.state.fetch_and(!gate::OPEN, Ordering::Acquire);
        if gate::inside(state) != 0 {
            self.wait();
        }
    }
}

impl Opened<'_> {
    fn wait(&self) {
        let state = &self.door.state;
        let is_empty = || gate::inside(state.load(Ordering::Acquire)) == 0;
        if self.block.is_some_and(|block| spin_until((2 * block + WAIT).min(LONGEST_WAIT), is_empty)) {
            return;
        }
        // Someone's core was taken away, perhaps by this very thread.
        for _ in 0..16 {
            thread::yield_now();
            if is_empty() {
                return;
            }
        }
        let mut leaving = self.door.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        // Acquire: what those who left wrote.
        if gate::inside(state.fetch_or(gate::AWAITED, Ordering::Acquire)) == 0 {
            return;
        }
        while state.load(Ordering::Acquire) != 0 {
            leaving = self.door.left.wait(leaving).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A worker's stay inside a door.
struct Inside<'a>(&'a Door);

impl Inside<'_> {
    /// What there is to do, and by how many threads.
    fn job(&self) -> (Option<Job>, usize) {
        let threads = gate::limit(self.0.state.load(Ordering::Relaxed)) as usize + 1;
        // SAFETY: written before the door opened, which `enter` has seen (acquire), and not again before this worker
        // has left, for which the caller waits.
        (unsafe { *self.0.job.get() }, threads)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Release: what this worker did. Acquire: what others did who left before, for the caller to see.
        let state = self.0.state.fetch_sub(1, Ordering::AcqRel);
        if state & gate::AWAITED != 0 && gate::inside(state) == 1 {
            // The caller sleeps, or is about to with this lock in its hands.
            let _leaving = self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.state.store(0, Ordering::Release);
            self.0.left.notify_one();
        }
    }
}

/// What a worker thinks of the core that it runs on.
#[derive(Clone, Copy)]
enum Core {
    /// Nobody else needs it: looking for work there costs nothing.
    Own,
    /// The caller did not get ahead while this worker did: they may share it.
    Crowded,
    /// There are more threads than cores: who looks for work keeps others from working.
    Scarce,
}

/// The workers of one process.
struct Pool {
    process: u32,
    /// More threads than this do not run at once.
    cores: usize,
    /// Doors that some caller owns, a bit each.
    taken: AtomicU64,
    /// Doors that may have a block left, a bit each.
    open: AtomicU64,
    /// Threads inside a call, callers and workers.
    active: AtomicUsize,
    /// Workers that do not sleep.
    awake: AtomicUsize,
    /// Nanoseconds of work done without help since something was last done about it.
    unaided: AtomicU64,
    /// What work must cost, in nanoseconds, for waking a thread to pay; see [`PRICE`].
    price: AtomicU64,
    /// Workers that sleep, a bit each.
    asleep: [AtomicU64; MOST_THREADS / 64],
    /// How many workers there are to be; they start one by one.
    started: AtomicUsize,
    starting: Mutex<()>,
    workers: [OnceLock<Thread>; MOST_THREADS],
    doors: [Door; DOORS],
}

/// The pool of this process, or of the one it was forked from. Pools are never freed.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

impl Pool {
    /// The pool, with workers for `threads` threads if they can be had. `None` where there is no memory for one.
    fn current(threads: usize) -> Option<&'static Self> {
        // SAFETY: null or leaked.
        let pool = match unsafe { POOL.load(Ordering::Acquire).as_ref() } {
            None => Self::renew(ptr::null_mut())?,
            Some(pool) => pool,
        };
        if pool.started.load(Ordering::Relaxed) + 1 < threads {
            return Some(pool.of_this_process()?.start(threads - 1));
        }
        Some(pool)
    }

    /// This pool, or a new one where this process was forked from the one it belongs to.
    fn of_this_process(&'static self) -> Option<&'static Self> {
        if process::id() == self.process { Some(self) } else { Self::renew(ptr::from_ref(self).cast_mut()) }
    }

    /// Puts a new pool in the place of `old`, unless someone has already. `None` where there is no memory for one.
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
            cores: count::cores(),
            taken: AtomicU64::new(0),
            open: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
            unaided: AtomicU64::new(0),
            price: AtomicU64::new(PRICE.0),
            asleep: [const { AtomicU64::new(0) }; MOST_THREADS / 64],
            started: AtomicUsize::new(0),
            starting: Mutex::new(()),
            workers: [const { OnceLock::new() }; MOST_THREADS],
            doors: [const { Door::new() }; DOORS],
        });
        let mut room = ManuallyDrop::new(room);
        let new = room.as_mut_ptr();
        let pool = match POOL.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                // Nobody has seen it.
                drop(ManuallyDrop::into_inner(room));
                other
            }
        };
        // SAFETY: what is in POOL is never freed.
        Some(unsafe { &*pool })
    }

    /// Starts workers until there are `workers`. Does without those that the system refuses.
    #[cold]
    fn start(&'static self, workers: usize) -> &'static Self {
        // Someone else is at it: do without for now.
        let Ok(_guard) = self.starting.try_lock() else { return self };
        for index in self.started.load(Ordering::Relaxed)..workers.min(MOST_THREADS) {
            let mut name = String::new();
            if name.try_reserve_exact("polyglot-256".len()).is_ok() {
                let _ = write!(name, "polyglot-{}", index + 1);
            }
            // Awake from birth, so that nobody wakes it.
            self.awake.fetch_add(1, Ordering::Relaxed);
            if thread::Builder::new().name(name).spawn(move || self.work(index)).is_err() {
                self.awake.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // Refused ones count, or each call would ask again.
        self.started.fetch_max(workers, Ordering::Relaxed);
        self
    }

    /// The life of a worker.
    fn work(&self, index: usize) {
        INSIDE.set(true);
        // Before it can be found asleep.
        self.workers[index].get_or_init(thread::current);
        let (word, bit) = (&self.asleep[index / 64], 1 << (index % 64));
        let mut core = Core::Own;
        loop {
            let mut found = self.find();
            let mut look = || {
                found = found.take().or_else(|| self.find());
                found.is_some()
            };
            let sees_work = look() || matches!(core, Core::Own) && spin_until(SPIN, &mut look);
            if !sees_work && !matches!(core, Core::Scarce) {
                let end = Instant::now() + SPIN;
                while Instant::now() < end {
                    // To whoever has work for this core: a caller perhaps, where all cores are busy.
                    thread::yield_now();
                    if spin_until(YIELD, &mut look) {
                        break;
                    }
                }
            }
            if let Some((door, inside)) = found {
                core = self.help(door, inside);
                continue;
            }
            // Sequentially consistent here and in `offer`: either this sees the open door, or the caller the sleeper.
            self.awake.fetch_sub(1, Ordering::SeqCst);
            word.fetch_or(bit, Ordering::SeqCst);
            if let Some((door, inside)) = self.find() {
                if word.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
                    self.awake.fetch_add(1, Ordering::Relaxed);
                }
                core = self.help(door, inside);
                continue;
            }
            while word.load(Ordering::Relaxed) & bit != 0 {
                thread::park();
            }
        }
    }

    /// An open door that lets this thread in.
    fn find(&self) -> Option<(usize, Inside<'_>)> {
        let mut open = self.open.load(Ordering::SeqCst);
        while open != 0 {
            let index = open.trailing_zeros() as usize;
            if let Some(inside) = self.doors[index].enter(&self.active) {
                return Some((index, inside));
            }
            open &= open - 1;
        }
        None
    }

    /// Works on what is behind a door.
    fn help(&self, index: usize, inside: Inside<'_>) -> Core {
        let door = inside.0;
        let (job, threads) = inside.job();
        let Some(Job { split, help }) = job else { return Core::Scarce };
        let front = || door.claims.load(Ordering::Relaxed) as u32;
        self.active.fetch_add(1, Ordering::Relaxed);
        for _ in 0..WAKES {
            let left = door.to_wake.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_err() || !self.wake_one() {
                break;
            }
        }
        let before = front();
        let mut own = 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            help(&mut || {
                let block = door.claim_back(split.blocks)?;
                own += 1;
                Some(split.range(block))
            });
        }));
        if let Err(panic) = result {
            door.give_up(split.blocks);
            let mut first = door.panic.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() {
                *first = Some(panic);
            } else {
                drop(first);
                discard(panic);
            }
        }
        // While inside: later the door may be someone else's.
        self.open.fetch_and(!(1 << index), Ordering::Relaxed);
        self.active.fetch_sub(1, Ordering::Relaxed);
        if threads > self.cores {
            Core::Scarce
        } else if own > 2 && front() == before {
            Core::Crowded
        } else {
            Core::Own
        }
    }

    /// Wakes a worker; false where none sleeps.
    fn wake_one(&self) -> bool {
        for (place, word) in self.asleep.iter().enumerate() {
            let mut sleepers = word.load(Ordering::SeqCst);
            while sleepers != 0 {
                let bit = sleepers & sleepers.wrapping_neg();
                if word.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
                    self.awake.fetch_add(1, Ordering::Relaxed);
                    if let Some(worker) = self.workers[place * 64 + bit.trailing_zeros() as usize].get() {
                        worker.unpark();
                    }
                    return true;
                }
                sleepers &= !bit;
            }
        }
        false
    }

    /// Runs all blocks, with the help of at most `threads - 1` workers.
    fn run(&'static self, split: Split, threads: usize, own: Own<'_>, help: Help<'_>) {
        let Some(owned) = self.take_door() else { return run_alone(split, own) };
        let door = &self.doors[owned.index];
        // SAFETY: the door is ours, and its last owner left it closed and empty (`Opened::drop`). `opened` is dropped
        // in here, by a panic too, and `help` is borrowed for longer.
        let opened = unsafe { door.open(split, threads, self.cores, help) };
        let wakes = self.offer(owned.index, split.cost, threads);
        let mut done = 0;
        while let Some(block) = door.claim_front(split.blocks) {
            own(split.range(block));
            done += 1;
        }
        drop(opened);
        self.learn(split.cost, split.cost * (split.blocks - done) as u64 / split.blocks as u64, wakes);
        let panic = door.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(owned);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn take_door(&'static self) -> Option<Owned> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let index = taken.trailing_ones() as usize;
            if index >= DOORS {
                return None;
            }
            // Acquire: the last owner is done with it.
            let claimed = taken | 1 << index;
            match self.taken.compare_exchange_weak(taken, claimed, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    self.active.fetch_add(1, Ordering::Relaxed);
                    return Some(Owned { pool: self, index });
                }
                Err(now) => taken = now,
            }
        }
    }

    /// Tells workers of an open door, and wakes some if that pays. How long it took to wake them, if any were.
    fn offer(&'static self, index: usize, cost: u64, threads: usize) -> Option<Duration> {
        let door = &self.doors[index];
        door.to_wake.store(0, Ordering::Relaxed);
        self.open.fetch_or(1 << index, Ordering::SeqCst);
        let wanted = threads.saturating_sub(self.active.load(Ordering::Relaxed)).min(threads - 1);
        let missing = wanted.saturating_sub(self.awake.load(Ordering::SeqCst));
        let lonely = self.unaided.load(Ordering::Relaxed) >= WORTH_TRYING;
        if !lonely && (missing == 0 || cost < self.price.load(Ordering::Relaxed)) {
            return None;
        }
        self.unaided.store(0, Ordering::Relaxed);
        // Threads do not survive a fork. This call does without; the next one has a new pool.
        if !self.of_this_process().is_some_and(|pool| ptr::eq(pool, self)) {
            return None;
        }
        let start = Instant::now();
        door.to_wake.store(missing.saturating_sub(WAKES), Ordering::Relaxed);
        let woken = (0..missing.min(WAKES)).take_while(|_| self.wake_one()).count();
        (woken > 0).then(|| start.elapsed())
    }

    /// Draws conclusions from a call that cost this much, of which helpers did `helped`.
    fn learn(&self, cost: u64, helped: u64, wakes: Option<Duration>) {
        if helped == 0 {
            self.unaided.fetch_add(cost.min(WORTH_TRYING), Ordering::Relaxed);
        }
        if let Some(wakes) = wakes {
            let price = self.price.load(Ordering::Relaxed);
            let paid = u128::from(helped) > wakes.as_nanos();
            let new = if paid { price - price / 8 } else { price.max(cost.saturating_add(cost / 4)) };
            self.price.store(new.clamp(PRICE.0, PRICE.1), Ordering::Relaxed);
        }
    }
}

/// A door in its caller's hands, given back when dropped.
struct Owned {
    pool: &'static Pool,
    index: usize,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if thread::panicking() {
            // The caller's own panic is under way. A worker's must not come out of the next call; nor may dropping it
            // start yet another.
            let door = &self.pool.doors[self.index];
            let panic = door.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            panic.into_iter().for_each(discard);
        }
        self.pool.open.fetch_and(!(1 << self.index), Ordering::Relaxed);
        self.pool.active.fetch_sub(1, Ordering::Relaxed);
        // Release: the next owner sees all of the above.
        self.pool.taken.fetch_and(!(1 << self.index), Ordering::Release);
    }
}

/// Waits, without sleeping, until `done` or for this long. True if done.
fn spin_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
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
