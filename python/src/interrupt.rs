//! Long work without the interpreter's lock, which Ctrl-C ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use sllm_gds::Error;

use crate::error::raise;

/// How often signals are looked at.
pub const POLL: Duration = Duration::from_millis(50);

/// Does `work` on a thread of its own while this one looks for signals: an exception of a signal's handler, as
/// KeyboardInterrupt, sets `cancel`, and is raised when the work has ended.
pub fn run<T: Send>(
    py: Python<'_>,
    cancel: &sllm_gds::Cancel,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> PyResult<T> {
    let (ended, raised) = py.detach(|| {
        std::thread::scope(|scope| {
            let (tell, told) = channel();
            let started = named().spawn_scoped(scope, || guarded(work, tell));
            match started {
                Ok(worker) => {
                    let raised = attend(&told, cancel);
                    (joined(worker.join()), raised)
                }
                Err(error) => (Err(no_thread(&error)), None),
            }
        })
    });
    answer(py, ended, raised)
}

/// Work that goes on while Python does something else.
pub struct Running<T> {
    told: Receiver<()>,
    worker: JoinHandle<Ended<T>>,
}

impl<T: Send + 'static> Running<T> {
    /// Begins it.
    pub fn start(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<Running<T>, Error> {
        let (tell, told) = channel();
        let worker = named().spawn(|| guarded(work, tell)).map_err(|error| no_thread(&error))?;
        Ok(Running { told, worker })
    }

    /// Waits for it, as [`run`] does.
    pub fn wait(self, py: Python<'_>, cancel: &sllm_gds::Cancel) -> PyResult<T> {
        let Running { told, worker } = self;
        let (ended, raised) = py.detach(move || {
            let raised = attend(&told, cancel);
            (joined(worker.join()), raised)
        });
        answer(py, ended, raised)
    }

    /// Waits for it without a word, where nobody asks for what came of it.
    pub fn abandon(self) {
        let _ = self.worker.join();
    }
}

/// What came of work: a panic's message is of no use to Python.
type Ended<T> = std::thread::Result<Result<T, Error>>;

fn named() -> std::thread::Builder {
    std::thread::Builder::new().name("sllm-gds".into())
}

fn no_thread(error: &std::io::Error) -> Error {
    Error::Refused(format!("the system starts no thread: {error}"))
}

fn guarded<T>(work: impl FnOnce() -> Result<T, Error>, tell: Sender<()>) -> Ended<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    // Nobody listens any more only where the work has ended.
    let _ = tell.send(());
    result
}

/// Looks for signals until the work tells that it has ended; the first one's exception, which sets `cancel`.
fn attend(told: &Receiver<()>, cancel: &sllm_gds::Cancel) -> Option<PyErr> {
    let mut raised = None;
    while let Err(RecvTimeoutError::Timeout) = told.recv_timeout(POLL) {
        if raised.is_none()
            && let Err(signal) = Python::attach(|py| py.check_signals())
        {
            cancel.set();
            raised = Some(signal);
        }
    }
    raised
}

fn joined<T>(joined: std::thread::Result<Ended<T>>) -> Result<T, Error> {
    joined.and_then(|result| result).unwrap_or_else(|_| Err(Error::Refused(PANICKED.into())))
}

fn answer<T>(py: Python<'_>, ended: Result<T, Error>, raised: Option<PyErr>) -> PyResult<T> {
    match (ended, raised) {
        (_, Some(signal)) => Err(signal),
        (Err(Error::Refused(text)), _) if text == PANICKED => Err(PyRuntimeError::new_err(text)),
        (result, None) => result.map_err(|error| raise(py, error)),
    }
}

const PANICKED: &str = "sllm-gds itself failed; please report this, with what it printed";
