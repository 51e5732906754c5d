//! Opening a checkpoint: layouts told apart, and what to do where there is none.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkpoint::error::of_opening;
use crate::checkpoint::names::{INDEX_FILE, MANIFEST_FILE, PACKED_INDEX_FILE, is_path, partition_name};
use crate::checkpoint::{
    Checkpoint, CheckpointError, Layout, Tensor, beside, indexed, list, listing, malformed, packed,
    safetensors, shard_sets, sllm,
};
use crate::os::error::{Doing, Error};
use crate::os::remains;
use crate::os::sys::DIRECT_ALIGN;

impl Checkpoint {
    /// Opens a directory, telling the layouts apart, or a single `.safetensors` file: reads its index and headers, and
    /// refuses what can't be right before anything is loaded.
    ///
    /// # Errors
    /// - [`Error::NotFound`]: there is nothing at this path.
    /// - [`Error::Checkpoint`]: there is something else, or files of the checkpoint are missing, cut short, or do not fit
    ///   together.
    /// - [`Error::Io`]: the system won't let a file or a directory be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, Error> {
        Checkpoint::read(path).map_err(of_opening)
    }

    /// As [`Checkpoint::open`], with all that is known of an error.
    #[doc(hidden)]
    pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open_below(path.as_ref(), None)
    }

    /// As [`Checkpoint::open`]; links inside the model may lead anywhere below `storage_path`, too.
    #[doc(hidden)]
    pub fn open_below(path: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
        let about = match path.metadata() {
            Ok(about) => about,
            Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => {
                return Err(missing(path));
            }
            Err(e) => {
                let what = || format!("open the checkpoint {}", path.display());
                let what = listing::explain_no_directory(path).unwrap_or_else(what);
                return Err(e).context(Doing::new(what, path));
            }
        };
        if !about.is_file() && !about.is_dir() {
            let what = "neither a directory nor a regular file: name a checkpoint's directory, or one safetensors file";
            return Err(malformed(path, what));
        }
        let opened = if about.is_file() {
            safetensors::open_file(path, storage_path)
        } else if packed::open::is_in(path)? {
            packed::open::open(path, storage_path)
        } else if sllm::is_in(path)? {
            sllm::open(path, storage_path)
        } else if safetensors::is_in(path)? {
            safetensors::open_dir(path, storage_path)
        } else if holds_pickles(path)? {
            return Err(CheckpointError::OnlyPickles(path.to_path_buf()).into());
        } else {
            let advice = unknown_advice(path)?;
            return Err(CheckpointError::Unknown { path: path.to_path_buf(), advice }.into());
        };
        opened.with_context(|| Doing::new(format!("open the checkpoint {}", path.display()), path))
    }

    /// Opens a directory of safetensors files, whatever else lies there.
    #[doc(hidden)]
    pub fn read_safetensors(dir: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
        match dir.metadata() {
            Ok(about) if about.is_dir() => {}
            Ok(_) => return Err(malformed(dir, "not a directory: name the one that holds the model")),
            Err(e) if e.kind() == ErrorKind::NotFound && !dir.is_symlink() => return Err(missing(dir)),
            Err(e) => return Err(e).with_context(|| format!("stat {}", dir.display())),
        }
        if !safetensors::is_in(dir)? {
            let advice = match sllm::is_in(dir)? {
                true => "it is in ServerlessLLM's layout, and served as it is".to_string(),
                false => unknown_advice(dir)?,
            };
            return Err(malformed(dir, format!("holds no safetensors files; {advice}")));
        }
        let opened = safetensors::open_dir(dir, storage_path);
        opened.with_context(|| Doing::new(format!("open the checkpoint {}", dir.display()), dir))
    }

    /// As [`Checkpoint::open`], for whoever needs all of the model: refuses one that lost tensors, or has none.
    #[doc(hidden)]
    pub fn open_whole(path: &Path) -> Result<Checkpoint> {
        Checkpoint::read(path)?.whole()
    }

    /// Refuses a checkpoint that lost tensors, or has none.
    #[doc(hidden)]
    pub fn whole(self) -> Result<Checkpoint> {
        if let Some(lost) = self.what_is_lost() {
            bail!(malformed(&self.dir, lost));
        }
        if self.tensors.is_empty() {
            bail!(malformed(&self.dir, "holds no tensors"));
        }
        Ok(self)
    }

    /// Which tensors the files lack, in words.
    #[doc(hidden)]
    pub fn what_is_lost(&self) -> Option<String> {
        let first = self.lost.first()?;
        let file = self.files.last()?;
        let needed_bytes = self.lost.iter().map(Tensor::end).max().unwrap_or(0) - file.base;
        let next = partition_name(self.files.len());
        Some(format!(
            "{} of {} tensors are lost, '{}' the first: {} ends at byte {}, and the index goes on to byte {needed_bytes}. \
             It was cut short (ServerlessLLM's saver passes over a failed last write), or {next} is missing; save the \
             model again{}",
            self.lost.len(),
            self.lost.len() + self.tensors.len(),
            first.name,
            file.path.display(),
            file.bytes,
            if self.tensors.is_empty() {
                ""
            } else {
                ", or take those that are whole by an export of whole tensors"
            },
        ))
    }

    /// What a user should hear of how the model was told from other files.
    #[doc(hidden)]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.chosen.left_out.is_empty() {
            let index = self.chosen.index.as_ref().map(|(file, _)| file.as_str());
            let index = index.or(self.saved_index());
            let by = index.map(|file| format!(" ({file} decides, and names none of them)"));
            let names = beside::summary(&self.chosen.left_out);
            notes.push(format!("not part of the model: {names}{}", by.unwrap_or_default()));
        }
        if !self.chosen.below.is_empty() {
            let names = beside::summary(&self.chosen.below);
            notes.push(format!("weights in folders that are not part of the model: {names}"));
        }
        notes.extend(self.notes_of_parts());
        notes
    }

    /// In what ways this is not all of what its files hold, or of what its names say, in words.
    #[doc(hidden)]
    pub fn notes_of_parts(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.note_of_part().into_iter().collect();
        let gone = self.missing_beside();
        if !gone.is_empty() {
            notes.push(format!("saved beside the weights, and missing now: {}", beside::summary(&gone)));
        }
        let may_be = |name: &String| {
            format!(
                "{name} says of itself that it may be one of several files of a model, and no others are here"
            )
        };
        notes.extend(self.chosen.may_be_part.as_ref().map(may_be));
        notes.extend(self.chosen.odd_index.clone());
        if !self.chosen.taken_together.is_empty() {
            let names = beside::summary(&self.chosen.taken_together);
            notes.push(format!(
                "taken together, though no index says that they are one model, and all of it: {names}"
            ));
        }
        notes.extend(self.note_of_place());
        notes.extend(self.note_of_hole());
        notes
    }

    /// Of ServerlessLLM's own files, bytes that belong to no tensor: more than its saver's padding, or than ours.
    fn note_of_hole(&self) -> Option<String> {
        if self.layout != Layout::Sllm || self.manifest.is_some() {
            return None;
        }
        let mut holes: Vec<(u64, String)> = Vec::new();
        for file in &self.files {
            let of_file = || self.tensors_in(file.base, file.end()).filter(|tensor| tensor.bytes > 0);
            let align = if of_file().all(|t| (t.offset - file.base).is_multiple_of(256)) { 256 } else { 8 };
            let mut end = file.base;
            for tensor in of_file() {
                if tensor.offset > end && tensor.offset - end >= align {
                    holes.push((tensor.offset - end, format!("before '{}'", tensor.name)));
                }
                end = end.max(tensor.end());
            }
            if file.end() - end > DIRECT_ALIGN {
                holes.push((file.end() - end, format!("at the end of {}", self.name_of(file))));
            }
        }
        let (_, place) = holes.first()?;
        let bytes: u64 = holes.iter().map(|(bytes, _)| bytes).sum();
        Some(format!(
            "{bytes} bytes belong to no tensor, the first of them {place}: {} may have lost tensors",
            INDEX_FILE
        ))
    }

    /// Its own files by their names, as a listing of its directory has them: what a load reads.
    #[doc(hidden)]
    pub fn own_files(&self) -> Vec<String> {
        let mut files: Vec<String> = self.files.iter().map(|file| self.name_of(file)).collect();
        files.extend(
            self.saved_index().into_iter().flat_map(|index| [index, MANIFEST_FILE].map(str::to_string)),
        );
        files.extend(self.chosen.index.iter().map(|(file, _)| file.clone()));
        files
    }

    /// The index that says what its files hold, where a save wrote one.
    fn saved_index(&self) -> Option<&'static str> {
        match self.layout {
            Layout::Sllm => Some(INDEX_FILE),
            Layout::Packed => Some(PACKED_INDEX_FILE),
            Layout::Safetensors => None,
        }
    }

    /// Its own files, and those that `save` and `index` made for ServerlessLLM's clients and nobody has edited since: what never
    /// becomes part of another checkpoint.
    #[doc(hidden)]
    pub fn all_own_files(&self) -> Vec<String> {
        let mut files = self.own_files();
        files.extend(self.chosen.indexed.iter().flat_map(|indexed| indexed.own_files(&self.dir)));
        if let Some(manifest) = &self.manifest {
            let is_made = |name: &&String| indexed::is_unedited(&self.dir, name, &manifest.beside_digests);
            files.extend(manifest.made_beside.iter().filter(is_made).cloned());
        }
        files
    }

    /// Entries that only its `tensor_index.json` has, for ServerlessLLM's clients: tied weights by the tensor that they share.
    #[doc(hidden)]
    pub fn aliases(&self) -> BTreeMap<String, String> {
        let of_index = self.chosen.indexed.as_ref().map(|indexed| &indexed.aliases);
        let of_manifest = self.manifest.as_ref().map(|manifest| &manifest.aliases);
        of_manifest.or(of_index).cloned().unwrap_or_default()
    }

    /// The files that a save wrote beside the weights and that are gone.
    #[doc(hidden)]
    pub fn missing_beside(&self) -> Vec<String> {
        let recorded = self.manifest.as_ref().and_then(|manifest| manifest.beside.as_ref());
        let gone = |name: &&String| !self.dir.join(name).is_file();
        recorded.into_iter().flatten().filter(gone).cloned().collect()
    }

    /// Which of two checkpoints of one name was taken, where there are two.
    #[doc(hidden)]
    pub fn note_of_place(&self) -> Option<String> {
        let other = self.chosen.passed_over.as_ref()?;
        Some(format!(
            "taken from {}; {} has that name, too, and was not taken",
            self.dir.display(),
            other.display()
        ))
    }

    fn note_of_part(&self) -> Option<String> {
        let name = self.files.first().map(|file| self.name_of(file)).unwrap_or_default();
        if self.chosen.single_file && shard_sets::is_numbered(&name) {
            return Some(format!(
                "{name} is one of several shards, and the others are not taken: for the whole model name its directory"
            ));
        }
        let (shard, name) = self.chosen.unread.first()?;
        Some(match self.chosen.unread.len() {
            1 => {
                format!("the tensor '{name}' of {shard} does not count: the index places it in another shard")
            }
            more => format!(
                "{more} tensors do not count where they are, such as '{name}' of {shard}: the index places them in other \
                 shards"
            ),
        })
    }

    /// Where a checkpoint is: what begins with `/`, `./` or `../` or ends with `/` is a path; any other is a name under
    /// the storage path first, and a path where that has none.
    #[doc(hidden)]
    pub fn locate(name: &str, storage_path: &Path) -> PathBuf {
        let (stored, direct) = (storage_path.join(name), PathBuf::from(name));
        if is_path(name) || (!is_absent(&direct) && is_absent(&stored)) { direct } else { stored }
    }

    /// What lies at the same name and is not what [`Checkpoint::locate`] finds: nobody should take it for that.
    #[doc(hidden)]
    pub fn passed_over(name: &str, storage_path: &Path) -> Option<PathBuf> {
        let (stored, direct) = (storage_path.join(name), PathBuf::from(name));
        if is_path(name) || is_absent(&stored) || is_absent(&direct) {
            return None;
        }
        let is_same = stored.canonicalize().ok().is_some_and(|real| direct.canonicalize().ok() == Some(real));
        (!is_same).then_some(direct)
    }

    /// Opens the checkpoint that [`Checkpoint::locate`] finds.
    #[doc(hidden)]
    pub fn find(name: &str, storage_path: &Path) -> Result<Checkpoint> {
        let mut found = Checkpoint::open_below(&Checkpoint::locate(name, storage_path), Some(storage_path))?;
        found.chosen.passed_over = Checkpoint::passed_over(name, storage_path);
        Ok(found)
    }
}

/// There is nothing at this path, or what an overwrite moved aside.
pub(super) fn missing(path: &Path) -> anyhow::Error {
    let missing = anyhow::Error::from(CheckpointError::Missing(path.to_path_buf()));
    match remains::set_aside(path) {
        Some(old) => missing.context(format!(
            "an overwrite was cut short, and the old checkpoint lies whole in {}: the next save or export beside it puts \
             it back, as mv does",
            old.display()
        )),
        None => missing,
    }
}

/// One that may not be looked at is there, and opening it says so.
fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound)
}

/// Where weights lie below a folder that holds none, or what else it holds.
pub(super) fn unknown_advice(dir: &Path) -> Result<String> {
    let below = listing::with_weights(dir);
    if !below.is_empty() {
        return Ok(format!("weights lie below it, in {}: point at one of these", beside::summary(&below)));
    }
    let gguf = list(dir)?.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf"));
    Ok(match gguf {
        Some(path) => format!(
            "{} is for llama.cpp, and is not read: take the model's safetensors files",
            path.file_name().unwrap_or_default().to_string_lossy()
        ),
        None => "point at a checkpoint's own directory".to_string(),
    })
}

fn holds_pickles(dir: &Path) -> Result<bool> {
    let pickle = |path: &PathBuf| path.extension().is_some_and(|e| e == "bin" || e == "pt" || e == "pth");
    Ok(list(dir)?.iter().any(pickle))
}
