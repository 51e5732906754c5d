//! What a load is to do, the same for every engine: which bytes, and into which memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::gpu::Gpu;
use crate::gpu::memory::DeviceBuffer;
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
        Task { open, lanes: lanes(to), planned: None, progress: None, digest: false }
    }

    /// What is read, and where it goes.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        match (&self.planned, self.lanes.len()) {
            (Some(planned), _) => Ok(planned.plan.clone()),
            (None, 0) => Plan::new(checkpoint, 1, Spacing::AsInFile),
            (None, lanes) => Plan::new(checkpoint, lanes, Spacing::Aligned),
        }
    }

    /// Whether host memory can be filled in place, by direct reads.
    pub fn is_in_place(&self) -> bool {
        self.planned.is_none()
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

    /// What tells of bytes that were read, out of a total.
    pub fn meter(&self, total: u64) -> impl Fn(u64) + Sync + use<'t> {
        let (progress, done) = (self.progress, AtomicU64::new(0));
        move |bytes| {
            if let Some(tell) = progress {
                tell(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
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
