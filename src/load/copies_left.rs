//! Copies that somebody waits for together, and that are not queued yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::gpu::GpuError;
use crate::gpu::link::{Link, Mark};

/// How many are left of some copies, all over one link.
pub struct CopiesLeft<'f> {
    count: AtomicUsize,
    /// Called once, with what stands for the end of all.
    queued: Box<dyn Fn(Mark) + Send + Sync + 'f>,
}

impl<'f> CopiesLeft<'f> {
    /// So many copies, at least one.
    pub fn new(count: usize, queued: impl Fn(Mark) + Send + Sync + 'f) -> Arc<CopiesLeft<'f>> {
        Arc::new(CopiesLeft { count: AtomicUsize::new(count), queued: Box::new(queued) })
    }

    /// One of them was queued on the link.
    pub fn one_queued(&self, link: &Link) -> Result<(), GpuError> {
        // Copies are queued before they are counted, on one stream: behind the last one the mark stands for all.
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.queued)(link.mark()?);
        }
        Ok(())
    }
}
