//! The engine `gds` on a GPU. Where GDS is not real (no nvidia-fs, no P2PDMA) it must refuse; cuFile's compatibility
//! mode stands in for it then, and is skipped where libcufile is missing or can't register files.

use std::path::Path;
#[cfg(feature = "cli")]
use std::process::Command;

use sllm_gds::load::gds::Gds;
use sllm_gds::load::gds::choose::choose;
use sllm_gds::load::{EngineChoice, OnError, Placement, Register, Settings, load};
use sllm_gds::os::cancel::Cancel;

#[cfg(feature = "cli")]
use crate::cli::{finish, program, run};
use crate::rig::{Session, assert_right, fixture, large, options, scratch, session};
use crate::standin::{BUFFER, HANDLE, READ, Standin};

/// Compatibility mode for files under `dir`, or `None`, said, where this machine has none.
fn compat(dir: &Path) -> Option<Gds> {
    let settings = Settings { engine: EngineChoice::Gds, allow_compat: true, ..Settings::default() };
    let chosen = choose(&settings, dir);
    match chosen {
        Ok(Ok(gds)) => Some(gds),
        Ok(Err(why)) => panic!("the engine gds was not taken: {why:?}"),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

/// Whether files here can be registered: not without an entry in udev's database.
fn registers(session: &Session, path: &Path, gds: &Gds) -> bool {
    let mut options = options(1 << 20, 2, 2);
    options.gds = Ok(gds.clone());
    match load(path, &session.times(1, Placement::Balanced), &options, &Cancel::new()) {
        Ok(_) => true,
        Err(error) if format!("{error:#}").contains("5027") => {
            println!("skipped: {error:#}");
            false
        }
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn every_layout_and_registration_and_odd_sizes() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let Some(gds) = compat(fixture.root.path()) else { return };
    if !registers(&session, &fixture.ours(), &gds) {
        return;
    }
    for register in [Register::Auto, Register::None, Register::Whole, Register::Slabs] {
        for path in [fixture.safetensors(), fixture.ours(), fixture.foreign()] {
            for (count, placement) in
                [(1, Placement::Balanced), (3, Placement::Balanced), (2, Placement::Replicate)]
            {
                for (chunk_bytes, threads) in [(4096, 1), (12_288, 8), (1 << 20, 4)] {
                    let mut options = options(chunk_bytes, threads, 1);
                    options.gds = Ok(Gds { register, ..gds.clone() });
                    let to = session.times(count, placement);
                    let (loaded, report) = load(&path, &to, &options, &Cancel::new()).unwrap();
                    assert_right(&loaded, &fixture.pristine);
                    assert!(report.path.starts_with("gds-"), "{}", report.path);
                    assert_eq!(report.staging_bytes, 0);
                }
            }
        }
    }
}

#[test]
fn slabs_are_mapped_ahead_and_taken_apart() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let Some(gds) = compat(dir.path()) else { return };
    if !registers(&session, &path, &gds) {
        return;
    }
    session.keeps_memory(|| {
        for register in [Register::Whole, Register::Slabs] {
            let mut options = options(256 << 10, 8, 1);
            options.gds = Ok(Gds { register, ..gds.clone() });
            let to = session.times(1, Placement::Balanced);
            let (loaded, _) = load(&path, &to, &options, &Cancel::new()).unwrap();
            assert_right(&loaded, &pristine);
        }
    });
}

/// A stand-in for libcufile, or `None`, said, where it can't be built: this binary may run alone.
fn standin() -> Option<Standin> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/cufile.c");
    let has_cc = std::process::Command::new("cc").arg("--version").output().is_ok();
    if !has_cc || !source.is_file() || !Path::new(env!("CARGO_TARGET_TMPDIR")).is_dir() {
        println!("skipped: needs cc and the source tree where it was built");
        return None;
    }
    Some(Standin::new())
}

#[test]
fn what_cufile_refuses_before_the_first_byte_comes_through_the_ring() {
    let Some(session) = session() else { return };
    let Some(standin) = standin() else { return };
    let (_dir, fixture) = fixture();
    let driver = standin.open();
    let refused = [
        (HANDLE, 5027, Register::None, "tensor.data_"),
        (BUFFER, 5036, Register::Slabs, "memory of GPU 0"),
        (BUFFER, 5016, Register::Whole, "memory of GPU 0"),
    ];
    for (kind, code, register, what) in refused {
        session.keeps_memory(|| {
            for (count, placement) in
                [(1, Placement::Balanced), (3, Placement::Balanced), (2, Placement::Replicate)]
            {
                let attempt = |may_fall_back| {
                    standin.reset();
                    standin.fault(kind, 0, code);
                    let gds = Gds {
                        driver: driver.clone(),
                        options: Default::default(),
                        allow_compat: true,
                        register,
                        on_error: OnError::Retry,
                        may_fall_back,
                        instead: None,
                        helper: None,
                        proofs: Default::default(),
                    };
                    let mut options = options(1 << 20, 4, 6);
                    options.gds = Ok(gds);
                    load(&fixture.ours(), &session.times(count, placement), &options, &Cancel::new())
                };
                let tells = ["cuFile refused ", what, &code.to_string()];
                let (loaded, report) = attempt(true).unwrap();
                assert_right(&loaded, &fixture.pristine);
                assert!(report.path.starts_with("pinned-"), "{}", report.path);
                let why = report.path_reason.split_once("; no GDS: ").expect(&report.path_reason).1;
                assert!(tells.iter().all(|part| why.contains(part)), "{why}");
                assert!(report.phases.open_s < report.elapsed_s);
                let error = format!("{:#}", attempt(false).err().expect("a demand can't be met"));
                assert!(tells.iter().all(|part| error.contains(part)), "{error}");
                assert_eq!((standin.live(HANDLE), standin.live(BUFFER), standin.calls(READ)), (0, 0, 0));
            }
        });
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_command_line_demands_falls_back_and_takes_compat_when_told() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let root = fixture.root.path();
    let load = |more: &[&str]| {
        run(root, &[&["load", "ours", "--storage-path", ".", "--gpus", "0", "--json"], more].concat())
    };
    let refused = load(&["--engine", "gds"]);
    let automatic = load(&["--verify"]).expect(0).json();
    assert_eq!(automatic["verified"], true);
    match refused.code() {
        // GDS is real here: auto takes it too.
        Some(0) => assert!(automatic["path"].as_str().unwrap().starts_with("gds-"), "{automatic}"),
        _ => {
            refused.expect(2).one_error(&[
                "GPUDirect Storage is not possible",
                "nvidia-fs",
                "--allow-compat",
                "doctor",
            ]);
            assert!(automatic["path"].as_str().unwrap().starts_with("pinned-"), "{automatic}");
            assert!(automatic["path_reason"].as_str().unwrap().contains("no GDS"), "{automatic}");
        }
    }
    let Some(gds) = compat(root) else { return };
    if registers(&session, &fixture.ours(), &gds) {
        let report = load(&["--engine", "gds", "--allow-compat", "--verify"]).expect(0).json();
        assert_eq!(report["verified"], true);
        assert!(report["path"].as_str().unwrap().starts_with("gds-"), "{report}");
    }
}

/// The stand-in reads with pread, which can't write to a GPU: each read fails, as a broken path would.
#[cfg(feature = "cli")]
#[test]
fn a_path_that_breaks_is_left_for_host_memory_or_fails_as_asked() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, _) = large(dir.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/cufile.c");
    let source = if source.is_file() { source } else { "tests/standin/cufile.c".into() };
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-pthread", "-Iffi", "-o"])
        .args([dir.path().join("libcufile.so.0").as_os_str(), source.as_os_str()])
        .status();
    if !built.is_ok_and(|status| status.success()) || !Path::new("/proc/modules").exists() {
        println!("skipped: needs cc, the source tree and /proc/modules");
        return;
    }
    let load = |on_error: &str| {
        let name = path.to_str().unwrap();
        let args = [
            "load",
            name,
            "--gpus",
            "0",
            "--engine",
            "gds",
            "--allow-compat",
            "--on-gds-error",
            on_error,
            "--verify",
            "--json",
        ];
        let mut command = program(dir.path(), &args);
        command.env("LD_LIBRARY_PATH", dir.path());
        finish(command)
    };
    session.keeps_memory(|| {
        let report = load("retry").expect(0).json();
        assert_eq!(report["verified"], true);
        assert!(report["path_reason"].as_str().unwrap().contains("through host memory instead"), "{report}");
        load("fail").expect(2).one_error(&["cuFileRead", "large.safetensors", "bytes at"]);
    });
}
