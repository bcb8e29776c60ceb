//! Beside rayon in one program: whose threads a call uses, how many, and that it waits for none that does not come.
#![cfg(all(feature = "parallel", not(target_family = "wasm"), not(miri)))]
#![allow(unsafe_code, reason = "limits of a process are the C library's")]

use std::collections::HashSet;
use std::env;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use polyglot_bridge::{ThreadSource, map, num_threads, softmax, sum_of_squares, thread_source, with_threads};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

/// The threads that took part in a large call, and the most at once.
fn participants() -> (HashSet<ThreadId>, usize) {
    let x = vec![1.0_f32; 1 << 18];
    let mut out = vec![0.0; x.len()];
    let (who, here, most) = (Mutex::new(HashSet::new()), AtomicUsize::new(0), AtomicUsize::new(0));
    map(&x[..], &mut out[..], |x| {
        most.fetch_max(here.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        who.lock().unwrap().insert(thread::current().id());
        here.fetch_sub(1, Ordering::Relaxed);
        x + 1.0
    })
    .expect("shapes");
    assert!(out.iter().all(|&value| value == 2.0));
    (who.into_inner().unwrap(), most.into_inner())
}

/// Runs an ignored test of this file in a process of its own.
fn in_a_process_of_its_own(name: &str, environment: &[(&str, &str)]) {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(["--exact", name, "--ignored"]).env_remove("POLYGLOT_NUM_THREADS").env_remove("RAYON_NUM_THREADS");
    let output = command.envs(environment.iter().copied()).output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn inside_install_a_call_uses_that_pool() {
    for threads in [1, 2, 3, 5] {
        let pool = pool(threads);
        let workers: HashSet<ThreadId> = pool.broadcast(|_| thread::current().id()).into_iter().collect();
        pool.install(|| {
            assert_eq!((num_threads(), thread_source()), (threads, ThreadSource::Pool));
            // No more than it has, and fewer where asked.
            with_threads(100, || assert_eq!((num_threads(), thread_source()), (threads, ThreadSource::Scope)));
            with_threads(1, || assert_eq!((num_threads(), thread_source()), (1, ThreadSource::Scope)));
            let mut all = HashSet::new();
            let end = Instant::now() + Duration::from_secs(20);
            while all.len() < threads && Instant::now() < end {
                let (who, most) = participants();
                assert!(most <= threads && who.is_subset(&workers), "{most} at once, {who:?} of {workers:?}");
                all.extend(who);
            }
            assert_eq!(all.len(), threads, "not all came");
            let (alone, _) = with_threads(1, participants);
            assert_eq!(alone, HashSet::from([thread::current().id()]));
        });
    }
}

/// The number of threads of this process.
fn threads_here() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

#[test]
#[ignore = "for a process in which no other test starts threads"]
fn kernels_in_a_parallel_iterator_alone() {
    let pool = pool(3);
    let batches: Vec<Vec<f32>> =
        (0..200).map(|seed| (0..40_000).map(|i| ((i * 7 + seed) % 101) as f32).collect()).collect();
    let right: Vec<u64> =
        with_threads(1, || batches.iter().map(|batch| sum_of_squares(&batch[..]).to_bits()).collect());
    let before = threads_here();
    for _ in 0..10 {
        let sums: Vec<u64> = pool.install(|| {
            batches
                .par_iter()
                .map(|batch| {
                    let mut out = vec![0.0; batch.len()];
                    softmax(&batch[..], &mut out[..]).expect("shapes");
                    // A join within a call within a task.
                    map(&batch[..], &mut out[..], |x| rayon::join(|| x, || 1.0_f32).0).expect("shapes");
                    assert_eq!(*batch, out);
                    sum_of_squares(&batch[..]).to_bits()
                })
                .collect()
        });
        assert_eq!(sums, right);
    }
    assert_eq!(threads_here(), before, "threads were started");
}

#[test]
fn kernels_in_a_parallel_iterator() {
    in_a_process_of_its_own("kernels_in_a_parallel_iterator_alone", &[]);
}

/// A call is over before a pool whose threads are all busy with something else would help.
#[test]
fn a_busy_pool_is_not_waited_for() {
    let pool = pool(2);
    let (begin, begun) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    pool.spawn(move || {
        begin.send(()).unwrap();
        let _ = ended.recv();
    });
    begun.recv().unwrap();
    // The other thread.
    let who = pool.install(|| {
        (0..20).for_each(|_| assert_eq!(participants().0, HashSet::from([thread::current().id()])));
        thread::current().id()
    });
    drop(end);
    // What was spawned meanwhile finds its calls closed.
    assert!(pool.install(|| participants().0.contains(&thread::current().id()) || who != thread::current().id()));
}

#[test]
#[ignore = "for a process of its own"]
fn the_number_of_the_environment_alone() {
    let (threads, source) = match env::var("EXPECTED").expect("set below").split_once(' ') {
        Some((threads, source)) => (threads.parse().unwrap(), source.to_owned()),
        None => panic!("EXPECTED"),
    };
    assert_eq!((num_threads(), format!("{:?}", thread_source())), (threads, source));
    polyglot_bridge::set_num_threads(2);
    assert_eq!((num_threads(), thread_source()), (2, ThreadSource::Call));
    pool(7).install(|| assert_eq!((num_threads(), thread_source()), (2, ThreadSource::Call)));
    with_threads(4, || assert_eq!((num_threads(), thread_source()), (4, ThreadSource::Scope)));
    polyglot_bridge::set_num_threads(0);
    pool(7).install(|| assert_eq!((num_threads(), thread_source()), (7, ThreadSource::Pool)));
}

#[test]
fn the_number_of_the_environment() {
    let name = "the_number_of_the_environment_alone";
    in_a_process_of_its_own(name, &[("RAYON_NUM_THREADS", "3"), ("EXPECTED", "3 Default")]);
    in_a_process_of_its_own(name, &[("RAYON_NUM_THREADS", "1"), ("EXPECTED", "1 Default")]);
    let both = [("RAYON_NUM_THREADS", "3"), ("POLYGLOT_NUM_THREADS", " 5 "), ("EXPECTED", "5 Environment")];
    in_a_process_of_its_own(name, &both);
    for bad in ["abc", "0", "-3", ""] {
        let both = [("RAYON_NUM_THREADS", "3"), ("POLYGLOT_NUM_THREADS", bad), ("EXPECTED", "3 Default")];
        in_a_process_of_its_own(name, &both);
    }
    let most = [("RAYON_NUM_THREADS", "3"), ("POLYGLOT_NUM_THREADS", "1000000000"), ("EXPECTED", "256 Environment")];
    in_a_process_of_its_own(name, &most);
    // OpenMP's is for Python.
    let openmp = [("RAYON_NUM_THREADS", "3"), ("OMP_NUM_THREADS", "2"), ("EXPECTED", "3 Default")];
    if !cfg!(feature = "python") {
        in_a_process_of_its_own(name, &openmp);
    }
}

#[test]
#[ignore = "for a process of its own"]
fn a_global_pool_of_the_programs_alone() {
    let builder = ThreadPoolBuilder::new().num_threads(2).thread_name(|index| format!("mine-{index}"));
    builder.build_global().expect("the first");
    assert_eq!((num_threads(), thread_source()), (2, ThreadSource::Default));
    let before = threads_here();
    let names = Mutex::new(HashSet::new());
    let end = Instant::now() + Duration::from_secs(20);
    let x = vec![1.0_f32; 1 << 18];
    let mut out = vec![0.0; x.len()];
    while names.lock().unwrap().len() < 2 && Instant::now() < end {
        map(&x[..], &mut out[..], |x| {
            names.lock().unwrap().insert(thread::current().name().map(String::from));
            x
        })
        .expect("shapes");
    }
    let mut names: Vec<String> = names.into_inner().unwrap().into_iter().flatten().collect();
    names.sort();
    let caller = thread::current().name().map(String::from).unwrap();
    assert!(
        names.len() == 2 && names.contains(&caller) && names.iter().any(|name| name.starts_with("mine-")),
        "{names:?}"
    );
    assert_eq!(threads_here(), before, "threads were started");
}

#[test]
fn a_global_pool_of_the_programs() {
    in_a_process_of_its_own("a_global_pool_of_the_programs_alone", &[]);
}

/// Where the system refuses threads, the caller does it all, at each call.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "for a process of its own"]
fn threads_that_are_refused_alone() {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    // Room for memory, and for no stack of 2 MB.
    let limit = libc::rlimit { rlim_cur: pages * 4096 + (1 << 20), rlim_max: libc::RLIM_INFINITY };
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
    let before = threads_here();
    assert_eq!(num_threads(), 1);
    for _ in 0..100 {
        assert_eq!(with_threads(4, participants).0, HashSet::from([thread::current().id()]));
    }
    assert_eq!(threads_here(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn threads_that_are_refused() {
    in_a_process_of_its_own("threads_that_are_refused_alone", &[("RAYON_NUM_THREADS", "4")]);
}

#[test]
fn a_thousand_short_lived_callers_and_two_hundred_at_once() {
    let x: Vec<f32> = (0..20_000).map(|i| (i % 97) as f32).collect();
    let call = || {
        let mut out = vec![0.0; x.len()];
        softmax(&x[..], &mut out[..]).expect("shapes");
        out
    };
    let right = with_threads(1, call);
    for _ in 0..20 {
        thread::scope(|scope| (0..50).for_each(|_| drop(scope.spawn(|| assert!(call() == right)))));
    }
    thread::scope(|scope| {
        for caller in 0..200 {
            let (call, right) = (&call, &right);
            scope.spawn(move || (0..5).for_each(|_| assert!(with_threads(1 + caller % 5, call) == *right)));
        }
    });
}
