//! How far work has come, and what can't wait for its end, told to whoever wants to hear it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a piece of work counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

/// Called with what is done so far, by any thread, perhaps a little late; dropped at the end of the work.
pub type Show = Box<dyn Fn(u64) + Send + Sync>;

/// Hears how work goes on.
pub trait Listener: Send + Sync {
    /// Meter on something begins, so much in all.
    fn begin(&self, what: &str, total: u64, unit: Unit) -> Show;

    /// A sentence for the user, now.
    fn note(&self, text: &str);
}

/// Where work tells how it goes on. By default nobody listens. Clones share the listener.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Listener>>);

impl Progress {
    /// Nobody listens.
    pub fn silent() -> Progress {
        Progress::default()
    }

    pub fn to(listener: impl Listener + 'static) -> Progress {
        Progress(Some(Arc::new(listener)))
    }

    /// Begins a piece of work, which ends when it is dropped.
    pub fn begin(&self, what: &str, total: u64, unit: Unit) -> Meter {
        Meter {
            done: AtomicU64::new(0),
            show: self.0.as_ref().map(|listener| listener.begin(what, total, unit)),
        }
    }

    pub fn note(&self, text: &str) {
        if let Some(listener) = &self.0 {
            listener.note(text);
        }
    }
}

/// Counts a piece of work under way; several threads may share it.
pub struct Meter {
    done: AtomicU64,
    show: Option<Show>,
}

impl Meter {
    /// Of which nobody hears.
    pub fn silent() -> Meter {
        Progress::silent().begin("", 0, Unit::Bytes)
    }

    /// So much more is done.
    pub fn advance(&self, by: u64) {
        self.show(self.done.fetch_add(by, Ordering::Relaxed).saturating_add(by));
    }

    /// So much is done in all: less than before where something is done anew.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.show(done);
    }

    fn show(&self, done: u64) {
        if let Some(show) = &self.show {
            show(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl Heard {
        fn add(&self, text: String) {
            self.0.lock().unwrap().push(text);
        }
    }

    /// Says so when it is dropped.
    struct End(Heard);

    impl Drop for End {
        fn drop(&mut self) {
            self.0.add("end".into());
        }
    }

    impl Listener for Heard {
        fn begin(&self, what: &str, total: u64, unit: Unit) -> Show {
            self.add(format!("{what} of {total} {unit:?}"));
            let end = End(self.clone());
            Box::new(move |done| end.0.add(done.to_string()))
        }

        fn note(&self, text: &str) {
            self.add(text.into());
        }
    }

    #[test]
    fn a_listener_hears_all_of_it() {
        let heard = Heard::default();
        let progress = Progress::to(heard.clone());
        let work = progress.clone().begin("save", 10, Unit::Bytes);
        work.advance(3);
        work.advance(4);
        work.set(2);
        progress.note("slow");
        drop(work);
        assert_eq!(*heard.0.lock().unwrap(), ["save of 10 Bytes", "3", "7", "2", "slow", "end"]);
    }

    #[test]
    fn threads_add_up() {
        let heard = Heard::default();
        let work = Progress::to(heard.clone()).begin("x", 4000, Unit::Items);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| work.advance(1)));
            }
        });
        assert_eq!(work.done.load(Ordering::Relaxed), 4000);
    }
}
