//! Recorded trees for tests, unpacked from one text file each.
//!
//! `=== /path` begins a file, `-> /path target` is a link, `+++ /path` a directory.

use std::fs;
use std::path::Path;

use crate::node::block::Drive;
use crate::node::source::Source;

pub struct Tree {
    pub source: Source,
    _dir: tempfile::TempDir,
}

/// The tree `tests/doctor/trees/NAME.hardware.tree`.
pub fn tree(name: &str) -> Tree {
    tree_with(name, "")
}

/// That tree with more entries, which replace files of the same name.
pub fn tree_with(name: &str, more: &str) -> Tree {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/doctor/trees/{name}.hardware.tree"));
    tree_of(&format!("{}{more}", fs::read_to_string(path).unwrap()))
}

/// Its NVMe drives.
pub fn nvme_drives(source: &Source) -> Vec<Drive> {
    let names = source.list("/sys/block").unwrap();
    let drive = |name: String| {
        let device = source.canonical(&format!("/sys/block/{name}")).unwrap();
        Drive { name, device }
    };
    names.into_iter().filter(|name| name.starts_with("nvme")).map(drive).collect()
}

pub fn tree_of(text: &str) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let to = dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        to
    };
    let mut file: Option<(String, String)> = None;
    let write = |file: Option<(String, String)>| {
        if let Some((path, text)) = file {
            fs::write(at(&path), text).unwrap();
        }
    };
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("=== ") {
            write(file.replace((path.trim().to_string(), String::new())));
        } else if let Some(link) = line.strip_prefix("-> ") {
            write(file.take());
            let (path, target) = link.trim().split_once(' ').unwrap();
            std::os::unix::fs::symlink(target, at(path)).unwrap();
        } else if let Some(path) = line.strip_prefix("+++ ") {
            write(file.take());
            fs::create_dir_all(at(path.trim())).unwrap();
        } else if let Some((_, text)) = &mut file {
            text.push_str(line);
            text.push('\n');
        }
    }
    write(file);
    Tree { source: Source::recorded(dir.path()).unwrap(), _dir: dir }
}
