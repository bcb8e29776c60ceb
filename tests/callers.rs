//! Calls from any thread: one with little stack, and one that ends.
#![allow(unsafe_code, reason = "threads with a given stack, and what runs when one ends, are the C library's")]
#![cfg(unix)]

#[macro_use]
mod common;
#[path = "common/calls.rs"]
mod calls;

use std::ffi::c_void;
#[cfg(target_os = "linux")]
use std::fmt::Write;
#[cfg(target_os = "linux")]
use std::ptr;

#[cfg(target_os = "linux")]
use calls::{Call, Lie, row_operations};
use calls::{Calls, of_all_types};
#[cfg(target_os = "linux")]
use common::for_each_level;
use polyglot_bridge::with_threads;

/// What a call may take of the stack of the thread that it is called on, in bytes.
#[cfg(target_os = "linux")]
const MOST_STACK: usize = 24 << 10;

/// A stack that shows which of its pages were touched, as they are where a large frame is made, whether it is used or not.
#[cfg(target_os = "linux")]
struct Stack(*mut c_void);

#[cfg(target_os = "linux")]
impl Stack {
    const BYTES: usize = 512 << 10;
    const PAGE: usize = 4096;

    fn new() -> Self {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new mapping that overlaps nothing.
        let memory = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        // SAFETY: our own mapping. Page by page, or pages would be touched together.
        unsafe { libc::madvise(memory, Self::BYTES, libc::MADV_NOHUGEPAGE) };
        Self(memory)
    }

    /// Calls on a thread that has this stack, and tells how many bytes of it were used, down to a whole page.
    fn measure(&self, call: &mut dyn Call, threads: usize) -> usize {
        struct Job<'a> {
            call: &'a mut dyn Call,
            threads: usize,
            /// Where the stack was when the call began.
            begin: usize,
        }
        extern "C" fn run(job: *mut c_void) -> *mut c_void {
            // SAFETY: the job that is handed over below, which nobody else touches until this thread has ended.
            let job = unsafe { &mut *job.cast::<Job<'_>>() };
            let here = 0_u8;
            job.begin = ptr::from_ref(&here) as usize;
            with_threads(job.threads, || job.call.run()).expect("memory");
            ptr::null_mut()
        }
        let mut job = Job { call, threads, begin: 0 };
        let mut touched = [0_u8; Self::BYTES / Self::PAGE];
        // SAFETY: as the C library asks: our own mapping, which no thread uses before this one and after it; attributes are
        // made before they are used, and the job lives until the thread was waited for; a byte for each page.
        unsafe {
            assert_eq!(libc::madvise(self.0, Self::BYTES, libc::MADV_DONTNEED), 0);
            let mut attributes = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstack(&raw mut attributes, self.0, Self::BYTES), 0);
            let mut thread = std::mem::zeroed();
            let argument = (&raw mut job).cast();
            assert_eq!(libc::pthread_create(&raw mut thread, &raw const attributes, run, argument), 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
            libc::pthread_attr_destroy(&raw mut attributes);
            assert_eq!(libc::mincore(self.0, Self::BYTES, touched.as_mut_ptr()), 0);
        }
        let untouched = touched.iter().take_while(|&&page| page & 1 == 0).count();
        job.begin - (self.0 as usize + Self::PAGE * untouched)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our mapping, which no thread uses any more.
        unsafe { libc::munmap(self.0, Self::BYTES) };
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_function_takes_more_than_24_kb_of_its_callers_stack() {
    let mut calls = of_all_types();
    // Results so large that they pass the cache by.
    row_operations::<f32>(&mut calls, (1100, 4000), Lie::Rows);
    row_operations::<f64>(&mut calls, (550, 4000), Lie::Rows);
    let stack = Stack::new();
    let mut report = String::new();
    for_each_level(|level| {
        // The way to other threads takes stack of its own.
        let used: Vec<usize> = calls.iter_mut().map(|call| stack.measure(&mut **call, 2)).collect();
        let (most, index) = used.iter().zip(0..).max().expect("calls");
        let _ = writeln!(report, "{level:?}: {most} bytes, {}", calls[index].name());
        // The last page is used as a whole.
        for (used, call) in used.iter().zip(&calls).filter(|&(&used, _)| used >= MOST_STACK + Stack::PAGE) {
            let _ = writeln!(report, "    too much: {used} {}", call.name());
        }
    });
    println!("{report}");
    assert!(!report.contains("too much"), "{report}");
}

mod ending {
    use std::cell::RefCell;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use super::*;

    /// Calls when it is dropped.
    struct Last {
        calls: Calls,
        threads: usize,
        results: Sender<Vec<Vec<u64>>>,
    }

    impl Drop for Last {
        fn drop(&mut self) {
            let results = self.calls.iter_mut().map(|call| {
                with_threads(self.threads, || call.run()).expect("memory");
                call.bits()
            });
            let _ = self.results.send(results.collect());
        }
    }

    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }

    /// What all calls give while a thread's locals are destroyed, and after: as C has it, with std's own gone.
    fn calls_of_an_ending_thread(calls: Calls, threads: usize, in_c: bool) -> Vec<Vec<u64>> {
        unsafe extern "C" fn call_last(last: *mut c_void) {
            // SAFETY: the box that was given to this key below.
            drop(unsafe { Box::from_raw(last.cast::<Last>()) });
        }
        let (results, received) = channel();
        let last = Last { calls, threads, results };
        let thread = thread::spawn(move || {
            let mut first = of_all_types();
            first.retain(|call| call.functions()[0] == "matmul::matmul");
            if in_c {
                let mut key = 0;
                // SAFETY: a new key, whose destructor takes what it is set to.
                unsafe {
                    // Those of std's own key, made when this thread was started, run first.
                    assert_eq!(libc::pthread_key_create(&raw mut key, Some(call_last)), 0);
                    assert_eq!(libc::pthread_setspecific(key, Box::into_raw(Box::new(last)).cast()), 0);
                }
            } else {
                // Registered before the crate's, so that it is destroyed after them.
                LAST.set(Some(last));
            }
            // Now this thread has locals of the crate's.
            for call in first.iter_mut().take(3) {
                call.run().expect("memory");
            }
        });
        thread.join().expect("the thread ends well");
        received.recv().expect("results")
    }

    #[test]
    fn a_thread_that_ends_may_call() {
        let right: Vec<Vec<u64>> = of_all_types()
            .iter_mut()
            .map(|call| {
                call.run().expect("memory");
                call.bits()
            })
            .collect();
        for (threads, in_c) in [(1, false), (3, true)] {
            assert!(
                calls_of_an_ending_thread(of_all_types(), threads, in_c) == right,
                "{threads} threads, in C: {in_c}"
            );
        }
    }
}
