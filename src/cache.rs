//! Freed result buffers, kept for the results to come: the pages of a fresh large array cost more to fault in than
//! the arithmetic that fills them. Knows memory only, neither arrays nor Python.
//!
//! What a buffer held before is still in it: who takes one writes every byte that it hands out.
#![allow(unsafe_code, reason = "one of the modules that may; each block says why it is sound")]

use core::alloc::Layout;
use core::hint::spin_loop;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Instant;
use std::vec::Vec;
use std::{alloc, env, process, thread};

/// Smaller buffers come from the allocator, which keeps such blocks itself instead of giving them back to the system.
pub(crate) const SMALLEST_KEPT: usize = 128 << 10;
/// All buffers begin at a multiple of this: a cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;
/// What is kept at most unless someone says otherwise: 256 MB.
const DEFAULT_LIMIT: usize = 256 << 20;
const PAGE: usize = 4 << 10;
/// Two orders of magnitude fewer page faults, and an eighth of the time, for buffers that hold at least one.
#[cfg_attr(any(not(unix), target_family = "wasm", miri), allow(dead_code, reason = "of pages from the system"))]
const HUGE_PAGE: usize = 2 << 20;
/// How long the lock may be held by someone before it is asked whether that one stayed behind in a fork.
const SUSPICIOUS: Duration = Duration::from_millis(2);

/// Memory for a result; goes back to the cache when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a buffer owns its memory, which any thread may free.
unsafe impl Send for Buffer {}
// SAFETY: through a shared `Buffer` one gets at a pointer only, and using that is unsafe.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Where the memory begins, a multiple of [`ALIGN`]. From [`SMALLEST_KEPT`] bytes on it is initialised: the system
    /// gave it zeroed, or someone wrote there before. Smaller buffers are fresh from the allocator.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// How many bytes there are: what was asked for, or somewhat more.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the report of what the cache holds"))]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let block = Block { start: self.start.as_ptr().expose_provenance(), capacity: self.capacity };
        if self.capacity < SMALLEST_KEPT {
            return block.free();
        }
        let (mut own, limit) = (Some(block), limit());
        // The oldest are freed one by one, without the lock: to free one takes long, and a list of them would take memory.
        while let Some(oldest) = locked(|shelf| shelf.put(&mut own, limit)).flatten() {
            oldest.free();
        }
        // There was no place for it.
        if let Some(block) = own {
            block.free();
        }
    }
}

/// A buffer of at least `bytes` bytes, from the cache if one is there; `None` where the system has no memory left.
pub(crate) fn take(bytes: usize) -> Option<Buffer> {
    let capacity = size_class(bytes)?;
    let kept = if capacity < SMALLEST_KEPT { None } else { locked(|shelf| shelf.take(capacity)).flatten() };
    let block = match kept {
        Some(block) => block,
        None => Block::fresh(capacity).or_else(|| {
            // What lies unused here may be what is missing.
            clear();
            Block::fresh(capacity)
        })?,
    };
    let start = NonNull::new(ptr::with_exposed_provenance_mut(block.start))?;
    Some(Buffer { start, capacity: block.capacity })
}

/// Sets how many bytes of freed buffers are kept at most, and frees those above it; 0 keeps none.
pub(crate) fn set_limit(bytes: usize) {
    LIMIT.store(bytes.min(usize::MAX - 1), Ordering::Relaxed);
    evict(bytes);
}

/// How many bytes of freed buffers are kept at most: the number given to [`set_limit`], else `POLYGLOT_CACHE_MB`
/// where it is a whole number, in units of 1024 * 1024 bytes, else 256 MB.
pub(crate) fn limit() -> usize {
    match LIMIT.load(Ordering::Relaxed) {
        usize::MAX => {
            let given = env::var("POLYGLOT_CACHE_MB").ok().and_then(|text| text.trim().parse::<usize>().ok());
            let limit = given.map_or(DEFAULT_LIMIT, |megabytes| megabytes.saturating_mul(1 << 20).min(usize::MAX - 1));
            // A limit that was set meanwhile stays.
            match LIMIT.compare_exchange(usize::MAX, limit, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => limit,
                Err(set) => set,
            }
        }
        limit => limit,
    }
}

/// Frees all buffers that are kept.
pub(crate) fn clear() {
    evict(0);
}

/// Frees the buffers longest unused until no more than `bytes` are left.
fn evict(bytes: usize) {
    while let Some(block) = locked(|shelf| shelf.evict(bytes)).flatten() {
        block.free();
    }
}

/// What the cache holds and how often it helped.
#[cfg_attr(not(test), allow(dead_code, reason = "for the report of what the cache holds"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Buffers that are kept.
    pub(crate) buffers: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// The bytes that may be kept.
    pub(crate) limit: usize,
    /// How often a large buffer was asked for and lay there.
    pub(crate) hits: u64,
    /// How often it did not.
    pub(crate) misses: u64,
}

/// What the cache holds and how often it helped, at this moment.
#[cfg_attr(not(test), allow(dead_code, reason = "for the report of what the cache holds"))]
pub(crate) fn statistics() -> Statistics {
    let limit = limit();
    locked(|shelf| Statistics {
        buffers: shelf.blocks.len(),
        bytes: shelf.bytes,
        limit,
        hits: shelf.hits,
        misses: shelf.misses,
    })
    .unwrap_or_default()
}

/// `bytes`, rounded up so that results of about one size can have each other's buffers; at most an eighth more, from
/// the smallest one that is kept on. `None` where there is no such number.
fn size_class(bytes: usize) -> Option<usize> {
    if bytes < SMALLEST_KEPT {
        return Some(bytes.max(1));
    }
    let eighth = (1 << bytes.ilog2()) / 8;
    bytes.checked_next_multiple_of(eighth.max(PAGE)).filter(|&capacity| isize::try_from(capacity).is_ok())
}

/// Memory that someone must free, as numbers: there is one for each piece of memory.
#[derive(Debug)]
struct Block {
    start: usize,
    capacity: usize,
}

impl Block {
    /// New memory.
    fn fresh(capacity: usize) -> Option<Self> {
        if capacity >= SMALLEST_KEPT {
            return system::map(capacity).map(|start| Self { start, capacity });
        }
        let layout = Layout::from_size_align(capacity, ALIGN).ok()?;
        // SAFETY: the size is not 0: `size_class` never gives that.
        let start = unsafe { alloc::alloc(layout) };
        (!start.is_null()).then(|| Self { start: start.expose_provenance(), capacity })
    }

    fn free(self) {
        if self.capacity >= SMALLEST_KEPT {
            // SAFETY: memory from `fresh` goes from blocks to buffers and back with its capacity, and is in one of them
            // at a time. This one ends here.
            unsafe { system::unmap(self.start, self.capacity) };
        } else if let Ok(layout) = Layout::from_size_align(self.capacity, ALIGN) {
            // SAFETY: as above; `fresh` had it with this layout.
            unsafe { alloc::dealloc(ptr::with_exposed_provenance_mut(self.start), layout) };
        }
    }
}

/// Pages straight from the system, so that freed ones go straight back to it.
#[cfg(all(unix, not(target_family = "wasm"), not(miri)))]
mod system {
    use core::ptr;

    use super::HUGE_PAGE;

    /// Fresh memory, on huge pages where it is large and the system has them.
    pub(super) fn map(bytes: usize) -> Option<usize> {
        let slack = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let all = bytes.checked_add(slack)?;
        // SAFETY: a new mapping that overlaps nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                all,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start.expose_provenance();
        if slack == 0 {
            return Some(start);
        }
        let aligned = start.next_multiple_of(HUGE_PAGE);
        // SAFETY: whole pages at both ends of the mapping above, which nobody has seen yet: huge pages are a multiple
        // of others, and so is `bytes` from one huge page on. The middle is kept.
        unsafe {
            if aligned > start {
                unmap(start, aligned - start);
            }
            if start + slack > aligned {
                unmap(aligned + bytes, start + slack - aligned);
            }
        }
        // SAFETY: a hint for our own mapping. Without it the pages are small ones.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        unsafe {
            libc::madvise(ptr::with_exposed_provenance_mut(aligned), bytes, libc::MADV_HUGEPAGE);
        }
        Some(aligned)
    }

    /// Gives memory back.
    ///
    /// # Safety
    ///
    /// `start` and `bytes` are pages of one mapping made by [`map`], and nobody uses them any more.
    pub(super) unsafe fn unmap(start: usize, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start), bytes) };
    }
}

/// Pages from the allocator, where there is no `mmap`; and under Miri, which knows of no mapping that is given back in parts.
#[cfg(not(all(unix, not(target_family = "wasm"), not(miri))))]
mod system {
    use core::alloc::Layout;
    use core::ptr;
    use std::alloc;

    use super::PAGE;

    /// Fresh memory.
    pub(super) fn map(bytes: usize) -> Option<usize> {
        let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the size is not 0, as just seen. Zeroed as the pages of `mmap` are: who takes a buffer may make a
        // slice of it.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        (!start.is_null()).then(|| start.expose_provenance())
    }

    /// Gives memory back.
    ///
    /// # Safety
    ///
    /// `start` comes from [`map`] with the same `bytes`, and nobody uses it any more.
    pub(super) unsafe fn unmap(start: usize, bytes: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes, PAGE) {
            // SAFETY: the caller's promise.
            unsafe { alloc::dealloc(ptr::with_exposed_provenance_mut(start), layout) };
        }
    }
}

/// The limit in bytes; `usize::MAX`: not looked up yet.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Blocks that nobody uses, the longest unused first.
#[derive(Debug, Default)]
struct Shelf {
    blocks: VecDeque<Block>,
    bytes: usize,
    hits: u64,
    misses: u64,
}

impl Shelf {
    /// The block of this size used last: its pages are the likeliest in the CPU's cache.
    fn take(&mut self, capacity: usize) -> Option<Block> {
        let place = self.blocks.iter().rposition(|block| block.capacity == capacity);
        let Some(block) = place.and_then(|place| self.blocks.remove(place)) else {
            self.misses += 1;
            return None;
        };
        self.bytes -= block.capacity;
        self.hits += 1;
        Some(block)
    }

    /// Keeps a block, where no more than `limit` bytes are kept with it; or gives one that has to go first.
    fn put(&mut self, block: &mut Option<Block>, limit: usize) -> Option<Block> {
        let capacity = block.as_ref().map(|block| block.capacity).filter(|&capacity| capacity <= limit)?;
        self.blocks.try_reserve(1).ok()?;
        let oldest = self.evict(limit - capacity);
        if oldest.is_none() {
            self.bytes += capacity;
            self.blocks.extend(block.take());
        }
        oldest
    }

    /// Takes out the block longest unused where more than `bytes` are kept.
    fn evict(&mut self, bytes: usize) -> Option<Block> {
        if self.bytes <= bytes {
            return None;
        }
        let oldest = self.blocks.pop_front()?;
        self.bytes -= oldest.capacity;
        Some(oldest)
    }
}

/// The shelf of one process.
struct Shelves {
    process: u32,
    shelf: Mutex<Shelf>,
}

/// The shelf of this process, or of the one it was forked from; never freed.
static SHELVES: AtomicPtr<Shelves> = AtomicPtr::new(ptr::null_mut());

/// Runs `f`, which must be short, on the shelf. `None` where there is no memory for one.
///
/// A forked child goes on with its copy of the parent's shelf. If another thread of the parent held the lock at the
/// fork, nobody will ever unlock it in the child, which then starts with an empty one.
fn locked<R>(f: impl FnOnce(&mut Shelf) -> R) -> Option<R> {
    let mut shelves = SHELVES.load(Ordering::Acquire);
    if shelves.is_null() {
        shelves = renew(shelves)?;
    }
    let mut since = None;
    for attempt in 0_u32.. {
        // SAFETY: not null, and what is in SHELVES is never freed.
        let this = unsafe { &*shelves };
        match this.shelf.try_lock() {
            Ok(mut shelf) => return Some(f(&mut shelf)),
            Err(TryLockError::Poisoned(shelf)) => return Some(f(&mut shelf.into_inner())),
            Err(TryLockError::WouldBlock) if attempt < 100 => spin_loop(),
            Err(TryLockError::WouldBlock) => {
                thread::yield_now();
                if since.get_or_insert_with(Instant::now).elapsed() > SUSPICIOUS {
                    if this.process == process::id() {
                        break;
                    }
                    shelves = renew(shelves)?;
                }
            }
        }
    }
    // SAFETY: as above.
    let shelf = unsafe { &(*shelves).shelf };
    Some(f(&mut shelf.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Puts an empty shelf in the place of `old`, unless someone has already. `None` where there is no memory for one.
#[cold]
fn renew(old: *mut Shelves) -> Option<*mut Shelves> {
    // A box would end the process where memory is short.
    let mut room = Vec::new();
    room.try_reserve_exact(1).ok()?;
    room.push(Shelves { process: process::id(), shelf: Mutex::default() });
    let mut room = ManuallyDrop::new(room);
    let new = room.as_mut_ptr();
    match SHELVES.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(new),
        Err(other) => {
            // Nobody has seen it.
            drop(ManuallyDrop::into_inner(room));
            Some(other)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::MutexGuard;
    use std::{eprintln, mem, slice};

    use super::*;

    /// One test at a time: the cache is one a process.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        set_limit(64 << 20);
        clear();
        guard
    }

    fn fill(buffer: &Buffer, value: u8) {
        // SAFETY: the buffer is ours, and this long.
        unsafe { ptr::write_bytes(buffer.as_mut_ptr(), value, buffer.capacity()) };
    }

    #[test]
    fn sizes_waste_an_eighth_at_most() {
        for bits in 0..40 {
            for offset in [0, 1, 4095, 4096, 123_457] {
                let bytes = (1_usize << bits) + offset;
                let capacity = size_class(bytes).unwrap();
                assert!(capacity >= bytes);
                assert!(capacity - bytes <= bytes / 8, "{bytes} {capacity}");
                assert_eq!(size_class(capacity), Some(capacity));
            }
        }
        assert_eq!(size_class(0), Some(1));
        assert_eq!(size_class(usize::MAX), None);
        assert!(take(usize::MAX).is_none());
        assert!(take(isize::MAX as usize).is_none());
    }

    #[test]
    fn a_freed_buffer_is_taken_again() {
        let _alone = alone();
        for bytes in [0, 1, 100, 100_000, 200_000, 1 << 20, (2 << 20) + 2, 10 << 20] {
            let first = take(bytes).unwrap();
            assert!(first.capacity() >= bytes);
            assert!((first.as_mut_ptr() as usize).is_multiple_of(ALIGN));
            fill(&first, 1);
            let (start, before) = (first.as_mut_ptr(), statistics());
            drop(first);
            // A little less is the same class.
            let second = take(bytes - bytes.min(1)).unwrap();
            if bytes > SMALLEST_KEPT {
                assert_eq!(second.as_mut_ptr(), start);
                assert_eq!(statistics().hits, before.hits + 1);
            }
            let third = take(bytes).unwrap();
            assert_ne!(third.as_mut_ptr(), second.as_mut_ptr());
            fill(&third, 2);
        }
    }

    #[test]
    fn the_limit_holds() {
        let _alone = alone();
        let all: Vec<_> = (0..100).map(|_| take(1 << 20).unwrap()).collect();
        assert_eq!(statistics().bytes, 0);
        drop(all);
        let now = statistics();
        assert_eq!((now.bytes, now.buffers, now.limit), (64 << 20, 64, 64 << 20));
        set_limit((10 << 20) + 5);
        assert_eq!(statistics().buffers, 10);
        drop(take(11 << 20).unwrap());
        assert_eq!(statistics().buffers, 10, "larger than the limit: not kept");
        drop(take(9 << 20).unwrap());
        assert_eq!((statistics().buffers, statistics().bytes), (2, 10 << 20), "the oldest go first");
        clear();
        assert_eq!((statistics().buffers, statistics().bytes), (0, 0));
        set_limit(0);
        drop(take(1 << 20).unwrap());
        assert_eq!(statistics().buffers, 0);
    }

    #[test]
    fn threads_never_share_a_buffer() {
        let _alone = alone();
        // Miri takes minutes for what is a second's work.
        let (threads, rounds, step) = if cfg!(miri) { (3, 5, 4099) } else { (8, 300, 1) };
        thread::scope(|scope| {
            for value in 0..threads {
                scope.spawn(move || {
                    for round in 0..rounds {
                        let buffer = take(SMALLEST_KEPT + (round * 7919) % 500_000).unwrap();
                        fill(&buffer, value);
                        thread::yield_now();
                        // SAFETY: ours, and filled above.
                        let bytes = unsafe { slice::from_raw_parts(buffer.as_mut_ptr(), buffer.capacity()) };
                        assert!(bytes.iter().step_by(step).all(|&byte| byte == value));
                    }
                });
            }
        });
        assert!(statistics().hits > 0 && statistics().bytes <= 64 << 20);
    }

    #[cfg(all(unix, not(miri)))]
    #[test]
    fn a_forked_child_has_a_cache() {
        let _alone = alone();
        drop(take(1 << 20).unwrap());
        for held in [false, true] {
            // With `held` the child finds the lock taken by nobody, as where another thread held it at the fork.
            // SAFETY: what is in SHELVES was leaked.
            let guard = held.then(|| unsafe { (*SHELVES.load(Ordering::Acquire)).shelf.lock().unwrap() });
            // SAFETY: the child uses the cache and the allocator only, and leaves by `_exit`.
            let child = unsafe { libc::fork() };
            assert!(child >= 0);
            if child == 0 {
                mem::forget(guard);
                let buffer = take(1 << 20);
                let ok = buffer.as_ref().is_some_and(|buffer| buffer.capacity() == 1 << 20);
                drop(buffer);
                let ok = ok && statistics().buffers == 1;
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!ok)) };
            }
            drop(guard);
            let end = Instant::now() + Duration::from_secs(30);
            let mut status = 0;
            // SAFETY: waits for our own child, and for nothing else.
            while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
                if Instant::now() > end {
                    // SAFETY: our own child, not waited for yet.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                    panic!("the child hangs");
                }
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(status, 0);
        }
    }

    /// Prints what a result costs, fresh and kept: `cargo test --release cache::tests::cost -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost() {
        let _alone = alone();
        for bytes in [SMALLEST_KEPT, 256 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 80_000_000] {
            let time = |limit: usize, write: bool| {
                set_limit(limit);
                let times = (0..20).map(|_| {
                    let start = Instant::now();
                    let buffer = take(bytes).unwrap();
                    if write {
                        fill(&buffer, 1);
                    }
                    drop(buffer);
                    start.elapsed()
                });
                times.min().unwrap_or_default()
            };
            let (fresh, kept, empty) = (time(0, true), time(256 << 20, true), time(256 << 20, false));
            eprintln!("{bytes:>9} bytes: written fresh {fresh:?}, kept {kept:?}; kept, not written {empty:?}");
        }
    }
}
