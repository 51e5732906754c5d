//! Loading, opening, closing, properties, counters.

use std::env;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use sllm_gds::cufile::{Driver, DriverOptions, Handle, Library, What};

use crate::standin::{self, HANDLE, HANG, NVFS, OPEN, P2P, PARAMETER, STATS, Standin};

#[test]
fn loads_by_path_and_says_path_and_version() {
    let standin = Standin::new();
    assert_eq!(standin.library.path(), standin.path());
    assert_eq!((standin.library.version(), standin.library.version_text().as_str()), (Some(1200), "1.20"));
    let again = Library::load_from(standin.path()).unwrap();
    assert!(Arc::ptr_eq(&again, &standin.library));
    assert!(!Arc::ptr_eq(&Standin::new().library, &standin.library));
}

/// Set for the child alone.
const CHILD: &str = "SLLM_GDS_TEST_LINKER";

#[test]
fn the_linkers_library_comes_first_and_takes_faults_from_the_environment() {
    let standin = Standin::new();
    let directory = standin.path().parent().unwrap();
    let modules = directory.join("modules.so");
    standin::build_modules(&modules);
    let mut child = Command::new("timeout");
    child.arg("120").arg(env::current_exe().unwrap()).args(["--exact", "driver::child", "--nocapture"]);
    child.env(CHILD, standin.path()).env("LD_LIBRARY_PATH", directory).env("LD_PRELOAD", &modules);
    child.env("STANDIN_FAULTS", "12:1:5027,12:2:5031").env("STANDIN_PATH", "2").env_remove("RUST_BACKTRACE");
    let output = child.current_dir(directory).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("child: done"), "{said}");
    assert!(!directory.join("cufile.log").exists());
}

/// Runs in a process of its own; by itself it does nothing.
#[test]
fn child() {
    let Some(path) = env::var_os(CHILD) else { return };
    let library = Library::load().unwrap();
    assert_eq!(library.path(), Path::new(&path));
    let driver = Driver::open(&library, &DriverOptions::default()).unwrap();
    let register = || Handle::register(&driver, File::open(&path).unwrap());
    assert_eq!(register().unwrap_err().code(), Some(5027));
    assert_eq!(register().unwrap_err().code(), Some(5031));
    driver.stats_start().unwrap();
    register().unwrap().read_host(&mut [0; 16], 0).unwrap();
    assert_eq!(driver.stats_reads_by_gpu().unwrap().sum().p2p, 1);
    println!("child: done");
}

#[test]
fn opens_once_and_closes_with_its_last_user() {
    let standin = Standin::new();
    let first = standin.open();
    let second = standin.open();
    assert!(Arc::ptr_eq(&first, &second));
    drop(first);
    assert_eq!((standin.live(OPEN), standin.calls(OPEN)), (1, 1));
    let handle = Handle::register(&second, File::open(standin.path()).unwrap()).unwrap();
    drop(second);
    assert_eq!((standin.live(OPEN), standin.live(HANDLE)), (1, 1));
    drop(handle);
    assert_eq!((standin.live(OPEN), standin.live(HANDLE)), (0, 0));
    drop(standin.open());
    assert_eq!((standin.live(OPEN), standin.calls(OPEN)), (0, 2));
}

#[test]
fn other_settings_are_refused_while_it_is_open() {
    let standin = Standin::new();
    let driver = standin.open();
    let other = DriverOptions { allow_compat: Some(false), ..standin.options() };
    let error = Driver::open(&standin.library, &other).unwrap_err();
    assert_eq!(error.what, What::Refused);
    assert!(error.to_string().contains("other settings"), "{error}");
    drop(driver);
    let properties = Driver::open(&standin.library, &other).unwrap().properties().unwrap();
    assert!(!properties.compat_allowed);
}

/// Opening while the last user closes must not close what was just opened.
#[test]
fn threads_that_open_and_close_never_meet_a_closed_driver() {
    let standin = Standin::new();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    standin.open().properties().unwrap();
                }
            });
        }
    });
    assert_eq!(standin.live(OPEN), 0);
}

#[test]
fn without_proc_modules_it_is_not_opened() {
    let standin = Standin::new();
    let options = DriverOptions { proc_modules: "/nowhere/modules".into(), ..DriverOptions::default() };
    let error = Driver::open(&standin.library, &options).unwrap_err();
    assert_eq!((error.what, standin.calls(OPEN)), (What::Refused, 0));
    assert!(error.to_string().contains("/nowhere/modules cannot be read"), "{error}");
}

#[test]
fn a_driver_that_never_returns_is_given_up() {
    let standin = Standin::new();
    standin.fault(HANG, 1, 0);
    let options = DriverOptions { open_limit: Duration::from_millis(50), ..standin.options() };
    let error = Driver::open(&standin.library, &options).unwrap_err();
    assert_eq!(error.what, What::NeverReturned);
    assert!(error.to_string().contains("given up after 50ms"), "{error}");
    // Not even tried: a thread is still in there.
    let limitless = DriverOptions { open_limit: Duration::MAX, ..standin.options() };
    let again = Driver::open(&standin.library, &limitless).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert_eq!(standin.calls(OPEN), 1);
}

#[test]
fn a_failed_open_says_code_cuda_code_cause_and_log_and_can_be_tried_again() {
    let standin = Standin::new();
    standin.fault(OPEN, 1, 100 * 10_000 + 5011);
    let error = Driver::open(&standin.library, &standin.options()).unwrap_err();
    assert_eq!((error.call, error.code(), error.cuda), ("cuFileDriverOpen", Some(5011), Some(100)));
    for part in ["CU_FILE_CUDA_DRIVER_ERROR (5011), CUDA error 100: ", "nvidia-smi"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(error.log, ["standin:1 cuFileDriverOpen refused with 5011"]);
    let driver = standin.open();
    assert!(driver.log_lines().iter().any(|line| line.level == "NOTICE" && line.text.contains("compatible")));
    // The errors of another time are not this one's.
    standin.fault(HANDLE, 1, 5999);
    let error = Handle::register(&driver, File::open(standin.path()).unwrap()).unwrap_err();
    assert_eq!(error.log, ["standin:1 cuFileHandleRegister refused with 5999"]);
    assert!(!Path::new("cufile.log").exists());
}

#[test]
fn properties_and_settings_are_read() {
    let standin = Standin::new();
    standin.nvfs(2, 26);
    let options = DriverOptions {
        max_direct_io_bytes: Some(8 << 20),
        max_device_cache_bytes: Some(64 << 20),
        per_buffer_cache_bytes: Some(2 << 20),
        max_pinned_bytes: Some(1 << 30),
        allow_compat: Some(true),
        use_p2pdma: Some(true),
        force_direct: Some(true),
        ..standin.options()
    };
    let driver = Driver::open(&standin.library, &options).unwrap();
    let properties = driver.properties().unwrap();
    assert_eq!(properties.nvfs_version, Some((2, 26)));
    assert_eq!(properties.file_systems(), ["NVMe"]);
    assert!(properties.compat_allowed && !properties.poll_mode);
    assert_eq!(properties.max_direct_io_bytes, 8 << 20);
    assert_eq!(properties.max_device_cache_bytes, 64 << 20);
    assert_eq!(properties.per_buffer_cache_bytes, 2 << 20);
    assert_eq!(properties.max_pinned_bytes, 1 << 30);
    assert_eq!(properties.poll_threshold_bytes, 4096);
    let configuration = standin.library.configuration();
    let value = |name| configuration.iter().find(|(known, _)| *known == name).unwrap().1.clone().unwrap();
    assert_eq!(value("properties.max_direct_io_size_kb"), "8192");
    assert_eq!(value("properties.use_pci_p2pdma"), "true");
    assert_eq!(value("logging.level"), "ERROR");
}

#[test]
fn settings_of_one_opening_never_count_for_the_next() {
    let standin = Standin::new();
    let strict = DriverOptions {
        allow_compat: Some(false),
        max_direct_io_bytes: Some(8 << 20),
        force_direct: Some(true),
        ..standin.options()
    };
    let plain = |driver: &Driver| {
        let properties = driver.properties().unwrap();
        properties.compat_allowed && properties.max_direct_io_bytes == 16 << 20
    };
    let driver = Driver::open(&standin.library, &strict).unwrap();
    assert!(!plain(&driver));
    drop(driver);
    assert!(plain(&standin.open()));
    standin.fault(OPEN, standin.calls(OPEN) + 1, 5033);
    assert_eq!(Driver::open(&standin.library, &strict).unwrap_err().code(), Some(5033));
    assert!(plain(&standin.open()));

    // The third is refused: two are set by now, with no opening behind them.
    standin.fault(PARAMETER, standin.calls(PARAMETER) + 3, 5003);
    let (opened, error) = (standin.calls(OPEN), Driver::open(&standin.library, &strict).unwrap_err());
    assert_eq!((error.code(), standin.calls(OPEN)), (Some(5003), opened));
    let some = DriverOptions { allow_compat: Some(false), ..standin.options() };
    for (options, left) in [(standin.options(), "allow_compat_mode"), (some, "max_direct_io_size_kb")] {
        let error = Driver::open(&standin.library, &options).unwrap_err();
        assert_eq!((error.what, standin.calls(OPEN)), (What::Refused, opened), "{error}");
        assert!(error.to_string().contains(&format!("has set {left}")), "{error}");
    }
    let named = DriverOptions { force_direct: None, ..strict };
    drop(Driver::open(&standin.library, &named).unwrap());
    assert!(plain(&standin.open()));
}

#[test]
fn functions_of_later_versions_are_errors_and_never_panics() {
    let old = Standin::with(&["STANDIN_VERSION=1070"]);
    assert_eq!((old.library.version(), old.library.version_text().as_str()), (None, "before 1.8"));
    let driver = old.open();
    let missing = [driver.stats_start(), driver.stats_stop(), driver.stats_reads_by_gpu().map(drop)];
    for error in missing.map(Result::unwrap_err) {
        assert_eq!(error.what, What::Missing);
        assert!(error.to_string().contains("it came with version 1.15"), "{error}");
    }
    assert!(old.library.configuration().iter().all(|(_, value)| value.is_err()));
    drop(driver);
    let options = DriverOptions { allow_compat: Some(true), ..old.options() };
    let error = Driver::open(&old.library, &options).unwrap_err();
    assert_eq!((error.call, error.what), ("cuFileSetParameterBool", What::Missing));
    // Parameters, and no counters yet.
    let between = Standin::with(&["STANDIN_VERSION=1140"]);
    let options = DriverOptions { allow_compat: Some(true), ..between.options() };
    let error = Driver::open(&between.library, &options).unwrap().stats_start().unwrap_err();
    assert!(error.to_string().contains("and this is 1.14"), "{error}");
}

#[test]
fn counters_prove_the_path_in_both_layouts() {
    for version in ["STANDIN_VERSION=1150", "STANDIN_VERSION=1190"] {
        let standin = Standin::with(&[version]);
        let driver = standin.open();
        let handle = Handle::register(&driver, File::open(standin.path()).unwrap()).unwrap();
        let read = || assert_eq!(handle.read_host(&mut [0; 512], 0).unwrap(), 512);
        read();
        driver.stats_start().unwrap();
        standin.path_is(NVFS);
        read();
        read();
        standin.path_is(P2P);
        read();
        driver.stats_stop().unwrap();
        read();
        let stats = driver.stats_reads_by_gpu().unwrap();
        assert_eq!((stats.reads_ok, stats.reads_failed, stats.gpus.len()), (3, 0, 1));
        let sum = stats.sum();
        assert_eq!((sum.total, sum.nvfs, sum.p2p, sum.posix, sum.bytes), (3, 2, 1, 0, 3 * 512));
        driver.stats_start().unwrap();
        assert_eq!(driver.stats_reads_by_gpu().unwrap().sum().total, 0);
    }
}

#[test]
fn counters_that_fail_or_lie_elsewhere_prove_nothing() {
    let standin = Standin::with(&["STANDIN_STATS_GROWN"]);
    let driver = standin.open();
    driver.stats_start().unwrap();
    let error = driver.stats_reads_by_gpu().unwrap_err();
    assert!(error.to_string().contains("in a way this program does not know"), "{error}");
    standin.fault(STATS, 2, 5030);
    assert_eq!(driver.stats_reads_by_gpu().unwrap_err().code(), Some(5030));
}
