//! An index of shards, `model.safetensors.index.json` and its like: read, and held against what it should name.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::checkpoint::json::UniquePairs;
use crate::checkpoint::shard_sets::Unnamed;
use crate::checkpoint::sniff;

/// A `*.safetensors.index.json`.
#[derive(Debug)]
pub struct Index {
    pub file: String,
    pub text: String,
    /// The file of each tensor that it names.
    pub weight_map: HashMap<String, String>,
    /// `metadata.total_size`: bytes of all tensors.
    pub total_bytes: Option<u64>,
    /// What it leaves out of numbered sets that it names a part of.
    pub unnamed: Unnamed,
}

impl Index {
    /// Refuses an index that was cut: it names a part of a set, and its tensors, of `bytes`, don't come to its total.
    pub fn check_whole(&self, bytes: u64) -> Result<(), String> {
        let perhaps = self.unnamed.perhaps.as_ref().filter(|_| self.total_bytes.is_some());
        match self.unnamed.surely.as_ref().or(perhaps) {
            Some(unnamed) if self.total_bytes != Some(bytes) => Err(format!(
                "does not name {unnamed}, so the model may be cut: fetch the index and all files anew; if nothing is \
                 missing, let the metadata of the index say so with \"total_size\": {bytes}, the bytes of the tensors \
                 that it names"
            )),
            _ => Ok(()),
        }
    }

    /// Refuses an index that was cut, where files that it does not name explain what its total says more than `bytes`.
    /// `others` are those files, with the bytes of the tensors in each that the index does not name. Totals are often
    /// wrong (tied tensors counted twice, the total of before a quantisation), so only an exact match counts.
    pub fn check_total(&self, bytes: u64, others: &[(String, u64)]) -> Result<(), String> {
        /// Sums of some of the files; more than these are not looked at.
        const MANY: usize = 10_000;
        let Some(more) = self.total_bytes.and_then(|total| total.checked_sub(bytes)).filter(|more| *more > 0)
        else {
            return Ok(());
        };
        let mut sums: BTreeMap<u64, Vec<&str>> = BTreeMap::from([(0, Vec::new())]);
        for (name, file_bytes) in others.iter().filter(|(_, bytes)| *bytes > 0) {
            let with_it = sums.iter().filter_map(|(sum, files)| {
                let sum = sum.checked_add(*file_bytes).filter(|sum| *sum <= more)?;
                Some((sum, [files.as_slice(), &[name.as_str()]].concat()))
            });
            for (sum, files) in with_it.collect::<Vec<_>>() {
                if sums.len() < MANY {
                    sums.entry(sum).or_insert(files);
                }
            }
        }
        match sums.get(&more) {
            None => Ok(()),
            Some(files) => Err(format!(
                "its total_size is {more} bytes more than its tensors, which is what {} holds, and it does not name that: \
                 the index was cut; fetch it anew, or remove the file if it is no part of the model",
                files.join(" and ")
            )),
        }
    }
}

/// The pairs and the metadata of an index.
pub fn parse(file: &str, text: &str) -> Result<(Vec<(String, String)>, serde_json::Value)> {
    #[derive(Deserialize)]
    struct ShardIndex {
        #[serde(default)]
        metadata: serde_json::Value,
        weight_map: UniquePairs<String>,
    }
    if let Some(told) = sniff::merge_conflict(text) {
        bail!("{file}: {told}");
    }
    // Some editors begin a text with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let ShardIndex { metadata, weight_map: UniquePairs(pairs) } = match serde_json::from_str(text) {
        Ok(index) => index,
        Err(e) if text.trim_start().starts_with('{') => {
            bail!("{file}: not the JSON that belongs here: {e}: fetch it anew")
        }
        Err(e) => match sniff::tell(
            text.as_bytes().get(..sniff::BYTES).unwrap_or(text.as_bytes()),
            text.len() as u64,
        ) {
            Some(told) => bail!("{file}: not an index of shards, but {told}"),
            None => bail!("{file}: not the JSON that belongs here: {e}: fetch it anew"),
        },
    };
    // `./model-1-of-2` is `model-1-of-2`.
    let plain = |path: String| match path.split('/').any(|part| part == ".") {
        true => path.split('/').filter(|part| *part != ".").collect::<Vec<_>>().join("/"),
        false => path,
    };
    let pairs: Vec<(String, String)> = pairs.into_iter().map(|(name, file)| (name, plain(file))).collect();
    if pairs.is_empty() {
        bail!("{file}: its weight_map names no tensor, so it says nothing of the weights; fetch it anew");
    }
    Ok((pairs, metadata))
}
