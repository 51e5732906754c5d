//! Where `save` takes a model from: a checkpoint on disk (any layout, or fetched from the hub), or made up.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkpoint::manifest;
use crate::checkpoint::{Checkpoint, DType, Layout, contiguous_stride, safetensors};
use crate::load::verify::read_digests;
use crate::origin::{hub, synthetic};
use crate::os::cancel::Cancel;
use crate::os::digest::Digest;
use crate::os::sys;
use crate::write::files::Source;
use crate::write::sidecars;
use crate::write::sidecars::{Sidecar, Sidecars};

/// A tensor to be saved. Tied ones name the tensor whose bytes they share.
pub struct InputTensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub stride: Vec<u64>,
    pub bytes: u64,
    pub tied_to: Option<usize>,
}

/// Where a model came from: compared when a checkpoint that was made of it is to serve again.
#[derive(Debug, Clone)]
pub enum Identity {
    /// The words alone name the bytes: a hub's commit, or made-up values with their seed.
    Words,
    /// A path, whose bytes may have changed since.
    Bytes,
}

pub struct Input {
    pub default_name: String,
    /// For the manifest, so that nobody takes made-up values for real ones.
    pub made_from: String,
    pub identity: Identity,
    pub tensors: Vec<InputTensor>,
    pub source: Box<dyn Source>,
    pub sidecars: Sidecars,
    /// What its manifest says of its tensors; a save that reads anything else fails.
    pub expected: Option<BTreeMap<String, Digest>>,
    /// The safetensors headers it came with.
    pub origin: Option<manifest::Source>,
    /// Its files and its directory: no target may hold them, or lie in them.
    pub places: Vec<PathBuf>,
    /// What a user should hear of how the model was told from other files.
    pub notes: Vec<String>,
}

impl Input {
    /// Made-up tensors, with nothing beside them.
    pub fn made_up(
        default_name: String,
        made_from: String,
        tensors: Vec<InputTensor>,
        source: Box<dyn Source>,
    ) -> Input {
        Input {
            default_name,
            made_from,
            identity: Identity::Words,
            tensors,
            source,
            sidecars: Sidecars::default(),
            expected: None,
            origin: None,
            places: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The digest of each tensor, from one read of all of them.
    pub fn digests(&self, cancel: &Cancel) -> Result<BTreeMap<String, Digest>> {
        let own = |i: usize| self.tensors[i].tied_to.unwrap_or(i);
        let sizes: Vec<u64> = self.tensors.iter().map(|t| t.bytes).collect();
        let digests = read_digests(&sizes, self.source.as_ref(), cancel)?;
        Ok(self.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), digests[own(i)])).collect())
    }

    /// Bytes of the files that go beside the weights.
    pub fn sidecar_bytes(&self) -> u64 {
        self.sidecars.carried.iter().map(Sidecar::bytes).sum()
    }
}

/// Opens what `--model` names.
pub fn open(model: &str, seed: u64, hf_token: Option<&str>, cancel: &Cancel) -> Result<Input> {
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
    if !hub::is_id(model) {
        bail!(
            "'{model}' is neither a directory nor a hub id; to make a model up, write synthetic:facebook/opt-125m"
        );
    }
    let mut options = hub::Options::from_env(hf_token)?;
    options.cancel = cancel.clone();
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

/// A checkpoint's directory, or its one file, and where its files really lie.
pub fn places(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let dir = (!checkpoint.chosen.single_file).then(|| checkpoint.dir.clone());
    dir.into_iter().chain(checkpoint.files.iter().map(|file| file.path.clone())).collect()
}

/// What `export` needs to give the same files back; kept along when a checkpoint is saved again.
pub fn origin(checkpoint: &Checkpoint) -> Result<Option<manifest::Source>> {
    if checkpoint.layout == Layout::Sllm {
        return Ok(checkpoint.manifest.as_ref().and_then(|m| m.source.clone()));
    }
    let mut shards = Vec::new();
    for file in &checkpoint.files {
        let header = safetensors::read_header(&file.path)?.1;
        shards.push(manifest::SourceShard { file: checkpoint.name_of(file), header });
    }
    let not_whole = checkpoint.chosen.unread.first().map(|(shard, name)| {
        format!("{shard} held the tensor '{name}', which the index places in another shard")
    });
    Ok(Some(manifest::Source { shards, index: checkpoint.chosen.index.clone(), not_whole }))
}

/// Reads tensors of a checkpoint through plain file reads: no engine, no cleverness, so that it can also
/// serve as the judge of loads.
pub struct TensorReader {
    pub checkpoint: Checkpoint,
    files: Vec<File>,
}

impl TensorReader {
    pub fn new(checkpoint: Checkpoint) -> Result<TensorReader> {
        let open = |f: &crate::checkpoint::DataFile| {
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

    fn check_unchanged(&self) -> Result<()> {
        self.checkpoint
            .files
            .iter()
            .zip(&self.files)
            .try_for_each(|(file, handle)| file.check_unchanged(handle))
    }
}
