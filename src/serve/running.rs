//! Loads of this program's own clients by the ids that they gave, so that they can end them, and know when their memory is closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tonic::Code;

use crate::os::cancel::Cancel;
use crate::serve::refusal::Refusal;

type ById = HashMap<String, (Cancel, watch::Receiver<()>)>;

/// Loads that run, by id.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<ById>>);

/// A load in the list. Dropped, it has ended, and whoever waits for that is told.
pub struct Entry {
    all: Running,
    id: String,
    /// Closed by its drop.
    _ended: watch::Sender<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

impl Running {
    /// Adds a load, whose flag this is; nothing where it has no id.
    pub fn begin(&self, id: &str, cancel: Cancel) -> Result<Option<Entry>, Refusal> {
        if id.is_empty() {
            return Ok(None);
        }
        let mut all = self.lock();
        if all.contains_key(id) {
            let why = format!("a load with the id '{id}' runs already: take a new one");
            return Err(Refusal::new(Code::AlreadyExists, why));
        }
        let (ended, running) = watch::channel(());
        all.insert(id.into(), (cancel, running));
        Ok(Some(Entry { all: self.clone(), id: id.into(), _ended: ended }))
    }

    /// Asks a load to end, and waits until it has.
    pub async fn cancel(&self, id: &str) {
        let found = self.lock().get(id).cloned();
        if let Some((cancel, mut running)) = found {
            cancel.set();
            while running.changed().await.is_ok() {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, ById> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_is_ended_and_waited_for_and_an_unknown_one_is_not() {
        let running = Running::default();
        running.cancel("none").await;
        assert!(running.begin("", Cancel::new()).unwrap().is_none());
        let cancel = Cancel::new();
        let entry = running.begin("a", cancel.clone()).unwrap().unwrap();
        assert_eq!(running.begin("a", Cancel::new()).err().unwrap().code, Code::AlreadyExists);
        let load = std::thread::spawn(move || {
            while !cancel.is_set() {
                std::thread::yield_now();
            }
            drop(entry);
        });
        running.cancel("a").await;
        assert!(running.lock().is_empty());
        load.join().unwrap();
        assert!(running.begin("a", Cancel::new()).unwrap().is_some(), "its id is free again");
    }
}
