//! What `save` takes: tensors with their bytes, and all that is known of where they come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::checkpoint::manifest;
use crate::checkpoint::reader::TensorSource;
use crate::checkpoint::{Checkpoint, DType, Layout, safetensors};
use crate::load::verify::read_digests;
use crate::os::cancel::Cancel;
use crate::os::digest::Digest;
use crate::write::sidecars;
use crate::write::sidecars::Sidecars;

/// A tensor to be saved. Tied ones name the tensor whose bytes they share.
pub struct InputTensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub stride: Vec<u64>,
    pub bytes: u64,
    pub tied_to: Option<usize>,
}

/// Where a model came from: compared when a checkpoint that was made of it is to serve again.
#[derive(Debug, Clone)]
pub enum Identity {
    /// The words alone name the bytes: a hub's commit, or made-up values with their seed.
    Words,
    /// A path, whose bytes may have changed since.
    Bytes,
}

pub struct Input {
    pub default_name: String,
    /// For the manifest, so that nobody takes made-up values for real ones.
    pub made_from: String,
    pub identity: Identity,
    pub tensors: Vec<InputTensor>,
    pub source: Box<dyn TensorSource>,
    pub sidecars: Sidecars,
    /// What its manifest says of its tensors; a save that reads anything else fails.
    pub expected: Option<BTreeMap<String, Digest>>,
    /// The safetensors headers it came with.
    pub origin: Option<manifest::Source>,
    /// Its files and its directory: no target may hold them, or lie in them.
    pub places: Vec<PathBuf>,
    /// What a user should hear of how the model was told from other files.
    pub notes: Vec<String>,
}

impl Input {
    /// Made-up tensors, with nothing beside them.
    pub fn made_up(
        default_name: String,
        made_from: String,
        tensors: Vec<InputTensor>,
        source: Box<dyn TensorSource>,
    ) -> Input {
        Input {
            default_name,
            made_from,
            identity: Identity::Words,
            tensors,
            source,
            sidecars: Sidecars::default(),
            expected: None,
            origin: None,
            places: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The digest of each tensor, from one read of all of them.
    pub fn digests(&self, cancel: &Cancel) -> Result<BTreeMap<String, Digest>> {
        let own = |i: usize| self.tensors[i].tied_to.unwrap_or(i);
        let sizes: Vec<u64> = self.tensors.iter().map(|t| t.bytes).collect();
        let digests = read_digests(&sizes, self.source.as_ref(), cancel)?;
        Ok(self.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), digests[own(i)])).collect())
    }

    /// Bytes of the files that go beside the weights.
    pub fn sidecar_bytes(&self) -> u64 {
        sidecars::bytes(&self.sidecars.carried)
    }
}

/// A checkpoint's directory, or its one file, and where its files really lie.
pub fn places(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let dir = (!checkpoint.chosen.single_file).then(|| checkpoint.dir.clone());
    dir.into_iter().chain(checkpoint.files.iter().map(|file| file.path.clone())).collect()
}

/// What `export` needs to give the same files back; kept along when a checkpoint is saved again.
pub fn origin(checkpoint: &Checkpoint) -> Result<Option<manifest::Source>> {
    if checkpoint.layout != Layout::Safetensors {
        return Ok(checkpoint.manifest.as_ref().and_then(|m| m.source.clone()));
    }
    let mut shards = Vec::new();
    for file in &checkpoint.files {
        let header = safetensors::read_header(&file.path)?.1;
        shards.push(manifest::SourceShard { file: checkpoint.name_of(file), header });
    }
    let not_whole = checkpoint.chosen.unread.first().map(|(shard, name)| {
        format!("{shard} held the tensor '{name}', which the index places in another shard")
    });
    Ok(Some(manifest::Source { shards, index: checkpoint.chosen.index.clone(), not_whole }))
}
