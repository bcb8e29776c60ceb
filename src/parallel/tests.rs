//! Each block done once, whoever does it; and what goes wrong on a worker comes back to the caller.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::{String, ToString};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{env, eprintln, format, hint, thread, vec};

use super::thresholds::SMALLEST_SPLIT;
use super::*;

std::thread_local! {
    static OWN_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Whether calls of this thread use the pool that Python has.
pub(super) fn uses_own_pool() -> bool {
    OWN_POOL.get()
}

/// Runs `f` with the threads of either: rayon's global pool, and the pool that Python has.
fn on_either_pool(f: impl Fn()) {
    for own in [false, true] {
        OWN_POOL.set(own);
        f();
    }
    OWN_POOL.set(false);
}

/// How long the stress test goes on: a second, or `POLYGLOT_STRESS_SECONDS`.
fn stress_time() -> Duration {
    let seconds = env::var("POLYGLOT_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// Counts how often each index is visited, and checks what a range may be.
fn visits(count: usize, align: usize, cost: f32) -> Vec<u8> {
    let seen: Vec<AtomicU8> = (0..count).map(|_| AtomicU8::new(0)).collect();
    for_each_block(count, align, cost, |range| {
        assert!(range.start < range.end && range.end <= count);
        assert!(range.start.is_multiple_of(align) && (range.end == count || range.end.is_multiple_of(align)));
        for place in &seen[range] {
            place.fetch_add(1, Ordering::Relaxed);
        }
    });
    seen.into_iter().map(AtomicU8::into_inner).collect()
}

#[test]
fn each_index_is_visited_once() {
    on_either_pool(|| {
        // Miri takes minutes for all of it.
        let threads: &[_] = if cfg!(miri) { &[1, 3] } else { &[1, 2, 3, 5, 16] };
        let counts: &[_] = if cfg!(miri) { &[0, 1, 65, 200] } else { &[0, 1, 2, 3, 63, 64, 65, 997, 4096, 30_011] };
        let costs: &[_] = &[1e3, f32::NAN, 0.0, 1.0, 10.0, 1e6, f32::MAX, f32::INFINITY, -1.0];
        for &threads in threads {
            for &count in counts {
                for align in [1, 2, 7, 64, 100_000] {
                    for &cost in &costs[..if cfg!(miri) { 2 } else { costs.len() }] {
                        let visits = with_threads(threads, || visits(count, align, cost));
                        assert!(visits.iter().all(|&n| n == 1), "{threads} {count} {align} {cost}");
                    }
                }
            }
        }
    });
}

#[test]
fn the_split_depends_on_the_shape_alone() {
    on_either_pool(|| {
        let ranges = |threads| {
            with_threads(threads, || {
                let ranges = Mutex::new(Vec::new());
                for_each_block(10_000, 8, 50.0, |range| ranges.lock().unwrap().push((range.start, range.end)));
                let mut ranges = ranges.into_inner().unwrap();
                ranges.sort_unstable();
                ranges
            })
        };
        let alone = ranges(1);
        assert!(alone.len() > 16);
        for threads in [2, 3, 5, 16] {
            assert_eq!(ranges(threads), alone);
        }
    });
}

#[test]
fn small_work_is_one_range_on_the_calling_thread() {
    let caller = thread::current().id();
    for_each_block(1000, 1, SMALLEST_SPLIT / 1001.0, |range| {
        assert_eq!(range, 0..1000);
        assert_eq!(thread::current().id(), caller);
    });
}

/// A pool of our own has as many threads as are asked for.
#[test]
fn as_many_threads_as_asked_for() {
    OWN_POOL.set(true);
    for threads in if cfg!(miri) { [2, 2, 3, 3] } else { [2, 3, 5, 16] } {
        // Other tests may keep workers busy for a while.
        let all_came = (0..500).any(|_| {
            let here = AtomicUsize::new(0);
            let end = Instant::now() + Duration::from_millis(100);
            with_threads(threads, || {
                for_each_block(threads, 1, 1e6, |range| {
                    assert_eq!(range.len(), 1);
                    here.fetch_add(1, Ordering::Relaxed);
                    while here.load(Ordering::Relaxed) < threads && Instant::now() < end {
                        thread::yield_now();
                    }
                });
            });
            Instant::now() < end
        });
        assert!(all_came, "{threads}");
    }
}

#[test]
fn a_call_within_a_call() {
    on_either_pool(|| {
        let total = AtomicUsize::new(0);
        with_threads(3, || {
            for_each_block(50, 1, 1e5, |outer| {
                for_each_block(100, 1, 1e5, |inner| {
                    total.fetch_add(outer.len() * inner.len(), Ordering::Relaxed);
                });
            });
        });
        assert_eq!(total.into_inner(), 5000);
    });
}

#[test]
fn calls_from_many_threads() {
    let end = Instant::now() + stress_time();
    thread::scope(|scope| {
        for caller in 0..8 {
            scope.spawn(move || {
                OWN_POOL.set(caller % 2 == 1);
                let mut round = caller;
                while Instant::now() < end {
                    round += 1;
                    let visits = with_threads(1 + round % 5, || visits(100 + round % 1000, 1 + round % 3, 1e3));
                    assert!(visits.iter().all(|&n| n == 1));
                }
            });
        }
    });
}

/// Borrowed data is gone the moment a call returns: a worker that came late must not see it.
#[test]
fn late_workers_touch_nothing() {
    on_either_pool(|| {
        let end = Instant::now() + stress_time();
        let mut round = 0_usize;
        while Instant::now() < end {
            round += 1;
            let alive = AtomicBool::new(true);
            let done = AtomicUsize::new(0);
            with_threads(2 + round % 4, || {
                for_each_block(2 + round % 30, 1, 1e5, |range| {
                    assert!(alive.load(Ordering::Relaxed));
                    (0..round % 100).for_each(|_| hint::spin_loop());
                    done.fetch_add(range.len(), Ordering::Relaxed);
                    assert!(alive.load(Ordering::Relaxed));
                });
            });
            alive.store(false, Ordering::Relaxed);
            assert_eq!(done.into_inner(), 2 + round % 30);
            if round.is_multiple_of(64) {
                thread::sleep(Duration::from_micros(round as u64 % 300));
            }
        }
    });
}

#[test]
fn a_panic_comes_out_of_the_call() {
    on_either_pool(|| {
        for round in 0..if cfg!(miri) { 10 } else { 200 } {
            let result = catch_unwind(AssertUnwindSafe(|| {
                with_threads(1 + round % 5, || {
                    for_each_block(64, 1, 1e5, |range| assert!(!range.contains(&(round % 64)), "no {}", round % 64));
                });
            }));
            let message = result.expect_err("the panic was lost");
            assert_eq!(message.downcast_ref::<String>(), Some(&format!("no {}", round % 64)));
            assert!(visits(1000, 1, 1e3).iter().all(|&n| n == 1));
        }
    });
}

#[test]
fn panics_on_all_threads_at_once() {
    on_either_pool(|| {
        let helped = (0..2000).any(|_| {
            let count = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                with_threads(3, || {
                    for_each_block(64, 1, 1e5, |_| {
                        count.fetch_add(1, Ordering::Relaxed);
                        // Until another one panics, or nobody came.
                        let end = Instant::now() + Duration::from_millis(1);
                        while count.load(Ordering::Relaxed) < 2 && Instant::now() < end {
                            thread::yield_now();
                        }
                        panic!("from everyone");
                    });
                });
            }));
            assert_eq!(result.expect_err("the panic was lost").downcast_ref(), Some(&"from everyone"));
            // None is left over for the next call.
            assert!(visits(1000, 1, 1e3).iter().all(|&n| n == 1));
            count.into_inner() > 1
        });
        assert!(helped);
    });
}

#[test]
fn numbers_of_threads() {
    let outside = num_threads();
    assert!(outside >= 1);
    with_threads(7, || {
        assert_eq!((num_threads(), thread_source()), (7, ThreadSource::Scope));
        with_threads(0, || assert_eq!(num_threads(), 7));
        with_threads(usize::MAX, || assert_eq!(num_threads(), 256));
        drop(catch_unwind(|| with_threads(3, || panic!("leaves the scope"))));
        assert_eq!(num_threads(), 7);
        thread::spawn(move || assert_eq!(num_threads(), outside)).join().unwrap();
    });
    assert_eq!(num_threads(), outside);
}

/// A forked child has the parent's pool, but none of its threads.
#[cfg(all(unix, not(miri)))]
#[test]
fn a_forked_child_has_threads_of_its_own() {
    for _ in 0..5 {
        with_threads(2, || visits(1000, 1, 1e3));
        // SAFETY: the child calls nothing that another thread of the parent could have left locked but the allocator,
        // which the C library keeps usable, and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let caller = thread::current().id();
            let mut right = true;
            let helped = AtomicBool::new(false);
            for _ in 0..100 {
                with_threads(2, || {
                    right &= visits(1000, 1, 1e3).iter().all(|&n| n == 1);
                    for_each_block(20, 1, 1e5, |_| {
                        thread::sleep(Duration::from_micros(100));
                        helped.fetch_or(thread::current().id() != caller, Ordering::Relaxed);
                    });
                });
                if helped.load(Ordering::Relaxed) {
                    break;
                }
            }
            let code = i32::from(!right) + 2 * i32::from(!helped.into_inner());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) };
        }
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
        assert_eq!(status, 0, "1 << 8: a wrong result; 2 << 8: no thread came to help");
    }
}

/// Prints what a call costs beside the same blocks on one thread: `cargo test --release --features parallel
/// hand_off -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn hand_off() {
    let work = |micros: f32| {
        move |range: Range<usize>| {
            let end = Instant::now() + Duration::from_nanos((micros * 1e3) as u64 * range.len() as u64 / 64);
            while Instant::now() < end {}
        }
    };
    for pause in [0, 50, 300, 50_000] {
        for micros in [0.0_f32, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0] {
            let mut line = format!("pause {pause:>5} us, work {micros:>6} us:");
            for (threads, rounds) in [(1, 100), (2, 100), (1, 100), (2, 100)] {
                let rounds = if pause > 1000 { rounds / 4 } else { rounds };
                let mut times = vec![];
                for _ in 0..rounds {
                    thread::sleep(Duration::from_micros(pause));
                    let start = Instant::now();
                    with_threads(threads, || for_each_block(64, 1, f32::max(micros / 64.0 * 1e3, 150.0), work(micros)));
                    times.push(start.elapsed().as_nanos());
                }
                times.sort_unstable();
                let at = |percent: usize| times[times.len() * percent / 100] as f64 / 1e3;
                line += &format!("  {threads}: {:>6.1} {:>6.1} {:>6.1}", at(10), at(50), at(90)).to_string();
            }
            eprintln!("{line}");
        }
    }
}

#[test]
fn tiles_cover_each_element_once() {
    for (rows, cols) in [(1, 1), (1, 100), (7, 33), (0, 5), (5, 0)] {
        for size in [(1, 1), (3, 16), (7, 32), (9, 200)] {
            for shift in [0, 1, 15, 16, 40] {
                let tiling = Tiling { size, shift };
                let mut visits = std::vec![0; rows * cols];
                for index in 0..tiling.count((rows, cols)) {
                    let (rows, across) = tiling.tile((rows, cols), index);
                    for (row, col) in rows.flat_map(|row| across.clone().map(move |col| (row, col))) {
                        visits[row * cols + col] += 1;
                    }
                }
                assert!(visits.iter().all(|&count| count == 1), "{rows}x{cols} in {tiling:?}");
            }
        }
    }
}
