//! What a loader is asked for: where to, which tensors, and what to look at on the way.

use std::collections::{BTreeSet, HashSet};

use crate::checkpoint::Checkpoint;
use crate::load::error::Error;
use crate::os::cancel::Cancel;

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
}

impl To {
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
}

impl Select {
    /// The checkpoint with these tensors only.
    pub(super) fn apply(&self, checkpoint: &Checkpoint) -> Result<Option<Checkpoint>, Error> {
        let wanted = |name: &str| match self {
            Select::All => true,
            Select::Names(names) => names.contains(name),
            Select::Prefix(prefix) => name.starts_with(prefix.as_str()),
        };
        if *self == Select::All {
            return Ok(None);
        }
        let mut chosen = checkpoint.clone();
        chosen.tensors.retain(|tensor| wanted(&tensor.name));
        if let Select::Names(names) = self {
            let found: HashSet<&str> = chosen.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            if let Some(name) = names.iter().find(|name| !found.contains(name.as_str())) {
                return Err(Error::NotFound(format!("{} has no tensor '{name}'", checkpoint.dir.display())));
            }
        }
        if let (Select::Prefix(prefix), []) = (self, chosen.tensors.as_slice()) {
            let dir = checkpoint.dir.display();
            return Err(Error::NotFound(format!("{dir} has no tensor whose name begins with '{prefix}'")));
        }
        Ok(Some(chosen))
    }
}

/// A load to be made. Made by [`Request::to`]; all else has a default.
#[derive(Clone)]
pub struct Request {
    pub(super) to: To,
    pub(super) select: Select,
    pub(super) cancel: Cancel,
    pub(super) verify: bool,
}

impl Request {
    /// All tensors to there, unverified, for as long as it takes.
    pub fn to(to: To) -> Request {
        Request { to, select: Select::All, cancel: Cancel::new(), verify: false }
    }

    /// Loads these tensors only.
    pub fn select(self, select: Select) -> Request {
        Request { select, ..self }
    }

    /// Ends the load with [`Error::Interrupted`] soon after the flag is set, from any thread.
    pub fn cancel(self, cancel: &Cancel) -> Request {
        Request { cancel: cancel.clone(), ..self }
    }

    /// Digests every tensor where it lies and compares that with what was recorded when it was saved; where nothing was,
    /// with a second, plain read of the files. What differs is [`Error::Corrupt`].
    pub fn verify(self, verify: bool) -> Request {
        Request { verify, ..self }
    }
}
