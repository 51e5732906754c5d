//! The checkpoints of a run: real copies in both layouts, made where they are missing. They lie where
//! ServerlessLLM's own suite puts them: `<model>_<replica>` and `<model>_safetensors_<replica>`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use thiserror::Error;

use crate::bench::format::Format;
use crate::checkpoint::Checkpoint;
use crate::load::verify::Digests;
use crate::os::cancel::Cancel;
use crate::os::progress::Progress;
use crate::write::input::{Identity, Input};
use crate::write::save::{Layout, check_space, save};
use crate::write::{export, pack, target};

/// What an earlier run left does not serve this one.
#[derive(Debug, Error)]
#[error("an earlier run's checkpoint is no use: remove it, or choose another storage path")]
pub struct NotReused;

pub struct Prepared {
    /// The model's name in records.
    pub model: String,
    storage_path: PathBuf,
    /// What every load must have brought.
    pub expected: Digests,
    /// The weight files of each safetensors replica, as paths from its directory.
    shards: Vec<String>,
}

impl Prepared {
    /// The safetensors files of a replica. Known beforehand: to look for them would bring their headers into the page
    /// cache.
    pub fn shards(&self, replica: usize) -> Vec<PathBuf> {
        let dir = self.dir(Format::Safetensors, replica);
        self.shards.iter().map(|name| dir.join(name)).collect()
    }

    /// The directory that a format loads; all but those of our own layouts share the safetensors files.
    pub fn dir(&self, format: Format, replica: usize) -> PathBuf {
        match format {
            Format::Sllm => self.storage_path.join(format!("{}_{replica}", self.model)),
            Format::SllmPacked => self.storage_path.join(format!("{}_packed_{replica}", self.model)),
            _ => self.storage_path.join(format!("{}_safetensors_{replica}", self.model)),
        }
    }
}

/// Makes what is missing, after a look at the free space.
pub fn prepare(
    input: &Input,
    storage_path: &Path,
    replicas: u32,
    formats: &[Format],
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Prepared> {
    let model = input.default_name.clone();
    target::place(storage_path, &model)?;
    let storage = storage_path.to_path_buf();
    let mut prepared =
        Prepared { model, storage_path: storage, expected: Digests::new(), shards: Vec::new() };
    let layout = Layout::new(input, 1, 10 << 30)?;
    // The first one in our layout is always there: its manifest says what every load must bring.
    let sllm_count = if formats.contains(&Format::Sllm) { replicas } else { 1 };
    let packed_count = if formats.contains(&Format::SllmPacked) { replicas } else { 0 };
    let safetensors_count = if formats.iter().any(|f| f.is_of_safetensors()) { replicas } else { 0 };
    let wanted = |format, count| (0..count as usize).map(move |i| (format, i));
    let mut all: Vec<(Format, usize)> = wanted(Format::Sllm, sllm_count)
        .chain(wanted(Format::SllmPacked, packed_count))
        .chain(wanted(Format::Safetensors, safetensors_count))
        .collect();
    // Replica by replica: a host that caches a virtual disk would favour the layout that was written last.
    all.sort_by_key(|(_, replica)| *replica);
    let missing = all.iter().filter(|(format, i)| !prepared.dir(*format, *i).exists()).count() as u64;
    check_space(storage_path, missing.saturating_mul(layout.bytes() + input.sidecar_bytes()))?;
    let mut content = None;
    for (format, replica) in all {
        let dir = prepared.dir(format, replica);
        if dir.exists() {
            check_reused(&dir, input, format, &mut content, cancel).context(NotReused)?;
        } else if format == Format::Sllm {
            save(input, &layout, &dir, false, cancel, progress)?;
        } else if format == Format::SllmPacked {
            let layout = pack::layout(input, 1, 10 << 30)?;
            let packed = pack::save(input, &layout, &dir, false, cancel, progress)?;
            progress.note(&format!(
                "packed once in {:.1} s, to {:.4} of its size: that is not on any load's clock",
                packed.saved.elapsed_s, packed.ratio
            ));
        } else {
            let first = Checkpoint::read(prepared.dir(Format::Sllm, 0))?;
            export::export(first, &dir, None, false, cancel, progress)?;
        }
    }
    let first = prepared.dir(Format::Sllm, 0);
    let manifest =
        Checkpoint::read(&first)?.manifest.with_context(|| format!("{} has no manifest", first.display()))?;
    prepared.expected = manifest.tensors.clone();
    if safetensors_count > 0 {
        let first = Checkpoint::read(prepared.dir(Format::Safetensors, 0))?;
        prepared.shards = first.files.iter().map(|file| first.name_of(file)).collect();
    }
    Ok(prepared)
}

/// A checkpoint from an earlier run serves again if it holds the same model in files of its own. `content` keeps the
/// model's digests once they were needed.
fn check_reused(
    dir: &Path,
    input: &Input,
    format: Format,
    content: &mut Option<Digests>,
    cancel: &Cancel,
) -> Result<()> {
    let checkpoint = Checkpoint::read(dir)?;
    if !format.is_of_safetensors() {
        check_same(&checkpoint, input, content, cancel)?;
    }
    let held: std::collections::HashMap<&str, _> =
        checkpoint.tensors.iter().map(|t| (t.name.as_str(), (t.dtype, &t.shape))).collect();
    let fits = |t: &crate::write::input::InputTensor| held.get(t.name.as_str()) == Some(&(t.dtype, &t.shape));
    if let Some(tensor) = input.tensors.iter().find(|t| !fits(t)) {
        bail!("{} does not hold tensor '{}' of this model", dir.display(), tensor.name);
    }
    for path in checkpoint.files.iter().map(|f| f.path.as_path()).chain([dir]) {
        if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
            bail!("{} is a symbolic link, and replicas must be real copies", path.display());
        }
    }
    for file in &checkpoint.files {
        let links = file.path.metadata().with_context(|| format!("stat {}", file.path.display()))?.nlink();
        if links > 1 {
            bail!("{} has {links} links, and replicas must be real copies", file.path.display());
        }
    }
    Ok(())
}

/// Whether a checkpoint was made of what the model is now: by words that name the bytes (a commit, a seed), else by the
/// bytes themselves. A path and a time do not tell.
fn check_same(
    checkpoint: &Checkpoint,
    input: &Input,
    content: &mut Option<Digests>,
    cancel: &Cancel,
) -> Result<()> {
    let dir = checkpoint.dir.display();
    let Some(manifest) = &checkpoint.manifest else { bail!("{dir} was made by another program") };
    if manifest.made_from == input.made_from && matches!(input.identity, Identity::Words) {
        return Ok(());
    }
    let differs = |what: String| {
        anyhow!(
            "{dir} was made from {}, and {} is another by now: {what}",
            manifest.made_from,
            input.made_from
        )
    };
    if manifest.source != input.origin {
        bail!(differs("the headers of its safetensors files differ".into()));
    }
    let content = match content {
        Some(content) => content,
        None => content.insert(input.digests(cancel)?),
    };
    match content.iter().find(|(name, digest)| manifest.tensors.get(*name) != Some(*digest)) {
        Some((name, _)) => bail!(differs(format!("the tensor '{name}' differs"))),
        None => Ok(()),
    }
}
