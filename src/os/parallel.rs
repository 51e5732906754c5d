//! Numbered work on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::os::cancel::{Cancel, Interrupted};
use crate::os::threads;

/// Calls `work` once with each number below `count`, in order but side by side, on at most `threads` threads. Each thread
/// has a state of its own, from `start`. The first error ends all work and is returned; so does `cancel`, between two
/// numbers. A panic goes on in the caller. Where the system refuses threads, those that it gave do the work, or the caller.
pub fn for_each<S, E: From<Interrupted> + Send>(
    count: usize,
    threads: usize,
    cancel: &Cancel,
    start: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    let take_numbers = || -> Result<(), E> {
        let mut state = start()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            cancel.check()?;
            work(&mut state, number)?;
        }
    };
    let run = || {
        let _stop = StopOnPanic { next: &next, count };
        if let Err(error) = take_numbers() {
            first_error.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
            next.store(count, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let wanted = threads.max(1).min(count);
        let started: Vec<_> = (0..wanted).map_while(|_| threads::start(scope, run).ok()).collect();
        if started.is_empty() {
            run();
        }
        for thread in started {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    first_error.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// One function over many items, on every core: the results in the order of the items.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let one = |_: &mut (), index: usize| -> Result<(), Interrupted> {
        let result = work(&items[index]);
        done.lock().unwrap_or_else(|e| e.into_inner()).push((index, result));
        Ok(())
    };
    // Nothing here can fail: the flag is never set.
    let _ = for_each(items.len(), threads, &Cancel::new(), || Ok(()), one);
    let mut results: Vec<(usize, R)> = done.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Leaves the other threads no further number when one panics.
struct StopOnPanic<'a> {
    next: &'a AtomicUsize,
    count: usize,
}

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.next.store(self.count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;

    use anyhow::{Result, bail};

    use super::*;
    use crate::os::threads::tests::with_threads;

    fn no_state() -> Result<()> {
        Ok(())
    }

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(map(&items, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert!(map(&[0u8; 0], |n| *n).is_empty());
    }

    #[test]
    fn every_number_comes_once() {
        for (count, threads) in [(0, 4), (1, 4), (1000, 1), (1000, 7), (3, 0)] {
            let seen: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
            let work = |_: &mut (), i: usize| -> Result<()> {
                seen[i].fetch_add(1, Ordering::Relaxed);
                Ok(())
            };
            for_each(count, threads, &Cancel::new(), no_state, work).unwrap();
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{count} with {threads} threads");
        }
    }

    #[test]
    fn fewer_threads_than_were_wanted_do_all_of_the_work() {
        for most in [0, 1, 3] {
            let seen = AtomicU64::new(0);
            let work = |_: &mut (), _| -> Result<()> {
                seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            };
            with_threads(most, || for_each(100, 5, &Cancel::new(), no_state, work)).unwrap();
            assert_eq!(seen.into_inner(), 100);
        }
    }

    #[test]
    fn threads_work_side_by_side_each_with_a_state_of_its_own() {
        let (both_here, states) = (Barrier::new(2), AtomicU64::new(0));
        let start = || -> Result<u64> { Ok(states.fetch_add(1, Ordering::Relaxed)) };
        let work = |state: &mut u64, _| {
            *state += 10;
            both_here.wait();
            assert!((10..12).contains(state), "one number for each: both wait for each other");
            Ok(())
        };
        for_each(2, 2, &Cancel::new(), start, work).unwrap();
        assert_eq!(states.into_inner(), 2);
    }

    #[test]
    fn the_first_error_ends_all() {
        let done = AtomicU64::new(0);
        let work = |_: &mut (), i| {
            if i == 10 {
                bail!("no such luck with {i}");
            }
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let error = for_each(1_000_000, 1, &Cancel::new(), no_state, work).unwrap_err();
        assert_eq!(error.to_string(), "no such luck with 10");
        assert_eq!(done.into_inner(), 10);
        let broken = || -> Result<()> { bail!("no state") };
        let error = for_each(5, 3, &Cancel::new(), broken, |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "no state");
    }

    #[test]
    fn cancelling_ends_all() {
        let (cancel, done) = (Cancel::new(), AtomicU64::new(0));
        let work = |_: &mut (), i| -> Result<()> {
            done.fetch_add(1, Ordering::Relaxed);
            if i == 3 {
                cancel.set();
            }
            Ok(())
        };
        let error = for_each(1_000_000, 1, &cancel, no_state, work).unwrap_err();
        assert!(error.is::<Interrupted>());
        assert_eq!(done.into_inner(), 4);
    }

    #[test]
    fn a_panic_goes_on_in_the_caller_and_ends_the_others() {
        let done = AtomicU64::new(0);
        let work = |_: &mut (), i: usize| -> Result<()> {
            assert!(i != 5, "five");
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let run = || for_each(1_000_000_000, 2, &Cancel::new(), no_state, work);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"five"));
        assert!(done.into_inner() < 1_000_000_000);
    }
}
