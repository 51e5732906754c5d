//! Whether a target may be written to: not over anything but a checkpoint, and never over what is read.

use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use thiserror::Error;

use crate::checkpoint::indexed::{self, Indexed};
use crate::checkpoint::packed::REQUIREMENT;
use crate::checkpoint::{Checkpoint, Layout, beside, json, listing, manifest, names, shard_sets};
use crate::os::digest::Digest;
use crate::os::sys;
use crate::write::sidecars;

/// Joins a name such as `facebook/opt-125m` below a directory, and refuses names that would leave it.
pub fn place(storage_path: &Path, name: &str) -> Result<PathBuf> {
    let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    // A part that is named as a file of a checkpoint would make its parent one.
    let own = |part: &str| names::is_own(part) || names::is_weights(part) || part.trim().is_empty();
    let dotted = name.starts_with('.') || name.contains("/.") || name.ends_with('/');
    if !plain || dotted || name.chars().any(char::is_control) || name.split('/').any(own) {
        bail!(
            "'{name}' can't name a checkpoint: use letters, digits and single slashes, as in facebook/opt-125m"
        );
    }
    Ok(storage_path.join(name))
}

/// Where something new goes: at a path, where it is one as with [`Checkpoint::locate`], else below the storage path.
pub fn path_or_place(storage_path: &Path, name: &str) -> Result<PathBuf> {
    if !names::is_path(name) {
        return place(storage_path, name);
    }
    // Without what says nothing: a last `/`, a `.` in between.
    let path: PathBuf = Path::new(name).components().collect();
    let own = |name: &str| names::is_own(name) || names::is_weights(name);
    match path.file_name() {
        Some(last) if !own(&last.to_string_lossy()) && !name.chars().any(char::is_control) => Ok(path),
        _ => bail!(
            "'{name}' can't name a checkpoint: end it with a directory's name of letters and digits, as in /mnt/nvme/my-model"
        ),
    }
}

/// What stands at a target, links followed; `None` where nothing does. Not being allowed to look is an error.
pub(super) fn standing(target: &Path) -> Result<Option<Metadata>> {
    let look = || format!("look whether {} exists", target.display());
    match target.symlink_metadata() {
        Ok(metadata) if !metadata.is_symlink() => Ok(Some(metadata)),
        Ok(_) => match target.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                bail!(
                    "{} is a symbolic link that leads nowhere: remove it, or choose another name",
                    target.display()
                )
            }
            found => found.map(Some).with_context(look),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| listing::explain_no_directory(target).unwrap_or_else(look)),
    }
}

/// Whether a save wrote a checkpoint there.
fn holds_checkpoint(dir: &Path) -> bool {
    [names::INDEX_FILE, names::PACKED_INDEX_FILE].iter().any(|index| dir.join(index).is_file())
}

/// Refuses a target that stands already, unless it is a checkpoint (or an empty directory) that may be
/// replaced. Nothing else is ever replaced.
pub fn check_free(target: &Path, overwrite: bool) -> Result<()> {
    // A checkpoint in a checkpoint's folder would be in the way of whoever replaces that.
    if let Some(outer) = target.ancestors().skip(1).find(|above| holds_checkpoint(above)) {
        bail!("{} would lie in the checkpoint {}: choose another name", target.display(), outer.display());
    }
    if standing(target)?.is_none() {
        return Ok(());
    }
    if sys::is_mount_point(target).with_context(|| format!("look at {}", target.display()))? {
        bail!(
            "{} is a mount point, which can't be replaced: name a directory below it, such as {}",
            target.display(),
            target.join("model").display()
        );
    }
    if !overwrite {
        bail!("{} exists: choose another name, or overwrite it", target.display());
    }
    if !target.is_dir() {
        bail!(
            "{} is a file, and only a checkpoint's directory is replaced: remove it yourself, or name another place",
            target.display()
        );
    }
    let files = everything_below(target)?;
    let known: Box<dyn Fn(&str) -> bool> = match recorded_files(target) {
        Some(Recorded { files: recorded, links, beside_digests }) => {
            check_unedited(target, &files, &links, &beside_digests)?;
            // A folder may stand empty when its files were moved away.
            Box::new(move |name| {
                let is_left = || recorded.iter().any(|file| file.starts_with(name));
                recorded.contains(name) || (name.ends_with('/') && is_left())
            })
        }
        None if files.is_empty() => Box::new(|_| false),
        None if recorded_index(target).is_some() => bail!(
            "{} holds safetensors files that were indexed where they are, and overwriting deletes only what was saved: \
             remove it yourself, or choose another name",
            target.display()
        ),
        None => {
            let (own, modules) = one_model(target)?;
            Box::new(move |name| beside::is_a_checkpoints(name, &own, &modules))
        }
    };
    let is_known = |name: &String| known(name);
    let has_weights = files.iter().any(|n| names::is_weights(n) || names::is_own(n));
    let other = files.iter().find(|name| !is_known(name)).or(files.first().filter(|_| !has_weights));
    if let Some(other) = other {
        bail!(
            "{} holds other things than one checkpoint, such as {other}, and overwriting does not delete those: remove \
             it yourself, or choose another name",
            target.display()
        );
    }
    Ok(())
}

/// Of a directory that no manifest describes, refuses what is not surely one model: several files that nothing joins, files
/// beside the model, one that does not open, and one that a link leads to. Returns its own files and its modules' folders.
fn one_model(target: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let keep = |what: String| {
        anyhow!(
            "{} {what}, and overwriting does not delete those: remove it yourself, or choose another name",
            target.display()
        )
    };
    if target.is_symlink() {
        return Err(keep(format!(
            "is a link to files that no save wrote, in {}",
            target.canonicalize()?.display()
        )));
    }
    let found = match Checkpoint::read(target) {
        Ok(found) => found,
        Err(why) => return Err(keep(format!("holds other things than one checkpoint ({why:#})"))),
    };
    if let Some(name) = found.chosen.left_out.first() {
        return Err(keep(format!("holds other things than one checkpoint, such as {name}")));
    }
    let joined = found.files.len() == 1
        || found.layout != Layout::Safetensors
        || found.chosen.index.is_some()
        || found.files.iter().all(|file| shard_sets::is_numbered(&found.name_of(file)));
    if !joined {
        return Err(keep(format!(
            "holds {} weight files that no index joins to one model",
            found.files.len()
        )));
    }
    let modules = beside::modules(&listing::top(target)?, &|name| json::read_text(&target.join(name)))?;
    Ok((found.all_own_files(), modules))
}

/// All files and links below, hidden ones too, by their paths; of an empty folder its own, with a `/`.
fn everything_below(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut left = vec![(dir.to_path_buf(), String::new())];
    while let Some((dir, prefix)) = left.pop() {
        let entries = crate::checkpoint::list(&dir)?;
        if entries.is_empty() && !prefix.is_empty() {
            found.push(prefix.clone());
        }
        for path in entries {
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            match path.symlink_metadata().is_ok_and(|about| about.is_dir()) {
                true => left.push((path, format!("{name}/"))),
                false => found.push(name),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a save wrote into a directory, by its manifest.
struct Recorded {
    files: HashSet<String>,
    /// Those of them that are symbolic links.
    links: Vec<String>,
    /// What the files beside the weights held; of those of version 0.1 it is not known.
    beside_digests: BTreeMap<String, Digest>,
}

/// `None` where no manifest says.
fn recorded_files(dir: &Path) -> Option<Recorded> {
    if let Some(indexed) = recorded_index(dir) {
        // Among the files of a model it tells nothing of those.
        indexed.over.as_ref()?;
        let own = [manifest::FILE.to_string()];
        let files = indexed.wrote.keys().chain(&indexed.links).chain(&own).cloned().collect();
        return Some(Recorded { files, links: indexed.links, beside_digests: indexed.wrote });
    }
    #[derive(Deserialize)]
    struct Part {
        file: String,
    }
    #[derive(Deserialize)]
    struct Parts {
        partitions: Vec<Part>,
        beside: Vec<String>,
        #[serde(default)]
        beside_digests: BTreeMap<String, Digest>,
        index_digest: Option<Digest>,
        #[serde(default)]
        requires: Vec<String>,
    }
    let recorded: Parts = crate::checkpoint::json::read(&dir.join(manifest::FILE)).ok()?;
    let index = if recorded.requires.iter().any(|name| name == REQUIREMENT) {
        names::PACKED_INDEX_FILE
    } else {
        names::INDEX_FILE
    };
    let parts = recorded.partitions.into_iter().map(|part| part.file);
    let own = [manifest::FILE, index].map(str::to_string);
    let files = parts.chain(recorded.beside).chain(own).collect();
    // Where another program saved its weights over ours, their index is another.
    let mut beside_digests = recorded.beside_digests;
    beside_digests.extend(recorded.index_digest.map(|digest| (index.to_string(), digest)));
    Some(Recorded { files, links: Vec::new(), beside_digests })
}

fn recorded_index(dir: &Path) -> Option<Indexed> {
    let bounds = listing::Bounds::new(dir, None).ok()?;
    indexed::read(dir, &bounds).ok()?
}

/// Refuses where somebody wrote to files that were saved beside the weights. One that is gone is no loss; only what lies
/// below is looked at, whatever a manifest names.
fn check_unedited(
    target: &Path,
    files: &[String],
    links: &[String],
    saved: &BTreeMap<String, Digest>,
) -> Result<()> {
    let is_edited = |name: &&String| {
        if links.contains(name) {
            return !target.join(name).is_symlink();
        }
        let is = |saved: &Digest| sidecars::digest_of(&target.join(name)).is_ok_and(|found| found == *saved);
        saved.get(*name).is_some_and(|saved| !is(saved))
    };
    let edited: Vec<String> = files.iter().filter(is_edited).cloned().collect();
    if !edited.is_empty() {
        bail!(
            "{} holds files that were changed since they were saved, and overwriting does not delete those: move them \
             away, or choose another name: {}",
            target.display(),
            beside::summary(&edited)
        );
    }
    Ok(())
}

/// A target that is not apart from what is read, in words.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NotApart(String);

/// Refuses a target that is the source, holds it or lies in it: writing there would replace what is read.
pub fn check_apart(target: &Path, sources: &[PathBuf]) -> Result<()> {
    // A link that leads nowhere has no place.
    standing(target)?;
    let target_real = real_place(target)?;
    for source in sources {
        let source_real = source.canonicalize().with_context(|| format!("resolve {}", source.display()))?;
        let how = if source_real == target_real {
            "is"
        } else if is_within(&source_real, &target_real) {
            "holds"
        } else if is_within(&target_real, &source_real) {
            "lies in"
        } else {
            continue;
        };
        let (target, source) = (target.display().to_string(), source.display().to_string());
        let how = if target == source { "is that".to_string() } else { format!("{how} {source},") };
        bail!(NotApart(format!(
            "{target} {how} from which is read: name another place; nothing was changed"
        )));
    }
    Ok(())
}

/// Where a path leads that may not be there yet.
fn real_place(path: &Path) -> Result<PathBuf> {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        match at.canonicalize() {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(e) if e.kind() == ErrorKind::NotFound && !at.is_symlink() => {}
            Err(e) => return Err(e).with_context(|| format!("resolve {}", at.display())),
        }
        missing.push(at.file_name().with_context(|| format!("{} names no directory", path.display()))?);
        at = parent_of(at);
    }
}

pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `path` lies below `dir`, by name or, as with bind mounts, by what a folder is.
fn is_within(path: &Path, dir: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|about| (about.dev(), about.ino()));
    let wanted = identity(dir);
    path.starts_with(dir) || path.ancestors().any(|above| wanted.is_some() && identity(above) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_storage_path() {
        for bad in [
            " ",
            "a/tensor.data_1",
            "model.safetensors",
            "a\nb",
            "",
            ".",
            "..",
            "../x",
            "/x",
            "a/../b",
            ".hidden",
            "a/",
            "a/.x",
        ] {
            assert!(place(Path::new("m"), bad).is_err(), "{bad}");
        }
        assert_eq!(place(Path::new("m"), "a/b").unwrap(), Path::new("m/a/b"));
    }

    #[test]
    fn a_new_one_is_a_path_or_lies_below_the_storage_path() {
        for (name, wanted) in
            [("a/b", "m/a/b"), ("./a/b", "./a/b"), ("../a", "../a"), ("/x/./a/", "/x/a"), ("a/", "a")]
        {
            assert_eq!(path_or_place(Path::new("m"), name).unwrap(), Path::new(wanted), "{name}");
        }
        for bad in [
            "",
            " ",
            ".",
            "..",
            "/",
            "./",
            "./..",
            "a/..",
            "./model.safetensors",
            "/x/tensor.data_0",
            "./a\nb",
        ] {
            assert!(path_or_place(Path::new("m"), bad).is_err(), "{bad}");
        }
    }
}
