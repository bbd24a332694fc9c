//! Threads that stay awake for one forward pass.
//!
//! A short text takes 3 ms, in twelve steps that two threads can share. A thread that sleeps
//! between steps is woken twelve times, at 25 to 100 µs each, and each wake-up may put it on a core
//! where it does not help ([`leave_core`]): a single text took 7 ms in this way. So helpers start
//! once per pass and spin until the next step or the end of the pass.
//!
//! No thread waits for a helper that has not started: threads take the parts of a step one by one,
//! and the leader takes all of them while the other threads have work of their own.

use std::any::Any;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::yield_now;

use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Spins before the core is offered to other threads: about 13 µs.
const SPINS: u32 = 500;

/// The step number that ends the helpers.
const OVER: usize = usize::MAX;

/// The leader's handle. Dropping it ends the helpers.
pub(super) struct StepPool<S, P>(Arc<Shared<S, P>>);

/// What leader and helpers share.
struct Shared<S, P> {
    work: Work<S, P>,
    /// Changes with every step. Helpers poll this number instead of the lock.
    number: AtomicUsize,
    step: Mutex<Option<Arc<Step<S, P>>>>,
}

/// Computes one part of a step.
type Work<S, P> = Box<dyn Fn(&S, usize) -> P + Send + Sync>;

/// What all parts read, and their results.
struct Step<S, P> {
    input: S,
    /// The first part that no thread has taken yet.
    next: AtomicUsize,
    results: Vec<Mutex<Option<Outcome<P>>>>,
}

/// A part's result, or how it panicked.
type Outcome<P> = Result<P, Box<dyn Any + Send>>;

impl<S: Send + Sync + 'static, P: Send + 'static> StepPool<S, P> {
    /// Starts `threads - 1` helpers on rayon's pool; the caller is the other thread.
    pub(super) fn start(
        threads: usize,
        work: impl Fn(&S, usize) -> P + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            work: Box::new(work),
            number: AtomicUsize::new(0),
            step: Mutex::default(),
        });
        let core = sched_getcpu();
        for _ in 1..threads {
            let shared = Arc::clone(&shared);
            rayon::spawn(move || shared.help(core));
        }
        Self(shared)
    }

    /// Runs one step. Returns its input and the results of the parts 0, 1, …; a panic of a part is
    /// passed on.
    pub(super) fn run(&self, input: S, parts: usize) -> (S, Vec<P>) {
        let Self(shared) = self;
        let mut step = Arc::new(Step {
            input,
            next: AtomicUsize::new(0),
            results: (0..parts).map(|_| Mutex::default()).collect(),
        });
        *locked(&shared.step) = Some(Arc::clone(&step));
        shared.number.fetch_add(1, Ordering::Release);
        step.work(&shared.work);
        *locked(&shared.step) = None;
        // All parts are taken and no further helper can take the step: wait for those that hold it.
        let mut spin = Spin::default();
        let Step { input, results, .. } = loop {
            match Arc::try_unwrap(step) {
                Ok(step) => break step,
                Err(held) => step = held,
            }
            spin.wait();
        };
        let outcomes = results.into_iter().filter_map(|result| {
            let outcome = result.into_inner();
            outcome.unwrap_or_else(PoisonError::into_inner)
        });
        let results = outcomes.map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic)));
        (input, results.collect())
    }
}

impl<S, P> Drop for StepPool<S, P> {
    fn drop(&mut self) {
        self.0.number.store(OVER, Ordering::Release);
    }
}

impl<S, P> Shared<S, P> {
    /// Takes parts of one step after the other, on another core than the leader's.
    fn help(&self, core: usize) {
        if self.number.load(Ordering::Acquire) == OVER {
            return; // the pass ended before this thread was free
        }
        let _ = leave_core(core); // where the system refuses, it still helps, only later
        let mut last = 0;
        let mut spin = Spin::default();
        loop {
            match self.number.load(Ordering::Acquire) {
                OVER => return,
                number if number == last => spin.wait(),
                number => {
                    let step = locked(&self.step).clone();
                    if let Some(step) = step {
                        step.work(&self.work);
                    }
                    last = number;
                    spin = Spin::default();
                }
            }
        }
    }
}

impl<S, P> Step<S, P> {
    /// Takes parts until all are taken.
    fn work(&self, work: &Work<S, P>) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(result) = self.results.get(part) else {
                return;
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&self.input, part)));
            *locked(result) = Some(outcome);
        }
    }
}

/// Moves this thread to another core if it was woken on this one.
///
/// On a virtual machine, Linux often wakes the helper on its leader's core though another core is
/// idle, and leaves it there for longer than a pass takes: two threads were then no faster than
/// one. (Probably because a sleeping core looks like one that the host took away:
/// `vcpu_is_preempted`.)
fn leave_core(core: usize) -> io::Result<()> {
    if sched_getcpu() != core {
        return Ok(());
    }
    let allowed = sched_getaffinity(None)?;
    let mut others = allowed;
    others.unset(core);
    if others.count() > 0 {
        sched_setaffinity(None, &others)?;
        sched_setaffinity(None, &allowed)?;
    }
    Ok(())
}

/// Waits for an event that comes soon: spins, then yields.
#[derive(Default)]
struct Spin {
    spins: u32,
}

impl Spin {
    /// One pause.
    fn wait(&mut self) {
        if self.spins < SPINS {
            self.spins += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}

/// No panic happens under these locks.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread::{self, ThreadId};

    use rayon::{ThreadPool, ThreadPoolBuilder};
    use rustix::thread::CpuSet;

    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    }

    #[test]
    fn results_come_in_order_whoever_computes_them() {
        for threads in 1..=4 {
            pool(threads).install(|| {
                let steps = StepPool::start(threads, |input: &usize, part| input + part);
                for step in 0..1_000 {
                    let (input, results) = steps.run(step, step % 7);
                    assert_eq!(input, step);
                    let expected: Vec<usize> = (0..step % 7).map(|part| step + part).collect();
                    assert_eq!(results, expected);
                }
            });
        }
    }

    #[test]
    fn the_threads_of_a_pool_work_side_by_side() {
        let used: HashSet<ThreadId> = pool(3).install(|| {
            let meeting = Barrier::new(3);
            let steps = StepPool::start(3, move |(): &(), _| {
                meeting.wait(); // returns when all three threads are here
                thread::current().id()
            });
            steps.run((), 3).1.into_iter().collect()
        });
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn a_leader_waits_for_no_helper_that_is_busy() {
        let pool = pool(2);
        let busy = Arc::new(Barrier::new(2));
        let (finish, end) = channel::<()>();
        let begun = Arc::clone(&busy);
        pool.spawn(move || {
            begun.wait();
            let _ = end.recv(); // until the test is over
        });
        busy.wait();
        let ((), used) = pool.install(|| {
            let steps = StepPool::start(2, |(): &(), _| thread::current().id());
            steps.run((), 8)
        });
        assert_eq!(used.iter().collect::<HashSet<_>>().len(), 1);
        drop(finish);
    }

    #[test]
    fn a_helper_may_run_on_as_many_cores_as_before() {
        let cores = || {
            let allowed = sched_getaffinity(None).unwrap();
            (0..CpuSet::MAX_CPU)
                .map(|core| allowed.is_set(core))
                .collect::<Vec<_>>()
        };
        let before = cores();
        leave_core(sched_getcpu()).unwrap();
        assert_eq!(cores(), before);
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_pool_lives_on() {
        let pool = pool(2);
        for part in 0..2 {
            let work = move |(): &(), index| assert!(index != part, "part {index}");
            let panic = catch_unwind(AssertUnwindSafe(|| {
                pool.install(|| StepPool::start(2, work).run((), 2));
            }));
            let text = *panic.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(text, format!("part {part}"));
        }
        assert_eq!(pool.install(|| 6 * 7), 42);
    }
}
