//! What becomes of a call where memory is refused: it ends with a result or with an error, and writes all of its result or
//! nothing. The allocator of this process is the test's, and refuses what it is told to.
#![allow(unsafe_code, reason = "an allocator has no safe form")]
#![cfg(feature = "std")]

#[macro_use]
mod common;
#[path = "common/calls.rs"]
mod calls;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use calls::{Call, Calls, forgotten, of_all_types};
use common::{Storage, for_each_level, from_f64, to_f64};
use polyglot_bridge::simd::Level;
use polyglot_bridge::{Epilogue, Error, Matrix, MatrixMut, linear, with_threads};

/// An allocator that refuses some requests, and counts them all.
struct Refusing;

/// Which requests of a thread are refused.
#[derive(Clone, Copy)]
enum Refuse {
    Nothing,
    /// So many are granted, then one is refused.
    One(u64),
    /// So many are granted, and none that follow.
    AllFrom(u64),
}

thread_local! {
    static REFUSE: Cell<Refuse> = const { Cell::new(Refuse::Nothing) };
    /// How many requests this thread was refused.
    static REFUSED: Cell<usize> = const { Cell::new(0) };
    /// The bytes that this thread has allocated and not freed.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// How many requests of all threads are still granted before all are refused; `u64::MAX`: no end of them.
static GRANTED: AtomicU64 = AtomicU64::new(u64::MAX);
/// The requests of all threads.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Requests of fewer bytes are granted whatever `GRANTED` says, and not counted there.
static SMALLEST: AtomicUsize = AtomicUsize::new(0);

fn is_refused(bytes: usize) -> bool {
    let here = match REFUSE.get() {
        Refuse::Nothing => false,
        Refuse::One(granted) => {
            REFUSE.set(granted.checked_sub(1).map_or(Refuse::Nothing, Refuse::One));
            granted == 0
        }
        Refuse::AllFrom(granted) => {
            REFUSE.set(Refuse::AllFrom(granted.saturating_sub(1)));
            granted == 0
        }
    };
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    let take = |granted: u64| if granted == u64::MAX { Some(granted) } else { granted.checked_sub(1) };
    let counts = bytes >= SMALLEST.load(Ordering::Relaxed);
    let refused = counts && GRANTED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() || here;
    REFUSED.set(REFUSED.get() + usize::from(refused));
    refused
}

fn hold(bytes: isize) {
    HELD.set(HELD.get() + bytes);
}

// SAFETY: the system's allocator, or null, which is how a request is refused.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return ptr::null_mut();
        }
        hold(layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return ptr::null_mut();
        }
        hold(layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_refused(size) {
            return ptr::null_mut();
        }
        hold(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        hold(-layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// One test at a time: what is refused to all threads, and counted, is one for the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // What std allocates for itself the first time that the number of threads is asked for.
    polyglot_bridge::num_threads();
    guard
}

/// Calls on a new thread, which keeps no memory yet, and refuses it some. What came of it, and how many were refused.
fn call_refusing(call: &mut dyn Call, refuse: Refuse) -> (Result<(), Error>, usize) {
    call.reset();
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            with_threads(1, || {
                REFUSED.set(0);
                REFUSE.set(refuse);
                let result = call.run();
                REFUSE.set(Refuse::Nothing);
                (result, REFUSED.get())
            })
        });
        caller.join().expect("a call does not panic")
    })
}

/// Every function, with the n-th request refused, and with all from the n-th on, until none is.
fn refuse_each_request(calls: &mut Calls) -> (usize, usize) {
    let (mut failed, mut spared) = (0, 0);
    for call in calls {
        let (result, _) = call_refusing(&mut **call, Refuse::Nothing);
        assert_eq!(result, Ok(()), "{}", call.name());
        let right = call.bits();
        call.reset();
        let untouched = call.bits();
        for refuse in [Refuse::One as fn(u64) -> Refuse, Refuse::AllFrom] {
            for request in 0.. {
                assert!(request < 1000, "{} asks again and again", call.name());
                let (result, refused) = call_refusing(&mut **call, refuse(request));
                let bits = call.bits();
                match result {
                    Ok(()) => {
                        assert!(bits == right, "{}: another result without request {request}", call.name());
                        spared += usize::from(refused > 0);
                    }
                    Err(Error::OutOfMemory { bytes }) => {
                        assert!(refused > 0 && bytes > 0, "{}: {bytes} bytes were not refused", call.name());
                        assert!(bits == untouched, "{}: written, without request {request}", call.name());
                        failed += 1;
                    }
                    Err(error) => panic!("{}: {error}", call.name()),
                }
                if refused == 0 {
                    break;
                }
            }
        }
    }
    (failed, spared)
}

#[test]
fn every_function_is_tried() {
    assert_eq!(
        forgotten(&of_all_types()),
        Vec::<String>::new(),
        "public functions that no call in tests/common/calls.rs has"
    );
}

#[test]
fn a_refused_request_is_an_error_and_nothing_is_written() {
    let _alone = alone();
    let mut calls = of_all_types();
    let (mut failed, mut spared) = (0, 0);
    for_each_level(|_| {
        let (more_failed, more_spared) = refuse_each_request(&mut calls);
        (failed, spared) = (failed + more_failed, spared + more_spared);
    });
    // Both happen: errors, and results that were had by another way.
    assert!(failed > 500 && spared > 20, "{failed} {spared}");
}

/// What a thread keeps from a call to the next is bounded, and enough for the next one like it.
#[test]
fn what_a_thread_keeps_is_bounded_and_used_again() {
    let _alone = alone();
    for call in &mut of_all_types() {
        let is_maker = ["new", "try_clone"].iter().any(|name| call.functions()[0].ends_with(name));
        let (kept, requests) = kept_after(|| call.run().expect("memory"));
        assert!(kept <= MOST_KEPT, "{}: {kept} bytes", call.name());
        assert!(requests == 0 || is_maker, "{}: {requests} requests in the second call", call.name());
    }
}

/// docs/limits.md: 16 MB for a weight that is not packed, and 4 MB beside; and a page for what std keeps.
const MOST_KEPT: isize = (16 << 20) + (4 << 20) + 4096;

/// The bytes that a new thread holds after a call, and the requests that a second call makes.
fn kept_after(mut call: impl FnMut() + Send) -> (isize, u64) {
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            with_threads(1, || {
                let before = HELD.get();
                call();
                let kept = HELD.get() - before;
                let before = REQUESTS.load(Ordering::Relaxed);
                call();
                (kept, REQUESTS.load(Ordering::Relaxed) - before)
            })
        });
        caller.join().expect("a call does not panic")
    })
}

/// Shapes whose operands and sums take hundreds of megabytes, were they laid out at once.
#[test]
fn what_a_thread_keeps_of_the_largest_products_is_bounded() {
    /// All numbers are one, so that each result is the number of steps.
    fn check<T: Storage>((rows, steps, cols): (usize, usize, usize), (down, across): (usize, usize)) {
        let one: T = from_f64(1.0);
        let x = vec![one; rows * steps];
        let weight = vec![one; (steps - 1) * down + (cols - 1) * across + 1];
        let weight = Matrix::with_strides(&weight, steps, cols, down, across).expect("shape");
        let x = Matrix::new(&x, rows, steps).expect("shape");
        let mut out = vec![T::ZERO; rows * cols];
        let (kept, _) = kept_after(|| {
            let out = MatrixMut::new(&mut out, rows, cols).expect("shape");
            linear(x, weight, Epilogue::new(), out).expect("memory");
        });
        assert!(kept <= MOST_KEPT, "{} {rows}x{steps}x{cols}: {kept} bytes", T::NAME);
        assert!(out.iter().all(|&value| to_f64(value) == steps as f64), "{rows}x{steps}x{cols}");
    }
    let _alone = alone();
    for_each_level(|level| {
        if matches!(level, Level::Fallback(_)) {
            return;
        }
        // Packed block by block, as its columns lie side by side nowhere: the head of a language model.
        check::<f32>((16, 1024, 131_072), (0, 0));
        // Read where it lies, row by row.
        check::<f32>((16, 600, 400_000), (8192, 1));
        check::<f64>((3, 600, 300_000), (8192, 1));
        check::<f64>((1, 600, 300_000), (8192, 1));
        // One row, and columns that lie side by side; and a result of one column.
        check::<f32>((1, 600, 300_000), (1, 4));
        check::<f32>((300_000, 40, 1), (1, 1));
    });
}

#[cfg(feature = "parallel")]
mod threads {
    use std::env;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use polyglot_bridge::{
        Activation, AttentionOptions, Layer, PackedLinear, RowOperation, Sequential, attention_batch, map,
        matmul_batch, softmax,
    };

    use super::*;
    use crate::calls::Outs;

    thread_local! {
        static IS_CALLER: Cell<bool> = const { Cell::new(false) };
    }

    /// How often something was done on another thread than the caller's.
    static HELPED: AtomicUsize = AtomicUsize::new(0);

    /// Called by what a call hands to its threads.
    fn note_who() {
        if !IS_CALLER.get() {
            HELPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `call` until helpers have come to `count` calls that follow the first ones, in which threads are started and get
    /// memory: how many requests each of these made.
    fn with_helpers(count: usize, mut call: impl FnMut()) -> Vec<u64> {
        const FIRST: usize = 50;
        IS_CALLER.set(true);
        let mut requests = Vec::with_capacity(FIRST + count);
        with_threads(3, || {
            let end = Instant::now() + Duration::from_secs(60);
            while requests.len() < FIRST + count && Instant::now() < end {
                let before = (HELPED.load(Ordering::Relaxed), REQUESTS.load(Ordering::Relaxed));
                call();
                let after = (HELPED.load(Ordering::Relaxed), REQUESTS.load(Ordering::Relaxed));
                if after.0 > before.0 {
                    requests.push(after.1 - before.1);
                }
            }
        });
        requests.split_off(FIRST.min(requests.len()))
    }

    /// x as it comes, slowly, and on which thread.
    struct Watched;

    impl Layer<f32> for Watched {
        fn in_features(&self) -> Option<usize> {
            None
        }

        fn out_features(&self, in_features: usize) -> usize {
            in_features
        }

        fn run(&self, x: Matrix<'_, f32>, out: MatrixMut<'_, f32>) -> Result<(), Error> {
            note_who();
            Ok(map(x, out, |x| x)?)
        }
    }

    /// docs/limits.md: what rayon asks for to spawn a helper, of which there are two here, and before that whether there
    /// is as much; now and then a block of its queue, and what frees those.
    #[test]
    fn a_call_allocates_nothing_but_what_spawns_its_helpers() {
        const EACH: u64 = 2;
        let _alone = alone();
        let check = |name: &str, mut requests: Vec<u64>| {
            assert!(requests.len() == 100, "{name}: helpers came {} times", requests.len());
            requests.sort_unstable();
            assert!(requests[80] <= 2 * EACH && requests[99] <= 4 * EACH, "{name}: {requests:?}");
        };
        let (x, y) = (vec![1.0_f32; 1 << 16], vec![0.5_f32; 1 << 16]);
        let (x, y) = (Matrix::new(&x, 256, 256).expect("shape"), Matrix::new(&y, 256, 256).expect("shape"));
        let mut out = vec![0.0_f32; 1 << 16];
        let requests = with_helpers(100, || {
            let out = MatrixMut::new(&mut out, 256, 256).expect("shape");
            map(x, out, |x| {
                note_who();
                x + 1.0
            })
            .expect("shapes");
        });
        check("map", requests);
        let mut outs = vec![0.0_f32; 1 << 16];
        let requests = with_helpers(100, || {
            let outs = Outs(outs.as_mut_ptr());
            matmul_batch(16, |item| {
                note_who();
                // SAFETY: 16 matrices of 16 rows lie in `outs`, one after the other.
                (x.block(16 * item..16 * item + 16, 0..256), y, unsafe { outs.matrix(4096 * item, 16, 256) })
            })
            .expect("memory");
        });
        check("matmul_batch", requests);
        let requests = with_helpers(100, || {
            let outs = Outs(outs.as_mut_ptr());
            attention_batch(16, |item| {
                note_who();
                let q = x.block(16 * item..16 * item + 16, 0..256);
                // SAFETY: as above.
                ([q, x, y], AttentionOptions::new(), unsafe { outs.matrix(4096 * item, 16, 256) })
            })
            .expect("memory");
        });
        check("attention_batch", requests);
        let packed = PackedLinear::<f32>::new(y, None, Activation::Silu).expect("memory");
        let layers: Vec<Box<dyn Layer<f32>>> =
            vec![Box::new(packed), Box::new(Watched), Box::new(RowOperation::Softmax)];
        let stack = Sequential::new(layers);
        let requests = with_helpers(100, || {
            stack.forward(x, MatrixMut::new(&mut out, 256, 256).expect("shape")).expect("memory");
        });
        check("Sequential", requests);
    }

    /// Each thread that takes part asks for memory, more than any keeps: who gets none leaves, or the call fails as a whole.
    #[test]
    fn whoever_gets_no_memory_leaves_the_work_to_others() {
        const SIZE: usize = 12_000;
        let _alone = alone();
        IS_CALLER.set(true);
        let (q, k) = (vec![0.25_f32; 240 * SIZE], vec![0.5_f32; 40 * SIZE]);
        let v: Vec<f32> = (0..80).map(|index| index as f32).collect();
        let matrix = |values, rows, cols| Matrix::new(values, rows, cols).expect("shape");
        let (q, k, v) = (matrix(&q[..], 240, SIZE), matrix(&k[..], 40, SIZE), matrix(&v[..], 40, 2));
        let attend = |out: &mut [f32]| {
            let outs = Outs(out.as_mut_ptr());
            attention_batch(1, |_| {
                note_who();
                // SAFETY: `out` has 240 rows of two.
                ([q, k, v], AttentionOptions::new(), unsafe { outs.matrix(0, 240, 2) })
            })
        };
        let mut right = vec![0.0; 480];
        with_threads(1, || attend(&mut right)).expect("memory");
        // The scores are all alike, so the results are the means of v: of 0, 2, 4, ... and of 1, 3, 5, ...
        assert!(right.chunks(2).all(|row| (row[0] - 39.0).abs() < 1e-4 && (row[1] - 40.0).abs() < 1e-4), "{right:?}");
        let (mut failed, mut alone, mut helped) = (0, 0, 0);
        // What rayon asks for to spawn a helper is not refused: it would end the process.
        SMALLEST.store(1 << 16, Ordering::Relaxed);
        with_threads(3, || {
            // Threads are started, and looking for work.
            with_helpers(1, || attend(&mut [0.0; 480][..]).expect("memory"));
            for round in 0..200 {
                let mut out = vec![-1.0; 480];
                HELPED.store(0, Ordering::Relaxed);
                GRANTED.store(round % 5, Ordering::Relaxed);
                let result = attend(&mut out);
                GRANTED.store(u64::MAX, Ordering::Relaxed);
                match result {
                    Ok(()) => {
                        assert_eq!(out, right, "round {round}");
                        let count = if HELPED.load(Ordering::Relaxed) > 0 { &mut helped } else { &mut alone };
                        *count += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::OutOfMemory { bytes } if bytes > 4 << 20), "{error:?}");
                        assert_eq!(out, [-1.0; 480], "round {round}: written");
                        failed += 1;
                    }
                }
            }
        });
        SMALLEST.store(0, Ordering::Relaxed);
        assert!(failed >= 40 && alone > 0 && helped > 0, "{failed} {alone} {helped}");
    }

    /// The first call with threads, in a process of its own: see below.
    #[test]
    #[ignore = "for a process in which no threads were started"]
    fn without_memory_for_threads() {
        polyglot_bridge::num_threads();
        let x = vec![1.0_f64; 1 << 16];
        let (x, mut out) = (Matrix::new(&x, 256, 256).expect("shape"), vec![0.0; 1 << 16]);
        with_threads(4, || {
            // What threads have in common is asked for first.
            REFUSE.set(Refuse::One(0));
            let result = softmax(x, MatrixMut::new(&mut out, 256, 256).expect("shape"));
            REFUSE.set(Refuse::Nothing);
            result.expect("shapes");
        });
        assert_eq!(REFUSED.get(), 1);
        assert!(out.iter().all(|&value| value == 1.0 / 256.0));
    }

    #[test]
    fn without_memory_for_threads_the_caller_does_it_all() {
        let name = "threads::without_memory_for_threads";
        let program = env::current_exe().expect("this program");
        let output = Command::new(program).args(["--exact", name, "--ignored"]).output().expect("started");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

/// To drop what owns memory takes none.
#[test]
fn nothing_is_allocated_to_free() {
    let _alone = alone();
    let mut calls = of_all_types();
    for call in &mut calls {
        call.run().expect("memory");
    }
    let before = REQUESTS.load(Ordering::Relaxed);
    REFUSE.set(Refuse::AllFrom(0));
    drop(calls);
    REFUSE.set(Refuse::Nothing);
    assert_eq!(REQUESTS.load(Ordering::Relaxed) - before, 0);
}
