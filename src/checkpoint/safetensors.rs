//! Safetensors: a length (8 bytes, little-endian), a JSON header, then tensors without a gap. A directory
//! holds one file, or shards with `model.safetensors.index.json`.

use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::json::{self, UniquePairs};
use super::{
    Checkpoint, DType, DataFile, Layout, Tensor, TensorSpec, contiguous_stride, finish, list, malformed,
};
use crate::sys;

const INDEX_SUFFIX: &str = ".safetensors.index.json";

#[derive(Deserialize)]
struct TensorInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: UniquePairs<String>,
}

/// Whether a directory holds safetensors files.
pub(super) fn is_in(dir: &Path) -> Result<bool> {
    Ok(list(dir)?.iter().any(|path| path.extension().is_some_and(|e| e == "safetensors")))
}

pub(super) fn open_file(path: &Path) -> Result<Checkpoint> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    open_shards(dir, &[path.to_path_buf()], path)
}

/// Opens the shards that the index names, or every safetensors file where there is no index.
pub(super) fn open_dir(dir: &Path) -> Result<Checkpoint> {
    let Some(index) = index_path(dir)? else {
        let found = list(dir)?;
        let shards: Vec<PathBuf> =
            found.into_iter().filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
        return open_shards(dir, &shards, dir);
    };
    let ShardIndex { weight_map: UniquePairs(weight_map) } = json::read(&index)?;
    let names: BTreeSet<&String> = weight_map.iter().map(|(_, shard)| shard).collect();
    let mut shards = Vec::new();
    for name in names {
        if name.contains('/') || !dir.join(name).is_file() {
            return Err(malformed(
                &index,
                format!("names the shard '{name}', which is not in {}", dir.display()),
            ));
        }
        shards.push(dir.join(name));
    }
    let checkpoint = open_shards(dir, &shards, &index)?;
    let held: HashSet<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    if let Some(name) =
        weight_map.iter().map(|(name, _)| name).filter(|name| !held.contains(name.as_str())).min()
    {
        return Err(malformed(&index, format!("names the tensor '{name}', which no shard holds")));
    }
    Ok(checkpoint)
}

/// The one `*.safetensors.index.json`, if there is any.
pub(super) fn index_path(dir: &Path) -> Result<Option<PathBuf>> {
    let ends =
        |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.ends_with(INDEX_SUFFIX));
    let found: Vec<PathBuf> = list(dir)?.into_iter().filter(ends).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => Err(malformed(
            dir,
            format!("holds two indices, {} and {}; keep the one you mean", first.display(), second.display()),
        )),
    }
}

fn open_shards(dir: &Path, shards: &[PathBuf], index: &Path) -> Result<Checkpoint> {
    let mut files: Vec<DataFile> = Vec::new();
    let mut tensors = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut base = 0u64;
    for path in shards {
        let (bytes, header) = read_header(path)?;
        // Before any offset is added to it: sparse files can claim sizes that overflow.
        let end = base.checked_add(bytes).ok_or_else(|| malformed(index, "the shards exceed 2^64 bytes"))?;
        let data_start = 8 + header.len() as u64;
        let shard = parse_header(path, &header, bytes - data_start)?;
        for (spec, offset, size) in shard {
            if !seen.insert(spec.name.clone()) {
                return Err(malformed(
                    path,
                    format!("holds the tensor '{}', which another shard holds", spec.name),
                ));
            }
            let TensorSpec { name, dtype, shape } = spec;
            let stride = contiguous_stride(&shape);
            tensors.push(Tensor {
                name,
                dtype,
                shape,
                stride,
                offset: base + data_start + offset,
                bytes: size,
            });
        }
        files.push(DataFile { path: path.clone(), base, bytes, header_bytes: data_start });
        base = end;
    }
    let (layout, manifest) = (Layout::Safetensors, None);
    finish(Checkpoint { dir: dir.to_path_buf(), layout, files, tensors, manifest }, index)
}

/// A file's size, and the text of its header.
pub fn read_header(path: &Path) -> Result<(u64, String)> {
    let mut file = sys::open_regular(path).with_context(|| format!("open {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("stat {}", path.display()))?.len();
    let mut length = [0u8; 8];
    if bytes < 8 {
        return Err(malformed(path, format!("{bytes} bytes are too few for a safetensors file")));
    }
    file.read_exact(&mut length).with_context(|| format!("read the first 8 bytes of {}", path.display()))?;
    let length = u64::from_le_bytes(length);
    if length > json::MAX_BYTES || length > bytes - 8 {
        return Err(malformed(
            path,
            format!(
                "its header claims {length} bytes, the file has {bytes}: not a safetensors file, or one cut short"
            ),
        ));
    }
    let mut header = vec![0u8; usize::try_from(length)?];
    file.read_exact(&mut header)
        .with_context(|| format!("read the {length}-byte header of {}", path.display()))?;
    let header =
        String::from_utf8(header).map_err(|e| malformed(path, format!("its header is not UTF-8: {e}")))?;
    Ok((bytes, header))
}

/// Tensors of a header with offset and size within the data, which must be `data_bytes` long. In the
/// order of their offsets.
fn parse_header(path: &Path, header: &str, data_bytes: u64) -> Result<Vec<(TensorSpec, u64, u64)>> {
    let tensors = header_tensors(path, header)?;
    let end = tensors.last().map_or(0, |(_, start, size)| start + size);
    if end != data_bytes {
        return Err(malformed(
            path,
            format!("its tensors end at {end}, its data at {data_bytes}: the file was cut short or grew"),
        ));
    }
    Ok(tensors)
}

/// Tensors of a header with offset and size within the data, whatever its length. They leave no gap.
pub(super) fn header_tensors(path: &Path, header: &str) -> Result<Vec<(TensorSpec, u64, u64)>> {
    let UniquePairs(entries) = serde_json::from_str::<UniquePairs<TensorInfo, true>>(header)
        .map_err(|e| malformed(path, format!("its header is not what belongs there: {e}")))?;
    let mut tensors = Vec::new();
    for (name, info) in entries {
        let Some(dtype) = DType::from_safetensors(&info.dtype) else {
            return Err(malformed(
                path,
                format!("tensor '{name}': dtype '{}' is not known here", info.dtype),
            ));
        };
        let (start, end) = info.data_offsets;
        let spec = TensorSpec { name, dtype, shape: info.shape };
        if end < start || spec.bytes() != Some(end - start) {
            return Err(malformed(
                path,
                format!(
                    "tensor '{}': {dtype:?} {:?} does not fill bytes {start} to {end}",
                    spec.name, spec.shape
                ),
            ));
        }
        tensors.push((spec, start, end - start));
    }
    tensors.sort_by_key(|(_, start, size)| (*start, *size));
    let mut at = 0u64;
    for (spec, start, size) in &tensors {
        if *start != at {
            return Err(malformed(path, format!("tensor '{}' begins at {start}, not at {at}", spec.name)));
        }
        at += size;
    }
    Ok(tensors)
}

/// A header for these tensors, padded with spaces to a multiple of 8 as the library does; `format: pt` is
/// what transformers look for.
pub(super) fn make_header<'a>(tensors: impl Iterator<Item = (&'a str, DType, &'a [u64], u64)>) -> String {
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    let mut at = 0u64;
    for (name, dtype, shape, bytes) in tensors {
        let info = serde_json::json!({
            "dtype": dtype.safetensors_name(), "shape": shape, "data_offsets": [at, at + bytes],
        });
        entries.insert(name.to_string(), info);
        at += bytes;
    }
    let mut text = serde_json::Value::Object(entries).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str, data_bytes: u64) -> Result<Vec<(TensorSpec, u64, u64)>, String> {
        parse_header(Path::new("x.safetensors"), header, data_bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
        assert_eq!(parse(good, 4).unwrap().len(), 1);
        let cases = [
            (good, 5, "cut short or grew"),
            (good, 3, "cut short or grew"),
            (r#"{"w":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}"#, 6, "not at 0"),
            (r#"{"w":{"dtype":"F16","shape":[2],"data_offsets":[4,0]}}"#, 4, "does not fill"),
            (r#"{"w":{"dtype":"F16","shape":[3],"data_offsets":[0,4]}}"#, 4, "does not fill"),
            (r#"{"w":{"dtype":"X9","shape":[2],"data_offsets":[0,4]}}"#, 4, "X9"),
            (
                r#"{"w":{"dtype":"F16","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
                4,
                "does not fill",
            ),
            (r#"{"w":{"dtype":"F16","shape":[-2],"data_offsets":[0,4]}}"#, 4, "entry 'w'"),
            (
                r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                2,
                "twice",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
                3,
                "not at 2",
            ),
            (r#"{"w":{"x":"y"}}"#, 0, "entry 'w'"),
            (r#"{"w":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#, 1, "duplicate"),
            (r#"{"__metadata__":{"a":1}}"#, 0, "entry '__metadata__'"),
            ("[]", 0, "header"),
            ("", 0, "header"),
        ];
        for (header, data_bytes, expected) in cases {
            let error = parse(header, data_bytes).unwrap_err();
            assert!(error.contains(expected), "{header}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&format!(r#"{{"w":{deep}"#), 0).is_err());
    }

    #[test]
    fn a_made_header_reads_back() {
        let shape = [2u64, 3];
        let text =
            make_header([("a", DType::BF16, &shape[..], 12), ("b", DType::U8, &[][..], 1)].into_iter());
        assert_eq!(text.len() % 8, 0);
        let read = parse(&text, 13).unwrap();
        assert_eq!(read[1].0, TensorSpec { name: "b".into(), dtype: DType::U8, shape: vec![] });
        assert_eq!((read[1].1, read[1].2), (12, 1));
    }
}
