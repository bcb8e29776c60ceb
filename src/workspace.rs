//! Memory that a thread computes in beside its operands. With std it is kept from call to call, up to a limit, so that
//! none allocates in the steady state; it is had before anything is written, or the call ends with an error. Without
//! std it lies on the stack, and is small. What is laid out there is told elsewhere.

use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "std")]
use std::cell::Cell;
#[cfg(feature = "std")]
use std::thread::LocalKey;
#[cfg(feature = "std")]
use std::vec::Vec;

use crate::error::NoMemory;
use crate::view::Line;

#[cfg(feature = "std")]
std::thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// What several blocks read, while each has a workspace of its own.
    static SHARED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// So many lines were promised, 0 where none were: see [`Reserved`]. Until then all are kept, whatever the limit.
    static RESERVED: Cell<usize> = const { Cell::new(0) };
}

/// The most bytes that a thread keeps of a workspace: blocks of all usual shapes need less. What is above is freed
/// after the call.
#[cfg(feature = "std")]
pub(crate) const MOST_KEPT: usize = 4 << 20;

/// The same of what blocks share.
#[cfg(feature = "std")]
pub(crate) const MOST_SHARED: usize = 16 << 20;

/// What there is where it lies on the stack.
#[cfg(not(feature = "std"))]
pub(crate) const BYTES: usize = 12 << 10;

const LINE: usize = size_of::<Line>();

/// The bytes of a workspace that holds these parts, as many as there can be where that overflows.
pub(crate) fn bytes_of<const N: usize>(parts: [usize; N]) -> usize {
    parts.into_iter().fold(0, |sum, bytes| sum.saturating_add(bytes.div_ceil(LINE).saturating_mul(LINE)))
}

/// Cuts memory into parts of at least as many bytes, each of which begins on a cache line; on the stack, of as many as
/// there are. Their content is anything.
#[inline(always)]
pub(crate) fn split<const N: usize>(lines: &mut [Line], parts: [usize; N]) -> [&mut [Line]; N] {
    let mut rest = lines;
    parts.map(|bytes| {
        let all = core::mem::take(&mut rest);
        let (part, others) = all.split_at_mut(bytes.div_ceil(LINE).min(all.len()));
        rest = others;
        part
    })
}

/// A failure on whichever thread, of which the call tells.
#[derive(Debug, Default)]
pub(crate) struct Missing(AtomicUsize);

impl Missing {
    /// Takes note of a failure.
    #[inline]
    pub(crate) fn note(&self, result: Result<(), NoMemory>) {
        if let Err(NoMemory { bytes }) = result {
            self.0.store(bytes.max(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn result(self) -> Result<(), NoMemory> {
        match self.0.into_inner() {
            0 => Ok(()),
            bytes => Err(NoMemory { bytes }),
        }
    }
}

/// Memory that this thread holds until this is dropped. A call within a call gets memory of its own.
#[cfg(feature = "std")]
#[derive(Debug)]
pub(crate) struct Workspace<const IS_SHARED: bool = false>(Vec<Line>);

#[cfg(feature = "std")]
impl Workspace {
    /// What this thread keeps, were it nothing.
    #[inline]
    pub(crate) fn take() -> Self {
        Self::kept()
    }

    /// At least so many bytes.
    #[inline]
    pub(crate) fn hold(bytes: usize) -> Result<Self, NoMemory> {
        let mut workspace = Self::kept();
        workspace.reserve(bytes)?;
        Ok(workspace)
    }
}

#[cfg(feature = "std")]
impl Workspace<true> {
    /// At least so many bytes for what several blocks read.
    pub(crate) fn shared(bytes: usize) -> Result<Self, NoMemory> {
        let mut workspace = Self::kept();
        workspace.reserve(bytes)?;
        Ok(workspace)
    }
}

#[cfg(feature = "std")]
impl<const IS_SHARED: bool> Workspace<IS_SHARED> {
    const MOST: usize = if IS_SHARED { MOST_SHARED / LINE } else { MOST_KEPT / LINE };

    #[inline(always)]
    fn key() -> &'static LocalKey<Cell<Vec<Line>>> {
        if IS_SHARED { &SHARED } else { &KEPT }
    }

    #[inline]
    fn kept() -> Self {
        // Where a thread ends, what it kept may be gone.
        Self(Self::key().try_with(Cell::take).unwrap_or_default())
    }

    /// Sees that there are at least so many bytes.
    #[inline]
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), NoMemory> {
        let lines = bytes.div_ceil(LINE);
        if self.0.len() < lines { self.grow(lines) } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, lines: usize) -> Result<(), NoMemory> {
        // Its content is of no use, so the former memory need not exist beside the new.
        self.0 = Vec::new();
        // Somewhat more, so that calls which need a little more each time seldom come here.
        let grown = lines.next_multiple_of((lines / 8).next_power_of_two()).min(Self::MOST.max(lines));
        self.0.try_reserve_exact(grown).map_err(|_| NoMemory { bytes: lines.saturating_mul(LINE) })?;
        self.0.resize(grown, Line::ZERO);
        Ok(())
    }

    /// All that is held.
    #[inline]
    pub(crate) fn lines(&mut self) -> &mut [Line] {
        &mut self.0
    }

    /// Lends at least so many bytes to `body`.
    #[inline(always)]
    pub(crate) fn lend<R>(&mut self, bytes: usize, body: impl FnOnce(&mut [Line]) -> R) -> Result<R, NoMemory> {
        self.reserve(bytes)?;
        Ok(body(&mut self.0))
    }
}

#[cfg(feature = "std")]
impl<const IS_SHARED: bool> Drop for Workspace<IS_SHARED> {
    #[inline]
    fn drop(&mut self) {
        if self.0.len() <= Self::MOST || !IS_SHARED && RESERVED.get() > 0 {
            let lines = core::mem::take(&mut self.0);
            // Freed where the thread's locals are gone.
            let _ = Self::key().try_with(|kept| kept.set(lines));
        }
    }
}

/// A promise, until this is dropped, that a workspace of so many bytes is had on this thread without an allocation: for
/// work that is many calls, none of which may fail once the first has begun.
#[cfg(feature = "std")]
#[derive(Debug)]
pub(crate) struct Reserved {
    /// The lines that were promised before.
    outer: usize,
    /// It is this thread's.
    _thread: core::marker::PhantomData<*const ()>,
}

#[cfg(feature = "std")]
impl Reserved {
    pub(crate) fn new(bytes: usize) -> Result<Self, NoMemory> {
        let outer = RESERVED.get();
        let reserved = Self { outer, _thread: core::marker::PhantomData };
        RESERVED.set(outer.max(bytes.div_ceil(LINE)));
        drop(Workspace::hold(bytes)?);
        Ok(reserved)
    }
}

#[cfg(feature = "std")]
impl Drop for Reserved {
    fn drop(&mut self) {
        RESERVED.set(self.outer);
        // Frees what is kept no longer.
        drop(Workspace::take());
    }
}

/// Stands for memory on the stack.
#[cfg(not(feature = "std"))]
#[derive(Debug)]
pub(crate) struct Workspace;

#[cfg(not(feature = "std"))]
#[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as with std")]
impl Workspace {
    pub(crate) fn take() -> Self {
        Self
    }

    pub(crate) fn hold(_bytes: usize) -> Result<Self, NoMemory> {
        Ok(Self)
    }

    pub(crate) fn reserve(&mut self, _bytes: usize) -> Result<(), NoMemory> {
        Ok(())
    }

    /// Nothing: what needs more than [`lend`](Workspace::lend) lends is not had.
    pub(crate) fn lines(&mut self) -> &mut [Line] {
        &mut []
    }

    /// Lends [`BYTES`] to `body`.
    #[inline(always)]
    pub(crate) fn lend<R>(&mut self, _bytes: usize, body: impl FnOnce(&mut [Line]) -> R) -> Result<R, NoMemory> {
        Ok(body(&mut [Line::ZERO; BYTES / LINE]))
    }
}
