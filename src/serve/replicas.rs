//! What became of the loads that clients gave an id: asked for by a later call, and forgotten after a while.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::Code;

use crate::serve::refusal::Refusal;

/// How a load ended; `None` while it runs.
pub type Outcome = Option<Result<(), Refusal>>;

/// How long an outcome can be asked for, and how many of them are kept.
const KEPT: Duration = Duration::from_secs(600);
const MOST: usize = 4096;

/// Loads by the id that their clients gave them.
pub struct Replicas {
    all: Mutex<HashMap<String, Replica>>,
    /// Told when one begins.
    begun: watch::Sender<u64>,
}

struct Replica {
    model: String,
    outcome: watch::Receiver<Outcome>,
    since: Instant,
}

/// A load that was begun. Dropped without an outcome, it failed.
pub struct Begun {
    outcome: watch::Sender<Outcome>,
}

impl Begun {
    /// Tells all who wait.
    pub fn end(self, outcome: Result<(), Refusal>) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let lost = Refusal::new(Code::Internal, "the load ended without a word; please report this");
        self.outcome.send_if_modified(|outcome| match outcome {
            Some(_) => false,
            None => {
                *outcome = Some(Err(lost));
                true
            }
        });
    }
}

/// Of an id that a client gives.
pub enum Start {
    /// It is new: load.
    New(Begun),
    /// It was given before: this is what becomes of that.
    Known(watch::Receiver<Outcome>),
}

impl Default for Replicas {
    fn default() -> Replicas {
        Replicas { all: Mutex::default(), begun: watch::Sender::new(0) }
    }
}

impl Replicas {
    /// Begins a load of this model under this id, unless there is one. An id that was given for another model is refused.
    pub fn start(&self, id: &str, model: &str) -> Result<Start, Refusal> {
        let now = Instant::now();
        let mut all = self.lock();
        if let Some(known) = all.get(id) {
            if known.model != model {
                return Err(Refusal::new(
                    Code::AlreadyExists,
                    format!(
                        "the replica id '{id}' was given for the model '{}': take a new one",
                        known.model
                    ),
                ));
            }
            return Ok(Start::Known(known.outcome.clone()));
        }
        forget(&mut all, now);
        let (sender, outcome) = watch::channel(None);
        all.insert(id.into(), Replica { model: model.into(), outcome, since: now });
        drop(all);
        self.begun.send_modify(|begun| *begun += 1);
        Ok(Start::New(Begun { outcome: sender }))
    }

    /// What becomes of a load. Calls may overtake each other: waits up to `patience` for one that has not begun.
    pub async fn wait(&self, id: &str, patience: Duration) -> Result<(), Refusal> {
        let mut begun = self.begun.subscribe();
        let find = || self.lock().get(id).map(|replica| replica.outcome.clone());
        let known = async {
            loop {
                begun.mark_unchanged();
                if let Some(found) = find() {
                    return Some(found);
                }
                begun.changed().await.ok()?;
            }
        };
        match tokio::time::timeout(patience, known).await {
            Ok(Some(outcome)) => ended(outcome).await,
            _ => Err(Refusal::new(
                Code::NotFound,
                format!(
                    "no load has the replica id '{id}': it was never asked for, or ended more than ten minutes ago"
                ),
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Replica>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Waits for the end of a load.
pub async fn ended(mut outcome: watch::Receiver<Outcome>) -> Result<(), Refusal> {
    let lost = || Refusal::new(Code::Internal, "the load ended without a word; please report this");
    let end = outcome.wait_for(Option::is_some).await.map_err(|_| lost())?;
    end.clone().unwrap_or_else(|| Err(lost()))
}

/// Forgets what ended long ago, and the oldest of what ended where there are too many.
fn forget(all: &mut HashMap<String, Replica>, now: Instant) {
    let has_ended = |replica: &Replica| replica.outcome.borrow().is_some();
    all.retain(|_, replica| !has_ended(replica) || now.duration_since(replica.since) < KEPT);
    if all.len() < MOST {
        return;
    }
    let oldest =
        all.iter().filter(|(_, replica)| has_ended(replica)).min_by_key(|(_, replica)| replica.since);
    if let Some(id) = oldest.map(|(id, _)| id.clone()) {
        all.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(replicas: &Replicas, id: &str) -> Begun {
        match replicas.start(id, "m") {
            Ok(Start::New(begun)) => begun,
            _ => panic!("{id} is not new"),
        }
    }

    #[tokio::test]
    async fn an_id_has_one_load_and_every_caller_its_outcome() {
        let replicas = Replicas::default();
        let begun = new(&replicas, "a");
        let Ok(Start::Known(second)) = replicas.start("a", "m") else { panic!("a second load") };
        assert_eq!(replicas.start("a", "other").err().unwrap().code, Code::AlreadyExists);
        let failed = Refusal::invalid("no");
        begun.end(Err(failed.clone()));
        assert_eq!(ended(second).await, Err(failed.clone()));
        assert_eq!(replicas.wait("a", Duration::ZERO).await, Err(failed));
        drop(new(&replicas, "lost"));
        assert_eq!(replicas.wait("lost", Duration::ZERO).await.unwrap_err().code, Code::Internal);
    }

    #[tokio::test]
    async fn who_asks_before_the_load_begins_waits_for_it_and_not_for_ever() {
        let replicas = Replicas::default();
        assert_eq!(replicas.wait("a", Duration::ZERO).await.unwrap_err().code, Code::NotFound);
        let (waited, ()) = tokio::join!(replicas.wait("a", Duration::from_secs(60)), async {
            new(&replicas, "b").end(Ok(()));
            new(&replicas, "a").end(Ok(()));
        });
        assert_eq!(waited, Ok(()));
    }

    #[test]
    fn outcomes_are_forgotten_and_loads_under_way_are_not() {
        let replicas = Replicas::default();
        let running = new(&replicas, "running");
        (0..2 * MOST).for_each(|i| new(&replicas, &i.to_string()).end(Ok(())));
        assert!(replicas.lock().len() <= MOST);
        assert!(matches!(replicas.start("running", "m"), Ok(Start::Known(_))));
        assert!(matches!(replicas.start("0", "m"), Ok(Start::New(_))), "the oldest went");
        forget(&mut replicas.lock(), Instant::now() + KEPT);
        assert_eq!(replicas.lock().len(), 1, "what runs stays");
        drop(running);
    }
}
