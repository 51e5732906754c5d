//! JSON objects whose keys must not repeat: serde's maps would keep the last and say nothing.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::malformed;

/// No index or header is larger; the safetensors format sets the same bound.
pub(super) const MAX_BYTES: u64 = 100_000_000;

/// The pairs of an object, in their order.
pub(super) struct UniquePairs<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniquePairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairVisitor(PhantomData))
    }
}

struct PairVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for PairVisitor<T> {
    type Value = UniquePairs<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        let mut seen = HashSet::new();
        while let Some((name, value)) = map.next_entry::<String, T>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name '{name}' stands twice")));
            }
            pairs.push((name, value));
        }
        Ok(UniquePairs(pairs))
    }
}

/// Reads a small JSON file, refusing one that is larger than any real index.
pub(super) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let mut text = Vec::new();
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).with_context(|| format!("read {}", path.display()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(malformed(path, format!("larger than {MAX_BYTES} bytes, which no index is")));
    }
    serde_json::from_slice(&text).map_err(|e| malformed(path, format!("not the JSON that belongs here: {e}")))
}
