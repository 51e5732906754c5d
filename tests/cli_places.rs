//! Targets that can't be written or replaced as a plain directory can: links, mounts, overlays, what one may not see.
#![cfg(feature = "cli")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{names_in, program, run, run_command, temp_dir, tree, write_odd_model, write_plain_model};

mod common;

const SAVE: [&str; 5] = ["save", "--model", "odd", "--name", "x"];
const OVERWRITE: [&str; 6] = ["save", "--model", "odd", "--name", "x", "--overwrite"];

/// A directory with the model `odd`, and in `models` a checkpoint of another one as `x`.
fn with_old() -> tempfile::TempDir {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    write_plain_model(&dir.path().join("plain"));
    run(dir.path(), &["save", "--model", "plain", "--name", "x"]).expect(0);
    dir
}

/// A mount, undone when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a printed reason, where this user may not mount, or not this.
    fn new(args: &[&str], at: &Path) -> Option<Mount> {
        let mount = Command::new("mount").args(args).arg(at).output();
        match mount {
            Ok(output) if output.status.success() => Some(Mount(at.to_path_buf())),
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
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn of_a_link_what_it_leads_to_is_replaced_and_the_link_stays() {
    let dir = with_old();
    let (models, elsewhere) = (dir.path().join("models"), dir.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(models.join("x"), elsewhere.join("real")).unwrap();
    symlink("../elsewhere/real", models.join("x")).unwrap();
    let before = tree(&elsewhere);
    run(dir.path(), &SAVE).expect(2).one_error(&["x exists", "--overwrite"]);
    assert_eq!(tree(&elsewhere), before);
    run(dir.path(), &OVERWRITE).expect(0);
    run(dir.path(), &["verify", "x", "--against", "odd"]).expect(0);
    assert!(models.join("x").is_symlink());
    assert_eq!((names_in(&models), names_in(&elsewhere)), (vec!["x".into()], vec!["real".into()]));
}

#[test]
fn a_link_that_leads_nowhere_is_refused_and_stays() {
    let dir = with_old();
    let models = dir.path().join("models");
    symlink("../gone", models.join("y")).unwrap();
    for overwrite in [&[][..], &["--overwrite"]] {
        let save = [&["save", "--model", "odd", "--name", "y"], overwrite].concat();
        run(dir.path(), &save).expect(2).one_error(&["models/y", "leads nowhere"]);
        let export = [&["export", "x", "--to", "models/y"], overwrite].concat();
        run(dir.path(), &export).expect(2).one_error(&["models/y", "leads nowhere"]);
    }
    assert_eq!(names_in(&models), ["x", "y"]);
    assert!(!dir.path().join("gone").exists());
}

#[test]
fn a_mount_point_is_refused_before_the_first_byte_whatever_is_mounted() {
    let dir = with_old();
    let models = dir.path().join("models");
    let saved = models.join("x").display().to_string();
    // The second is of the same file system as the directory that it is in.
    for args in [&["-t", "tmpfs", "none"][..], &["--bind", &saved]] {
        let _ = fs::create_dir(models.join("y"));
        let Some(_mount) = Mount::new(args, &models.join("y")) else { return };
        let before = tree(&models);
        for overwrite in [&[][..], &["--overwrite"]] {
            let save = [&["save", "--model", "odd", "--name", "y"], overwrite].concat();
            run(dir.path(), &save).expect(2).one_error(&["models/y is a mount point", "below it"]);
        }
        assert_eq!(tree(&models), before);
        assert_eq!(names_in(&models), ["x", "y"]);
        if args[0] == "-t" {
            run(dir.path(), &["save", "--model", "odd", "--name", "y/z"]).expect(0);
        }
    }
}

#[test]
fn what_an_overlay_can_not_move_is_refused_before_the_first_byte_and_all_else_works_there() {
    let dir = with_old();
    let [models, over] = ["models", "over"].map(|name| dir.path().join(name));
    // What lies above must be on no overlay itself.
    fs::create_dir(&over).unwrap();
    let Some(_upper) = Mount::new(&["-t", "tmpfs", "none"], &over) else { return };
    fs::create_dir(over.join("upper")).unwrap();
    fs::create_dir(over.join("work")).unwrap();
    let layers = |name: &str| over.join(name).display().to_string();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", models.display(), layers("upper"), layers("work"));
    let Some(_overlay) =
        Mount::new(&["-t", "overlay", "-o", &format!("{options},redirect_dir=off"), "none"], &models)
    else {
        return;
    };
    let before = tree(&models);
    run(dir.path(), &OVERWRITE).expect(2).one_error(&["models/x can't be replaced", "another name"]);
    assert_eq!(tree(&models), before);
    assert_eq!(names_in(&models), ["x"]);
    for overwrite in [&[][..], &["--overwrite"]] {
        run(dir.path(), &[&["save", "--model", "odd", "--name", "y"], overwrite].concat()).expect(0);
        run(dir.path(), &["load", "y", "--gpus", "none", "--verify"]).expect(0);
    }
    assert_eq!(names_in(&models), ["x", "y"]);
}

#[test]
fn a_file_system_without_direct_reads_and_sizes_takes_saves_exports_and_loads() {
    let dir = with_old();
    let Some(_mount) = Mount::new(&["-t", "ramfs", "none"], &dir.path().join("models")) else { return };
    run(dir.path(), &SAVE).expect(0);
    run(dir.path(), &OVERWRITE).expect(0);
    let load = run(dir.path(), &["load", "x", "--gpus", "none", "--io", "direct", "--verify"]).expect(0);
    assert!(load.stdout.contains("refuses O_DIRECT"), "{load:?}");
    run(dir.path(), &["export", "x", "--to", "models/back"]).expect(0);
    assert_eq!(tree(&dir.path().join("models/back")), tree(&dir.path().join("odd")));
    assert_eq!(names_in(&dir.path().join("models")), ["back", "x"]);
}

#[test]
fn where_only_reading_is_allowed_saves_say_so_and_loads_work() {
    let dir = with_old();
    let models = dir.path().join("models");
    let saved = models.display().to_string();
    let Some(_mount) = Mount::new(&["-o", "bind,ro", &saved], &models) else { return };
    run(dir.path(), &["save", "--model", "odd", "--name", "y"]).expect(2).one_error(&["models", "Read-only"]);
    run(dir.path(), &OVERWRITE).expect(2).one_error(&["models", "Read-only"]);
    run(dir.path(), &["load", "x", "--gpus", "none", "--verify"]).expect(0);
    assert_eq!(names_in(&models), ["x"]);
}

#[test]
fn what_may_not_be_seen_is_not_taken_for_absent() {
    let dir = with_old();
    let mode =
        |name: &str, mode| fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode));
    let unlucky = |args: &[&str]| {
        let mut command = program(dir.path(), args);
        // Root sees everything.
        if fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
            command.uid(65534).gid(65534);
        }
        command
    };
    mode("", 0o755).unwrap();
    if let Err(e) = unlucky(&["--version"]).output() {
        return eprintln!("skipped: the program can't be run as another user: {e}");
    }
    mode("models", 0o000).unwrap();
    let inspect = run_command(unlucky(&["inspect", "x"]));
    // Made up, since the files of the other models are this user's alone.
    let made_up = ["save", "--model", "synthetic:opt-125m@0.01", "--name", "x", "--overwrite"];
    let save = run_command(unlucky(&made_up));
    mode("models", 0o755).unwrap();
    inspect.expect(2).one_error(&["models/x", "Permission denied"]);
    save.expect(2).one_error(&["models/x", "Permission denied"]);
    assert_eq!(names_in(&dir.path().join("models")), ["x"]);
}
