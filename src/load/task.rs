//! What a load is to do, the same for every engine: which bytes, and into which memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{CallerEvent, Gpu, GpuError};
use crate::load::loaded::{Buffer, Destination, Loaded, Placement};
use crate::load::parts::Part;
use crate::load::plan::{Plan, Spacing};
use crate::load::report::LoadReport;
use crate::node;
use crate::os::memory::{CallerMemory, HostBuffer};

/// Gives the checkpoint to load: one that is open, or one that is opened now, on the clock.
pub type Open<'o> = dyn Fn() -> Result<Arc<Checkpoint>> + 'o;

/// A load to be made.
pub struct Task<'t> {
    pub open: &'t Open<'t>,
    /// The GPUs that a lane's bytes may go to, the one that it is near first. Empty for loads to host memory.
    pub lanes: Vec<Vec<Arc<Gpu>>>,
    /// What was planned before; else every tensor is loaded, whole, into new memory.
    pub planned: Option<Planned>,
    /// Told of bytes read so far and in all.
    pub progress: Option<&'t (dyn Fn(u64, u64) + Send + Sync)>,
    /// Whether tensors are digested as they are read.
    pub digest: bool,
    /// Nothing is written to a GPU before this has come.
    pub after: Option<CallerEvent>,
}

/// Some tensors or slices of them, or into memory that there is.
pub struct Planned {
    pub plan: Plan,
    /// What the places of the plan are of.
    pub parts: Arc<[Part]>,
    /// One for each destination, if not new.
    pub into: Option<Vec<Given>>,
    /// How long that took.
    pub plan_s: f64,
}

/// Memory of the caller's.
#[derive(Clone)]
pub enum Given {
    Host(CallerMemory),
    Device(Arc<Gpu>, CallerMemory),
}

impl<'t> Task<'t> {
    /// Everything, to there.
    pub fn whole(open: &'t Open<'t>, to: &Destination) -> Task<'t> {
        Task { open, lanes: lanes(to), planned: None, progress: None, digest: false, after: None }
    }

    /// What is read, and where it goes.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        let plan = match (&self.planned, self.lanes.len()) {
            (Some(planned), _) => planned.plan.clone(),
            (None, 0) => Plan::new(checkpoint, 1, Spacing::AsInFile)?,
            (None, lanes) => Plan::new(checkpoint, lanes, Spacing::Aligned)?,
        };
        Ok(plan.over_packed(checkpoint))
    }

    /// Whether host memory can be filled in place, by direct reads.
    pub fn is_in_place(&self) -> bool {
        self.planned.is_none()
    }

    /// Whether it goes into new memory, not into the caller's.
    pub fn owns_memory(&self) -> bool {
        self.planned.as_ref().is_none_or(|planned| planned.into.is_none())
    }

    /// Waits on the host for the event before which nothing may be written, for engines whose writes no stream of ours orders.
    pub fn wait_for_caller(&self) -> Result<(), GpuError> {
        match (&self.after, self.lanes.iter().flatten().next()) {
            (Some(event), Some(gpu)) => event.synchronize(gpu),
            _ => Ok(()),
        }
    }

    /// Memory for a plan: one buffer for each destination, or each GPU of a lane that all get the same.
    pub fn memory(&self, plan: &Plan) -> Result<Vec<Buffer>> {
        if let Some(into) = self.planned.as_ref().and_then(|planned| planned.into.as_ref()) {
            return into.iter().map(Given::buffer).collect();
        }
        if self.lanes.is_empty() {
            node::memory::check(plan.destination_bytes.iter().sum())?;
            return plan.destination_bytes.iter().map(|b| Ok(Buffer::Host(HostBuffer::new(*b)?))).collect();
        }
        allocate(plan, &self.lanes)
    }

    /// Counts the plan that was made before into a report.
    pub fn count_plan(&self, report: &mut LoadReport, plan: &Plan) {
        if let Some(planned) = &self.planned {
            report.count_plan(planned.plan_s, plan.delivered_bytes());
        }
    }

    /// What tells of bytes that were read, out of a total: one thread at a time, more each time, in the end of all. None waits
    /// for another that tells: that one tells of its bytes, too.
    pub fn meter(&self, total: u64) -> impl Fn(u64) + Sync + use<'t> {
        let (progress, done, told) = (self.progress, AtomicU64::new(0), Mutex::new(0));
        move |bytes| {
            let Some(tell) = progress else { return };
            done.fetch_add(bytes, Ordering::SeqCst);
            loop {
                // After a panic in it nobody tells any more.
                let Ok(mut told) = told.try_lock() else { return };
                let now = done.load(Ordering::SeqCst);
                if now <= *told {
                    return;
                }
                tell(now, total);
                *told = now;
                drop(told);
                if done.load(Ordering::SeqCst) == now {
                    return;
                }
            }
        }
    }

    /// What came of it.
    pub fn loaded(&self, checkpoint: Arc<Checkpoint>, plan: Plan, buffers: Vec<Buffer>) -> Loaded {
        let parts = self.planned.as_ref().map(|planned| planned.parts.clone());
        Loaded { parts, ..Loaded::whole(checkpoint, plan, buffers) }
    }
}

impl Given {
    fn buffer(&self) -> Result<Buffer> {
        match self {
            Given::Host(memory) => Ok(Buffer::Host(HostBuffer::of_caller(memory))),
            Given::Device(gpu, memory) => Ok(Buffer::Device(DeviceBuffer::of_caller(gpu, memory)?)),
        }
    }
}

/// The GPUs of each lane: one, or all of them where each gets everything.
pub fn lanes(to: &Destination) -> Vec<Vec<Arc<Gpu>>> {
    match to {
        Destination::Host => Vec::new(),
        Destination::Gpus(gpus, Placement::Balanced) => gpus.iter().map(|gpu| vec![gpu.clone()]).collect(),
        Destination::Gpus(gpus, Placement::Replicate) => vec![gpus.to_vec()],
    }
}

/// Device memory for each lane's GPUs.
pub(super) fn allocate(plan: &Plan, lanes: &[Vec<Arc<Gpu>>]) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    for (lane, bytes) in lanes.iter().zip(&plan.destination_bytes) {
        for gpu in lane {
            buffers.push(Buffer::Device(DeviceBuffer::new(gpu, *bytes)?));
        }
    }
    Ok(buffers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_goes_back_and_ends_with_all_whoever_tells() {
        let open = || anyhow::bail!("nothing is opened here");
        let (last, threads, each) = (AtomicU64::new(0), 8, 2000);
        let tell = |done, total| {
            assert_eq!(total, threads * each);
            assert!(last.swap(done, Ordering::SeqCst) < done);
        };
        let mut task = Task::whole(&open, &Destination::Host);
        task.progress = Some(&tell);
        let meter = task.meter(threads * each);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..each).for_each(|_| meter(1)));
            }
        });
        assert_eq!(last.load(Ordering::SeqCst), threads * each);
    }
}
