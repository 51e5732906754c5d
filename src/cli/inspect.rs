//! `sllm-gds inspect`: what a checkpoint holds, and where.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::checkpoint::served::served;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::cli::checkpoint::CheckpointArg;
use crate::cli::help;
use crate::cli::{Outcome, print};
use crate::os::text;
use crate::write::save::TENSOR_ALIGN;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [u64],
    /// Only of views that are not contiguous.
    #[serde(skip_serializing_if = "Option::is_none")]
    stride: Option<&'a [u64]>,
    partition: usize,
    /// Within the partition's file.
    file_offset: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tied_to: Option<&'a str>,
    /// What its shape needs, only of contiguous tensors whose storage is larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_bytes: Option<u64>,
}

/// Longest name, shape or list of strides in the table.
const NAME_CHARS: usize = 100;

pub fn run(args: &InspectArgs) -> Result<Outcome> {
    let checkpoint = args.checkpoint.find()?;
    let rows = rows(&checkpoint);
    let groups = checkpoint.manifest.as_ref().map(|m| m.groups.clone());
    let lost: Vec<&str> = checkpoint.lost.iter().map(|t| t.name.as_str()).collect();
    let aliases = checkpoint.aliases();
    let stale = stale(&checkpoint, &args.checkpoint.storage_path);
    if args.json {
        let files: Vec<serde_json::Value> = checkpoint
            .files
            .iter()
            .map(|f| serde_json::json!({ "path": f.path, "bytes": f.bytes, "header_bytes": f.header_bytes }))
            .collect();
        let value = serde_json::json!({
            "path": checkpoint.dir, "layout": checkpoint.layout, "manifest": checkpoint.manifest.is_some(),
            "tensor_bytes": checkpoint.tensor_bytes(), "file_bytes": checkpoint.file_bytes(),
            "stored_bytes": checkpoint.stored_bytes(),
            "alignment_bytes": alignment(&checkpoint), "partitions": files, "groups": groups, "tensors": rows,
            "left_out": checkpoint.chosen.left_out, "lost": lost, "aliases": aliases,
            "indexed": checkpoint.chosen.indexed.is_some(), "stale": stale,
        });
        print::say_json(&serde_json::to_string_pretty(&value)?);
        return Ok(if lost.is_empty() { Outcome::Yes } else { Outcome::No });
    }
    print::say(format_args!(
        "{}: layout {}, {}",
        checkpoint.dir.display(),
        checkpoint.layout,
        match &checkpoint.manifest {
            Some(m) if m.is_packed() => format!("manifest with {} digests a chunk", m.digest),
            Some(m) => format!("manifest with {} digests a {} MiB", m.digest, m.chunk_bytes >> 20),
            None => "no manifest".to_string(),
        }
    ));
    print::say(format_args!(
        "{} tensors of {} bytes in {} files of {} bytes; tensors begin at multiples of {} bytes",
        rows.len(),
        checkpoint.tensor_bytes(),
        checkpoint.files.len(),
        checkpoint.file_bytes(),
        alignment(&checkpoint)
    ));
    if checkpoint.packed.is_some() {
        let (stored, all) = (checkpoint.stored_bytes(), checkpoint.file_bytes());
        let ratio = stored as f64 / all.max(1) as f64;
        print::say(format_args!(
            "packed: {stored} bytes on disk ({ratio:.4}); all other bytes here are unpacked ones"
        ));
    }
    for (i, file) in checkpoint.files.iter().enumerate() {
        let group = groups.iter().flatten().position(|g| g.contains(&i));
        let group = group.map(|g| format!(", group {g}")).unwrap_or_default();
        print::say(format_args!("partition {i}: {}, {} bytes{group}", file.path.display(), file.bytes));
    }
    for (alias, of) in &aliases {
        print::say(format_args!("alias {alias}: the tensor {of}, for ServerlessLLM's clients only"));
    }
    if checkpoint.chosen.indexed.is_some() && stale.is_none() {
        print::say(format_args!(
            "its index lets ServerlessLLM's clients load these files through a store server"
        ));
    }
    print::tell_notes(stale.as_slice());
    print::say_page(&table(&rows));
    print::tell_notes(&checkpoint.notes());
    match checkpoint.what_is_lost() {
        None => Ok(Outcome::Yes),
        Some(lost) => {
            print::tell(format_args!("error: {lost}"));
            Ok(Outcome::No)
        }
    }
}

/// Why the index over safetensors files can't be used, where there is one.
fn stale(checkpoint: &Checkpoint, storage_path: &Path) -> Option<String> {
    checkpoint.chosen.indexed.as_ref()?;
    served(&checkpoint.dir, Some(storage_path)).err().map(|error| error.to_string())
}

/// A line for each tensor, in one piece: hundreds of thousands of writes would take longer than the rest.
fn table(rows: &[Row<'_>]) -> String {
    let names: Vec<Cow<str>> = rows.iter().map(|r| text::shortened(r.name, NAME_CHARS)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("name".len());
    let mut page = format!(
        "{:width$}  {:9} {:>9} {:>14} {:>14}  shape\n",
        "name", "dtype", "partition", "offset", "bytes"
    );
    for (r, name) in rows.iter().zip(names) {
        let tied = r.tied_to.map(|t| format!("  tied to {}", text::shortened(t, NAME_CHARS)));
        let stride = r.stride.map(|s| format!("  strides {}", numbers(s)));
        let data = r.data_bytes.map(|bytes| format!("  of which {bytes} bytes are its own"));
        let notes = [stride, data, tied].map(Option::unwrap_or_default).concat();
        let (dtype, shape) = (r.dtype, numbers(r.shape));
        let _ = writeln!(
            page,
            "{name:width$}  {dtype:9} {:>9} {:>14} {:>14}  {shape}{notes}",
            r.partition, r.file_offset, r.bytes
        );
    }
    page
}

/// A hostile header may give a shape a million extents.
fn numbers(numbers: &[u64]) -> String {
    text::shortened(&format!("{numbers:?}"), NAME_CHARS).into_owned()
}

fn rows(checkpoint: &Checkpoint) -> Vec<Row<'_>> {
    let mut rows: Vec<Row> = Vec::new();
    let mut twin: Option<&Tensor> = None;
    for t in checkpoint.tensors.iter() {
        // The first of those that share these bytes; they are neighbours.
        let first = twin.filter(|o| (o.offset, o.bytes) == (t.offset, t.bytes) && t.bytes > 0);
        twin = first.or(Some(t));
        let partition = checkpoint.file_at(t.offset).unwrap_or(checkpoint.files.len().saturating_sub(1));
        rows.push(Row {
            name: &t.name,
            dtype: t.dtype.safetensors_name(),
            shape: &t.shape,
            stride: (!t.is_contiguous()).then_some(t.stride.as_slice()),
            partition,
            file_offset: t.offset - checkpoint.files.get(partition).map_or(0, |f| f.base),
            bytes: t.bytes,
            tied_to: first.map(|o| o.name.as_str()),
            data_bytes: Some(t.data_bytes()).filter(|bytes| t.is_contiguous() && *bytes < t.bytes),
        });
    }
    rows
}

/// The largest power of two, up to ours, that every tensor's offset in its file is a multiple of.
fn alignment(checkpoint: &Checkpoint) -> u64 {
    let all = checkpoint.tensors.iter().filter(|t| t.bytes > 0).fold(TENSOR_ALIGN, |all, t| {
        all | (t.offset - checkpoint.file_at(t.offset).map_or(0, |f| checkpoint.files[f].base))
    });
    1 << all.trailing_zeros()
}
