//! Unpacks a machine: both its text files, put together in a directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::temp_dir;

/// A directory for `--root`. Where both files of a machine name the same thing, they must agree.
pub fn unpack(name: &str) -> TempDir {
    let dir = temp_dir();
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor/trees");
    let mut found = 0;
    for half in ["storage", "hardware"] {
        let Ok(text) = fs::read_to_string(trees.join(format!("{name}.{half}.tree"))) else { continue };
        found += 1;
        unpack_text(&text, dir.path());
    }
    assert!(found > 0, "there is no machine {name}");
    dir
}

fn unpack_text(text: &str, root: &Path) {
    let mut file: Option<(PathBuf, String)> = None;
    for line in text.lines() {
        let entry = ["=== /", "-> /", "+++ /"].into_iter().find(|mark| line.starts_with(mark));
        let Some(mark) = entry else {
            // Comments may stand before the first entry.
            if let Some((_, content)) = &mut file {
                content.push_str(line);
                content.push('\n');
            }
            continue;
        };
        write(file.take());
        let rest = &line[mark.len()..];
        match mark {
            "=== /" => file = Some((root.join(rest), String::new())),
            "+++ /" => fs::create_dir_all(root.join(rest)).unwrap(),
            _ => link(root, rest),
        }
    }
    write(file);
}

fn link(root: &Path, line: &str) {
    let (path, target) = line.split_once(' ').expect("a link has a target");
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match fs::read_link(&path) {
        Ok(before) => assert_eq!(before, Path::new(target), "{}", path.display()),
        Err(_) => symlink(target, &path).unwrap(),
    }
}

fn write(file: Option<(PathBuf, String)>) {
    let Some((path, content)) = file else { return };
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match fs::read_to_string(&path) {
        Ok(before) => assert_eq!(before.trim(), content.trim(), "{}", path.display()),
        Err(_) => fs::write(&path, content).unwrap(),
    }
}
