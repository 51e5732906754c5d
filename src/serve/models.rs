//! Which models there are: paths below the storage path, and the files behind them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tonic::Code;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::served::served;
use crate::os::digest::Digest;
use crate::os::error::Error;
use crate::serve::refusal::Refusal;

/// Longer names are no paths.
const MOST_NAME_BYTES: usize = 4096;

/// Recorded digests of tensors, by where they lie in the model's files, laid end to end: (offset, bytes).
pub type Recorded = HashMap<(u64, u64), (String, Digest)>;

/// Files, and what was recorded of them.
type OfFiles = (Arc<Checkpoint>, Arc<Recorded>);

/// The models below a storage path.
pub struct Models {
    storage_path: PathBuf,
    /// By name: those that were asked for, as they were last found.
    known: Mutex<BTreeMap<String, Arc<Checkpoint>>>,
    /// By name: files, and their digests.
    recorded: Mutex<HashMap<String, OfFiles>>,
}

impl Models {
    /// Those below this path, which has no links in it.
    pub fn new(storage_path: PathBuf) -> Models {
        Models { storage_path, known: Mutex::default(), recorded: Mutex::default() }
    }

    /// Below which they lie, without links.
    pub fn storage_path(&self) -> &Path {
        &self.storage_path
    }

    /// A name as the server keeps it: a path from the storage path, without what says nothing, so that `m/`, `./m` and the
    /// absolute path of `m` are one model.
    pub fn plain(&self, name: &str) -> String {
        let path = Path::new(name);
        let below: PathBuf = path.strip_prefix(&self.storage_path).unwrap_or(path).components().collect();
        let below = below.strip_prefix(".").unwrap_or(&below);
        below.to_string_lossy().into_owned()
    }

    /// Looks at a model's files anew, and remembers them: its checkpoint has no tensors, only ranges of files.
    pub fn open(&self, name: &str) -> Result<Arc<Checkpoint>, Refusal> {
        let path = self.path(name)?;
        let found = served(&path, Some(&self.storage_path)).map_err(Refusal::from)?;
        let checkpoint = Arc::new(found.checkpoint());
        self.lock().insert(self.plain(name), checkpoint.clone());
        Ok(checkpoint)
    }

    /// The same for ServerlessLLM's clients, who read the files' index themselves and know no packed ones.
    pub fn open_for_theirs(&self, name: &str) -> Result<Arc<Checkpoint>, Refusal> {
        let checkpoint = self.open(name)?;
        match &checkpoint.packed {
            None => Ok(checkpoint),
            Some(_) => Err(Refusal::new(
                Code::FailedPrecondition,
                format!(
                    "the model '{name}' is packed, which ServerlessLLM's clients can't read: make safetensors files of it by \
                     `sllm-gds export`, and serve those"
                ),
            )),
        }
    }

    /// As it was last found, if it ever was.
    pub fn known(&self, name: &str) -> Option<Arc<Checkpoint>> {
        self.lock().get(&self.plain(name)).cloned()
    }

    /// The digests that were recorded of a model when it was saved; none where nothing was.
    pub fn recorded(&self, name: &str, files: &Arc<Checkpoint>) -> Result<Arc<Recorded>, Refusal> {
        let known = || self.recorded.lock().unwrap_or_else(|e| e.into_inner());
        let name = self.plain(name);
        if let Some((of, recorded)) = known().get(&name)
            && of.files == files.files
        {
            return Ok(recorded.clone());
        }
        let found = Checkpoint::open_below(&files.dir, Some(&self.storage_path)).map_err(Error::from)?;
        let mut recorded = Recorded::new();
        let of_manifest = found.manifest.as_ref().map(|manifest| &manifest.tensors);
        let of_index = found.chosen.indexed.as_ref().map(|indexed| &indexed.tensors);
        for tensor in found.tensors() {
            if let Some(digest) = of_manifest.or(of_index).and_then(|digests| digests.get(&tensor.name)) {
                recorded.insert((tensor.offset, tensor.bytes), (tensor.name.clone(), *digest));
            }
        }
        let recorded = Arc::new(recorded);
        known().insert(name, (files.clone(), recorded.clone()));
        Ok(recorded)
    }

    /// All that were asked for, by name.
    pub fn all(&self) -> BTreeMap<String, Arc<Checkpoint>> {
        self.lock().clone()
    }

    /// Where a model lies: never outside the storage path. Links may lead anywhere below it.
    pub fn path(&self, name: &str) -> Result<PathBuf, Refusal> {
        let storage = self.storage_path.display();
        if name.is_empty() {
            return Err(Refusal::invalid("the model's path is empty: name one below the storage path"));
        }
        if name.len() > MOST_NAME_BYTES || name.contains('\0') {
            return Err(Refusal::invalid(format!(
                "a model's path of {} bytes, or with a NUL in it, is none",
                name.len()
            )));
        }
        let outside = || {
            Refusal::invalid(format!(
                "the model's path '{name}' leads out of the storage path {storage}: name a path below that"
            ))
        };
        if Path::new(name).components().any(|part| part == Component::ParentDir) {
            return Err(outside());
        }
        // An absolute one takes the storage path's place here, and is held against it.
        let path = self.storage_path.join(name);
        match path.canonicalize() {
            Ok(real) if real.starts_with(&self.storage_path) && real != self.storage_path => Ok(real),
            Ok(_) => Err(outside()),
            Err(_) if !path.starts_with(&self.storage_path) => Err(outside()),
            Err(error) => Err(Refusal::new(
                Code::NotFound,
                format!("there is no model '{name}' below the storage path {storage} ({error})"),
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Checkpoint>>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_storage_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let storage = root.join("models");
        std::fs::create_dir_all(storage.join("a/rank_0")).unwrap();
        std::fs::create_dir_all(root.join("secret")).unwrap();
        std::os::unix::fs::symlink(root.join("secret"), storage.join("link")).unwrap();
        std::os::unix::fs::symlink(storage.join("a"), storage.join("alias")).unwrap();
        let models = Models::new(storage.clone());
        let code = |name: &str| models.path(name).map_err(|refusal| refusal.code);
        assert_eq!(code("a/rank_0"), Ok(storage.join("a/rank_0")));
        assert_eq!(code("alias"), Ok(storage.join("a")));
        assert_eq!(code(storage.join("a").to_str().unwrap()), Ok(storage.join("a")));
        let secret = root.join("secret");
        for name in [
            "",
            "..",
            "a/../../secret",
            ".",
            "a/..",
            "link",
            "/etc",
            "/no/such",
            secret.to_str().unwrap(),
            "a\0b",
        ] {
            assert_eq!(code(name), Err(Code::InvalidArgument), "{name}");
        }
        assert_eq!(code(&"x".repeat(5000)), Err(Code::InvalidArgument));
        assert_eq!(code("none"), Err(Code::NotFound));
    }

    #[test]
    fn a_model_has_one_name_however_it_is_spelled() {
        let models = Models::new("/models".into());
        for name in ["org/m", "org/m/", "./org/m", "org//m", "org/./m/.", "/models/org/m", "/models/org/m/"] {
            assert_eq!(models.plain(name), "org/m", "{name}");
        }
        for name in ["", "/other/m", "../m"] {
            assert_eq!(models.plain(name), name);
        }
    }
}
