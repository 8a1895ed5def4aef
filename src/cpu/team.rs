//! Work shared among libtorch's own threads.
//!
//! libtorch computes with OpenMP, whose threads wait for the next operation by spinning. Threads of another pool would
//! have to share the processor with them: on two cores that costs a sixth of a pass (measured).

use rayon::prelude::*;
use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// `GOMP_parallel(body, data, threads, flags)`: runs `body(data)` once on each thread of a team, the caller's among them,
/// and returns when all are done. GCC's OpenMP library has it since GCC 4.9, and LLVM's and Intel's have it for programs
/// that GCC compiled.
type Parallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// The one in this process, which libtorch brought.
#[allow(unsafe_code)]
fn openmp() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let process = libloading::os::unix::Library::this();
        // SAFETY: the function has this signature in every OpenMP library that has it.
        let found = unsafe { process.get::<Parallel>(b"GOMP_parallel\0") };
        found.ok().map(|symbol| *symbol)
    })
}

type Payload = Box<dyn Any + Send>;

/// What each thread of a team does, and what became of it.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Payload>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// `data` points to a [`Job`] that outlives the call.
#[allow(unsafe_code)]
unsafe extern "C" fn run(data: *mut c_void) {
    // SAFETY: the caller's condition; the job is only read, but for what is behind its lock.
    let job = unsafe { &*data.cast::<Job<'_>>() };
    // A panic must not go through OpenMP's frames.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(job.work)) {
        lock(&job.panic).get_or_insert(payload);
    }
}

/// Does `work` with every task, each thread with what `scratch` made for it. As many threads as libtorch uses.
pub fn share<T, S>(
    tasks: impl Iterator<Item = T> + Send,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) + Sync,
) {
    share_among(usize::MAX, tasks, scratch, work);
}

/// As [`share`], among at most so many threads: copying is bound by the memory, and a thread more is one more to wait for.
pub fn share_among<T, S>(
    most: usize,
    tasks: impl Iterator<Item = T> + Send,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) + Sync,
) {
    share_in(tch::get_num_threads().max(1) as usize, most, tasks, scratch, work);
}

/// As [`share_among`], in a team of so many threads. The whole of it is started, whoever works: GCC's OpenMP library ends
/// what threads are too many for a smaller team, and makes them anew for the next large one.
#[allow(unsafe_code)]
fn share_in<T, S>(
    team: usize,
    most: usize,
    tasks: impl Iterator<Item = T> + Send,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) + Sync,
) {
    let (queue, threads, arrived) = (Mutex::new(tasks), most.clamp(1, team), AtomicUsize::new(0));
    let each = || {
        // Only as many as were asked for work: those that come first.
        if arrived.fetch_add(1, Ordering::Relaxed) >= threads {
            return;
        }
        let mut scratch = scratch();
        loop {
            // The lock is held for the taking only.
            let Some(task) = lock(&queue).next() else { break };
            work(&mut scratch, task);
        }
    };
    match openmp() {
        _ if threads == 1 => each(),
        None => (0..threads).into_par_iter().for_each(|_| each()),
        Some(parallel) => {
            let job = Job { work: &each, panic: Mutex::new(None) };
            let data = std::ptr::from_ref(&job).cast_mut().cast::<c_void>();
            // SAFETY: `run` gets the job, which outlives the call: it returns when all threads are done with it.
            unsafe { parallel(run, data, team as c_uint, 0) };
            if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
                resume_unwind(payload);
            }
        }
    }
}

/// What threads work with, kept for the next pass.
#[derive(Debug)]
pub struct Spare<T>(Mutex<Vec<T>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> Spare<T> {
    /// One that nobody uses, or a new one; it comes back when it is dropped.
    pub fn take(&self, make: impl FnOnce() -> T) -> Taken<'_, T> {
        let one = lock(&self.0).pop();
        Taken { one: Some(one.unwrap_or_else(make)), home: self }
    }

    /// As [`share`]: each thread works with one that nobody uses, or a new one.
    pub fn share<W>(
        &self,
        tasks: impl Iterator<Item = W> + Send,
        make: impl Fn() -> T + Sync,
        work: impl Fn(&mut T, W) + Sync,
    ) where
        T: Send,
    {
        share(tasks, || self.take(&make), |taken, task| taken.with(|one| work(one, task)));
    }
}

/// Of a [`Spare`].
#[derive(Debug)]
pub struct Taken<'a, T> {
    /// Always there until it is dropped.
    one: Option<T>,
    home: &'a Spare<T>,
}

impl<T> Taken<'_, T> {
    /// For use.
    pub fn with(&mut self, work: impl FnOnce(&mut T)) {
        if let Some(one) = &mut self.one {
            work(one);
        }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        lock(&self.home.0).extend(self.one.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::thread::ThreadId;

    #[test]
    fn every_task_is_done_once() {
        let mut done = vec![0_u32; 1000];
        let scratches = AtomicUsize::new(0);
        share(
            done.chunks_mut(7).enumerate(),
            || scratches.fetch_add(1, Ordering::Relaxed),
            |_, (i, chunk)| chunk.iter_mut().for_each(|n| *n += i as u32 + 1),
        );
        assert!(done.iter().enumerate().all(|(i, n)| *n == i as u32 / 7 + 1));
        assert!(scratches.into_inner() <= tch::get_num_threads().max(1) as usize);
    }

    /// Who takes part.
    fn workers(team: usize, most: usize) -> HashSet<ThreadId> {
        let (seen, done) = (Mutex::new(HashSet::new()), AtomicUsize::new(0));
        let count = |(): &mut (), _| {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let arrive = || {
            lock(&seen).insert(std::thread::current().id());
        };
        share_in(team, most, 0..100, arrive, count);
        assert_eq!(done.into_inner(), 100, "{most} of {team}");
        seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn as_many_threads_work_as_were_asked_for_and_the_others_stay() {
        if openmp().is_none() {
            eprintln!("skipped: libtorch brought no OpenMP");
            return;
        }
        let all = workers(4, usize::MAX);
        for most in [2, 1, 3] {
            let some = workers(4, most);
            assert!(some.len() <= most, "{some:?}");
            assert_eq!(workers(4, usize::MAX), all, "after {most}");
        }
    }

    #[test]
    fn a_panic_of_one_thread_reaches_the_caller() {
        let count = AtomicUsize::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            share(
                0..100,
                || (),
                |(), i| {
                    count.fetch_add(1, Ordering::Relaxed);
                    assert_ne!(i, 50, "this one fails");
                },
            );
        }));
        assert!(caught.is_err() && count.into_inner() > 50);
    }
}
