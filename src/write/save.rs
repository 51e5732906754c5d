//! A source of tensors laid out in partitions, whole or not at all.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::manifest;
use crate::checkpoint::manifest::{Manifest, Partition};
use crate::checkpoint::modules::{cut, module_of, order};
use crate::checkpoint::sllm::IndexEntry;
use crate::checkpoint::sllm::{INDEX_FILE, partition_name};
use crate::os::cancel::Cancel;
use crate::os::digest;
use crate::os::digest::Digest;
use crate::os::progress::{Progress, Unit};
use crate::os::sys;
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::text::size;
use crate::write::files::{Content, NewFile, Piece, Written, write_files};
use crate::write::for_clients::{Alias, ForClients, Named, for_clients};
use crate::write::input::{Input, InputTensor};
use crate::write::sidecars;
use crate::write::sidecars::{Sidecar, write_synced};
use crate::write::staging::Staging;
use crate::write::tensor_index::{Placed, entry, tensor_index};

/// Tensors begin at multiples of this, so that any kernel can read them with its widest loads.
pub const TENSOR_ALIGN: u64 = 256;

/// What one save did.
#[derive(Debug, Serialize)]
pub struct Saved {
    pub path: PathBuf,
    pub bytes: u64,
    pub tensors: usize,
    pub partitions: usize,
    pub groups: usize,
    pub elapsed_s: f64,
    pub gb_per_s: f64,
}

/// A place has too little room for what is to be written.
#[derive(Debug, Error)]
#[error(
    "{} has {} free, and {} are needed, 64 MiB of them in reserve for the file system: make room, or choose another place",
    place.display(),
    size(*free_bytes),
    size(*needed_bytes)
)]
pub struct NoSpace {
    place: PathBuf,
    free_bytes: u64,
    needed_bytes: u64,
}

/// Refuses what does not fit with [`NoSpace`]. A margin is left for indices and the file system's own.
pub fn check_space(storage_path: &Path, needed_bytes: u64) -> Result<()> {
    let mut place = storage_path;
    while !place.exists() {
        place = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    let free_bytes =
        sys::free_bytes(place).with_context(|| format!("ask for free space at {}", place.display()))?;
    let needed_bytes = needed_bytes.saturating_add(64 << 20);
    if needed_bytes > free_bytes {
        bail!(NoSpace { place: place.to_path_buf(), free_bytes, needed_bytes });
    }
    Ok(())
}

/// Adds needed and free bytes to the error of a disk that filled up under way, and to that of a file that grew past a
/// limit what that may be.
pub(super) fn explain_full_disk(error: anyhow::Error, dir: &Path, needed_bytes: u64) -> anyhow::Error {
    let has = |kind: ErrorKind| {
        error.chain().any(|e| e.downcast_ref().is_some_and(|e: &std::io::Error| e.kind() == kind))
    };
    if has(ErrorKind::FileTooLarge) {
        return error.context(
            "a file would grow larger than this process (`ulimit -f`) or this file system allows: raise the limit, write \
             smaller files, or choose another place",
        );
    }
    let full = has(ErrorKind::StorageFull);
    match sys::free_bytes(dir) {
        Ok(free_bytes) if full => error.context(format!(
            "the disk filled up: {} were needed in all, {} are free beside what was written so far (now removed)",
            size(needed_bytes),
            size(free_bytes)
        )),
        _ => error,
    }
}

/// Where every tensor goes: pure data, made before anything is written.
pub struct Layout {
    pub(super) files: Vec<NewFile>,
    pub(super) groups: Vec<Vec<usize>>,
    /// Offset of each input tensor over all partitions.
    offsets: Vec<u64>,
    /// What goes beside the weights for ServerlessLLM's clients.
    for_clients: ForClients,
}

impl Layout {
    pub fn new(input: &Input, groups: usize, max_partition_bytes: u64) -> Result<Layout> {
        Layout::aligned(input, groups, max_partition_bytes, |_| TENSOR_ALIGN)
    }

    /// The same with tensors of so many bytes at multiples of what `align` gives, itself one of [`TENSOR_ALIGN`].
    pub(super) fn aligned(
        input: &Input,
        groups: usize,
        max_partition_bytes: u64,
        align: fn(u64) -> u64,
    ) -> Result<Layout> {
        let names: Vec<&str> = input.tensors.iter().map(|t| t.name.as_str()).collect();
        let own: Vec<usize> =
            order(&names).into_iter().filter(|i| input.tensors[*i].tied_to.is_none()).collect();
        let sized: Vec<(&str, u64)> =
            own.iter().map(|i| (module_of(names[*i]), input.tensors[*i].bytes)).collect();
        let ends = if own.is_empty() { bail!("the model has no tensors") } else { cut(&sized, groups)? };
        let for_clients = what_clients_need(input)?;
        let mut layout =
            Layout { files: Vec::new(), groups: Vec::new(), offsets: vec![0; names.len()], for_clients };
        let mut start = 0usize;
        let mut base = 0u64;
        for end in ends {
            let first = layout.files.len();
            for tensor in &own[start..end] {
                let bytes = input.tensors[*tensor].bytes;
                let with_it = |f: &NewFile| align_up(align_up(f.bytes, align(bytes)) + bytes, DIRECT_ALIGN);
                let full = layout.files.last().is_some_and(|f| with_it(f) > max_partition_bytes);
                if layout.files.len() == first || (full && layout.files.last().is_some_and(|f| f.bytes > 0)) {
                    base += layout.close();
                    let name = partition_name(layout.files.len());
                    layout.files.push(NewFile { name, bytes: 0, pieces: Vec::new() });
                }
                layout.place(*tensor, bytes, base, align(bytes));
            }
            layout.groups.push((first..layout.files.len()).collect());
            start = end;
        }
        layout.close();
        for (i, tensor) in input.tensors.iter().enumerate() {
            if let Some(first) = tensor.tied_to {
                layout.offsets[i] = layout.offsets[first];
            }
        }
        Ok(layout)
    }

    /// Pads the last partition to a multiple of 4 KiB (at least one, so that none is empty); its bytes.
    fn close(&mut self) -> u64 {
        self.files.last_mut().map_or(0, |file| {
            file.bytes = align_up(file.bytes.max(1), DIRECT_ALIGN);
            file.bytes
        })
    }

    fn place(&mut self, tensor: usize, bytes: u64, base: u64, align: u64) {
        if let Some(file) = self.files.last_mut() {
            let offset = align_up(file.bytes, align);
            file.pieces.push(Piece { offset, bytes, content: Content::Tensor(tensor) });
            file.bytes = offset + bytes;
            self.offsets[tensor] = base + offset;
        }
    }

    /// The same with nothing beside the weights for ServerlessLLM's clients, who can't read them.
    pub(super) fn for_no_clients(self) -> Layout {
        Layout { for_clients: ForClients::default(), ..self }
    }

    /// What a user should hear of how ServerlessLLM's clients will find the model.
    pub fn notes(&self) -> &[String] {
        &self.for_clients.notes
    }

    /// Bytes of all partitions.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// What ServerlessLLM's clients need that the model does not bring.
fn what_clients_need(input: &Input) -> Result<ForClients> {
    let tensors: Vec<Named> = input
        .tensors
        .iter()
        .map(|t| Named { name: &t.name, dtype: t.dtype, bytes: t.bytes, tied_to: t.tied_to })
        .collect();
    let carried = &input.sidecars.carried;
    let config =
        carried.iter().find(|sidecar| sidecar.name == "config.json").map(Sidecar::read).transpose()?;
    let brought = |name: &str| carried.iter().any(|sidecar| sidecar.name == name);
    Ok(for_clients(&tensors, config.as_deref(), &brought))
}

/// Saves one checkpoint at `target`.
pub fn save(
    input: &Input,
    layout: &Layout,
    target: &Path,
    overwrite: bool,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Saved> {
    let started = Instant::now();
    // What the index can't hold is refused before the first byte.
    let index = index(input, layout)?;
    let staging = Staging::new(target, overwrite)?;
    staging.notes.iter().for_each(|note| progress.note(note));
    let meter = progress.begin(&format!("save {}", target.display()), layout.bytes(), Unit::Bytes);
    // Each tied tensor reads as zero bytes here; its digest is its twin's.
    let tensor_bytes: Vec<u64> = input.tensors.iter().map(|t| t.bytes).collect();
    let written =
        write_files(staging.path(), &layout.files, input.source.as_ref(), &tensor_bytes, cancel, &meter);
    let explain = |e| explain_full_disk(e, staging.path(), layout.bytes());
    let written = written.map_err(explain).with_context(|| format!("save {}", target.display()))?;
    check_against_source(input, &written.tensors)?;
    let mut beside_digests =
        sidecars::copy(&input.sidecars.carried, staging.path(), cancel).map_err(explain)?;
    let made: Vec<Sidecar> = layout.for_clients.files.iter().map(Sidecar::text).collect();
    beside_digests.extend(sidecars::copy(&made, staging.path(), cancel).map_err(explain)?);
    let mut manifest = manifest(input, layout, written);
    manifest.index_digest = Some(digest::digest(&index));
    manifest.beside_digests = beside_digests;
    write_synced(&staging.path().join(manifest::FILE), &serde_json::to_vec(&manifest)?)?;
    write_synced(&staging.path().join(INDEX_FILE), &index)?;
    check_opens(staging.path(), input.tensors.len())?;
    staging.publish()?;
    let elapsed_s = started.elapsed().as_secs_f64();
    Ok(Saved {
        path: target.to_path_buf(),
        bytes: layout.bytes(),
        tensors: input.tensors.len(),
        partitions: layout.files.len(),
        groups: layout.groups.len(),
        elapsed_s,
        gb_per_s: layout.bytes() as f64 / elapsed_s / 1e9,
    })
}

/// The entries of ServerlessLLM's index for these tensors, in its order.
pub(super) fn entries(input: &Input, layout: &Layout) -> Result<Vec<(String, IndexEntry)>> {
    let numbered = input.tensors.iter().enumerate();
    numbered
        .map(|(i, tensor)| Ok((tensor.name.clone(), entry(&placed(input, layout, i, &tensor.name))?)))
        .collect()
}

/// A tensor under this name.
fn placed<'a>(input: &'a Input, layout: &Layout, i: usize, name: &'a str) -> Placed<'a> {
    let InputTensor { dtype, shape, stride, bytes, .. } = &input.tensors[i];
    Placed { name, dtype: *dtype, shape, stride, offset: layout.offsets[i], bytes: *bytes }
}

/// ServerlessLLM's index of these tensors, and of the aliases behind them.
fn index(input: &Input, layout: &Layout) -> Result<Vec<u8>> {
    let own = input.tensors.iter().enumerate().map(|(i, tensor)| placed(input, layout, i, &tensor.name));
    let aliases = layout.for_clients.aliases.iter().map(|alias| placed(input, layout, alias.of, &alias.name));
    tensor_index(own.chain(aliases))
}

pub(super) fn manifest(input: &Input, layout: &Layout, written: Written) -> Manifest {
    let digest_of = |i: usize| written.tensors[input.tensors[i].tied_to.unwrap_or(i)];
    let mut digests: BTreeMap<String, Digest> =
        input.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), digest_of(i))).collect();
    let for_clients = &layout.for_clients;
    // Version 0.1 wants a digest of whatever the index names.
    digests.extend(for_clients.aliases.iter().map(|alias| (alias.name.clone(), digest_of(alias.of))));
    let partitions = layout.files.iter().zip(written.chunks).map(|(file, digests)| Partition {
        file: file.name.clone(),
        bytes: file.bytes,
        digests,
    });
    let mut manifest = Manifest::new(partitions.collect(), layout.groups.clone(), digests);
    manifest.made_from = input.made_from.clone();
    manifest.source = input.origin.clone();
    let of = |alias: &Alias| (alias.name.clone(), input.tensors[alias.of].name.clone());
    manifest.aliases = for_clients.aliases.iter().map(of).collect();
    manifest.made_beside = for_clients.files.iter().map(|(name, _)| name.clone()).collect();
    let carried = input.sidecars.carried.iter().map(|sidecar| sidecar.name.clone());
    manifest.beside = Some(carried.chain(manifest.made_beside.iter().cloned()).collect());
    manifest
}

/// What is written must open: better no checkpoint than one that nobody can read.
pub(super) fn check_opens(written: &Path, tensors: usize) -> Result<()> {
    let found = Checkpoint::read(written).context("what was written does not open, and is removed again")?;
    if found.tensors.len() != tensors {
        bail!(
            "{} of {tensors} tensors can be read back; what was written is removed again",
            found.tensors.len()
        );
    }
    Ok(())
}

/// Refuses to pass damage on under digests of its own.
pub(super) fn check_against_source(input: &Input, digests: &[Digest]) -> Result<()> {
    let Some(expected) = &input.expected else { return Ok(()) };
    for (i, tensor) in input.tensors.iter().enumerate() {
        let found = digests[tensor.tied_to.unwrap_or(i)];
        if expected.get(&tensor.name) != Some(&found) {
            bail!(
                "{} is damaged: tensor '{}' is not what its manifest says (`sllm-gds verify` tells where)",
                input.made_from,
                tensor.name
            );
        }
    }
    Ok(())
}
