//! The engine `gds` over a stand-in for libcufile, with host memory where a GPU's would be: the read loops, what
//! happens to a read that fails half-way, and what is claimed of the path.

use std::sync::Arc;

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::cufile::Driver;
use sllm_gds::load::engine::{Engine, PathTaken};
use sllm_gds::load::gds::load::{self, Attempt};
use sllm_gds::load::gds::memory::of_host;
use sllm_gds::load::gds::no_start::NoStart;
use sllm_gds::load::gds::proof::prove;
use sllm_gds::load::gds::{Gds, GdsEngine};
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::task::Task;
use sllm_gds::load::verify;
use sllm_gds::load::verify::Digests;
use sllm_gds::load::{
    Buffer, Destination, IoChoice, Loaded, OnError, Options, Placement, Register, Settings, in_place,
    transfer,
};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::digest::digest;
use sllm_gds::os::memory::HostBuffer;

#[path = "faults/fixture.rs"]
mod fixture;
#[path = "cufile/standin.rs"]
mod standin;
use fixture::Fixture;
use standin::{BUFFER, CODE, CORRUPT, ERRNO, EXCESS, HANDLE, NVFS, P2P, POSIX, READ, SEEDED, SHORT, Standin};

fn gds(driver: &Arc<Driver>, on_error: OnError) -> Gds {
    Gds {
        driver: driver.clone(),
        options: Default::default(),
        allow_compat: true,
        register: Register::Auto,
        on_error,
        may_fall_back: false,
        instead: None,
        helper: None,
        proofs: Default::default(),
    }
}

struct Ran {
    result: Result<Vec<String>, String>,
    taken: PathTaken,
}

/// One load with `chunk_bytes` and three threads into poisoned memory, verified: the tensors that are wrong, or the
/// error.
fn load(fixture: &Fixture, path: &std::path::Path, gds: &Gds, chunk_bytes: u64, destinations: usize) -> Ran {
    let checkpoint = Checkpoint::open(path).unwrap();
    let plan = Plan::new(&checkpoint, destinations, Spacing::AsInFile).unwrap();
    let poisoned = |bytes: &u64| {
        let mut buffer = HostBuffer::new(*bytes).unwrap();
        buffer.as_mut_slice().fill(0xA5);
        Buffer::Host(buffer)
    };
    let mut buffers: Vec<Buffer> = plan.destination_bytes.iter().map(poisoned).collect();
    let engine = GdsEngine::open(gds, &checkpoint, IoChoice::Auto, vec![Vec::new(); destinations]).unwrap();
    let jobs = of_host(in_place(&plan, &mut buffers, chunk_bytes));
    let result = transfer(&checkpoint.files, jobs, &engine, 3, &Cancel::new());
    engine.settle(prove(&gds.driver, &engine.handles(), &[]));
    let taken = engine.outcome();
    drop(engine);
    let expected: Digests = fixture.pristine.iter().map(|(name, b)| (name.clone(), digest(b))).collect();
    let result = match result {
        Ok(()) => {
            Ok(verify::check(&Loaded::whole(checkpoint.into(), plan, buffers), &expected, &Cancel::new())
                .unwrap()
                .wrong)
        }
        Err(error) => Err(format!("{error:#}")),
    };
    Ran { result, taken }
}

fn paths(fixture: &Fixture) -> [std::path::PathBuf; 3] {
    [fixture.safetensors(), fixture.ours(), fixture.foreign()]
}

#[test]
fn every_layout_arrives_and_nothing_stays_registered() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    for path in paths(&fixture) {
        for (chunk_bytes, destinations) in [(4096, 1), (12_288, 2), (1 << 20, 3)] {
            let ran = load(&fixture, &path, &gds(&driver, OnError::Fail), chunk_bytes, destinations);
            assert_eq!(ran.result, Ok(vec![]), "{}", path.display());
            assert_eq!(ran.taken.path, "gds-compat");
        }
    }
    assert_eq!((standin.live(HANDLE), standin.live(BUFFER)), (0, 0));
    drop(driver);
    assert_eq!(standin.live(standin::OPEN), 0);
}

#[test]
fn short_reads_and_interruptions_lose_nothing() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    for seed in 0..300usize {
        standin.reset();
        standin.fault(SEEDED, 2 + seed as u64 % 5, seed as i64);
        let path = &paths(&fixture)[seed % 3];
        let chunk_bytes = [4096, 8192, 65_536][seed / 3 % 3];
        let ran = load(&fixture, path, &gds(&driver, OnError::Fail), chunk_bytes, 1);
        assert_eq!(ran.result, Ok(vec![]), "seed {seed}, {}", path.display());
    }
}

#[test]
fn a_read_that_fails_fails_the_load_with_file_place_and_cause() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    let codes = [
        (ERRNO, i64::from(libc::EIO), "Input/output"),
        (CODE, 5044, "(5044)"),
        (CODE, 5999, "5999"),
        (CODE, 17, "-17"),
    ];
    for (kind, value, tells) in codes {
        standin.reset();
        standin.fault(kind, 4, value);
        let error =
            load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 4096, 1).result.unwrap_err();
        for part in ["cuFileRead", "tensor.data_", "bytes at", tells] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
}

#[test]
fn a_read_that_fails_is_made_again_through_host_memory_when_asked() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    for (kind, value) in [(ERRNO, i64::from(libc::EIO)), (CODE, 5044), (CODE, 5999)] {
        standin.reset();
        standin.fault(kind, 3, value);
        let ran = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Retry), 4096, 1);
        assert_eq!(ran.result, Ok(vec![]));
        for part in ["4096 bytes went through host memory", "cuFileRead"] {
            assert!(ran.taken.reason.contains(part), "{}", ran.taken.reason);
        }
        // Every read fails: all of the model comes the other way.
        standin.reset();
        standin.fault(kind, 0, value);
        let ran = load(&fixture, &fixture.foreign(), &gds(&driver, OnError::Retry), 8192, 1);
        assert_eq!(ran.result, Ok(vec![]));
        assert_eq!(ran.taken.path, "gds-mixed");
        let checkpoint = Checkpoint::open(fixture.foreign()).unwrap();
        let bytes: u64 = checkpoint.files.iter().map(|f| f.bytes).sum();
        assert_eq!(ran.taken.direct_bytes + ran.taken.buffered_bytes, bytes, "by ordinary reads, all of it");
    }
}

#[test]
fn a_file_that_ends_early_and_a_library_that_lies_are_told() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    standin.fault(SHORT, 0, 0);
    let error = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 4096, 1).result.unwrap_err();
    assert!(error.contains("cut short"), "{error}");
    standin.reset();
    standin.fault(EXCESS, 2, 4096);
    let error = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 4096, 1).result.unwrap_err();
    assert!(error.contains("cuFileRead"), "{error}");
    standin.reset();
    standin.fault(CORRUPT, 0, 100);
    let wrong = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 4096, 1).result.unwrap();
    assert!(!wrong.is_empty(), "verification must find silent damage");
}

#[test]
fn a_read_that_is_interrupted_for_ever_ends() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    standin.fault(ERRNO, 0, i64::from(libc::EINTR));
    let error = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 65_536, 1).result.unwrap_err();
    assert!(error.contains("interrupted"), "{error}");
    assert!(standin.calls(READ) < 10_000, "{} reads", standin.calls(READ));
}

#[test]
fn registration_that_fails_is_an_error_before_the_first_byte() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    standin.fault(HANDLE, 2, 5027);
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let engine = GdsEngine::open(&gds(&driver, OnError::Retry), &checkpoint, IoChoice::Auto, vec![vec![]]);
    let Some(NoStart::Refused(error)) = engine.err() else { panic!("no refusal") };
    let error = format!("{error:#}");
    for part in ["cuFile refused ", "tensor.data_", "5027", "/run/udev"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!((standin.live(HANDLE), standin.calls(READ)), (0, 0));
    // What is wrong with the files themselves is no refusal: another engine would meet it, too.
    std::fs::remove_file(&checkpoint.files[0].path).unwrap();
    let engine = GdsEngine::open(&gds(&driver, OnError::Retry), &checkpoint, IoChoice::Auto, vec![vec![]]);
    assert!(matches!(engine.err(), Some(NoStart::Failed(_))));
}

/// No GPU is needed for what ends before memory is.
#[test]
fn a_file_that_cufile_refuses_leaves_the_load_to_another_engine_unless_cufile_was_demanded() {
    let fixture = Fixture::new();
    let standin = Standin::new();
    let driver = standin.open();
    let attempt = |may_fall_back: bool, on_error: OnError| {
        let gds = Gds { may_fall_back, ..gds(&driver, on_error) };
        let to = Destination::Gpus(Vec::new(), Placement::Balanced);
        let options = Options::new(&Settings::default(), &to, Ok(gds.clone())).unwrap();
        let open = || Ok(Arc::new(Checkpoint::open(fixture.foreign())?));
        let task = Task::whole(&open, &Destination::Gpus(Vec::new(), Placement::Balanced));
        load::load(&task, &options, &gds, &Cancel::new())
    };
    for on_error in [OnError::Fail, OnError::Retry] {
        for code in [5018, 5027, 5031, 5999] {
            standin.reset();
            standin.fault(HANDLE, 2, code);
            let Ok(Attempt::Refused { why, lost_s }) = attempt(true, on_error) else { panic!("{code}") };
            let tells = ["cuFile refused ", "tensor.data_", &code.to_string()];
            assert!(lost_s > 0.0 && tells.iter().all(|part| why.contains(part)), "{why}");
            standin.reset();
            standin.fault(HANDLE, 2, code);
            let error = format!("{:#}", attempt(false, on_error).err().expect("a demand can't be met"));
            assert!(tells.iter().all(|part| error.contains(part)), "{error}");
            assert_eq!((standin.live(HANDLE), standin.calls(READ)), (0, 0));
        }
    }
    // Of what is wrong with the checkpoint nobody makes a refusal.
    std::fs::remove_file(fixture.foreign().join("tensor_index.json")).unwrap();
    standin.reset();
    assert!(attempt(true, OnError::Retry).is_err());
}

#[test]
fn a_path_is_claimed_by_what_was_counted() {
    let fixture = Fixture::new();
    for (path, name) in [(POSIX, "gds-compat"), (NVFS, "gds-nvfs"), (P2P, "gds-p2pdma")] {
        let standin = Standin::new();
        standin.path_is(path);
        let driver = standin.open();
        let ran = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 4096, 1);
        assert_eq!((ran.result, ran.taken.path.as_str()), (Ok(vec![]), name));
    }
    // An older library has no counters: nothing is claimed.
    let standin = Standin::with(&["STANDIN_VERSION=1130"]);
    standin.path_is(NVFS);
    let driver = standin.open();
    let ran = load(&fixture, &fixture.ours(), &gds(&driver, OnError::Fail), 4096, 1);
    assert_eq!(ran.taken.path, "gds-unproven");
    assert!(ran.taken.reason.contains("not proven"), "{}", ran.taken.reason);
}

#[test]
fn the_ring_loads_in_cufiles_place_as_if_it_had_been_chosen() {
    let standin = Standin::new();
    let gds = Gds { may_fall_back: true, ..gds(&standin.open(), OnError::Retry) };
    let to = Destination::Gpus(Vec::new(), Placement::Balanced);
    let sizes = |options: &Options| (options.chunk_bytes, options.threads, options.copy_bytes, options.slots);
    let asked = Settings { chunk_bytes: Some(1 << 20), threads: Some(3), ..Settings::default() };
    for settings in [Settings::default(), asked] {
        let by_cufile = Options::new(&settings, &to, Ok(gds.clone())).unwrap();
        let by_ring = Options::new(&settings, &to, Err(None)).unwrap();
        assert_eq!(sizes(&by_cufile.by_ring()), sizes(&by_ring));
        assert_eq!(sizes(&by_ring.by_ring()), sizes(&by_ring));
        let chosen = settings.chunk_bytes.unwrap_or(8 << 20);
        assert_eq!(by_cufile.chunk_bytes, chosen, "cuFile's own stay");
    }
}
