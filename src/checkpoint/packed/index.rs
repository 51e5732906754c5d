//! `packed_index.json`: how the files of a packed checkpoint are cut, and where each tensor lies.

use std::path::Path;

use anyhow::Result;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::checkpoint::error::malformed;
use crate::checkpoint::json::UniquePairs;
use crate::checkpoint::names::packed_name;
use crate::checkpoint::packed::format::{CHUNK_ALIGN, WINDOW_BYTES};
use crate::checkpoint::sllm::IndexEntry;
use crate::os::digest::Digest;
use crate::os::sys::DIRECT_ALIGN;

/// The version that is written and read here.
pub const INDEX_VERSION: u32 = 1;

/// The index as it stands in its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Index {
    pub version: u32,
    pub window_bytes: u64,
    pub files: Vec<IndexFile>,
    /// As in ServerlessLLM's index, in the order of the file.
    #[serde(serialize_with = "write_pairs", deserialize_with = "read_pairs")]
    pub tensors: Vec<(String, IndexEntry)>,
}

/// One file of chunks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexFile {
    pub file: String,
    pub decoded_bytes: u64,
    /// Length and digest of each.
    pub chunks: Vec<(u64, Digest)>,
}

fn write_pairs<S: Serializer>(pairs: &[(String, IndexEntry)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, entry) in pairs {
        map.serialize_entry(name, entry)?;
    }
    map.end()
}

fn read_pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, IndexEntry)>, D::Error> {
    Ok(UniquePairs::<IndexEntry>::deserialize(deserializer)?.0)
}

impl Index {
    /// Refuses an index whose numbers can't be those of packed files. `path` is where it stands.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let refuse = |what: String| Err(malformed(path, what));
        if self.version != INDEX_VERSION || self.window_bytes != WINDOW_BYTES {
            return refuse(format!(
                "version {} with windows of {} bytes, and this program knows version {INDEX_VERSION} with \
                 {WINDOW_BYTES}; use the program that wrote it",
                self.version, self.window_bytes
            ));
        }
        if self.files.is_empty() {
            return refuse("names no files".into());
        }
        for (number, IndexFile { file, decoded_bytes, chunks }) in self.files.iter().enumerate() {
            let wanted = packed_name(number);
            if *file != wanted {
                return refuse(format!("names the file '{file}' in the place of {wanted}"));
            }
            if *decoded_bytes == 0 || !decoded_bytes.is_multiple_of(DIRECT_ALIGN) || *decoded_bytes > 1 << 62
            {
                return refuse(format!("{file}: {decoded_bytes} bytes are no partition's"));
            }
            if chunks.len() as u64 != decoded_bytes.div_ceil(WINDOW_BYTES) {
                return refuse(format!("{file}: {} chunks for {decoded_bytes} bytes", chunks.len()));
            }
            // A chunk is never much longer than its window.
            let is_length = |bytes: u64| {
                bytes > 0 && bytes.is_multiple_of(CHUNK_ALIGN as u64) && bytes <= 2 * WINDOW_BYTES
            };
            if let Some((bytes, _)) = chunks.iter().find(|(bytes, _)| !is_length(*bytes)) {
                return refuse(format!("{file}: a chunk of {bytes} bytes"));
            }
        }
        Ok(())
    }
}
