//! Where result files lie: the paths that were given, and what is below them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::analyze::key::printable;
use crate::record::environment;
use crate::record::names::{QUALIFY_FILE, SUMMARY_FILE};

/// A directory with result files, or with the description of a machine.
#[derive(Debug, PartialEq)]
pub struct Folder {
    pub path: PathBuf,
    /// For messages: the part of the path below the one that was given.
    pub name: String,
    /// The given path and the first folder below it, which in a fleet's results is the node's own.
    pub top: String,
    pub has_environment: bool,
    /// It was given, or lies below one that was; not so where only files in it were given.
    pub searched: bool,
}

#[derive(Debug, PartialEq)]
pub struct File {
    pub path: PathBuf,
    /// An index into `Found::folders`.
    pub folder: usize,
}

#[derive(Debug, Default)]
pub struct Found {
    pub folders: Vec<Folder>,
    pub files: Vec<File>,
    /// Records of `qualify`, at most one a folder.
    pub verdicts: Vec<File>,
    pub notes: Vec<String>,
}

/// Lists files, and directories with what lies below them, each once, in order of their names.
/// Fails where a path that was given does not exist.
pub fn find(paths: &[PathBuf]) -> Result<Found> {
    let mut search = Search::default();
    for path in paths {
        let about = fs::metadata(path).with_context(|| {
            format!(
                "read results from {}; `sllm-gds bench` writes them, by default to ./results",
                path.display()
            )
        })?;
        if about.is_dir() {
            search.directory(path, path)?;
        } else {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = search.folder(dir, dir);
            search.file(path.clone(), folder);
        }
    }
    Ok(search.found)
}

#[derive(Default)]
struct Search {
    found: Found,
    /// By their paths without links.
    folders: HashMap<PathBuf, usize>,
    files: HashSet<PathBuf>,
}

impl Search {
    fn folder(&mut self, dir: &Path, root: &Path) -> usize {
        let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        if let Some(folder) = self.folders.get(&real) {
            return *folder;
        }
        let below = dir.strip_prefix(root).unwrap_or(dir);
        let name = if below.as_os_str().is_empty() { dir } else { below };
        let first = below.components().next().filter(|_| dir != root);
        let top = first.map_or(root.to_path_buf(), |first| root.join(first));
        let top = printable(&top.to_string_lossy());
        let has_environment = dir.join(environment::FILE).is_file();
        let name = printable(&name.to_string_lossy());
        self.found.folders.push(Folder { path: real.clone(), name, top, has_environment, searched: false });
        self.folders.insert(real, self.found.folders.len() - 1);
        self.found.folders.len() - 1
    }

    fn file(&mut self, path: PathBuf, folder: usize) {
        let linked = fs::symlink_metadata(&path).is_ok_and(|about| about.is_symlink());
        let real = match (linked, self.found.folders.get(folder), path.file_name()) {
            (false, Some(folder), Some(name)) => folder.path.join(name),
            _ => fs::canonicalize(&path).unwrap_or_else(|_| path.clone()),
        };
        if !self.files.insert(real) {
            return;
        }
        match path.file_name().is_some_and(|name| name == QUALIFY_FILE) {
            true => self.found.verdicts.push(File { path, folder }),
            false => self.found.files.push(File { path, folder }),
        }
    }

    /// Links to directories are not followed, so there are no cycles.
    fn directory(&mut self, dir: &Path, root: &Path) -> Result<()> {
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut entries = entries.with_context(|| format!("list {}", dir.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        let folder = self.folder(dir, root);
        match self.found.folders.get_mut(folder) {
            Some(folder) if !folder.searched => folder.searched = true,
            _ => return Ok(()),
        }
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // They hold no results: skipped without a word.
            if name.starts_with('.') || name == SUMMARY_FILE || name == environment::FILE {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if let Err(error) = self.directory(&path, root) {
                    self.found.notes.push(format!("{error:#}; skipped"));
                }
            } else if name.ends_with(".json") {
                self.file(path, folder);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_through_and_each_file_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let below = root.join("node").join("run");
        fs::create_dir_all(&below).unwrap();
        for name in ["a.json", "node/run/b.json", "node/run/environment.json", "node/run/summary.json"] {
            fs::write(root.join(name), "[]").unwrap();
        }
        fs::write(below.join("notes.txt"), "x").unwrap();
        fs::write(below.join(".hidden.json"), "[]").unwrap();
        std::os::unix::fs::symlink(&root, below.join("loop")).unwrap();
        std::os::unix::fs::symlink(root.join("a.json"), below.join("z.json")).unwrap();
        let found = find(&[below.join("b.json"), root.clone(), below.clone(), root.join("a.json")]).unwrap();
        let files: Vec<&Path> = found.files.iter().map(|file| file.path.as_path()).collect();
        assert_eq!(files, [below.join("b.json"), root.join("a.json")]);
        let folders: Vec<bool> = found.folders.iter().map(|folder| folder.has_environment).collect();
        assert_eq!(folders, [true, false, false]);
        assert!(find(&[root.join("absent")]).unwrap_err().to_string().contains("absent"));
    }

    #[test]
    fn folders_are_named_by_what_they_add() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("node-1")).unwrap();
        fs::write(dir.path().join("node-1/m.json"), "[]").unwrap();
        let names = |path: PathBuf| -> Vec<String> {
            find(&[path]).unwrap().folders.into_iter().map(|folder| folder.name).collect()
        };
        let root = dir.path().display().to_string();
        assert_eq!(names(dir.path().into()), [root.clone(), "node-1".into()]);
        assert_eq!(names(dir.path().join("node-1/m.json")), [root.clone() + "/node-1"]);
        let below = dir.path().join("node-1/run");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("qualify.json"), "{}").unwrap();
        let found = find(&[dir.path().into()]).unwrap();
        let tops: Vec<&str> = found.folders.iter().map(|folder| folder.top.as_str()).collect();
        assert_eq!(tops, [root.clone(), root.clone() + "/node-1", root + "/node-1"]);
        assert_eq!(found.verdicts, [File { path: below.join("qualify.json"), folder: 2 }]);
        assert_eq!(found.files.len(), 1);
    }
}
