//! Where facts are read: this machine, or a tree that was recorded on another.
//!
//! Files are read below a root. What no file tells (NVML, cuFile, statx, limits) is probed live and, in a recorded
//! tree, stands as JSON in `sllm-gds/<name>.json`. `--record DIR` makes such a tree from whatever was read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unread {
    Missing,
    /// Wants another right.
    Denied,
    Other(String),
}

impl From<io::Error> for Unread {
    fn from(e: io::Error) -> Unread {
        match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unread::Missing,
            io::ErrorKind::PermissionDenied => Unread::Denied,
            _ => Unread::Other(e.to_string()),
        }
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unread::Missing => f.write_str("not there"),
            Unread::Denied => f.write_str("not ours to read"),
            Unread::Other(why) => f.write_str(why),
        }
    }
}

/// In a recording: what was there but could not be read, by path. It must not turn into what was not there.
const UNREAD: &str = "/sllm-gds/unread.json";

/// More than this of one file is not read: sysfs and procfs files are far smaller.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub struct Source {
    root: PathBuf,
    /// What was read, when a recording was asked for.
    seen: Option<RefCell<Seen>>,
    /// What the recording says could not be read.
    unread: BTreeMap<String, Unread>,
}

/// What a recording is made of.
#[derive(Default)]
struct Seen {
    /// By real path.
    entries: BTreeMap<String, Entry>,
    /// By the path that was asked for. Apart from the entries: a directory can be seen that can't be read.
    unread: BTreeMap<String, Unread>,
}

enum Entry {
    Text(String),
    Link(String),
    Directory,
}

impl Source {
    /// This machine.
    pub fn live(record: bool) -> Source {
        Source { root: "/".into(), seen: record.then(RefCell::default), unread: BTreeMap::new() }
    }

    /// A recorded tree. An error where its list of what could not be read is damaged: without it, what could not be
    /// read would pass for what was not there.
    pub fn recorded(root: &Path) -> Result<Source> {
        let mut source = Source { root: root.into(), seen: None, unread: BTreeMap::new() };
        let at = || format!("read {}{UNREAD}; the recording is damaged, make it again", root.display());
        match source.text(UNREAD) {
            Ok(text) => source.unread = serde_json::from_str(&text).with_context(at)?,
            Err(Unread::Missing) => {}
            Err(why) => return Err(anyhow!("{why}")).with_context(at),
        }
        Ok(source)
    }

    /// Whether calls that are not file reads may be made.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A file's text, without white space at its ends. `path` is absolute, as on the machine.
    pub fn text(&self, path: &str) -> Result<String, Unread> {
        self.noting(path, || self.read_text(path))
    }

    fn read_text(&self, path: &str) -> Result<String, Unread> {
        use std::io::Read;
        if let Some(text) = self.already_read(path) {
            return Ok(text.trim().to_string());
        }
        let file = fs::File::open(self.real(path)?)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.remember(path, || Entry::Text(text.clone()));
        Ok(text.trim().to_string())
    }

    /// While recording, the first reading stands: a recording must tell what the report told.
    fn already_read(&self, path: &str) -> Option<String> {
        let seen = self.seen.as_ref()?;
        let real = self.resolve(path).ok()?;
        match seen.borrow().entries.get(&real)? {
            Entry::Text(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// A file that holds one number, in any base that sysfs uses (`0x…` or decimal).
    pub fn number(&self, path: &str) -> Result<u64, Unread> {
        let text = self.text(path)?;
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map_err(|_| Unread::Other(format!("{path} holds '{text}', which is not a number")))
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Unread> {
        self.noting(path, || self.read_list(path))
    }

    fn read_list(&self, path: &str) -> Result<Vec<String>, Unread> {
        let mut names = Vec::new();
        let place = self.resolve(path)?;
        for entry in fs::read_dir(self.root.join(place.trim_start_matches('/')))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        self.remember(path, || Entry::Directory);
        for name in &names {
            // Of a directory that is recorded, each name must stand in the recording too, below its real place.
            let child = format!("{}/{name}", place.trim_end_matches('/'));
            if let Some(target) = self.target_text(&child) {
                self.remember(&child, || Entry::Link(target));
            } else if fs::metadata(self.root.join(child.trim_start_matches('/'))).is_ok_and(|m| m.is_dir()) {
                self.remember(&child, || Entry::Directory);
            }
        }
        Ok(names)
    }

    /// Whether it is there; an error where that can't be told.
    pub fn is_there(&self, path: &str) -> Result<bool, Unread> {
        match self.noting(path, || Ok(fs::metadata(self.real(path)?).map(drop)?)) {
            Ok(()) => {
                self.remember(path, || Entry::Directory);
                Ok(true)
            }
            Err(Unread::Missing) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// The absolute path, as on the machine, that `path` leads to after every link: how sysfs tells a device's place
    /// in the tree of buses.
    pub fn canonical(&self, path: &str) -> Result<String, Unread> {
        self.resolve(path)
    }

    /// A fact that no file tells: in a recorded tree from `sllm-gds/<name>.json`, live from `probe`.
    pub fn fact<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        probe: impl FnOnce() -> Result<T, Unread>,
    ) -> Result<T, Unread> {
        let path = format!("/sllm-gds/{name}.json");
        if !self.is_live() {
            let text = self.text(&path)?;
            return serde_json::from_str(&text).map_err(|e| Unread::Other(format!("{path}: {e}")));
        }
        let value = self.noting(&path, probe)?;
        if let Ok(text) = serde_json::to_string_pretty(&value) {
            self.remember(&path, || Entry::Text(text));
        }
        Ok(value)
    }

    /// Writes what was read to a new directory, for `--root`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let at = || format!("record to {}", dir.display());
        fs::create_dir(dir).with_context(at)?;
        let Some(seen) = &self.seen else { return Ok(()) };
        let Seen { entries, unread } = &*seen.borrow();
        for (path, entry) in entries {
            let to = dir.join(path.trim_start_matches('/'));
            let parent = to.parent().unwrap_or(dir);
            fs::create_dir_all(parent).with_context(at)?;
            match entry {
                Entry::Directory => fs::create_dir_all(&to).with_context(at)?,
                Entry::Text(text) => fs::write(&to, text).with_context(at)?,
                // A parent that was recorded as a directory stays one.
                Entry::Link(_) if to.exists() => {}
                Entry::Link(target) => std::os::unix::fs::symlink(target, &to).with_context(at)?,
            }
        }
        if unread.is_empty() {
            return Ok(());
        }
        let to = dir.join(UNREAD.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap_or(dir)).with_context(at)?;
        fs::write(&to, serde_json::to_string_pretty(unread)?).with_context(at)
    }

    /// Reads, and notes for the recording what could not be read; in a recording, repeats what was noted.
    fn noting<T>(&self, path: &str, read: impl FnOnce() -> Result<T, Unread>) -> Result<T, Unread> {
        if let Some(why) = self.unread.get(path) {
            return Err(why.clone());
        }
        let result = read();
        if let (Err(why @ (Unread::Denied | Unread::Other(_))), Some(seen)) = (&result, &self.seen) {
            seen.borrow_mut().unread.insert(path.to_string(), why.clone());
        }
        result
    }

    fn remember(&self, path: &str, entry: impl FnOnce() -> Entry) {
        let Some(seen) = &self.seen else { return };
        // By its real place: links are recorded by themselves.
        let Ok(real) = self.resolve(path) else { return };
        let seen = &mut seen.borrow_mut().entries;
        match (seen.get(&real), entry()) {
            (Some(Entry::Text(_)), Entry::Directory) => {}
            (_, Entry::Directory)
                if fs::metadata(self.root.join(real.trim_start_matches('/'))).is_ok_and(|m| m.is_file()) =>
            {
                seen.insert(real, Entry::Text(String::new()));
            }
            (_, Entry::Link(target)) => {
                seen.insert(path.to_string(), Entry::Link(target));
            }
            (_, entry) => {
                seen.insert(real, entry);
            }
        }
    }

    fn target_text(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path.trim_start_matches('/'))).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    fn real(&self, path: &str) -> Result<PathBuf, Unread> {
        Ok(self.root.join(self.resolve(path)?.trim_start_matches('/')))
    }

    /// Follows links inside the root: in a recorded tree `/sys/…` must not lead to this machine's.
    fn resolve(&self, path: &str) -> Result<String, Unread> {
        const LINKS_MAX: usize = 40;
        let mut rest: Vec<String> = parts(Path::new(path));
        rest.reverse();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            at.push(part);
            let here = format!("/{}", at.join("/"));
            if let Some(target) = self.target_text(&here) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Unread::Other(format!("{path} leads in a circle")));
                }
                if let Some(seen) = &self.seen {
                    seen.borrow_mut().entries.insert(here, Entry::Link(target.clone()));
                }
                match target.starts_with('/') {
                    true => at.clear(),
                    false => drop(at.pop()),
                }
                rest.extend(parts(Path::new(&target)).into_iter().rev());
            }
        }
        Ok(format!("/{}", at.join("/")))
    }
}

fn parts(path: &Path) -> Vec<String> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_tree_is_closed_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sys/devices/pci0/nvme0")).unwrap();
        fs::create_dir_all(root.join("sys/class/nvme")).unwrap();
        fs::write(root.join("sys/devices/pci0/nvme0/numa_node"), "1\n").unwrap();
        std::os::unix::fs::symlink("../../devices/pci0/nvme0", root.join("sys/class/nvme/nvme0")).unwrap();
        std::os::unix::fs::symlink("/sys/class", root.join("absolute")).unwrap();
        let source = Source::recorded(root).unwrap();
        assert_eq!(source.number("/sys/class/nvme/nvme0/numa_node"), Ok(1));
        assert_eq!(source.canonical("/absolute/nvme/nvme0").unwrap(), "/sys/devices/pci0/nvme0");
        assert_eq!(source.list("/absolute/nvme").unwrap(), ["nvme0"]);
        assert_eq!(source.text("/etc/hostname"), Err(Unread::Missing));
        assert_eq!(source.fact::<u64>("limits", || Ok(7)), Err(Unread::Missing));
    }

    #[test]
    fn what_was_read_live_can_be_read_again_from_a_recording() {
        let dir = tempfile::tempdir().unwrap();
        let live = Source::live(true);
        let modules = live.text("/proc/meminfo").unwrap();
        let blocks = live.list("/sys/class/net").unwrap();
        assert_eq!(live.fact::<u64>("answer", || Ok(42)), Ok(42));
        let device = live.canonical("/sys/class/net/lo").unwrap();
        assert_eq!(live.fact::<u64>("refused", || Err(Unread::Denied)), Err(Unread::Denied));
        let directory = live.text("/proc").unwrap_err();
        let to = dir.path().join("tree");
        live.save(&to).unwrap();
        let again = Source::recorded(&to).unwrap();
        assert_eq!(again.text("/proc/meminfo").unwrap(), modules);
        assert_eq!(again.list("/sys/class/net").unwrap(), blocks);
        assert_eq!(again.fact::<u64>("answer", || Ok(1)), Ok(42));
        assert_eq!(again.canonical("/sys/class/net/lo").unwrap(), device);
        assert_eq!(again.fact::<u64>("refused", || Ok(1)), Err(Unread::Denied));
        assert_eq!(again.text("/proc"), Err(directory));
        assert_eq!(again.fact::<u64>("never asked", || Ok(1)), Err(Unread::Missing));
    }

    #[test]
    fn what_was_listed_by_way_of_a_link_can_be_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir_all(at("usr/lib/here")).unwrap();
        std::os::unix::fs::symlink("usr/lib", at("lib")).unwrap();
        std::os::unix::fs::symlink("here", at("usr/lib/there")).unwrap();
        let live = Source::live(true);
        assert_eq!(live.list(&at("lib")).unwrap(), ["here", "there"]);
        live.save(&dir.path().join("tree")).unwrap();
        let again = Source::recorded(&dir.path().join("tree")).unwrap();
        assert_eq!(again.list(&at("lib")).unwrap(), ["here", "there"]);
        assert_eq!(again.list(&at("lib/there")), Ok(Vec::new()));
    }

    #[test]
    fn what_can_not_be_told_is_neither_there_nor_missing() {
        let dir = tempfile::tempdir().unwrap();
        let unread = dir.path().join("sllm-gds/unread.json");
        fs::create_dir_all(unread.parent().unwrap()).unwrap();
        fs::write(dir.path().join("there"), "").unwrap();
        fs::write(&unread, r#"{"/there": "Denied", "/hidden": "Denied"}"#).unwrap();
        let source = Source::recorded(dir.path()).unwrap();
        assert_eq!(source.is_there("/there"), Err(Unread::Denied));
        assert_eq!(source.is_there("/hidden"), Err(Unread::Denied));
        assert_eq!((source.is_there("/sllm-gds"), source.is_there("/gone")), (Ok(true), Ok(false)));
        fs::write(&unread, "{{{").unwrap();
        let error = format!("{:#}", Source::recorded(dir.path()).err().unwrap());
        assert!(error.contains("unread.json") && error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_name_that_is_seen_but_can_not_be_looked_up_stays_so_in_a_recording() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::os::unix::fs::symlink("circle", dir.path().join("circle")).unwrap();
        fs::create_dir(dir.path().join("shut")).unwrap();
        let live = Source::live(true);
        let circle = live.is_there(&at("circle"));
        assert!(matches!(circle, Err(Unread::Other(_))), "{circle:?}");
        // As a directory that may not be read comes out of its parent's list.
        assert_eq!(live.noting(&at("shut"), || Err::<(), _>(Unread::Denied)), Err(Unread::Denied));
        assert_eq!(live.list(&at("")).unwrap(), ["circle", "shut"]);
        let to = dir.path().join("tree");
        live.save(&to).unwrap();
        let again = Source::recorded(&to).unwrap();
        assert_eq!(again.is_there(&at("circle")), circle);
        assert_eq!(again.list(&at("shut")), Err(Unread::Denied));
        assert!(again.list(&at("")).unwrap().contains(&"shut".to_string()));
    }
}
