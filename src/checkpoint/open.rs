//! Opening a checkpoint: layouts told apart, and what to do where there is none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkpoint::{
    Checkpoint, CheckpointError, Layout, Tensor, beside, list, listing, malformed, safetensors, shard_sets,
    sllm,
};
use crate::os::remains;

impl Checkpoint {
    /// Opens a directory, telling the layouts apart, or a single `.safetensors` file.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        Checkpoint::open_below(path, None)
    }

    /// As [`Checkpoint::open`]; links inside the model may lead anywhere below `storage_path`, too.
    pub fn open_below(path: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
        let about = match path.metadata() {
            Ok(about) => about,
            Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => {
                let missing = anyhow::Error::from(CheckpointError::Missing(path.to_path_buf()));
                return Err(match remains::set_aside(path) {
                    Some(old) => missing.context(format!(
                        "an overwrite was cut short, and the old checkpoint lies whole in {}: the next save or export \
                         beside it puts it back, as mv does",
                        old.display()
                    )),
                    None => missing,
                });
            }
            Err(e) => return Err(e).with_context(|| format!("open the checkpoint {}", path.display())),
        };
        let opened = if about.is_file() {
            safetensors::open_file(path, storage_path)
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
        opened.with_context(|| format!("open the checkpoint {}", path.display()))
    }

    /// As [`Checkpoint::open`], for whoever needs all of the model: refuses one that lost tensors, or has none.
    pub fn open_whole(path: &Path) -> Result<Checkpoint> {
        Checkpoint::open(path)?.whole()
    }

    /// Refuses a checkpoint that lost tensors, or has none.
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
    pub fn what_is_lost(&self) -> Option<String> {
        let first = self.lost.first()?;
        let file = self.files.last()?;
        let needed_bytes = self.lost.iter().map(Tensor::end).max().unwrap_or(0) - file.base;
        let next = sllm::partition_name(self.files.len());
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
                ", or take the whole tensors out with `export --whole-tensors`"
            },
        ))
    }

    /// What a user should hear of how the model was told from other files.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.chosen.left_out.is_empty() {
            let index = self.chosen.index.as_ref().map(|(file, _)| file.as_str());
            let index = index.or((self.layout == Layout::Sllm).then_some(sllm::INDEX_FILE));
            let by = index.map(|file| format!(" ({file} decides, and names none of them)"));
            let names = beside::summary(&self.chosen.left_out);
            notes.push(format!("not part of the model: {names}{}", by.unwrap_or_default()));
        }
        notes.extend(self.notes_of_parts());
        notes
    }

    /// In what ways this is not all of what its files hold, or of what its names say, in words.
    pub fn notes_of_parts(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.note_of_part().into_iter().collect();
        let gone = self.missing_beside();
        if !gone.is_empty() {
            notes.push(format!("saved beside the weights, and missing now: {}", beside::summary(&gone)));
        }
        notes
    }

    /// The files that a save wrote beside the weights and that are gone.
    pub fn missing_beside(&self) -> Vec<String> {
        let recorded = self.manifest.as_ref().and_then(|manifest| manifest.beside.as_ref());
        let gone = |name: &&String| !self.dir.join(name).is_file();
        recorded.into_iter().flatten().filter(gone).cloned().collect()
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

    /// Where a checkpoint is: by its name under the storage path, or by its own path.
    pub fn locate(name: &str, storage_path: &Path) -> PathBuf {
        let (stored, direct) = (storage_path.join(name), PathBuf::from(name));
        // One that may not be looked at is there, and opening it says so.
        let absent = |path: &Path| path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound);
        if !absent(&direct) && absent(&stored) { direct } else { stored }
    }

    /// Opens the checkpoint that [`Checkpoint::locate`] finds.
    pub fn find(name: &str, storage_path: &Path) -> Result<Checkpoint> {
        Checkpoint::open_below(&Checkpoint::locate(name, storage_path), Some(storage_path))
    }
}

/// Where weights lie below a folder that holds none, or what else it holds.
fn unknown_advice(dir: &Path) -> Result<String> {
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
