//! Where `save` takes a model from: a checkpoint on disk (any layout, or fetched from the hub), or made up.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::checkpoint::reader::{TensorReader, TensorSource};
use crate::checkpoint::{Checkpoint, contiguous_stride};
use crate::origin::synthetic;
use crate::os::cancel::Cancel;
use crate::os::progress::Progress;
pub use crate::write::input::{Identity, Input, InputTensor};
use crate::write::input::{origin, places};
use crate::write::sidecars;
use crate::write::sidecars::Sidecar;

/// Opens the model that these words name: a directory, a hub id, or `synthetic:` and an id.
pub fn open(
    model: &str,
    seed: u64,
    hf_token: Option<&str>,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Input> {
    if let Some(spec) = model.strip_prefix(synthetic::PREFIX) {
        return made_up(synthetic::model(spec)?, seed);
    }
    let path = Path::new(model);
    let absent = path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound);
    if !absent {
        let checkpoint = Checkpoint::open_whole(path)?;
        let whole = path.canonicalize().with_context(|| format!("resolve {}", path.display()))?;
        // As the user called it, a link's own name too; `.` and `..` say nothing.
        let called = if path.file_name().is_some() { path } else { &whole };
        let name = if path.is_file() { called.file_stem() } else { called.file_name() };
        let name = name.map_or("model".into(), |n| n.to_string_lossy().into_owned());
        return on_disk(checkpoint, name, whole.display().to_string(), Identity::Bytes);
    }
    if ["/", "./", "../"].iter().any(|head| model.starts_with(head)) || model.ends_with('/') {
        bail!("{model} does not exist: it is neither a directory nor a hub id");
    }
    from_hub(model, hf_token, cancel, progress)
}

/// A checkpoint that is there, by whatever name it was found.
pub fn of_checkpoint(checkpoint: Checkpoint) -> Result<Input> {
    let dir = &checkpoint.dir;
    let whole = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
    let name = whole.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    on_disk(checkpoint, name, whole.display().to_string(), Identity::Bytes)
}

#[cfg(feature = "hub")]
fn from_hub(model: &str, hf_token: Option<&str>, cancel: &Cancel, progress: &Progress) -> Result<Input> {
    use crate::origin::hub;
    if !hub::is_id(model) {
        bail!(
            "'{model}' is neither a directory nor a hub id; to make a model up, write synthetic:facebook/opt-125m"
        );
    }
    let mut options = hub::Options::from_env(hf_token)?;
    options.cancel = cancel.clone();
    options.progress = progress.clone();
    let snapshot = hub::fetch(model, &options)?;
    let id = model.split_once('@').map_or(model, |(id, _)| id);
    // A branch moves on; the snapshot's directory is named by the commit.
    let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let checkpoint = Checkpoint::open_whole(&snapshot).with_context(|| {
        format!(
            "read {id} in the hub's cache (is a file there damaged, remove it and the blob that it links to, and run this \
             again)"
        )
    })?;
    on_disk(checkpoint, id.to_string(), format!("{id}@{commit}"), Identity::Words)
}

#[cfg(not(feature = "hub"))]
fn from_hub(model: &str, _: Option<&str>, _: &Cancel, _: &Progress) -> Result<Input> {
    bail!(
        "there is no directory '{model}', and this build can't ask the hub (it lacks the feature `hub`); to make a model \
         up, write synthetic:facebook/opt-125m"
    )
}

fn made_up(model: synthetic::Model, seed: u64) -> Result<Input> {
    let mut tensors = Vec::new();
    for spec in &model.tensors {
        let bytes = spec.bytes().with_context(|| format!("tensor '{}' overflows", spec.name))?;
        let (name, shape, stride) = (spec.name.clone(), spec.shape.clone(), contiguous_stride(&spec.shape));
        tensors.push(InputTensor { name, dtype: spec.dtype, shape, stride, bytes, tied_to: None });
    }
    let values = synthetic::Values::new(seed, &model);
    let made_from = format!("{}{} with seed {seed}", synthetic::PREFIX, model.id);
    let mut input =
        Input::made_up(format!("synthetic/{}", model.id), made_from, tensors, Box::new(MadeUp(values)));
    let content = sidecars::Content::Text(model.config_json);
    input.sidecars.carried.push(Sidecar { name: "config.json".into(), content });
    Ok(input)
}

struct MadeUp(synthetic::Values);

impl TensorSource for MadeUp {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.fill(tensor, offset, out);
        Ok(())
    }
}

fn on_disk(
    checkpoint: Checkpoint,
    default_name: String,
    made_from: String,
    identity: Identity,
) -> Result<Input> {
    let mut first_at: HashMap<(u64, u64), usize> = HashMap::new();
    let mut tensors: Vec<InputTensor> = Vec::new();
    for (i, t) in checkpoint.tensors.iter().enumerate() {
        let first = *first_at.entry((t.offset, t.bytes)).or_insert(i);
        let tied_to = (first != i && t.bytes > 0).then_some(first);
        let (name, shape, stride) = (t.name.clone(), t.shape.clone(), t.stride.clone());
        tensors.push(InputTensor { name, dtype: t.dtype, shape, stride, bytes: t.bytes, tied_to });
    }
    let sidecars = sidecars::of(&checkpoint)?;
    let origin = origin(&checkpoint)?;
    let expected = checkpoint.manifest.as_ref().map(|m| m.tensors.clone());
    let (places, notes) = (places(&checkpoint), checkpoint.notes_of_parts());
    let source = Box::new(TensorReader::new(checkpoint)?);
    Ok(Input {
        default_name,
        made_from,
        identity,
        tensors,
        source,
        sidecars,
        expected,
        origin,
        places,
        notes,
    })
}
