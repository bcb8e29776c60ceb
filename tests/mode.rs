//! Kernels run in the default floating-point mode, whatever the calling thread or the workers of a pool have set, and
//! leave the caller's as it was.
#![cfg(all(feature = "std", not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))]
#![allow(unsafe_code, reason = "the register is reached by instructions alone")]

#[macro_use]
mod common;
#[path = "common/calls.rs"]
mod calls;

use std::arch::asm;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use calls::of_all_types;
use polyglot_bridge::{relu, scale, with_threads};

/// To nearest with subnormals flushed, in and out; the other roundings; all exceptions raised where x86 can.
#[cfg(target_arch = "x86_64")]
const MODES: [u64; 6] = [0x9fc0, 0x9f80, 0x3f80, 0x5f80, 0x7f80, 0xffc0];
#[cfg(target_arch = "aarch64")]
const MODES: [u64; 5] = [1 << 24, 1 << 22, 2 << 22, 3 << 22, (1 << 24) | (3 << 22)];

/// What is mode and not a record of what has happened.
#[cfg(target_arch = "x86_64")]
const MODE: u64 = !0x3f;
#[cfg(target_arch = "aarch64")]
const MODE: u64 = !0;

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    let mut value = 0_u32;
    // SAFETY: stores the register.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value) };
    u64::from(value)
}

#[cfg(target_arch = "x86_64")]
fn write(value: u64) {
    let value = value as u32;
    // SAFETY: one of the above, or what was read; what the compiler takes for granted is left for as long as a test lasts.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value) };
}

#[cfg(target_arch = "aarch64")]
fn read() -> u64 {
    let value;
    // SAFETY: reads the register.
    unsafe { asm!("mrs {}, fpcr", out(reg) value) };
    value
}

#[cfg(target_arch = "aarch64")]
fn write(value: u64) {
    // SAFETY: as on x86.
    unsafe { asm!("msr fpcr, {}", in(reg) value) };
}

/// Runs `f` in this mode, and checks that it is in force afterwards.
fn in_mode<R>(mode: u64, f: impl FnOnce() -> R) -> R {
    let before = read();
    write(mode);
    let result = catch_unwind(AssertUnwindSafe(f));
    let after = read();
    write(before);
    assert_eq!(after & MODE, mode & MODE, "{mode:#x} became {after:#x}");
    result.expect("a call does not panic")
}

#[test]
fn every_function_gives_the_same_bits_in_any_mode() {
    for call in &mut of_all_types() {
        call.run().expect("memory");
        let right = call.bits();
        for mode in MODES {
            for threads in [1, 2] {
                call.reset();
                in_mode(mode, || with_threads(threads, || call.run())).expect("memory");
                assert!(call.bits() == right, "{} in mode {mode:#x} on {threads} threads", call.name());
            }
        }
    }
}

/// The test would see a mode that is not kept.
#[test]
fn subnormals_are_kept_where_arithmetic_here_flushes_them() {
    let tiny = [f32::MIN_POSITIVE / 4.0; 33];
    let mut out = [0.0; 33];
    let (flushed, kept) = in_mode(MODES[0], || {
        scale(&tiny[..], 0.5, &mut out[..]).expect("shapes");
        (black_box(tiny[0]) * black_box(0.5), out)
    });
    assert_eq!(flushed.to_bits(), 0);
    assert!(kept.iter().all(|&value| value == f32::MIN_POSITIVE / 8.0));
}

#[cfg(feature = "parallel")]
mod threads {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use polyglot_bridge::{map, sigmoid};
    use rayon::ThreadPoolBuilder;

    use super::*;

    /// Workers that flush subnormals, as after code that was compiled with `-ffast-math`.
    #[test]
    fn helpers_run_in_the_default_mode_and_keep_their_own() {
        let pool = ThreadPoolBuilder::new().num_threads(3).start_handler(|_| write(MODES[0])).build().expect("threads");
        let x: Vec<f32> = (0..200_000).map(|i| f32::from_bits(1 + i * 37 % 0x0080_0000)).collect();
        let mut right = vec![0.0; x.len()];
        let negative: Vec<f32> = x.iter().map(|x| x.abs() - 88.5).collect();
        with_threads(1, || {
            scale(&x[..], 0.75, &mut right[..]).expect("shapes");
        });
        let mut sigmoids = vec![0.0; x.len()];
        with_threads(1, || sigmoid(&negative[..], &mut sigmoids[..])).expect("shapes");
        for _ in 0..50 {
            pool.install(|| {
                let mut out = vec![0.0; x.len()];
                scale(&x[..], 0.75, &mut out[..]).expect("shapes");
                assert!(out.iter().zip(&right).all(|(a, b)| a.to_bits() == b.to_bits()));
                sigmoid(&negative[..], &mut out[..]).expect("shapes");
                assert!(out.iter().zip(&sigmoids).all(|(a, b)| a.to_bits() == b.to_bits()));
            });
        }
        assert!(pool.broadcast(|_| read() & MODE).iter().all(|&mode| mode == MODES[0] & MODE));
    }

    /// A function of the caller's sees the default mode as well, on whichever thread.
    #[test]
    fn a_panic_leaves_each_threads_mode() {
        let pool = ThreadPoolBuilder::new().num_threads(2).start_handler(|_| write(MODES[0])).build().expect("threads");
        let x = vec![1.0_f32; 100_000];
        let (others, seen) = (AtomicUsize::new(0), AtomicU64::new(0));
        for round in 0..200 {
            pool.install(|| {
                let mut out = vec![0.0; x.len()];
                let caller = thread::current().id();
                let result = catch_unwind(AssertUnwindSafe(|| {
                    map(&x[..], &mut out[..], |x| {
                        seen.fetch_or(read() & MODE & !0x1f80, Ordering::Relaxed);
                        if thread::current().id() != caller {
                            others.fetch_add(1, Ordering::Relaxed);
                            assert!(round % 2 == 0, "a helper's");
                        } else if round % 2 == 1 {
                            thread::sleep(Duration::from_micros(1));
                        }
                        assert!(round % 3 > 0, "the caller's");
                        x
                    })
                }));
                assert!(result.is_err() || round % 3 > 0);
                assert_eq!(read() & MODE, MODES[0] & MODE);
            });
        }
        assert!(others.into_inner() > 0, "no helper came");
        assert_eq!(seen.into_inner(), 0, "another mode than the default");
        assert!(pool.broadcast(|_| read() & MODE).iter().all(|&mode| mode == MODES[0] & MODE));
    }
}

/// What it costs: `cargo test --release --test mode -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_call() {
    let (x, mut out) = ([1.0_f32; 8], [0.0_f32; 8]);
    let mut call = || {
        let start = Instant::now();
        for _ in 0..100_000 {
            relu(black_box(&x[..]), &mut out[..]).expect("shapes");
        }
        start.elapsed().as_nanos() as f64 / 1e5
    };
    let best = |call: &mut dyn FnMut() -> f64| (0..50).map(|_| call()).fold(f64::INFINITY, f64::min);
    let default = best(&mut call);
    let other = in_mode(MODES[0], || best(&mut call));
    eprintln!("relu of 8: {default:.2} ns in the default mode, {other:.2} ns where another is set");
}
