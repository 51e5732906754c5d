//! Checkpoints appear whole or not at all: under kill, Ctrl-C, a full disk, and a race.
#![cfg(feature = "cli")]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use common::{Running, names_in, program, run, start, temp_dir, tree, write_odd_model};

mod common;

/// 250 MB: long enough in the making to be caught in it.
const LARGE: &str = "synthetic:facebook/opt-125m";

fn is_partial(name: &str) -> bool {
    name.starts_with(".sllm-gds-partial-")
}

/// Starts a save of the large model, and returns once its hidden directory holds the partition.
fn save_under_way(dir: &Path, args: &[&str]) -> Running {
    let mut save = start(program(dir, &[&["save", "--model", LARGE, "--name", "x"], args].concat()));
    let models = dir.join("models");
    save.wait_until("a partition in the making", || {
        let partial = names_in(&models).into_iter().find(|n| is_partial(n));
        partial.is_some_and(|name| models.join(name).join("tensor.data_0").exists())
    });
    save
}

#[test]
fn a_killed_save_leaves_no_checkpoint_and_the_next_one_clears_up() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let mut save = save_under_way(dir.path(), &[]);
    save.signal("KILL");
    let ran = save.finish();
    assert_eq!(ran.code, None, "killed, so it has no exit code: {ran:?}");
    let models = dir.path().join("models");
    let left = names_in(&models);
    assert!(left.len() == 1 && is_partial(&left[0]), "{left:?}");
    run(dir.path(), &["inspect", &left[0]]).expect(2).one_error(&[&left[0]]);
    run(dir.path(), &["load", "x"]).expect(2).one_error(&["x does not exist"]);
    run(dir.path(), &["save", "--model", "odd", "--name", "y"]).expect(0);
    assert_eq!(names_in(&models), ["y"]);
    run(dir.path(), &["verify", "y"]).expect(0);
}

#[test]
fn a_killed_overwrite_leaves_the_old_one_whole() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "x"]).expect(0);
    let before = tree(&dir.path().join("models/x"));
    let mut save = save_under_way(dir.path(), &["--overwrite"]);
    save.signal("KILL");
    save.finish();
    assert_eq!(tree(&dir.path().join("models/x")), before);
    run(dir.path(), &["verify", "x"]).expect(0);
}

#[test]
fn an_interrupted_save_says_so_and_leaves_nothing() {
    for signal in ["INT", "TERM"] {
        let dir = temp_dir();
        let mut save = save_under_way(dir.path(), &[]);
        save.signal(signal);
        let ran = save.finish().expect(130);
        let answer = "interrupted (save ./models/x): stopping after the read or write under way";
        assert!(ran.stderr.contains(answer), "{ran:?}");
        assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
    }
}

#[test]
fn an_interrupted_export_leaves_nothing() {
    let dir = temp_dir();
    run(dir.path(), &["save", "--model", LARGE, "--name", "x"]).expect(0);
    let mut export = start(program(dir.path(), &["export", "x", "--to", "back"]));
    let partial = || names_in(dir.path()).into_iter().find(|n| is_partial(n));
    export.wait_until("an export in the making", || partial().is_some());
    export.signal("INT");
    export.finish().expect(130);
    assert_eq!(names_in(dir.path()), ["models"]);
}

#[test]
fn of_two_saves_of_one_name_the_second_to_finish_does_not_replace_the_first() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let mut slow = save_under_way(dir.path(), &[]);
    slow.signal("STOP");
    run(dir.path(), &["save", "--model", "odd", "--name", "x"]).expect(0);
    let first = tree(&dir.path().join("models/x"));
    slow.signal("CONT");
    let ran = slow.finish();
    assert!(tree(&dir.path().join("models/x")) == first, "replaced without --overwrite: {ran:?}");
    ran.expect(2).one_error(&["x exists"]);
    assert_eq!(names_in(&dir.path().join("models")), ["x"]);
}

/// A small file system in memory, at `models` in a directory of its own.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, with a printed reason, where this user may not mount.
    fn new(options: &str) -> Option<SmallDisk> {
        let disk = SmallDisk(temp_dir());
        fs::create_dir(disk.models()).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(disk.models()).output();
        match mount {
            Ok(output) if output.status.success() => Some(disk),
            Ok(output) => {
                eprintln!("skipped, no mount: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(e) => {
                eprintln!("skipped, no mount: {e}");
                None
            }
        }
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn models(&self) -> PathBuf {
        self.0.path().join("models")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails where nothing was mounted.
        let _ = Command::new("umount").arg("-l").arg(self.models()).output();
    }
}

/// The sizes in a text that are in megabytes.
fn megabytes(text: &str) -> Vec<f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .filter(|pair| pair[1].starts_with("MB"))
        .filter_map(|pair| pair[0].parse().ok())
        .collect()
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_byte_with_both_numbers() {
    let Some(disk) = SmallDisk::new("size=200m") else { return };
    let save = run(disk.dir(), &["save", "--model", LARGE, "--name", "x"]).expect(2);
    let save = save.one_error(&["models", "needed", "free", "--storage-path"]);
    let numbers = megabytes(&save.stderr);
    assert!(numbers.contains(&209.7), "free: {}", save.stderr);
    assert!(numbers.iter().any(|n| (250.4..400.0).contains(n)), "needed: {}", save.stderr);
    assert_eq!(names_in(&disk.models()), [""; 0]);
    let bench = ["bench", "--mode", "random", "--replicas", "3", "--model", "synthetic:opt-125m@0.01"];
    run(disk.dir(), &bench).expect(2).one_error(&["needed", "free"]);
    assert_eq!(names_in(&disk.models()), [""; 0]);
}

#[test]
fn an_export_that_does_not_fit_names_its_own_option() {
    let Some(disk) = SmallDisk::new("size=200m") else { return };
    run(disk.dir(), &["save", "--model", LARGE, "--storage-path", "elsewhere", "--name", "x"]).expect(0);
    let export = ["export", "x", "--storage-path", "elsewhere", "--to", "models/back"];
    run(disk.dir(), &export).expect(2).one_error(&["needed", "free", "--to"]);
    assert_eq!(names_in(&disk.models()), [""; 0]);
}

#[test]
fn a_disk_that_fills_up_meanwhile_ends_the_save_with_both_numbers() {
    let Some(disk) = SmallDisk::new("size=400m") else { return };
    let args = ["save", "--model", "synthetic:opt-125m@0.2", "--name", "x", "--replicas", "3"];
    let mut save = start(program(disk.dir(), &args));
    save.wait_until("the first replica", || disk.models().join("x_0").exists());
    // Three times 109 MB fit, but not beside this.
    save.signal("STOP");
    fs::write(disk.models().join("filler"), vec![1u8; 130 << 20]).unwrap();
    save.signal("CONT");
    let ran = save.finish().expect(2).one_error(&["models/x_", "needed", "free"]);
    assert!(megabytes(&ran.stderr).len() >= 2, "{}", ran.stderr);
    assert!(names_in(&disk.models()).iter().all(|n| !is_partial(n)), "remains");
    for name in names_in(&disk.models()).iter().filter(|n| n.starts_with('x')) {
        run(disk.dir(), &["verify", name]).expect(0);
    }
}

#[test]
fn a_disk_that_the_files_beside_the_weights_overfill_leaves_nothing() {
    let Some(disk) = SmallDisk::new("size=80m") else { return };
    let model = disk.dir().join("odd");
    write_odd_model(&model);
    // The tokenizer takes more than the margin that the look at the free space leaves; it is all holes here.
    File::create(model.join("tokenizer.json")).unwrap().set_len(100 << 20).unwrap();
    run(disk.dir(), &["save", "--model", "odd", "--name", "x"]).expect(2).one_error(&["needed", "free"]);
    assert_eq!(names_in(&disk.models()), [""; 0]);
}

#[test]
fn a_reader_that_went_away_ends_the_program_quietly() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let mut command = program(dir.path(), &["inspect", "odd"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!(output.status.signal(), Some(13), "SIGPIPE, as for any other tool");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
