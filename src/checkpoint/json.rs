//! JSON objects whose keys must not repeat: serde's maps would keep the last and say nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::checkpoint::error::malformed;
use crate::checkpoint::sniff;
use crate::os::sys;

/// No index or manifest is larger: a million tensors come to some 500 MB of manifest.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// The pairs of an object, in their order. With `METADATA`, safetensors' `__metadata__` (names and texts) is
/// checked and left out. Values are parsed as they come: a tree of them would take fifty times the text.
pub(super) struct UniquePairs<T, const METADATA: bool = false>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>, const METADATA: bool> Deserialize<'de> for UniquePairs<T, METADATA> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairVisitor(PhantomData))
    }
}

struct PairVisitor<T, const METADATA: bool>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const METADATA: bool> Visitor<'de> for PairVisitor<T, METADATA> {
    type Value = UniquePairs<T, METADATA>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name '{name}' stands twice")));
            }
            let in_entry = |e: A::Error| A::Error::custom(format!("the entry '{name}': {e}"));
            if METADATA && name == "__metadata__" {
                map.next_value::<Option<HashMap<String, String>>>().map_err(in_entry)?;
                continue;
            }
            let value = map.next_value().map_err(in_entry)?;
            pairs.push((name, value));
        }
        Ok(UniquePairs(pairs))
    }
}

/// For `#[serde(deserialize_with)]`: a map whose keys must not repeat.
pub(super) fn unique_map<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(UniquePairs::<T>::deserialize(deserializer)?.0.into_iter().collect())
}

/// Reads a JSON file, refusing one that is larger than any real index.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    parse(path, &read_bytes(path)?)
}

/// Parses what was read of a JSON file.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        let told = sniff::merge_conflict(&String::from_utf8_lossy(text));
        malformed(path, told.unwrap_or_else(|| format!("not the JSON that belongs here: {e}")))
    })
}

/// As [`read`], unparsed.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_bytes(path)?).map_err(|e| match e.as_bytes() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => malformed(path, "text in UTF-16: save it as UTF-8"),
        _ => malformed(path, format!("not UTF-8: {e}")),
    })
}

/// As [`read`], whatever it is.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = sys::open_regular(path).with_context(|| format!("open {}", path.display()))?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(sys::at(path))
        .with_context(|| format!("read {}", path.display()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(malformed(path, format!("larger than {MAX_BYTES} bytes, which no index is")));
    }
    Ok(text)
}
