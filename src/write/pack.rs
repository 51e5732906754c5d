//! A source of tensors as a packed checkpoint, whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use thiserror::Error;

use crate::checkpoint::DType;
use crate::checkpoint::manifest;
use crate::checkpoint::manifest::{Manifest, Partition};
use crate::checkpoint::names::PACKED_INDEX_FILE;
use crate::checkpoint::packed::{Form, INDEX_VERSION, Index, IndexFile, REQUIREMENT, WINDOW_BYTES};
use crate::os::cancel::Cancel;
use crate::os::digest;
use crate::os::digest::Digest;
use crate::os::progress::{Progress, Unit};
use crate::os::text::size;
use crate::write::chunks::{self, Gain};
use crate::write::files::Written;
use crate::write::input::Input;
use crate::write::save::{
    Layout, Saved, TENSOR_ALIGN, check_against_source, check_opens, entries, explain_full_disk, manifest,
};
use crate::write::sidecars;
use crate::write::sidecars::write_synced;
use crate::write::staging::Staging;

/// Tensors of so many bytes begin where blocks do, so that no block of theirs is cut by a window.
const LARGE_BYTES: u64 = 64 << 10;
const BLOCK_ALIGN: u64 = 8192;

/// A gain of less than this many parts of a hundred is not worth a layout that others can't read.
const LEAST_PERCENT: u64 = 3;

/// What one save of packed weights did.
#[derive(Debug, Serialize)]
pub struct Packed {
    #[serde(flatten)]
    pub saved: Saved,
    /// Bytes of the same weights unpacked, as a save writes them; `saved.bytes` are those that were written.
    pub unpacked_bytes: u64,
    /// Those of them that are coded; the rest is stored as it is.
    pub coded_bytes: u64,
    /// Bytes written over bytes unpacked.
    pub ratio: f64,
    /// By type of tensor, as safetensors names them.
    pub types: BTreeMap<&'static str, OfType>,
}

/// What the tensors of a type came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfType {
    pub bytes: u64,
    pub coded_bytes: u64,
    pub packed_bytes: u64,
    pub ratio: f64,
}

/// Packed, a model would hardly be smaller.
#[derive(Debug, Error)]
#[error(
    "packed it would take {} of {} ({:.1} %), and a gain under {LEAST_PERCENT} % is not \
     worth a layout that other programs can't read: {types}; save it unpacked",
    size(*packed_bytes),
    size(*unpacked_bytes),
    100.0 * *packed_bytes as f64 / (*unpacked_bytes).max(1) as f64
)]
pub struct NoGain {
    packed_bytes: u64,
    unpacked_bytes: u64,
    types: String,
}

/// Where every tensor of a packed checkpoint goes, unpacked.
pub fn layout(input: &Input, groups: usize, max_partition_bytes: u64) -> Result<Layout> {
    let align = |bytes: u64| if bytes < LARGE_BYTES { TENSOR_ALIGN } else { BLOCK_ALIGN };
    Ok(Layout::aligned(input, groups, max_partition_bytes, align)?.for_no_clients())
}

/// The least that packed weights take: no type comes to less, so that it is too little to look for room for.
pub fn least_bytes(layout: &Layout) -> u64 {
    layout.bytes() / 2
}

/// Saves one packed checkpoint at `target`, laid out by [`layout`].
pub fn save(
    input: &Input,
    layout: &Layout,
    target: &Path,
    overwrite: bool,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Packed> {
    let started = Instant::now();
    let tensors = entries(input, layout)?;
    refuse_early(input, layout)?;
    let staging = Staging::new(target, overwrite)?;
    staging.notes.iter().for_each(|note| progress.note(note));
    let meter = progress.begin(&format!("pack {}", target.display()), layout.bytes(), Unit::Bytes);
    let sizes: Vec<(DType, u64)> = input.tensors.iter().map(|t| (t.dtype, t.bytes)).collect();
    let written = chunks::write(staging.path(), &layout.files, input.source.as_ref(), &sizes, cancel, &meter);
    let explain = |e| explain_full_disk(e, staging.path(), least_bytes(layout));
    let written = written.map_err(explain).with_context(|| format!("pack {}", target.display()))?;
    check_against_source(input, &written.tensors)?;
    let bytes = written.files.iter().flat_map(|file| &file.chunks).map(|(bytes, _)| bytes).sum();
    let types = by_type(&written.gains);
    check_gain(bytes, layout, &types)?;
    let index = Index { version: INDEX_VERSION, window_bytes: WINDOW_BYTES, files: written.files, tensors };
    let text = serde_json::to_vec(&index)?;
    let mut manifest = manifest_of(input, layout, &index.files, written.tensors);
    manifest.index_digest = Some(digest::digest(&text));
    manifest.beside_digests =
        sidecars::copy(&input.sidecars.carried, staging.path(), cancel).map_err(explain)?;
    write_synced(&staging.path().join(manifest::FILE), &serde_json::to_vec(&manifest)?)?;
    write_synced(&staging.path().join(PACKED_INDEX_FILE), &text)?;
    check_opens(staging.path(), input.tensors.len())?;
    staging.publish()?;
    let elapsed_s = started.elapsed().as_secs_f64();
    let saved = Saved {
        path: target.to_path_buf(),
        bytes,
        tensors: input.tensors.len(),
        partitions: layout.files.len(),
        groups: layout.groups.len(),
        elapsed_s,
        gb_per_s: layout.bytes() as f64 / elapsed_s / 1e9,
    };
    Ok(Packed {
        saved,
        unpacked_bytes: layout.bytes(),
        coded_bytes: types.values().map(|of| of.coded_bytes).sum(),
        ratio: bytes as f64 / layout.bytes() as f64,
        types,
    })
}

/// Refuses before the first byte what can't gain enough, whatever its values are.
fn refuse_early(input: &Input, layout: &Layout) -> Result<()> {
    let mut gains: BTreeMap<DType, Gain> = BTreeMap::new();
    for tensor in input.tensors.iter().filter(|tensor| tensor.tied_to.is_none()) {
        let gain = gains.entry(tensor.dtype).or_default();
        gain.bytes += tensor.bytes;
        gain.packed_bytes += tensor.bytes;
    }
    let packable = gains.iter().filter(|(dtype, _)| Form::of(**dtype) != Form::Bytes);
    let packable_bytes: u64 = packable.map(|(_, gain)| gain.bytes).sum();
    check_gain(layout.bytes().saturating_sub(packable_bytes), layout, &by_type(&gains))
}

fn check_gain(packed_bytes: u64, layout: &Layout, types: &BTreeMap<&str, OfType>) -> Result<()> {
    let unpacked_bytes = layout.bytes();
    if u128::from(packed_bytes) * 100 <= u128::from(unpacked_bytes) * u128::from(100 - LEAST_PERCENT) {
        return Ok(());
    }
    let of = |(name, of): (&&str, &OfType)| format!("{name} {:.1} % of {} bytes", 100.0 * of.ratio, of.bytes);
    let types = types.iter().map(of).collect::<Vec<_>>().join(", ");
    bail!(NoGain { packed_bytes, unpacked_bytes, types })
}

fn by_type(gains: &BTreeMap<DType, Gain>) -> BTreeMap<&'static str, OfType> {
    let of = |(dtype, gain): (&DType, &Gain)| {
        let Gain { bytes, coded_bytes, packed_bytes } = *gain;
        let ratio = packed_bytes as f64 / bytes.max(1) as f64;
        (dtype.safetensors_name(), OfType { bytes, coded_bytes, packed_bytes, ratio })
    };
    gains.iter().filter(|(_, gain)| gain.bytes > 0).map(of).collect()
}

fn manifest_of(input: &Input, layout: &Layout, files: &[IndexFile], tensors: Vec<Digest>) -> Manifest {
    let chunks = files.iter().map(|_| Vec::new()).collect();
    let mut manifest = manifest(input, layout, Written { chunks, tensors });
    manifest.requires = vec![REQUIREMENT.to_string()];
    let partition = |file: &IndexFile| Partition {
        file: file.file.clone(),
        bytes: file.chunks.iter().map(|(bytes, _)| bytes).sum(),
        digests: Vec::new(),
    };
    manifest.partitions = files.iter().map(partition).collect();
    manifest
}
