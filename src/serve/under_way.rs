//! The loads that run at the moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::os::cancel::Cancel;

/// Loads under way, by number.
#[derive(Default)]
pub struct UnderWay {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, Arc<Running>>,
    /// No more are taken.
    is_closed: bool,
}

/// One load.
pub struct Running {
    /// Of which model.
    pub model: String,
    /// `pool`, or the devices that it goes to.
    pub to: String,
    /// When it began.
    pub since: Instant,
    /// Ends it.
    pub cancel: Cancel,
    read_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Running {
    /// Notes how far it is.
    pub fn tell(&self, read_bytes: u64, total_bytes: u64) {
        self.read_bytes.store(read_bytes, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Bytes that came so far, and all that will; zeros before the first.
    pub fn progress(&self) -> (u64, u64) {
        (self.read_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }
}

/// A load in the list. Dropped, it has ended.
pub struct Entry<'u> {
    all: &'u UnderWay,
    number: u64,
    /// What the list has of it.
    pub running: Arc<Running>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.all.lock().running.remove(&self.number);
        self.all.changed.notify_all();
    }
}

impl UnderWay {
    /// Adds a load; `None` once the list is closed.
    pub fn begin(&self, model: &str, to: &str, cancel: &Cancel) -> Option<Entry<'_>> {
        let running = Arc::new(Running {
            model: model.into(),
            to: to.into(),
            since: Instant::now(),
            cancel: cancel.clone(),
            read_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
        });
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.running.insert(number, running.clone());
        Some(Entry { all: self, number, running })
    }

    /// All, the oldest first.
    pub fn list(&self) -> Vec<Arc<Running>> {
        self.lock().running.values().cloned().collect()
    }

    /// Takes no more, and waits for those that run; after `grace` they are asked to end, and waited for once more as long.
    /// How many were left then.
    pub fn close(&self, grace: Duration, most: Duration) -> usize {
        self.lock().is_closed = true;
        if self.wait(grace) > 0 {
            self.cancel_all();
            self.wait(most);
        }
        self.lock().running.len()
    }

    /// Asks all to end.
    pub fn cancel_all(&self) {
        self.list().iter().for_each(|running| running.cancel.set());
    }

    fn wait(&self, most: Duration) -> usize {
        let state = self.lock();
        let left = self.changed.wait_timeout_while(state, most, |state| !state.running.is_empty());
        left.unwrap_or_else(|e| e.into_inner()).0.running.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_waits_then_cancels_and_takes_no_more() {
        let all = UnderWay::default();
        let cancel = Cancel::new();
        let entry = all.begin("m", "pool", &cancel).unwrap();
        entry.running.tell(3, 9);
        assert_eq!(all.list()[0].progress(), (3, 9));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !cancel.is_set() {
                    std::thread::yield_now();
                }
                drop(entry);
            });
            assert_eq!(all.close(Duration::ZERO, Duration::from_secs(60)), 0);
        });
        assert!(all.begin("m", "pool", &Cancel::new()).is_none());
    }
}
