//! Every figure that decides whether, how and for how long threads share work. Nothing but speed depends on them.
//!
//! Costs are nanoseconds on one core, estimated from shapes for a CPU that takes three times as long as some.
#![cfg_attr(target_family = "wasm", allow(dead_code, reason = "no threads there"))]

use core::time::Duration;

/// Work below this is one range: even a thread that is awake and looking takes half a microsecond.
pub(super) const SMALLEST_SPLIT: f32 = 12_000.0;
/// The bounds of a chunk's cost: far above the few tens of nanoseconds that claiming it takes, and short enough that
/// whoever has the last one keeps the others waiting for a moment only.
pub(super) const CHUNK_COST: (f32, f32) = (4_000.0, 50_000.0);
/// A call of medium size becomes about this many chunks.
pub(super) const USUAL_CHUNKS: f32 = 32.0;
/// Counts of chunks are kept in 32 bits, and each participant that panics adds as many once more.
pub(super) const MOST_CHUNKS: usize = 1 << 20;
/// The most threads that a call may use: counts of them are kept in 16 bits, and lists of them in fixed arrays.
pub(crate) const MOST_THREADS: usize = 256;
/// The calls that may be under way at once with help; further ones run alone.
pub(super) const SLOTS: usize = 32;
/// A thread that sleeps is woken for work of this cost: waking it takes the caller about 10,000 and the thread comes
/// some 30,000 later.
pub(super) const WAKE: u64 = 40_000;
/// Where many calls smaller than that come one after the other, threads are woken once in so much work, as they find
/// the next calls while they linger. Where calls are far apart it is in vain, but costs a few per cent at most.
pub(super) const WAKE_FOR_MANY: u64 = 400_000;
/// How long a helper of our own pool looks for the next call: longer than a chunk, in case the caller is still at one.
/// Then it does so as long again, letting others have its core if they want it.
pub(super) const LINGER: Duration = Duration::from_micros(75);
/// How often it lets others have its core then.
pub(super) const LINGER_YIELD: Duration = Duration::from_micros(3);
/// How many helpers the caller spawns, and each helper that comes: so that to spawn n takes the logarithm of n.
pub(super) const SPAWNS: usize = 2;
/// How long a caller spins for the last helper to leave, beyond what two chunks take, before it yields its core.
pub(super) const SPIN: Duration = Duration::from_micros(5);
/// But not longer than this, however long a chunk takes.
pub(super) const LONGEST_SPIN: Duration = Duration::from_micros(200);
/// How often it yields before it sleeps.
pub(super) const YIELDS: usize = 16;
