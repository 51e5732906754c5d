//! Where `save` takes a model from: a checkpoint on disk (any layout, or fetched from the hub), or made up.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::manifest;
use super::write::Source;
use super::{Checkpoint, DType, Layout, contiguous_stride, hub, safetensors, synthetic};
use crate::interrupt::Cancel;
use crate::sys;

/// A tensor to be saved. Tied ones name the tensor whose bytes they share.
pub struct InputTensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub stride: Vec<u64>,
    pub bytes: u64,
    pub tied_to: Option<usize>,
}

/// A file that goes beside the weights.
pub enum Sidecar {
    Copy(PathBuf),
    Text(&'static str, String),
}

pub struct Input {
    pub default_name: String,
    /// For the manifest, so that nobody takes made-up values for real ones.
    pub made_from: String,
    pub tensors: Vec<InputTensor>,
    pub source: Box<dyn Source>,
    pub sidecars: Vec<Sidecar>,
    /// What its manifest says of its tensors; a save that reads anything else fails.
    pub expected: Option<std::collections::BTreeMap<String, crate::digest::Digest>>,
    /// The safetensors headers it came with.
    pub origin: Option<manifest::Source>,
}

impl Input {
    /// Bytes of the files that go beside the weights.
    pub fn sidecar_bytes(&self) -> u64 {
        let bytes = |sidecar: &Sidecar| match sidecar {
            Sidecar::Copy(path) => path.metadata().map_or(0, |m| m.len()),
            Sidecar::Text(_, text) => text.len() as u64,
        };
        self.sidecars.iter().map(bytes).sum()
    }
}

/// Opens what `--model` names.
pub fn open(model: &str, seed: u64, hf_token: Option<&str>, cancel: &Cancel) -> Result<Input> {
    if let Some(spec) = model.strip_prefix(synthetic::PREFIX) {
        return made_up(synthetic::model(spec)?, seed);
    }
    let path = Path::new(model);
    if path.exists() {
        let checkpoint = Checkpoint::open(path)?;
        let whole = path.canonicalize().with_context(|| format!("resolve {}", path.display()))?;
        let name = if path.is_file() { whole.file_stem() } else { whole.file_name() };
        let name = name.map_or("model".into(), |n| n.to_string_lossy().into_owned());
        let made_from = format!("{} ({})", whole.display(), state(&checkpoint)?);
        return on_disk(checkpoint, name, made_from, path.is_dir());
    }
    if !hub::is_id(model) {
        bail!(
            "'{model}' is neither a directory nor a hub id; to make a model up, write synthetic:facebook/opt-125m"
        );
    }
    let mut options = hub::Options::from_env(hf_token)?;
    options.cancel = cancel.clone();
    let snapshot = hub::fetch(model, &options)?;
    let name = model.split_once('@').map_or(model, |(id, _)| id);
    on_disk(Checkpoint::open(&snapshot)?, name.to_string(), model.to_string(), true)
}

/// Tells a model that was changed in place: bytes, and when its files last changed.
fn state(checkpoint: &Checkpoint) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let mut changed_s = 0;
    for file in &checkpoint.files {
        let metadata = file.path.metadata().with_context(|| format!("stat {}", file.path.display()))?;
        changed_s = changed_s.max(metadata.mtime());
    }
    Ok(format!("{} bytes, last changed {changed_s} s after 1970", checkpoint.file_bytes()))
}

fn made_up(model: synthetic::Model, seed: u64) -> Result<Input> {
    let mut tensors = Vec::new();
    for spec in &model.tensors {
        let bytes = spec.bytes().with_context(|| format!("tensor '{}' overflows", spec.name))?;
        let (name, shape, stride) = (spec.name.clone(), spec.shape.clone(), contiguous_stride(&spec.shape));
        tensors.push(InputTensor { name, dtype: spec.dtype, shape, stride, bytes, tied_to: None });
    }
    let values = synthetic::Values::new(seed, &model);
    Ok(Input {
        made_from: format!("{}{} with seed {seed}", synthetic::PREFIX, model.id),
        default_name: format!("synthetic/{}", model.id),
        tensors,
        source: Box::new(MadeUp(values)),
        sidecars: vec![Sidecar::Text("config.json", model.config_json)],
        expected: None,
        origin: None,
    })
}

struct MadeUp(synthetic::Values);

impl Source for MadeUp {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.fill(tensor, offset, out);
        Ok(())
    }
}

fn on_disk(
    checkpoint: Checkpoint,
    default_name: String,
    made_from: String,
    whole_dir: bool,
) -> Result<Input> {
    let mut first_at: HashMap<(u64, u64), usize> = HashMap::new();
    let mut tensors: Vec<InputTensor> = Vec::new();
    for (i, t) in checkpoint.tensors.iter().enumerate() {
        let first = *first_at.entry((t.offset, t.bytes)).or_insert(i);
        let tied_to = (first != i && t.bytes > 0).then_some(first);
        let (name, shape, stride) = (t.name.clone(), t.shape.clone(), t.stride.clone());
        tensors.push(InputTensor { name, dtype: t.dtype, shape, stride, bytes: t.bytes, tied_to });
    }
    let sidecars = checkpoint.sidecars()?.into_iter().map(Sidecar::Copy).collect();
    let origin = origin(&checkpoint, whole_dir)?;
    let expected = checkpoint.manifest.as_ref().map(|m| m.tensors.clone());
    let source = Box::new(TensorReader::new(checkpoint)?);
    Ok(Input { default_name, made_from, tensors, source, sidecars, expected, origin })
}

/// What `export` needs to give the same files back; kept along when a checkpoint is saved again. The shards'
/// index belongs to a whole directory, not to one shard of it.
fn origin(checkpoint: &Checkpoint, whole_dir: bool) -> Result<Option<manifest::Source>> {
    if checkpoint.layout == Layout::Sllm {
        return Ok(checkpoint.manifest.as_ref().and_then(|m| m.source.clone()));
    }
    let mut shards = Vec::new();
    for file in &checkpoint.files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        shards.push(manifest::SourceShard { file: name, header: safetensors::read_header(&file.path)?.1 });
    }
    let index = match safetensors::index_path(&checkpoint.dir)? {
        Some(path) if whole_dir => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Some((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text))
        }
        _ => None,
    };
    Ok(Some(manifest::Source { shards, index }))
}

/// Reads tensors of a checkpoint through plain file reads: no engine, no cleverness, so that it can also
/// serve as the judge of loads.
pub struct TensorReader {
    pub checkpoint: Checkpoint,
    files: Vec<File>,
}

impl TensorReader {
    pub fn new(checkpoint: Checkpoint) -> Result<TensorReader> {
        let open = |f: &super::DataFile| {
            sys::open_regular(&f.path).with_context(|| format!("open {}", f.path.display()))
        };
        let files = checkpoint.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(TensorReader { checkpoint, files })
    }
}

impl Source for TensorReader {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            // A tensor without bytes may lie at the very end, in no file.
            return Ok(());
        }
        let tensor = &self.checkpoint.tensors[tensor];
        let Some(index) = self.checkpoint.file_at(tensor.offset) else {
            bail!("tensor '{}' lies past the end of the files", tensor.name)
        };
        let file = &self.checkpoint.files[index];
        let at = tensor.offset - file.base + offset;
        self.files[index].read_exact_at(out, at).with_context(|| {
            format!("read {} bytes at {at} of {} (tensor '{}')", out.len(), file.path.display(), tensor.name)
        })
    }
}
