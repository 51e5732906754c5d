//! Long work without the interpreter's lock, which Ctrl-C ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use sllm_gds::Error;

use crate::error::raise;

/// How often signals are looked at.
const POLL: Duration = Duration::from_millis(50);

/// Asks loads that were given it to stop.
#[pyclass(frozen, module = "sllm_gds._core")]
#[derive(Default)]
pub struct Cancel(pub sllm_gds::Cancel);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks them, from any thread.
    fn set(&self) {
        self.0.set();
    }
}

/// Does `work` on a thread of its own while this one looks for signals: an exception of a signal's handler, as
/// KeyboardInterrupt, sets `cancel`, and is raised when the work has ended.
pub fn run<T: Send>(
    py: Python<'_>,
    cancel: &sllm_gds::Cancel,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> PyResult<T> {
    let (ended, raised) = py.detach(|| {
        std::thread::scope(|scope| {
            let (tell, told) = channel::<()>();
            let guarded = move || {
                let result = catch_unwind(AssertUnwindSafe(work));
                // Nobody listens any more only where the work has ended.
                let _ = tell.send(());
                result
            };
            let worker =
                match std::thread::Builder::new().name("sllm-gds".into()).spawn_scoped(scope, guarded) {
                    Ok(worker) => worker,
                    Err(error) => {
                        return (Err(Error::Refused(format!("the system starts no thread: {error}"))), None);
                    }
                };
            let mut raised = None;
            while let Err(RecvTimeoutError::Timeout) = told.recv_timeout(POLL) {
                if raised.is_none()
                    && let Err(signal) = Python::attach(|py| py.check_signals())
                {
                    cancel.set();
                    raised = Some(signal);
                }
            }
            let ended = worker.join().and_then(|result| result);
            (ended.unwrap_or_else(|_| Err(Error::Refused(PANICKED.into()))), raised)
        })
    });
    match (ended, raised) {
        (_, Some(signal)) => Err(signal),
        (Err(Error::Refused(text)), _) if text == PANICKED => Err(PyRuntimeError::new_err(text)),
        (result, None) => result.map_err(|error| raise(py, error)),
    }
}

const PANICKED: &str = "sllm-gds itself failed; please report this, with what it printed";
