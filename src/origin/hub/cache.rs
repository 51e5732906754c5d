//! The cache on disk, laid out as the Python client lays it out, so that each finds what the other fetched:
//!
//! ```text
//! models--org--name/blobs/<etag>                     the bytes, once
//! models--org--name/snapshots/<commit>/<file>        a relative symlink to a blob
//! models--org--name/refs/<revision>                  the commit that a branch stood at
//! .locks/models--org--name/<etag>.lock               locked while a blob is written
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::checkpoint::{json, select};
use crate::origin::hub::client::Client;
use crate::os::sys;

/// How often a lock that another process holds is asked for again.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// One model's part of the cache.
pub(super) struct Repo {
    root: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub fn new(cache: &Path, id: &str) -> Repo {
        let name = format!("models--{}", id.replace('/', "--"));
        Repo { root: cache.join(&name), locks: cache.join(".locks").join(&name) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Is the file there, bytes and all?
    pub fn holds(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// The snapshot of a branch, tag or commit, if its weights are all there.
    pub fn find(&self, revision: &str) -> Option<PathBuf> {
        let written = fs::read_to_string(self.root.join("refs").join(revision)).ok();
        let commit = written.as_deref().map(str::trim).unwrap_or(revision);
        let dir = self.snapshot(commit);
        (is_commit(commit) && is_complete(&dir)).then_some(dir)
    }

    /// Notes where a branch or tag stands. A commit needs no note.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        let dir = path.parent().unwrap_or(&self.root);
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            let file = tempfile::Builder::new()
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(dir)?;
            fs::write(file.path(), commit)?;
            file.persist(&path).map_err(|e| e.error)?;
            Ok(())
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// Makes `snapshots/<commit>/<file>` point at the blob; `file` may lie in folders.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        let link = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            if path.is_file() {
                return Ok(());
            }
            // What is left here is a link to a blob that is gone.
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            match std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(etag), &path) {
                // Another process came first, with the same blob.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        };
        link().with_context(|| {
            format!("link {} to its blob; the cache must be where symlinks work", path.display())
        })
    }

    /// Waits until no other process, ours or Python's, writes this blob. Dropping the file unlocks.
    pub fn lock(&self, etag: &str, client: &Client) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || -> io::Result<File> {
            fs::create_dir_all(&self.locks)?;
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)
        };
        let file = open().with_context(|| format!("open the lock {}", path.display()))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                // Without locks two downloads would write into one file.
                Err(TryLockError::Error(e)) if sys::has_no_locks(&e) => {
                    return Err(e).with_context(|| {
                        let remedy = "set HF_HUB_CACHE to a directory on one that has, such as a local disk";
                        format!("lock {}: its file system has no locks; {remedy}", path.display())
                    });
                }
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("lock {}", path.display()));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                client.note(&format!("another process holds {}; waiting for it", path.display()));
                told = true;
            }
            client.pause(LOCK_POLL)?;
        }
    }
}

/// A full commit hash, as snapshots are named.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The etag of a header as the name of a blob: no quotes, no weakness mark, nothing that leaves the directory.
pub(super) fn blob_name(etag: &str) -> Result<String> {
    let name = etag.trim().trim_start_matches("W/").trim_matches('"');
    let good = (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || [b'-', b'_', b'.', b'=', b'+', b':'].contains(&b));
    if !good {
        bail!("the hub names the content {etag:?}, which cannot be a file name");
    }
    Ok(name.to_string())
}

/// Are all weights there: every file of the index, every numbered shard? A cache often holds a lone config.json.
fn is_complete(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().is_file())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let has = |name: &str| dir.join(name).is_file();
    let chosen = select::weights(&names, &has, &|name| json::read_text(&dir.join(name)));
    chosen.is_ok_and(|weights| !weights.files.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_become_names() {
        assert_eq!(blob_name("\"abc\"").unwrap(), "abc");
        assert_eq!(blob_name("W/\"abc-2\"").unwrap(), "abc-2");
        for bad in ["", "\"\"", "../x", "a/b", ".", "..", "\"a b\""] {
            assert!(blob_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_snapshot_counts_only_when_its_weights_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repo = Repo::new(dir.path(), "org/name");
        let snapshot = repo.snapshot(commit);
        fs::create_dir_all(&snapshot).unwrap();
        repo.write_ref("main", commit).unwrap();
        let put = |name: &str, text: &str| fs::write(snapshot.join(name), text).unwrap();

        put("config.json", "{}");
        assert_eq!(repo.find("main"), None);
        put("model-00001-of-00002.safetensors", "x");
        assert_eq!(repo.find("main"), None);
        put("model-00002-of-00002.safetensors", "x");
        assert_eq!(repo.find("main"), Some(snapshot.clone()));
        assert_eq!(repo.find(commit), Some(snapshot.clone()));
        put("model.safetensors.index.json", r#"{"weight_map":{"a":"model-00009-of-00009.safetensors"}}"#);
        assert_eq!(repo.find("main"), None);
        assert_eq!(repo.find("other"), None);
    }

    #[test]
    fn links_are_relative_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::new(dir.path(), "name");
        fs::create_dir_all(repo.blob("x").parent().unwrap()).unwrap();
        repo.link("c", "config.json", "gone").unwrap();
        assert!(!repo.holds("c", "config.json"));
        fs::write(repo.blob("etag"), "{}").unwrap();
        repo.link("c", "config.json", "etag").unwrap();
        assert!(repo.holds("c", "config.json"));
        let link = fs::read_link(repo.snapshot("c").join("config.json")).unwrap();
        assert_eq!(link, Path::new("../../blobs/etag"));
        repo.link("c", "a/b/config.json", "etag").unwrap();
        assert!(repo.holds("c", "a/b/config.json"));
    }
}
