//! What this machine can do at most: multiplications with addition per second, and bytes read and written per second.
//! The other benchmarks are measured against it. No kernel of the crate runs here.
//!
//! `cargo bench --bench peak` prints one line of JSON: GFLOP/s and GB/s by number of threads.
#![allow(unsafe_code, reason = "stores past the cache have no safe form")]

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch};

/// Independent sums: enough to keep two units with a latency of five cycles busy, few enough for 16 registers.
const SUMS: usize = 12;
const STEPS: usize = 20_000;
/// Far more than any cache holds.
const BYTES: usize = 256 << 20;
const PATIENCE: Duration = Duration::from_millis(800);

#[inline(always)]
fn multiply_and_add<S: Simd, V: SimdFloat<S>>(factor: V, start: V) -> V {
    let mut sums = [start; SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = sum.mul_add(factor, start);
        }
    }
    sums.into_iter().reduce(|a, b| a + b).unwrap_or(start)
}

#[inline(always)]
fn singles<S: Simd>(simd: S) -> f64 {
    let sum = multiply_and_add(S::f32s::splat(simd, std::hint::black_box(0.5)), S::f32s::splat(simd, 1.0));
    std::hint::black_box(sum);
    (2 * SUMS * STEPS * S::f32s::LEN) as f64
}

#[inline(always)]
fn doubles<S: Simd>(simd: S) -> f64 {
    let sum = multiply_and_add(S::f64s::splat(simd, std::hint::black_box(0.5)), S::f64s::splat(simd, 1.0));
    std::hint::black_box(sum);
    (2 * SUMS * STEPS * S::f64s::LEN) as f64
}

#[inline(always)]
fn add_up<S: Simd>(simd: S, source: &[f64]) -> f64 {
    let mut sums = [S::f64s::splat(simd, 0.0); 8];
    for block in source.chunks_exact(8 * S::f64s::LEN) {
        for (sum, values) in sums.iter_mut().zip(block.chunks_exact(S::f64s::LEN)) {
            *sum += S::f64s::from_slice(simd, values);
        }
    }
    std::hint::black_box(sums);
    size_of_val(source) as f64
}

/// Copies past the cache where the target has such stores.
fn copy(source: &[f64], target: &mut [f64]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_loadu_pd, _mm_sfence, _mm_stream_pd};
        let aligned = target.as_ptr().align_offset(64).min(target.len());
        let target = &mut target[aligned..];
        for (from, to) in source.chunks_exact(8).zip(target.chunks_exact_mut(8)) {
            for (from, to) in from.chunks_exact(2).zip(to.chunks_exact_mut(2)) {
                // SAFETY: both have two elements, `to` starts at a multiple of 16 bytes, and SSE2 is x86-64's baseline.
                unsafe { _mm_stream_pd(to.as_mut_ptr(), _mm_loadu_pd(from.as_ptr())) };
            }
        }
        // SAFETY: SSE is x86-64's baseline.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    target.copy_from_slice(source);
    std::hint::black_box(&target);
    (2 * size_of_val(source)) as f64
}

/// The best rate, in billions a second, at which `threads` threads do `work` at once; `work` says how much it did.
fn best_rate<T: Send>(mut parts: Vec<T>, work: impl Fn(&mut T) -> f64 + Sync) -> f64 {
    let barrier = Barrier::new(parts.len() + 1);
    let rounds = 40;
    let started = Instant::now();
    let mut best = 0.0_f64;
    for _ in 0..rounds {
        let (seconds, amount) = thread::scope(|scope| {
            let workers: Vec<_> = parts
                .iter_mut()
                .map(|part| {
                    let (barrier, work) = (&barrier, &work);
                    scope.spawn(move || {
                        barrier.wait();
                        let start = Instant::now();
                        let amount = work(part);
                        (start, Instant::now(), amount)
                    })
                })
                .collect();
            barrier.wait();
            let done: Vec<_> = workers.into_iter().filter_map(|worker| worker.join().ok()).collect();
            let first = done.iter().map(|one| one.0).min();
            let last = done.iter().map(|one| one.1).max();
            let seconds = first.zip(last).map_or(f64::INFINITY, |(first, last)| (last - first).as_secs_f64());
            (seconds, done.iter().map(|one| one.2).sum::<f64>())
        });
        best = best.max(amount / seconds / 1e9);
        if started.elapsed() > PATIENCE {
            break;
        }
    }
    best
}

fn main() {
    let level = Level::new();
    let all = thread::available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1];
    if all > 1 {
        counts.push(all);
    }
    let source = vec![1.0_f64; BYTES / 8];
    let mut target = vec![2.0_f64; BYTES / 8];
    let mut fields = vec![format!("\"level\": \"{}\"", format!("{level:?}").split('(').next().unwrap_or_default())];
    let mut report = |name: &str, measure: &mut dyn FnMut(usize) -> f64| {
        let rates: Vec<_> = counts.iter().map(|&threads| format!("\"{threads}\": {:.1}", measure(threads))).collect();
        fields.push(format!("\"{name}\": {{{}}}", rates.join(", ")));
    };
    report("fma_f32", &mut |threads| {
        best_rate(vec![(); threads], |()| repeated(|| dispatch!(level, simd => singles(simd))))
    });
    report("fma_f64", &mut |threads| {
        best_rate(vec![(); threads], |()| repeated(|| dispatch!(level, simd => doubles(simd))))
    });
    report("read", &mut |threads| {
        let parts = source.chunks(source.len().div_ceil(threads)).collect();
        best_rate(parts, |part| dispatch!(level, simd => add_up(simd, part)))
    });
    report("copy", &mut |threads| {
        let length = source.len().div_ceil(threads);
        let parts = source.chunks(length).zip(target.chunks_mut(length)).collect();
        best_rate(parts, |(from, to)| copy(from, to))
    });
    println!("{{{}}}", fields.join(", "));
}

/// Long enough to make the threads' start not count.
fn repeated(work: impl Fn() -> f64) -> f64 {
    (0..50).map(|_| work()).sum()
}
