//! What lies in a model's directory, and where its symbolic links may lead.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkpoint::error::malformed;
use crate::checkpoint::names::{is_saved_index, is_weights};
use crate::checkpoint::under_way::{BLOBS, FOLDERS, under_way};

/// More than any model has; a home directory has more.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;
/// How deep below a folder weights are looked for that may be of the model.
const FOLDERS_DEPTH: usize = 4;

/// A directory's entries, sorted, so that no run depends on the file system's order.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths =
            std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        Ok(paths)
    };
    read().with_context(|| format!("list {}", dir.display()))
}

/// The names at a directory's top, sorted. Weights must have names in UTF-8; others without are passed over.
pub fn top(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in list(dir)? {
        names.extend(utf8_name(&path)?);
    }
    Ok(names)
}

/// What the choice of a model's files stands on: the names at the top, the safetensors files in folders, and what
/// downloads under way leave, there and in the hub's cache too. Hidden folders but those of downloads are passed over.
pub fn for_choice(dir: &Path) -> Result<Vec<String>> {
    let mut names = top(dir)?;
    for folder in names.clone().iter().filter(|name| !name.starts_with('.') && dir.join(name).is_dir()) {
        weights_in(&dir.join(folder), folder, FOLDERS_DEPTH, &mut names);
    }
    names.extend(in_under_way_folders(dir)?);
    names.extend(unfinished_blobs(dir));
    Ok(names)
}

/// What lies in the folders of unfinished downloads, as paths from the model's directory.
pub fn in_under_way_folders(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in FOLDERS.iter().filter(|folder| dir.join(folder).is_dir()) {
        let found = files_below(&dir.join(folder))?;
        names.extend(found.names.into_iter().map(|name| format!("{folder}{name}")));
    }
    Ok(names)
}

/// The safetensors files in a folder and below it, and what is left of unfinished ones. What can't be looked at holds none: only the top must be readable.
/// Links to folders are not followed, so that there are no rings.
fn weights_in(dir: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}/{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 && !name.starts_with('.') => {
                weights_in(&entry.path(), &path, depth - 1, names);
            }
            Ok(kind) if !kind.is_dir() && names.len() < MAX_FILES => {
                names.extend((is_weights(&name) || under_way(&path).is_some()).then_some(path));
            }
            _ => {}
        }
    }
}

/// Of a snapshot in the hub's cache, what an interrupted download left among the blobs of its model. They have no names.
fn unfinished_blobs(dir: &Path) -> Vec<String> {
    let Some(repo) = dir.canonicalize().ok().and_then(|real| Some(real.parent()?.parent()?.to_path_buf()))
    else {
        return Vec::new();
    };
    let is_cache = repo.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"));
    let blobs = list(&repo.join("blobs")).unwrap_or_default();
    let blobs = blobs.iter().filter(|_| is_cache).filter_map(|path| path.file_name()?.to_str());
    let unfinished = blobs.filter(|name| name.ends_with(".incomplete"));
    unfinished.map(|name| format!("{BLOBS}{name}")).collect()
}

/// The files of a directory and below it, as paths with `/` from it, sorted. Hidden folders are passed over. Folders
/// that are links are entered, each once.
pub fn files_below(dir: &Path) -> Result<Below> {
    let mut found = Below::default();
    let mut entered = HashSet::new();
    walk(dir, "", MAX_DEPTH, &mut entered, &mut found)?;
    found.names.sort();
    Ok(found)
}

/// What lies in a directory and below it.
#[derive(Debug, Default)]
pub struct Below {
    pub names: Vec<String>,
    /// Names that are not UTF-8, as far as they can be shown.
    pub unreadable: Vec<String>,
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    entered: &mut HashSet<PathBuf>,
    found: &mut Below,
) -> Result<()> {
    let real = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
    if depth == 0 || !entered.insert(real) {
        return Ok(());
    }
    let entries = list(dir).map_err(|error| match error.root_cause().downcast_ref::<std::io::Error>() {
        Some(cause) if cause.kind() == ErrorKind::PermissionDenied => error.context(format!(
            "{} may be of the model and can't be read: make it readable, or move it away",
            dir.display()
        )),
        _ => error,
    })?;
    for path in entries {
        // Every ext4 volume has one at its top.
        if path.ends_with("lost+found") {
            continue;
        }
        let Some(name) = utf8_name(&path)? else {
            let lossy = path.file_name().unwrap_or_default().to_string_lossy();
            found.unreadable.push(format!("{prefix}{lossy}"));
            continue;
        };
        if path.is_dir() {
            if !name.starts_with('.') {
                walk(&path, &format!("{prefix}{name}/"), depth - 1, entered, found)?;
            }
            continue;
        }
        found.names.push(format!("{prefix}{name}"));
        if found.names.len() > MAX_FILES {
            bail!(
                "{} holds more than {MAX_FILES} files in it and below: name the model's own directory",
                dir.display()
            );
        }
    }
    Ok(())
}

/// Where a path goes through what is no directory, which that is and what to do.
pub fn explain_no_directory(path: &Path) -> Option<String> {
    let file = path.ancestors().skip(1).find(|above| above.exists() && !above.is_dir())?;
    Some(format!(
        "{} is no directory, and checkpoints lie in directories: name another one to look for {} in",
        file.display(),
        path.file_name().unwrap_or_default().to_string_lossy()
    ))
}

fn utf8_name(path: &Path) -> Result<Option<String>> {
    let Some(name) = path.file_name() else { return Ok(None) };
    if let Some(name) = name.to_str() {
        return Ok(Some(name.to_string()));
    }
    let lossy = name.to_string_lossy();
    if is_weights(&lossy) && !lossy.starts_with('.') {
        return Err(malformed(path, "its name is not UTF-8, and indices can only hold such: rename it"));
    }
    Ok(None)
}

/// Where symbolic links inside a model may lead: into its directory, beside it, below the storage path, and into a
/// hub's cache. Links on the way to the model are the operator's, and are followed.
pub struct Bounds {
    roots: Vec<PathBuf>,
}

impl Bounds {
    /// Of the model in `dir`, found below `storage_path` where that is known.
    pub fn new(dir: &Path, storage_path: Option<&Path>) -> Result<Bounds> {
        let real = |path: &Path| path.canonicalize().with_context(|| format!("resolve {}", path.display()));
        let own = real(dir)?;
        let mut roots = Vec::new();
        // The parent by its name and the parent behind a link: both hold the model.
        roots.extend(dir.parent().filter(|p| !p.as_os_str().is_empty()).and_then(|p| real(p).ok()));
        roots.extend(own.parent().map(Path::to_path_buf));
        roots.extend(storage_path.and_then(|path| real(path).ok()));
        roots.push(own);
        Ok(Bounds { roots })
    }

    /// Refuses the directory of another model that lies out of bounds.
    pub fn check_model(&self, dir: &Path) -> Result<()> {
        let real = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        if self.roots.iter().any(|root| real.starts_with(root)) || is_hub_snapshot(&real) {
            return Ok(());
        }
        let what = "outside the storage path and no hub's cache, so it is not looked into: put both below the storage path";
        Err(malformed(&real, what))
    }

    /// Refuses a path that leads out of bounds, and one that leads nowhere.
    pub fn check(&self, path: &Path) -> Result<()> {
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(e) if e.kind() == ErrorKind::NotFound && path.is_symlink() => {
                let to = path.read_link().unwrap_or_default();
                return Err(malformed(
                    path,
                    format!("a link to {}, which is not there: fetch that, or remove the link", to.display()),
                ));
            }
            Err(e) => return Err(e).with_context(|| format!("resolve {}", path.display())),
        };
        if self.roots.iter().any(|root| real.starts_with(root)) || is_in_hub_cache(&real) {
            return Ok(());
        }
        let what = format!(
            "a link to {}, which is outside the storage path and no hub's cache, so it is not followed: put the file \
             itself there, or link the model's whole directory",
            real.display()
        );
        Err(malformed(path, what))
    }
}

/// `…/models--org--name/snapshots/<commit>`: the directory of a model in a hub's cache.
fn is_hub_snapshot(real: &Path) -> bool {
    let Some(snapshots) = real.parent() else { return false };
    let repo = snapshots.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    snapshots.file_name().is_some_and(|name| name == "snapshots") && repo.starts_with("models--")
}

/// `…/models--org--name/blobs/<etag>`: where the hub's clients keep content, and where they point links at.
fn is_in_hub_cache(real: &Path) -> bool {
    let Some(blobs) = real.parent() else { return false };
    let repo = blobs.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    blobs.file_name().is_some_and(|name| name == "blobs") && repo.starts_with("models--")
}

/// Folders below that hold weights, as paths from `dir`, for the error about a folder that holds none itself.
pub fn with_weights(dir: &Path) -> Vec<String> {
    const DEPTH: usize = 5;
    const MANY: usize = 50;
    let mut found = Vec::new();
    let mut left = vec![(dir.to_path_buf(), String::new(), DEPTH)];
    while let Some((dir, prefix, depth)) = left.pop() {
        let Ok(entries) = list(&dir) else { continue };
        let holds = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_saved_index(&name) || (is_weights(&name) && !name.starts_with('.'))
        };
        if !prefix.is_empty() && entries.iter().any(holds) {
            found.push(prefix.clone());
            if found.len() == MANY {
                break;
            }
            continue;
        }
        for path in entries.into_iter().rev() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Links are not followed: a look for folders needs no guard against rings then.
            let is_dir = path.symlink_metadata().is_ok_and(|about| about.is_dir());
            if depth > 0 && is_dir && !name.starts_with('.') {
                let below = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
                left.push((path, below, depth - 1));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn put(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn files_are_listed_below_without_hidden_folders_and_rings() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "1_Pooling/config.json", ".git/x", "a/b/c.txt"] {
            put(dir.path().join(name));
        }
        symlink(dir.path(), dir.path().join("ring")).unwrap();
        symlink("nowhere", dir.path().join("dangling.json")).unwrap();
        assert_eq!(
            files_below(dir.path()).unwrap().names,
            ["1_Pooling/config.json", "a/b/c.txt", "config.json", "dangling.json"]
        );
        put(dir.path().join(std::ffi::OsStr::from_bytes(b"x\xff.txt")));
        let found = files_below(dir.path()).unwrap();
        assert_eq!((found.names.len(), found.unreadable), (4, vec!["x\u{fffd}.txt".to_string()]));
        put(dir.path().join(std::ffi::OsStr::from_bytes(b"x\xff.safetensors")));
        assert!(files_below(dir.path()).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn links_stay_within_the_storage_path_and_the_hubs_cache() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["models/m/own", "models/other/x", "far/x", "hub/models--a--b/blobs/123"] {
            put(at(name));
        }
        let bounds = Bounds::new(&at("models/m"), None).unwrap();
        for (link, to, good) in [
            ("own-link", at("models/m/own"), true),
            ("sibling", at("models/other/x"), true),
            ("blob", at("hub/models--a--b/blobs/123"), true),
            ("far", at("far/x"), false),
            ("dangling", at("far/none"), false),
        ] {
            let path = at("models/m").join(link);
            symlink(to, &path).unwrap();
            let checked = bounds.check(&path);
            assert_eq!(checked.is_ok(), good, "{link}: {checked:?}");
        }
        let wide = Bounds::new(&at("models/m"), Some(root.path())).unwrap();
        assert!(wide.check(&at("models/m/far")).is_ok());
        // The operator's own link to a model elsewhere is followed, and what lies beside that is near.
        symlink(at("models/m"), at("far/m")).unwrap();
        let linked = Bounds::new(&at("far/m"), None).unwrap();
        assert!(linked.check(&at("far/m/sibling")).is_ok());
        assert!(linked.check(&at("far/m/far")).is_ok(), "far holds the link by name");
    }

    #[test]
    fn folders_with_weights_are_found_below() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "unet/x.safetensors",
            "vae/x.safetensors",
            "rank_0/tensor_index.json",
            "models--a--b/snapshots/c/model.safetensors",
            "scheduler/config.json",
            ".cache/x.safetensors",
        ] {
            put(dir.path().join(name));
        }
        assert_eq!(with_weights(dir.path()), ["models--a--b/snapshots/c", "rank_0", "unet", "vae"]);
    }
}
