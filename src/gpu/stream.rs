//! Streams and events of the driver, and which streams may still use an allocation.
//!
//! cudarc's own owners keep an error of their drop in the context, and the next call there, whoever's it is, fails with it.
//! These drop in silence: where the context is broken, every later call learns that from the driver itself.

use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};

use crate::gpu::{Gpu, GpuError};

/// A stream of the driver. What was queued goes on when it is dropped.
#[derive(Debug)]
pub(super) struct Queue {
    gpu: Arc<Gpu>,
    raw: sys::CUstream,
}

// SAFETY: the pointer is a name that the driver looks up, never followed here, and its calls may come from any thread
// that has the context current.
unsafe impl Send for Queue {}
// SAFETY: as above; the driver lets threads queue on one stream at once.
unsafe impl Sync for Queue {}

impl Queue {
    /// One that doesn't wait for the default stream.
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Queue, GpuError> {
        gpu.make_current()?;
        let kind = result::stream::StreamKind::NonBlocking;
        let raw = result::stream::create(kind).map_err(gpu.fail("make a stream"))?;
        Ok(Queue { gpu: gpu.clone(), raw })
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Lets what is queued from now on wait for an event, on the device. One that was never recorded has come.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), GpuError> {
        // SAFETY: the event is destroyed only by its own `drop`.
        unsafe { self.wait_for_raw(event.raw) }
    }

    /// The same for an event of the caller's.
    pub(super) fn wait_for_callers(&self, event: &CallerEvent) -> Result<(), GpuError> {
        // SAFETY: it lives, as whoever made the `CallerEvent` promised.
        unsafe { self.wait_for_raw(event.0 as sys::CUevent) }
    }

    /// # Safety
    /// The event lives.
    unsafe fn wait_for_raw(&self, event: sys::CUevent) -> Result<(), GpuError> {
        self.gpu.make_current()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the stream is destroyed only by `drop`; the event lives by our own contract.
        unsafe { result::stream::wait_event(self.raw, event, flags) }
            .map_err(self.gpu.fail("wait for an event"))
    }

    /// Waits for all that was queued.
    pub(super) fn synchronize(&self) -> Result<(), GpuError> {
        self.gpu.make_current()?;
        // SAFETY: made by `new`, and destroyed only by `drop`.
        unsafe { result::stream::synchronize(self.raw) }.map_err(self.gpu.fail("finish its copies"))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: made by `new`, destroyed once. A failure means a lost context, which takes the stream with it.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}

/// A moment in a stream.
pub(super) struct Event {
    gpu: Arc<Gpu>,
    raw: sys::CUevent,
}

// SAFETY: as for `Queue`.
unsafe impl Send for Event {}
// SAFETY: as for `Queue`.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Event, GpuError> {
        gpu.make_current()?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let raw = result::event::create(flags).map_err(gpu.fail("make an event"))?;
        Ok(Event { gpu: gpu.clone(), raw })
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Stands for the end of all that was queued so far, on a stream of the same GPU; the driver refuses any other.
    pub(super) fn record(&self, queue: &Queue) -> Result<(), GpuError> {
        self.gpu.make_current()?;
        // SAFETY: both live: each is destroyed only by its own `drop`.
        unsafe { result::event::record(self.raw, queue.raw) }.map_err(self.gpu.fail("record an event"))
    }

    pub(super) fn synchronize(&self) -> Result<(), GpuError> {
        self.gpu.make_current()?;
        // SAFETY: made by `new`, and destroyed only by `drop`.
        unsafe { result::event::synchronize(self.raw) }.map_err(self.gpu.fail("finish a copy"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: made by `new`, destroyed once. A failure means a lost context, which takes the event with it.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}

/// An event of the caller's, by the driver's handle: what a load is not to overtake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerEvent(u64);

impl CallerEvent {
    /// # Safety
    /// The handle is a `CUevent` of this process, which is not destroyed before the load that waits for it has ended.
    pub unsafe fn new(handle: u64) -> CallerEvent {
        CallerEvent(handle)
    }

    /// Waits for it on the host.
    pub fn synchronize(&self, gpu: &Gpu) -> Result<(), GpuError> {
        gpu.make_current()?;
        // SAFETY: it lives, as whoever made this promised.
        unsafe { result::event::synchronize(self.0 as sys::CUevent) }
            .map_err(gpu.fail("wait for what was queued before"))
    }
}

/// The streams that may still read or write an allocation: it is freed only when they have come past that, so that
/// whoever queues a copy owes nobody a wait.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<Vec<Arc<Queue>>>);

impl Users {
    /// To be called before what uses the allocation is queued.
    pub(super) fn add(&self, queue: &Arc<Queue>) {
        let mut queues = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if !queues.iter().any(|known| Arc::ptr_eq(known, queue)) {
            queues.push(queue.clone());
        }
    }

    /// Waits for all of them. One that can't be waited for has a lost context, and with it its copies ended.
    pub(super) fn wait(&mut self) {
        for queue in self.0.get_mut().unwrap_or_else(|e| e.into_inner()).drain(..) {
            let _ = queue.synchronize();
        }
    }
}
