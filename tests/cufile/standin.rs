//! Building, loading and ordering the stand-in for libcufile; `tests/standin/cufile.c` says what each fault does.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::ffi::{c_int, c_long, c_ulong};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libloading::Symbol;
use sllm_gds::cufile::{Driver, DriverOptions, Library};
use tempfile::TempDir;

pub const READ: c_int = 1;
pub const SHORT: c_int = 1;
pub const ERRNO: c_int = 2;
pub const CODE: c_int = 3;
pub const EXCESS: c_int = 4;
pub const CORRUPT: c_int = 5;
pub const SEEDED: c_int = 6;
pub const OPEN: c_int = 10;
pub const HANG: c_int = 11;
pub const HANDLE: c_int = 12;
pub const BUFFER: c_int = 13;
pub const STATS: c_int = 14;
pub const PARAMETER: c_int = 15;

pub const POSIX: c_int = 0;
pub const NVFS: c_int = 1;
pub const P2P: c_int = 2;

/// A stand-in of its own: other tests' copies have other state.
pub struct Standin {
    pub library: Arc<Library>,
    control: libloading::Library,
    path: PathBuf,
    _directory: TempDir,
}

impl Standin {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// One built with `-D` options, such as `STANDIN_VERSION=1130`.
    pub fn with(defines: &[&str]) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("libcufile.so.0");
        build(&path, defines);
        let library = Library::load_from(&path).unwrap();
        // SAFETY: the stand-in's initialiser reads two variables, and is loaded already.
        let control = unsafe { libloading::Library::new(&path) }.unwrap();
        Self { library, control, path, _directory: directory }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The driver, open.
    pub fn open(&self) -> Arc<Driver> {
        Driver::open(&self.library, &self.options()).unwrap()
    }

    /// The stand-in needs no /proc/modules; any file will do.
    pub fn options(&self) -> DriverOptions {
        DriverOptions { proc_modules: self.path.clone(), ..DriverOptions::default() }
    }

    pub fn fault(&self, kind: c_int, at_call: u64, value: i64) {
        // SAFETY: the signature is the one in cufile.c, as in the other calls here.
        let result = unsafe {
            let fault: Symbol<unsafe extern "C" fn(c_int, c_ulong, c_long) -> c_int> =
                self.control.get(b"standin_fault").unwrap();
            fault(kind, at_call, value)
        };
        assert_eq!(result, 0);
    }

    /// No faults any more, and all counts 0.
    pub fn reset(&self) {
        // SAFETY: as above.
        unsafe {
            let reset: Symbol<unsafe extern "C" fn()> = self.control.get(b"standin_reset").unwrap();
            reset();
        }
    }

    pub fn calls(&self, kind: c_int) -> u64 {
        // SAFETY: as above.
        unsafe {
            let calls: Symbol<unsafe extern "C" fn(c_int) -> c_ulong> =
                self.control.get(b"standin_calls").unwrap();
            calls(kind)
        }
    }

    /// How many drivers, handles or buffers there are now.
    pub fn live(&self, kind: c_int) -> i64 {
        // SAFETY: as above.
        unsafe {
            let live: Symbol<unsafe extern "C" fn(c_int) -> c_long> =
                self.control.get(b"standin_live").unwrap();
            live(kind)
        }
    }

    /// Which counter reads are put down to.
    pub fn path_is(&self, path: c_int) {
        // SAFETY: as above.
        let result = unsafe {
            let set: Symbol<unsafe extern "C" fn(c_int) -> c_int> =
                self.control.get(b"standin_path").unwrap();
            set(path)
        };
        assert_eq!(result, 0);
    }

    pub fn nvfs(&self, major: u32, minor: u32) {
        // SAFETY: as above.
        unsafe {
            let set: Symbol<unsafe extern "C" fn(u32, u32)> = self.control.get(b"standin_nvfs").unwrap();
            set(major, minor);
        }
    }
}

/// A library to preload where /proc/modules is missing, so that the driver is opened there all the same.
pub fn build_modules(path: &Path) {
    compile(Command::new("cc").args(["-shared", "-fPIC"]), path, "tests/standin/modules.c");
}

pub fn build(path: &Path, defines: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-I"])
        .arg(root.join("ffi"));
    cc.args(defines.iter().map(|define| format!("-D{define}")));
    compile(&mut cc, path, "tests/standin/cufile.c");
}

fn compile(cc: &mut Command, path: &Path, source: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let output = cc.arg("-o").arg(path).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
