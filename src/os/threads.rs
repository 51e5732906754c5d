//! Threads that the system may refuse.

use std::thread::{Builder, Scope, ScopedJoinHandle};

/// The system started no thread.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system refuses a thread ({why}): take fewer threads, or raise its limits (ulimit -u, pids.max of the control group)"
)]
pub struct NoThread {
    why: String,
}

/// Starts a thread in `scope`. `Scope::spawn` panics where there is none to be had.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, NoThread> {
    #[cfg(test)]
    if !tests::may_start() {
        return Err(NoThread { why: "Resource temporarily unavailable (os error 11)".into() });
    }
    Builder::new().spawn_scoped(scope, work).map_err(|error| NoThread { why: error.to_string() })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub(super) fn may_start() -> bool {
        LEFT.with(|left| {
            let may = left.get() > 0;
            left.set(left.get().saturating_sub(1));
            may
        })
    }

    /// Runs `work`, during which only so many threads can be started from this one.
    pub(crate) fn with_threads<T>(most: usize, work: impl FnOnce() -> T) -> T {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                LEFT.set(usize::MAX);
            }
        }
        let _restore = Restore;
        LEFT.set(most);
        work()
    }

    #[test]
    fn a_thread_that_is_refused_is_an_error_that_says_what_to_do() {
        let run = || std::thread::scope(|scope| start(scope, || 7).map(|started| started.join().unwrap()));
        assert_eq!(run(), Ok(7));
        let refused = with_threads(0, run).unwrap_err().to_string();
        assert!(refused.contains("os error 11") && refused.contains("fewer threads"), "{refused}");
        assert_eq!(run(), Ok(7));
    }
}
