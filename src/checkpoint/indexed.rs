//! An index over safetensors files that stay as they are: `tensor_index.json`, whose offsets count over them, and the mark
//! in `sllm_gds.json`, which tells what the files were when it was written.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::checkpoint::listing::Bounds;
use crate::checkpoint::manifest::check_known;
use crate::checkpoint::names::{INDEX_FILE, MANIFEST_FILE, is_path, partition_name};
use crate::checkpoint::{json, malformed};
use crate::os::digest;
use crate::os::digest::Digest;
use crate::os::sys;

const VERSION: u32 = 1;

/// The mark's first key: enough to tell it from a save's manifest, which may be large, by its first bytes.
const FIRST_KEY: &[u8] = b"\"indexed\"";

/// The text of a mark.
#[derive(Serialize, Deserialize)]
struct Document {
    // First, see FIRST_KEY.
    indexed: Indexed,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    version: u32,
}

/// What the files were that an index was written over, and what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// Entries of the index that the files do not hold: tied weights by the tensor that they share.
    #[serde(default, deserialize_with = "json::unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, String>,
    /// How the digests here are made.
    pub digest: String,
    /// Links to the files of the other directory, where the index lies in one of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// The directory that it was written over, where that is another: absolute, or from the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// In the order in which offsets count over them.
    pub shards: Vec<Shard>,
    /// A digest of each tensor's bytes, where they were asked for.
    #[serde(default, deserialize_with = "json::unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub tensors: BTreeMap<String, Digest>,
    /// The files that were written beside the mark, and a digest of what they held.
    #[serde(deserialize_with = "json::unique_map")]
    pub wrote: BTreeMap<String, Digest>,
}

/// One safetensors file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its path from the directory.
    pub file: String,
    /// How long it was.
    pub bytes: u64,
    /// A digest of its header's text: the names, types, shapes and places of its tensors.
    pub header_digest: Digest,
}

impl Indexed {
    /// As it is written.
    pub fn to_text(&self) -> Result<String> {
        let document = Document { indexed: self.clone(), requires: Vec::new(), version: VERSION };
        Ok(serde_json::to_string(&document)?)
    }

    /// Those of the files it tells of that are still as they were written, with the mark itself, by their names.
    pub fn own_files(&self, dir: &Path) -> Vec<String> {
        let own = self.wrote.keys().filter(|name| is_unedited(dir, name, &self.wrote));
        own.cloned().chain([MANIFEST_FILE.to_string()]).collect()
    }

    /// The directory whose files it was written over.
    pub fn root(&self, dir: &Path) -> PathBuf {
        self.over.as_ref().map_or(dir.to_path_buf(), |over| dir.join(over))
    }

    fn real_root(&self, dir: &Path) -> PathBuf {
        let root = self.root(dir);
        root.canonicalize().unwrap_or(root)
    }

    /// The command that writes it anew.
    pub fn again(&self, dir: &Path) -> String {
        let written = dir.display().to_string();
        // Else it would be a name below the storage path.
        let written = if is_path(&written) { written } else { format!("./{written}") };
        match self.over {
            None => format!("sllm-gds index {written}"),
            Some(_) => format!("sllm-gds index {} --to {written}", self.real_root(dir).display()),
        }
    }
}

/// Whether a file holds what these digests say that was written.
pub fn is_unedited(dir: &Path, name: &str, wrote: &BTreeMap<String, Digest>) -> bool {
    let read = || json::read_bytes(&dir.join(name)).ok();
    wrote.get(name).is_some_and(|wrote| read().is_some_and(|text| digest::digest(&text) == *wrote))
}

/// The index of a directory may be of either of its two forms of weights.
pub(super) fn two_in_one(dir: &Path) -> anyhow::Error {
    let what = format!(
        "holds {} and an index over safetensors files: which of them {INDEX_FILE} is of can't be told. Remove the files of \
         the one that you do not mean",
        partition_name(0)
    );
    malformed(dir, what)
}

/// Whether a directory's `sllm_gds.json` is the mark of an index, told by its first bytes.
pub fn is_marked(dir: &Path) -> bool {
    const FIRST_BYTES: u64 = 64;
    let mut first = Vec::new();
    let read = sys::open_regular(&dir.join(MANIFEST_FILE))
        .and_then(|file| file.take(FIRST_BYTES).read_to_end(&mut first));
    let first = first.trim_ascii_start();
    read.is_ok()
        && first.strip_prefix(b"{").is_some_and(|rest| rest.trim_ascii_start().starts_with(FIRST_KEY))
}

/// The mark of an index, where a directory has one.
pub fn read(dir: &Path, bounds: &Bounds) -> Result<Option<Indexed>> {
    #[derive(Default, Deserialize)]
    struct Requires {
        #[serde(default)]
        requires: Vec<String>,
    }
    if !is_marked(dir) {
        return Ok(None);
    }
    let path = dir.join(MANIFEST_FILE);
    bounds.check(&path)?;
    let text = json::read_bytes(&path)?;
    let required: Requires = serde_json::from_slice(&text).unwrap_or_default();
    check_known(&path, &required.requires)?;
    let Document { indexed, version, .. } = json::parse(&path, &text)?;
    if version != VERSION || indexed.digest != digest::NAME {
        let what = format!(
            "an index of version {version} with digest '{}', and this program knows version {VERSION} with '{}'; use the \
             program that wrote it, or remove {MANIFEST_FILE} and {INDEX_FILE} and write the index anew",
            indexed.digest,
            digest::NAME
        );
        return Err(malformed(&path, what));
    }
    Ok(Some(indexed))
}
