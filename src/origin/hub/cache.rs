//! The cache on disk, laid out as the Python client lays it out, so that each finds what the other fetched:
//!
//! ```text
//! models--org--name/blobs/<etag>                     the bytes, once
//! models--org--name/snapshots/<commit>/<file>        a relative symlink to a blob
//! models--org--name/refs/<revision>                  the commit that a branch stood at
//! .locks/models--org--name/<etag>.lock               locked while a blob is written
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::checkpoint::select::Weights;
use crate::checkpoint::{json, listing, select};
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

    /// Is the file there, and as long as it was when it had been fetched?
    pub fn holds(&self, commit: &str, file: &str) -> bool {
        let about = self.snapshot(commit).join(file).metadata().ok().filter(|about| about.is_file());
        let noted = self.noted(commit).and_then(|files| files.get(file).copied());
        about.is_some_and(|about| noted.is_none_or(|bytes| bytes == about.len()))
    }

    /// The snapshot of a branch, tag or commit, if its weights are all there, as far as the cache tells.
    pub fn find(&self, revision: &str) -> Option<PathBuf> {
        let written = fs::read_to_string(self.root.join("refs").join(revision)).ok();
        let commit = written.as_deref().map(str::trim).unwrap_or(revision);
        let dir = self.snapshot(commit);
        let noted = self.noted(commit).unwrap_or_default();
        let has_noted = noted.keys().all(|file| self.holds(commit, file));
        (is_commit(commit) && has_noted && complete(&dir).is_some()).then_some(dir)
    }

    /// Whether nothing says that this snapshot is all of the model: no note of ours, no index and no numbers.
    pub fn may_lack_files(&self, snapshot: &Path) -> bool {
        let commit = snapshot.file_name().unwrap_or_default().to_string_lossy();
        self.noted(&commit).is_none() && !complete(snapshot).is_some_and(|weights| weights.is_surely_whole())
    }

    /// Where it is noted of what a snapshot consists. Python's client does not know it and passes it over.
    fn note_of(&self, commit: &str) -> PathBuf {
        self.root.join(".sllm-gds").join(format!("{commit}.json"))
    }

    /// The files of a snapshot with their bytes, where it was noted.
    fn noted(&self, commit: &str) -> Option<BTreeMap<String, u64>> {
        serde_json::from_slice(&fs::read(self.note_of(commit)).ok()?).ok()
    }

    /// Notes of what a snapshot consists that was fetched whole: the cache alone would not tell what is missing later.
    pub fn note<'a>(&self, commit: &str, files: impl Iterator<Item = &'a String>) -> Result<()> {
        let dir = self.snapshot(commit);
        let bytes = |file: &'a String| Some((file, dir.join(file).metadata().ok()?.len()));
        let files: BTreeMap<&String, u64> = files.filter_map(bytes).collect();
        write_whole(&self.note_of(commit), &serde_json::to_vec(&files)?)
    }

    /// Notes where a branch or tag stands. A commit needs no note.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        write_whole(&self.root.join("refs").join(revision), commit.as_bytes())
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

/// Writes a small file, so that others see it whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)?;
        fs::write(file.path(), bytes)?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// The weights of a snapshot if they are all there: every file of the index, every numbered shard, and no download cut
/// short that may be of one more. A cache often holds a lone config.json.
fn complete(dir: &Path) -> Option<Weights> {
    let names = listing::for_choice(dir).ok()?;
    // A link to a blob that is gone is no file.
    let names: Vec<String> = names.into_iter().filter(|name| dir.join(name).is_file()).collect();
    let has = |name: &str| dir.join(name).is_file();
    let chosen = select::weights(&names, &has, &|name| json::read_text(&dir.join(name))).ok()?;
    (!chosen.files.is_empty()).then_some(chosen)
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
    fn what_was_fetched_is_noted_and_held_against_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repo = Repo::new(dir.path(), "org/name");
        let snapshot = repo.snapshot(commit);
        fs::create_dir_all(&snapshot).unwrap();
        let names = ["part_a.safetensors", "part_b.safetensors"].map(str::to_string);
        names.iter().for_each(|name| fs::write(snapshot.join(name), "xy").unwrap());
        assert_eq!(repo.find(commit), Some(snapshot.clone()));
        assert!(repo.may_lack_files(&snapshot), "names without numbers tell nothing");
        repo.note(commit, names.iter()).unwrap();
        assert!(repo.find(commit).is_some() && !repo.may_lack_files(&snapshot));
        fs::write(snapshot.join(&names[1]), "x").unwrap();
        assert!(!repo.holds(commit, &names[1]) && repo.holds(commit, &names[0]), "cut");
        fs::remove_file(snapshot.join(&names[1])).unwrap();
        assert_eq!(repo.find(commit), None);

        // Another client's download that was cut short.
        fs::remove_dir_all(repo.root.join(".sllm-gds")).unwrap();
        assert!(repo.find(commit).is_some());
        fs::create_dir_all(repo.root.join("blobs")).unwrap();
        fs::write(repo.root.join("blobs/0a1b.incomplete"), "half").unwrap();
        assert_eq!(repo.find(commit), None);
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
