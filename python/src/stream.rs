//! Loads that are given their memory bit by bit.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use sllm_gds::load::{Arrival, Feed};

use crate::checkpoint::Checkpoint;
use crate::error::{raise, refused};
use crate::interrupt::{POLL, Running};
use crate::loader::Loader;
use crate::wanted::{Group, links_of};

/// A load that goes on from group to group. Dropped, it is asked to stop and waited for: until then it writes.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct Stream {
    checkpoint: Arc<sllm_gds::Checkpoint>,
    links: sllm_gds::Links,
    feed: Arc<Feed>,
    cancel: sllm_gds::Cancel,
    running: Mutex<Option<Running<()>>>,
}

#[pymethods]
impl Stream {
    /// Begins a load that waits for its first group.
    #[new]
    #[pyo3(signature = (loader, checkpoint, *, links=None))]
    fn start(
        py: Python<'_>,
        loader: &Loader,
        checkpoint: &Checkpoint,
        links: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Stream> {
        let (feed, cancel) = (Arc::new(Feed::new()), sllm_gds::Cancel::new());
        let links = links_of(py, links)?;
        let running = {
            let (loader, checkpoint) = (loader.0.clone(), checkpoint.0.clone());
            let (feed, cancel) = (feed.clone(), cancel.clone());
            Running::start(move || loader.load_fed(&checkpoint, &feed, &cancel))
        };
        let running = Mutex::new(Some(running.map_err(|error| raise(py, error))?));
        Ok(Stream { checkpoint: checkpoint.0.clone(), links, feed, cancel, running })
    }

    /// Gives a group, to be loaded behind those before; its number. Its memory stays until `wait` has returned for it, or `close`.
    fn give(&self, group: Group) -> usize {
        self.feed.give(group.request(&self.checkpoint).links(self.links.clone()))
    }

    /// No more will be given.
    fn end(&self) {
        self.feed.end();
    }

    /// Waits until all of a group is there.
    fn wait(&self, py: Python<'_>, number: usize) -> PyResult<()> {
        loop {
            match py.detach(|| self.feed.wait(number, POLL)) {
                Arrival::There => return Ok(()),
                Arrival::NotYet => py.check_signals()?,
                Arrival::Never => {
                    self.finish(py)?;
                    return Err(refused(py, "a stream ended before its tensors came; please report this"));
                }
            }
        }
    }

    /// Waits for the end of the load, after `end`.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        match self.running.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(running) => running.wait(py, &self.cancel),
            None => Ok(()),
        }
    }

    /// Asks the load to stop, and waits until it writes no more.
    fn close(&self, py: Python<'_>) {
        self.cancel.set();
        if let Some(running) = self.running.lock().unwrap_or_else(|e| e.into_inner()).take() {
            py.detach(|| running.abandon());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            self.cancel.set();
            running.abandon();
        }
    }
}
