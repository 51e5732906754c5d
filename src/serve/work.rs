//! Work that blocks, done for calls that must not.

use tonic::Code;

use crate::os::cancel::Cancel;
use crate::serve::refusal::Refusal;

/// Sets its flag when the call is given up: its future is dropped then.
pub struct CancelOnDrop(Cancel);

impl CancelOnDrop {
    /// With a flag of its own.
    pub fn new() -> CancelOnDrop {
        CancelOnDrop(Cancel::new())
    }

    /// For the work.
    pub fn flag(&self) -> Cancel {
        self.0.clone()
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Runs work that looks at files or waits for loads, on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Cancel) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let cancel = CancelOnDrop::new();
    let flag = cancel.flag();
    let lost =
        |error| Refusal::new(Code::Internal, format!("the call ended early ({error}); please report this"));
    tokio::task::spawn_blocking(move || work(&flag)).await.map_err(lost)?
}
