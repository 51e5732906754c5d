//! What a loader is asked for: where to, which tensors, and what to look at on the way.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::gpu::CallerEvent;
use crate::load::model::Device;
use crate::load::parts::{Part, Slice};
use crate::load::settings::Links;
use crate::os::cancel::Cancel;
use crate::os::error::Error;
use crate::os::memory::CallerMemory;

/// Where a checkpoint goes. GPUs are named by their index under CUDA_VISIBLE_DEVICES, as `"0"`, or by their UUID, as
/// nvidia-smi prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum To {
    /// Host memory, one buffer.
    Host,
    /// One GPU.
    Gpu(String),
    /// Shared out to these GPUs: group by group where it was saved with as many groups, else cut by bytes at module
    /// boundaries. One named twice gets two shares.
    Balanced(Vec<String>),
    /// Everything to each of these GPUs: read once, copied to all.
    Replicate(Vec<String>),
    /// Memory that the caller owns, as torch tensors or an imported allocation.
    Into(Target),
}

/// Memory that the caller owns, on the host or on a GPU. The memories of one [`Target`] are disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub(super) device: Device,
    pub(super) memory: CallerMemory,
}

impl Memory {
    /// `bytes` bytes from `address` on, which is an address in this process, or on that GPU.
    ///
    /// # Safety
    /// The range is memory that may be written to, and stays so until every load into it has ended and every [`Model`] that
    /// was loaded into it is dropped. Meanwhile nobody else writes to it, and during a load nobody reads it: also no kernel
    /// that was queued before, so synchronize first.
    ///
    /// [`Model`]: crate::Model
    pub unsafe fn new(device: Device, address: u64, bytes: u64) -> Memory {
        // SAFETY: the caller promises just that.
        Memory { device, memory: unsafe { CallerMemory::new(address, bytes) } }
    }
}

/// What goes where in the caller's memory. All of that lies in host memory, or all on GPUs. The memories share no byte, nor do
/// the places of two tensors or ranges, but for tied tensors, which may have one place: all else is [`Error::Refused`] before a
/// byte is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) memory: Vec<Memory>,
    pub(super) layout: Layout,
}

/// How a [`Target`] is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    Tensors(BTreeMap<String, (usize, u64)>),
    Ranges(Vec<ByteRange>),
}

/// Bytes of a checkpoint, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// From the first byte of the checkpoint: its files laid end to end, in their order.
    pub from: u64,
    /// How many.
    pub bytes: u64,
    /// Into which of the target's memories.
    pub memory: usize,
    /// From the first byte of that.
    pub to: u64,
}

impl Target {
    /// Every tensor that is selected to a place of its own: by its name, into which memory, and how many bytes from that
    /// one's start. A tensor that is selected and has no place is [`Error::Refused`]; a place for one that is not selected, or
    /// that the checkpoint does not have, is [`Error::NotFound`].
    pub fn tensors(memory: Vec<Memory>, places: BTreeMap<String, (usize, u64)>) -> Target {
        Target { memory, layout: Layout::Tensors(places) }
    }

    /// Ranges of the checkpoint, in any order; what several want is read once. They can't be combined with
    /// [`Request::select`]: that is [`Error::Refused`]. The model has them as one-dimensional
    /// tensors of bytes, named `range 0`, `range 1` and so on.
    pub fn ranges(memory: Vec<Memory>, ranges: Vec<ByteRange>) -> Target {
        Target { memory, layout: Layout::Ranges(ranges) }
    }
}

impl To {
    /// Whether ranges of files are wanted, not tensors.
    pub(super) fn is_ranges(&self) -> bool {
        matches!(self, To::Into(Target { layout: Layout::Ranges(_), .. }))
    }

    /// One GPU by its index.
    pub fn gpu(index: usize) -> To {
        To::Gpu(index.to_string())
    }
}

/// Which tensors to load.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Select {
    /// All that the checkpoint has.
    #[default]
    All,
    /// These.
    Names(BTreeSet<String>),
    /// Those whose names begin so, as `"model.layers.3."`.
    Prefix(String),
    /// These, whole (`None`) or a slice of each.
    Slices(BTreeMap<String, Option<Slice>>),
}

impl Select {
    /// The tensors of these names.
    pub fn names(names: impl IntoIterator<Item: Into<String>>) -> Select {
        Select::Names(names.into_iter().map(Into::into).collect())
    }

    /// What rank `rank` of `ranks` holds of a checkpoint in tensor parallelism: of each tensor an equal share along the axis
    /// that `axis` names for it, by its name and shape; all of those for which it names none. Refuses shares that are no
    /// whole number of elements.
    pub fn rank(
        checkpoint: &Checkpoint,
        rank: u64,
        ranks: u64,
        axis: impl Fn(&str, &[u64]) -> Option<usize>,
    ) -> Result<Select, Error> {
        if rank >= ranks {
            return Err(Error::Refused(format!("there is no rank {rank} of {ranks}: they count from 0")));
        }
        let mut slices = BTreeMap::new();
        for tensor in checkpoint.tensors.iter() {
            let slice = axis(&tensor.name, &tensor.shape).map(|axis| -> Result<Slice, Error> {
                let extent = tensor.shape.get(axis).copied().unwrap_or(0);
                if !extent.is_multiple_of(ranks) || axis >= tensor.shape.len() {
                    return Err(Error::Refused(format!(
                        "tensor '{}' of shape {:?} can't be shared out to {ranks} ranks along axis {axis}",
                        tensor.name, tensor.shape
                    )));
                }
                let share = extent / ranks;
                Ok(Slice { axis, range: rank * share..(rank + 1) * share })
            });
            slices.insert(tensor.name.clone(), slice.transpose()?);
        }
        Ok(Select::Slices(slices))
    }

    /// The checkpoint with these tensors only.
    pub(super) fn apply(&self, checkpoint: &Checkpoint) -> Result<Option<Checkpoint>, Error> {
        let wanted = |name: &str| match self {
            Select::All => true,
            Select::Names(names) => names.contains(name),
            Select::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Select::Slices(slices) => slices.contains_key(name),
        };
        if *self == Select::All {
            return Ok(None);
        }
        if matches!(self, Select::Names(names) if names.is_empty())
            || matches!(self, Select::Slices(slices) if slices.is_empty())
        {
            return Err(Error::Refused("no tensor is selected: name one at least".into()));
        }
        let mut chosen = checkpoint.clone();
        Arc::make_mut(&mut chosen.tensors).retain(|tensor| wanted(&tensor.name));
        let found: HashSet<&str> = chosen.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let is_missing = |name: &&String| !found.contains(name.as_str());
        let missing = match self {
            Select::Names(names) => names.iter().find(is_missing),
            Select::Slices(slices) => slices.keys().find(is_missing),
            Select::All | Select::Prefix(_) => None,
        };
        if let Some(name) = missing {
            return Err(Error::NotFound(format!("{} has no tensor '{name}'", checkpoint.dir.display())));
        }
        if let (Select::Prefix(prefix), []) = (self, chosen.tensors.as_slice()) {
            let dir = checkpoint.dir.display();
            return Err(Error::NotFound(format!("{dir} has no tensor whose name begins with '{prefix}'")));
        }
        Ok(Some(chosen))
    }

    /// Whether some tensors are wanted in part.
    pub(super) fn has_slices(&self) -> bool {
        matches!(self, Select::Slices(slices) if slices.values().any(Option::is_some))
    }

    /// What is delivered of a tensor that is selected.
    pub(super) fn part(&self, tensor: &Tensor) -> Result<Part, Error> {
        match self {
            Select::Slices(slices) => match slices.get(&tensor.name) {
                Some(Some(slice)) => Part::sliced(tensor, slice),
                _ => Ok(Part::whole(tensor)),
            },
            _ => Ok(Part::whole(tensor)),
        }
    }
}

/// A load to be made. Made by [`Request::to`]; all else has a default.
#[derive(Clone)]
pub struct Request {
    pub(super) to: To,
    pub(super) select: Select,
    pub(super) links: Links,
    pub(super) cancel: Cancel,
    pub(super) verify: bool,
    pub(super) progress: Option<Arc<Progress>>,
    pub(super) after: Option<CallerEvent>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Request { to, select, links, cancel, verify, progress, after } = self;
        let mut shown = f.debug_struct("Request");
        shown.field("to", to).field("select", select).field("links", links);
        shown.field("cancel", cancel).field("verify", verify).field("after", after);
        shown.field("progress", &progress.is_some()).finish()
    }
}

/// Told of bytes that were read so far, and of all that will be.
type Progress = dyn Fn(u64, u64) + Send + Sync;

impl Request {
    /// All tensors to there, unverified, for as long as it takes.
    pub fn to(to: To) -> Request {
        let (select, links, cancel) = (Select::All, Links::Auto, Cancel::new());
        Request { to, select, links, cancel, verify: false, progress: None, after: None }
    }

    /// Loads these tensors only.
    pub fn select(self, select: Select) -> Request {
        Request { select, ..self }
    }

    /// Brings the bytes over these links. GPUs that have no NVLink to pass bytes on by are fed over their own, which the report
    /// says. By cuFile, bytes come as they do.
    pub fn links(self, links: Links) -> Request {
        Request { links, ..self }
    }

    /// Ends the load with [`Error::Interrupted`] soon after the flag is set, from any thread.
    pub fn cancel(self, cancel: &Cancel) -> Request {
        Request { cancel: cancel.clone(), ..self }
    }

    /// Calls `tell` while bytes come, with those that were read so far and all that will be, from the threads that read: it
    /// should return at once. It is called by one thread at a time, with more each time, and in the end with all. A panic in it
    /// ends the load, and goes on in the caller of [`Loader::load`](crate::Loader::load).
    pub fn progress(self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Request {
        Request { progress: Some(Arc::new(tell)), ..self }
    }

    /// Writes nothing to a GPU before an event of the caller's has come. Where streams copy they wait for it on the device, so
    /// that reading begins at once.
    #[doc(hidden)]
    pub fn after(self, event: CallerEvent) -> Request {
        Request { after: Some(event), ..self }
    }

    /// Digests every tensor where it lies, after the load. A whole tensor is held against what was recorded when it was saved;
    /// where nothing was, against digests made of the bytes as they were read, or, where these go past host memory, against a
    /// second, plain read of the files. Slices and ranges are held against such a second read, never against what was saved:
    /// they show what went wrong on the way, not what rotted on disk. What differs is [`Error::Corrupt`].
    pub fn verify(self, verify: bool) -> Request {
        Request { verify, ..self }
    }
}
