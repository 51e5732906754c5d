//! Safetensors: a length (8 bytes, little-endian), a JSON header, then tensors without a gap. A directory
//! holds one file, or shards with `model.safetensors.index.json`.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::checkpoint::indexed;
use crate::checkpoint::json;
use crate::checkpoint::json::UniquePairs;
use crate::checkpoint::listing;
use crate::checkpoint::listing::Bounds;
use crate::checkpoint::names::{is_index, is_weights};
use crate::checkpoint::select;
use crate::checkpoint::shard_index::Index;
use crate::checkpoint::under_way::is_under_way;
use crate::checkpoint::{
    Checkpoint, Chosen, DType, DataFile, Layout, Stamp, Tensor, TensorSpec, contiguous_stride, finish,
    malformed, sniff,
};
use crate::os::sys;

/// The bound that the format sets to a header.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Deserialize)]
struct TensorInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Whether a directory holds safetensors files, or an index of such.
pub(super) fn is_in(dir: &Path) -> Result<bool> {
    let is_one = |n: &String| !n.starts_with('.') && (is_weights(n) || is_index(n));
    Ok(listing::top(dir)?.iter().any(is_one))
}

pub(super) fn open_file(path: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = listing::list(dir).unwrap_or_default();
    let mut names: Vec<&str> = beside.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let in_folders = listing::in_under_way_folders(dir).unwrap_or_default();
    names.extend(in_folders.iter().map(String::as_str));
    if let Some(name) = names.into_iter().find(|name| is_under_way(name, &file)) {
        let what =
            format!("{name} beside it says that its download has not ended: let it end, or remove that");
        return Err(malformed(path, what));
    }
    let chosen = Chosen { single_file: true, ..Chosen::default() };
    open_shards(dir, vec![path.to_path_buf()], None, chosen, storage_path)
}

/// The files of the model in a directory, in the order in which they are laid end to end.
pub(super) fn chosen_files(dir: &Path, bounds: &Bounds) -> Result<Vec<String>> {
    Ok(choose(dir, bounds)?.files)
}

/// Those that the index names, or that the names tell to be the model.
fn choose(dir: &Path, bounds: &Bounds) -> Result<select::Weights> {
    let read = |name: &str| {
        let path = dir.join(name);
        bounds.check(&path)?;
        json::read_text(&path)
    };
    // A link that leads nowhere counts as there, and so does what may not be looked at: opening it tells more.
    let has = |name: &str| !dir.join(name).symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound);
    select::weights(&listing::for_choice(dir)?, &has, &read)
        .with_context(|| format!("choose the model's files in {}", dir.display()))
}

/// Opens the shards of the model in a directory.
pub(super) fn open_dir(dir: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
    let bounds = Bounds::new(dir, storage_path)?;
    let weights = choose(dir, &bounds)?;
    let shards: Vec<PathBuf> = weights.files.iter().map(|name| dir.join(name)).collect();
    shards.iter().try_for_each(|path| bounds.check(path))?;
    let (may_be_part, taken_together) = (weights.may_be_part(), weights.taken_together());
    let (left_out, below) = (weights.left_out, weights.below);
    // One that can't be read makes no other checkpoint of the files.
    let indexed = indexed::read(dir, &bounds).ok().flatten().map(Arc::new);
    let chosen = Chosen { left_out, below, may_be_part, taken_together, indexed, ..Chosen::default() };
    open_shards(dir, shards, weights.index, chosen, storage_path)
}

/// Lays the shards end to end. A tensor that two of them hold is read from the one that the index says.
fn open_shards(
    dir: &Path,
    shards: Vec<PathBuf>,
    index: Option<Index>,
    mut chosen: Chosen,
    storage_path: Option<&Path>,
) -> Result<Checkpoint> {
    let mut files: Vec<DataFile> = Vec::new();
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut base = 0u64;
    for path in shards {
        let stamp = path.metadata().map(|about| Stamp::of(&about)).unwrap_or_default();
        let (bytes, header) = read_header(&path)?;
        if is_distributed(&path, &header)? && index.is_none() {
            chosen.may_be_part = path.file_name().map(|name| name.to_string_lossy().into_owned());
        }
        // Before any offset is added to it: sparse files can claim sizes that overflow.
        let end = base.checked_add(bytes).ok_or_else(|| malformed(&path, "the shards exceed 2^64 bytes"))?;
        let data_start = 8 + header.len() as u64;
        let file = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
        for (spec, offset, size) in parse_header(&path, &header, bytes - data_start)? {
            let elsewhere =
                index.as_ref().and_then(|index| index.weight_map.get(&spec.name)).is_some_and(|s| *s != file);
            if elsewhere {
                chosen.unread.push((file.clone(), spec.name));
                continue;
            }
            if !seen.insert(spec.name.clone()) {
                return Err(malformed(
                    &path,
                    format!("holds the tensor '{}', which another shard holds", spec.name),
                ));
            }
            let TensorSpec { name, dtype, shape } = spec;
            let stride = contiguous_stride(&shape);
            let offset = base + data_start + offset;
            tensors.push(Tensor { name, dtype, shape, stride, offset, bytes: size });
        }
        files.push(DataFile { path, base, bytes, header_bytes: data_start, stamp });
        base = end;
    }
    if let Some(index) = index {
        let absent = index.weight_map.iter().filter(|(name, _)| !seen.contains(*name)).min();
        if let Some((name, shard)) = absent {
            let what = format!("names the tensor '{name}', which {shard} does not hold");
            return Err(malformed(&dir.join(&index.file), what));
        }
        let bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
        let others = || bytes_unnamed(dir, chosen.left_out.iter().chain(&chosen.below), &seen);
        // What shards hold beside that may stand in for what was cut, by chance with as many bytes.
        let is_named = |tensor: &&Tensor| index.weight_map.contains_key(&tensor.name);
        let named_bytes = tensors.iter().filter(is_named).map(|tensor| tensor.bytes).sum();
        index
            .check_whole(named_bytes)
            .and_then(|()| match index.total_bytes.is_some_and(|total| total > bytes) {
                true => index.check_total(bytes, &others()),
                false => Ok(()),
            })
            .map_err(|why| malformed(&dir.join(&index.file), why))?;
        chosen.odd_index = index.total_bytes.filter(|total| *total < bytes).map(|total| {
            format!(
                "{}: its total_size is {total}, and the tensors that it names have {bytes} bytes: some files may be older \
                 or newer than it",
                index.file
            )
        });
        chosen.index = Some((index.file, index.text));
    }
    let checkpoint = Checkpoint {
        dir: dir.to_path_buf(),
        layout: Layout::Safetensors,
        files,
        packed: None,
        tensors: tensors.into(),
        manifest: None,
        lost: Vec::new(),
        chosen,
        storage_path: storage_path.map(Path::to_path_buf),
    };
    finish(checkpoint, dir)
}

/// Whether a header is of torch's distributed checkpoints, whose files may hold a part of each tensor; an error where it
/// says that one does.
fn is_distributed(path: &Path, header: &str) -> Result<bool> {
    const NOTE: &str = "DCP_SHARDING_INFO";
    #[derive(Deserialize)]
    struct Part {
        saved_offsets: Vec<u64>,
    }
    if !header.contains(NOTE) {
        return Ok(false);
    }
    let note = metadata_of(header).and_then(|metadata| Some(metadata.get(NOTE)?.as_str()?.to_string()));
    let parts: std::collections::BTreeMap<String, Part> =
        note.and_then(|note| serde_json::from_str(&note).ok()).unwrap_or_default();
    match parts.iter().find(|(_, part)| part.saved_offsets.iter().any(|offset| *offset > 0)) {
        Some((name, part)) => Err(malformed(
            path,
            format!(
                "holds a part of the tensor '{name}', from {:?} on, as torch's distributed checkpoints do: put the parts \
                 together first (torch.distributed.checkpoint, consolidate_safetensors_files)",
                part.saved_offsets
            ),
        )),
        None => Ok(true),
    }
}

/// Files that are not of the model, and the bytes of the tensors in each that the model does not have. What can't be
/// read holds none.
fn bytes_unnamed<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a String>,
    seen: &HashSet<String>,
) -> Vec<(String, u64)> {
    let bytes_of = |name: &String| {
        let path = dir.join(name);
        let tensors = header_tensors(&path, &read_header(&path).ok()?.1).ok()?;
        let unnamed = tensors.iter().filter(|(spec, ..)| !seen.contains(&spec.name));
        Some((name.clone(), unnamed.map(|(_, _, bytes)| bytes).sum()))
    };
    names.filter_map(bytes_of).collect()
}

/// A file's size, and the text of its header.
pub fn read_header(path: &Path) -> Result<(u64, String)> {
    let mut file = sys::open_regular(path).with_context(|| format!("open {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("stat {}", path.display()))?.len();
    let mut first = Vec::new();
    Read::by_ref(&mut file)
        .take(sniff::BYTES as u64)
        .read_to_end(&mut first)
        .with_context(|| format!("read the first bytes of {}", path.display()))?;
    let Some((length, after)) = first.split_first_chunk::<8>() else {
        let what =
            format!("{bytes} bytes are too few for a safetensors file: it was cut short, or never written");
        return Err(malformed(path, what));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES && length <= bytes - 8 && after.first() == Some(&b'{') {
        let what = format!(
            "its header is {length} bytes long, and safetensors allows {MAX_HEADER_BYTES}: no reader takes it; save it in \
             several files"
        );
        return Err(malformed(path, what));
    }
    if length == 0 || length > MAX_HEADER_BYTES || length > bytes - 8 {
        let told = sniff::tell(&first, bytes).map(|what| format!("not a safetensors file, but {what}"));
        let plain = || {
            format!(
                "its header claims {length} bytes, the file has {bytes}: not a safetensors file, or one cut short"
            )
        };
        return Err(malformed(path, told.unwrap_or_else(plain)));
    }
    let mut header = after[..after.len().min(length as usize)].to_vec();
    let rest = length - header.len() as u64;
    Read::by_ref(&mut file)
        .take(rest)
        .read_to_end(&mut header)
        .and_then(|read| if read as u64 == rest { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) })
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
pub(crate) fn header_tensors(path: &Path, header: &str) -> Result<Vec<(TensorSpec, u64, u64)>> {
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

/// A header's `__metadata__`: names and texts, in their order; `None` where it has none.
pub(crate) fn metadata_of(header: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Option<serde_json::Map<String, serde_json::Value>>,
    }
    serde_json::from_str::<Header>(header).ok()?.metadata
}

/// A header for these tensors, padded with spaces to a multiple of 8 as the library does.
pub(crate) fn make_header<'a>(
    metadata: Option<&serde_json::Map<String, serde_json::Value>>,
    tensors: impl Iterator<Item = (&'a str, DType, &'a [u64], u64)>,
) -> String {
    let mut entries = serde_json::Map::new();
    if let Some(metadata) = metadata {
        entries.insert("__metadata__".into(), metadata.clone().into());
    }
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
            make_header(None, [("a", DType::BF16, &shape[..], 12), ("b", DType::U8, &[][..], 1)].into_iter());
        assert_eq!(text.len() % 8, 0);
        let read = parse(&text, 13).unwrap();
        assert_eq!(read[1].0, TensorSpec { name: "b".into(), dtype: DType::U8, shape: vec![] });
        assert_eq!((read[1].1, read[1].2), (12, 1));
    }
}
