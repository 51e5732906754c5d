//! `sllm_gds.json`: what we add to ServerlessLLM's layout, and what other readers ignore.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::checkpoint::listing::Bounds;
use crate::checkpoint::sllm::{IndexEntry, partition_name};
use crate::checkpoint::{DataFile, json, malformed};
use crate::os::digest;
use crate::os::digest::Digest;

pub const FILE: &str = "sllm_gds.json";

const VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub digest: String,
    pub chunk_bytes: u64,
    pub partitions: Vec<Partition>,
    /// Partition numbers of each group; a group goes to one GPU.
    pub groups: Vec<Vec<usize>>,
    /// A digest of each tensor's bytes.
    #[serde(deserialize_with = "json::unique_map")]
    pub tensors: BTreeMap<String, Digest>,
    /// What it was saved from, in words: a path, a hub id, or `synthetic:…` with its seed.
    #[serde(default)]
    pub made_from: String,
    /// The safetensors files it was saved from: lets `export` give back the very same files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The files beside the weights, so that it is known which may go when it is replaced. Version 0.1 wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Partition {
    pub file: String,
    pub bytes: u64,
    /// A digest of each `chunk_bytes` of the file; the last chunk may be shorter.
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
    pub fn new(
        partitions: Vec<Partition>,
        groups: Vec<Vec<usize>>,
        tensors: BTreeMap<String, Digest>,
    ) -> Manifest {
        Manifest {
            version: VERSION,
            digest: digest::NAME.to_string(),
            chunk_bytes: digest::CHUNK_BYTES,
            partitions,
            groups,
            tensors,
            made_from: String::new(),
            source: None,
            beside: None,
        }
    }

    /// The manifest of a directory, if it has one.
    pub(super) fn read(dir: &Path, bounds: &Bounds) -> Result<Option<Manifest>> {
        let path = dir.join(FILE);
        match path.symlink_metadata() {
            Ok(_) => bounds.check(&path)?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("look for {}", path.display())),
        }
        let manifest: Manifest = json::read(&path)?;
        if manifest.version != VERSION || manifest.digest != digest::NAME {
            let what = format!(
                "written as version {} with digest '{}', and this program knows version {VERSION} with '{}'; use the \
                 program that wrote it, or save again",
                manifest.version,
                manifest.digest,
                digest::NAME
            );
            return Err(malformed(&path, what));
        }
        Ok(Some(manifest))
    }

    /// Holds the manifest against the files and the index beside it.
    pub(super) fn check(
        &self,
        path: &Path,
        files: &[DataFile],
        index: &[(String, IndexEntry)],
    ) -> Result<()> {
        if self.chunk_bytes == 0 || !self.chunk_bytes.is_multiple_of(8) {
            return Err(malformed(path, format!("chunk_bytes is {}", self.chunk_bytes)));
        }
        if self.partitions.len() != files.len() {
            let lacking = files.len()..self.partitions.len().max(files.len());
            let lacking = lacking.map(partition_name).next().map(|name| format!(": {name} is missing"));
            let what = format!(
                "records {} partitions, and {} are there{}",
                self.partitions.len(),
                files.len(),
                lacking.unwrap_or_default()
            );
            return Err(malformed(path, what));
        }
        for (partition, file) in self.partitions.iter().zip(files) {
            if partition.bytes != file.bytes {
                return Err(malformed(
                    &file.path,
                    format!(
                        "{} bytes long, and {} were written: it was cut short or grew; copy it anew, or save the model \
                         again",
                        file.bytes, partition.bytes
                    ),
                ));
            }
            if partition.digests.len() as u64 != partition.bytes.div_ceil(self.chunk_bytes) {
                let what = format!("{} digests for {} bytes", partition.digests.len(), partition.bytes);
                return Err(malformed(path, format!("partition {}: {what}", partition.file)));
            }
        }
        let grouped: Vec<usize> = self.groups.iter().flatten().copied().collect();
        if grouped != (0..files.len()).collect::<Vec<_>>() {
            return Err(malformed(path, "its groups do not hold each partition once, in order"));
        }
        let named: HashMap<&str, ()> = index.iter().map(|(name, _)| (name.as_str(), ())).collect();
        let missing = index.iter().find(|(name, _)| !self.tensors.contains_key(name));
        let extra = self.tensors.keys().find(|name| !named.contains_key(name.as_str()));
        match (missing, extra) {
            (Some((name, _)), _) => Err(malformed(path, format!("has no digest of the tensor '{name}'"))),
            (None, Some(name)) => {
                Err(malformed(path, format!("names the tensor '{name}', which the index lacks")))
            }
            (None, None) => Ok(()),
        }
    }
}
