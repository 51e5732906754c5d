//! The wheel's real library, on whatever machine this is. Most have no GPU: then it must say so, and no more.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sllm_gds::cufile::{Driver, DriverOptions, Handle, Library};

use crate::standin;
use crate::wheel::wheels;

/// Set for the child alone: the library to try.
const LIBRARY: &str = "SLLM_GDS_TEST_LIBRARY";
const FILE: &str = "file";
/// No version's default.
const MAX_DIRECT_IO_BYTES: u64 = 2 << 20;

#[test]
fn the_real_library_loads_and_answers() {
    let tools = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let preload = tools.path().join("modules.so");
    standin::build_modules(&preload);
    for wheel in wheels() {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(directory.path().join(FILE), [7; 4096]).unwrap();
        // A hang in it must not become one of the suite.
        let mut child = Command::new("timeout");
        child.arg("120").arg(env::current_exe().unwrap());
        child.args(["--exact", "real::child", "--nocapture"]).current_dir(&directory);
        child.env(LIBRARY, &wheel.library).env_remove("RUST_BACKTRACE").env_remove("CUFILE_LOGFILE_PATH");
        if !Path::new("/proc/modules").exists() {
            child.env("LD_PRELOAD", &preload);
        }
        let output = child.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{}: {said}", wheel.library.display());
        assert!(output.status.success(), "{}: {said}", wheel.library.display());
        assert!(said.contains("child: done"), "{said}");
        let left: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE], "something was left in the working directory");
    }
}

/// Runs in a process of its own; by itself it does nothing.
#[test]
fn child() {
    let Some(path) = env::var_os(LIBRARY) else { return };
    let library = Library::load_from(Path::new(&path)).unwrap();
    println!("child: version {}", library.version_text());
    assert!(library.version().is_some_and(|version| (1080..10_000).contains(&version)));
    assert_eq!(library.path(), Path::new(&path));
    let with_parameters = library.version() >= Some(1140);
    let options = DriverOptions {
        max_direct_io_bytes: with_parameters.then_some(MAX_DIRECT_IO_BYTES),
        open_limit: Duration::from_secs(60),
        ..DriverOptions::default()
    };
    // Where there is no direct path, it says so when compatibility mode is off; then the same process can still use
    // the other.
    let strict = DriverOptions { allow_compat: with_parameters.then_some(false), ..options.clone() };
    match Driver::open(&library, &strict) {
        Ok(_) => println!("child: opens without compatibility mode"),
        Err(error) => {
            println!("child: strictly: {error}");
            assert!(error.name().is_some(), "{error:?}");
        }
    }
    match Driver::open(&library, &options) {
        Ok(driver) => use_driver(&driver),
        Err(error) => {
            println!("child: {error}");
            assert!(error.name().is_some(), "{error:?}");
            assert!(!error.log.is_empty(), "{error:?}");
        }
    }
    // What was set for one opening counts for no other, whether that one went well or not.
    let limit = Duration::from_secs(60);
    let _again = Driver::open(&library, &DriverOptions { open_limit: limit, ..DriverOptions::default() });
    let set = (MAX_DIRECT_IO_BYTES >> 10).to_string();
    for (name, value) in library.configuration() {
        let kept = name == "properties.max_direct_io_size_kb" && value.is_ok_and(|value| value == set);
        assert!(!kept, "{name} is still {set}");
    }
    println!("child: done");
}

/// Each call succeeds, or fails with a code that is explained.
fn use_driver(driver: &std::sync::Arc<Driver>) {
    for line in driver.log_lines() {
        println!("child: log: {} {}", line.level, line.text);
    }
    assert!(!driver.log_lines().is_empty(), "the log is elsewhere");
    let explained = |what: &str, result: Result<String, sllm_gds::cufile::CufileError>| match result {
        Ok(value) => println!("child: {what}: {value}"),
        Err(error) => {
            println!("child: {what}: {error}");
            assert!(error.name().is_some() || error.errno().is_some(), "{error:?}");
        }
    };
    let properties = driver.properties();
    assert!(
        properties.as_ref().is_ok_and(|p| p.max_direct_io_bytes == MAX_DIRECT_IO_BYTES)
            || properties.is_err()
    );
    explained("properties", properties.map(|p| format!("{p:?}")));
    explained("counters on", driver.stats_start().map(|()| String::new()));
    explained("handle", read(driver));
    match driver.stats_reads_by_gpu() {
        Ok(stats) => println!("child: counters: {stats:?}"),
        Err(error) => panic!("{error}"),
    }
    for (name, value) in driver.library().configuration() {
        println!("child: {name} = {}", value.unwrap());
    }
}

fn read(driver: &std::sync::Arc<Driver>) -> Result<String, sllm_gds::cufile::CufileError> {
    let handle = Handle::register(driver, File::open(FILE).unwrap())?;
    let mut bytes = [0; 4096];
    let read = handle.read_host(&mut bytes, 0)?;
    assert_eq!(bytes, [7; 4096]);
    Ok(format!("{read} bytes read"))
}
