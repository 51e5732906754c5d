//! `sllm_gds.json`: what we add to ServerlessLLM's layout, and what other readers ignore.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{json, malformed, packed};
use crate::os::digest;
use crate::os::digest::Digest;

pub use crate::checkpoint::names::MANIFEST_FILE as FILE;

pub(super) const VERSION: u32 = 1;

/// What this version knows of what a manifest may require.
const KNOWN: [&str; 1] = [packed::REQUIREMENT];

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// What a reader must know to read the files; the field is absent where version 0.1 does. Other fields that a reader
    /// does not know it may pass over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    pub digest: String,
    pub chunk_bytes: u64,
    pub partitions: Vec<Partition>,
    /// Partition numbers of each group; a group goes to one GPU.
    pub groups: Vec<Vec<usize>>,
    /// A digest of each tensor's bytes. In the file, for version 0.1, of each alias too; not in memory.
    #[serde(deserialize_with = "json::unique_map")]
    pub tensors: BTreeMap<String, Digest>,
    /// Entries of the index that the model's own files do not hold: tied weights by the tensor that they share. Only
    /// ServerlessLLM's clients need them.
    #[serde(default, deserialize_with = "json::unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, String>,
    /// What it was saved from, in words: a path, a hub id, or `synthetic:…` with its seed.
    #[serde(default)]
    pub made_from: String,
    /// The safetensors files it was saved from: lets `export` give back the very same files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// A digest of the bytes of `tensor_index.json`, which says of what types and shapes the tensors are. Version 0.1
    /// wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_digest: Option<Digest>,
    /// The files beside the weights, so that it is known which may go when it is replaced. Version 0.1 wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Vec<String>>,
    /// A digest of each of those, so that none goes that somebody has edited since. Version 0.1 wrote none.
    #[serde(default, deserialize_with = "json::unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub beside_digests: BTreeMap<String, Digest>,
    /// Those of `beside` that the save made itself, for ServerlessLLM's clients: the next save makes its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_beside: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Partition {
    pub file: String,
    pub bytes: u64,
    /// A digest of each `chunk_bytes` of the file; the last chunk may be shorter. None of packed weights, whose index has
    /// one of each chunk.
    pub digests: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub shards: Vec<SourceShard>,
    /// File name and text of the shards' index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<(String, String)>,
    /// Why the very same files can't be given back, where that is so; the headers are kept for what else they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_whole: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceShard {
    pub file: String,
    pub header: String,
}

impl Manifest {
    /// Whether it is of packed weights.
    pub fn is_packed(&self) -> bool {
        self.requires.iter().any(|name| name == packed::REQUIREMENT)
    }

    pub fn new(
        partitions: Vec<Partition>,
        groups: Vec<Vec<usize>>,
        tensors: BTreeMap<String, Digest>,
    ) -> Manifest {
        Manifest {
            version: VERSION,
            requires: Vec::new(),
            digest: digest::NAME.to_string(),
            chunk_bytes: digest::CHUNK_BYTES,
            partitions,
            groups,
            tensors,
            aliases: BTreeMap::new(),
            made_from: String::new(),
            source: None,
            index_digest: None,
            beside: None,
            beside_digests: BTreeMap::new(),
            made_beside: Vec::new(),
        }
    }
}

/// Refuses what this version does not know how to read.
pub(super) fn check_known(path: &Path, requires: &[String]) -> Result<()> {
    let unknown: Vec<&str> =
        requires.iter().map(String::as_str).filter(|name| !KNOWN.contains(name)).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(malformed(
            path,
            format!(
                "it requires {}, which this version does not know; use a newer sllm-gds, or save the model again",
                unknown.join(", ")
            ),
        )),
    }
}
