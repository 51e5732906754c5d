//! A server whose storage fails, from a seed: every load is right, or fails and leaves no number. `SLLM_GDS_CASES` says how many
//! loads, `SLLM_GDS_SEED` which.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sllm_gds::Checkpoint;
use sllm_gds::load::fault::{Fault, Faults};
use sllm_gds::serve::Verify;
use sllm_gds::serve::events::Event;
use sllm_gds::serve::wire::storage::{ClearMemRequest, DeviceType, UnloadModelRequest};
use sllm_gds::serve::wire::v1::StatusRequest;
use tonic::Code;

use crate::fixture::Fixture;
use crate::rig::{Chunk, GPUS, Memory, Rig, load, warm};

const CASES: u64 = 500;
/// Loads of one server, some at the same time.
const OF_A_SERVER: u64 = 25;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What one load wants of the model, and where it puts that.
struct Case {
    memory: Memory,
    chunks: Vec<Chunk>,
    names: Vec<String>,
}

impl Case {
    /// Some of the tensors, in any order, packed as their clients do.
    fn new(rig: &Rig, checkpoint: &Checkpoint, rng: &mut fastrand::Rng) -> Case {
        let mut tensors: Vec<_> = checkpoint.tensors().iter().filter(|tensor| tensor.bytes > 0).collect();
        rng.shuffle(&mut tensors);
        tensors.truncate(rng.usize(1..=tensors.len()));
        let (mut chunks, mut to) = (Vec::new(), 0);
        for tensor in &tensors {
            chunks.push((tensor.offset, tensor.bytes, to, 0));
            to += tensor.bytes;
        }
        let names = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        Case { memory: rig.memory(to as usize), chunks, names }
    }

    fn check(&self, fixture: &Fixture, done: &Result<(), tonic::Status>) {
        let read = self.memory.read();
        let filled = |byte| read.iter().all(|other| *other == byte);
        match done {
            Ok(()) => {
                for ((_, bytes, to, _), name) in self.chunks.iter().zip(&self.names) {
                    let found = &read[*to as usize..][..*bytes as usize];
                    assert!(found == fixture.pristine[name], "{name} is wrong, and the load went on");
                }
            }
            Err(status) => {
                assert!(
                    matches!(status.code(), Code::Internal | Code::DataLoss | Code::FailedPrecondition),
                    "{status:?}"
                );
                assert!(
                    status.message().len() > 20 && !status.message().contains("please report"),
                    "{status:?}"
                );
                assert!(filled(0xff) || filled(0), "what failed left numbers: {status:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_are_right_or_fail_and_leave_no_number() {
    let fixture = Fixture::new();
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let fresh =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (cases, seed) =
        (number("SLLM_GDS_CASES").unwrap_or(CASES), number("SLLM_GDS_SEED").unwrap_or_else(fresh));
    println!("{cases} loads from SLLM_GDS_SEED={seed}");
    let mut outcomes: HashMap<Option<Code>, u64> = HashMap::new();
    for server in 0..cases.div_ceil(OF_A_SERVER) {
        let seed = seed.wrapping_add(server * 1000);
        println!("a server of SLLM_GDS_SEED={seed} SLLM_GDS_CASES={OF_A_SERVER}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let faults = Arc::new(Faults::new(seed, rng.u64(4..60), &Fault::ALL, ""));
        let pool_bytes = [8 << 10, 64 << 10, 4 << 20][rng.usize(..3)];
        let rig = Rig::new(|settings| {
            settings.storage_path = fixture.root.path().into();
            (settings.faults, settings.verify) = (Some(faults), Verify::All);
            (settings.pool_bytes, settings.chunk_bytes) = (pool_bytes, 4096);
        });
        let mut id = 0;
        while id < OF_A_SERVER {
            let together: Vec<Case> =
                (0..rng.u64(1..4)).map(|_| Case::new(&rig, &checkpoint, &mut rng)).collect();
            let mut client = rig.theirs().await;
            // What the pool holds is not read, and can't fail.
            if rng.u32(..3) > 0 {
                client.clear_mem(ClearMemRequest {}).await.unwrap();
            }
            if rng.bool() {
                client.load_model_async(warm("ours")).await.unwrap();
            }
            let mut running = Vec::new();
            for case in together {
                let request =
                    load("ours", &format!("r{id}"), GPUS[rng.usize(..2)], &[&case.memory], &case.chunks);
                let mut client = client.clone();
                running.push((case, tokio::spawn(async move { client.load_model_async(request).await })));
                id += 1;
            }
            for (case, load) in running {
                let done = load.await.unwrap().map(drop);
                case.check(&fixture, &done);
                *outcomes.entry(done.err().map(|status| status.code())).or_default() += 1;
            }
        }
        assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0);
        assert!(rig.ours().await.status(StatusRequest {}).await.is_ok(), "the server lives");
    }
    println!("{outcomes:?}");
    let of = |code: Option<Code>| outcomes.get(&code).copied().unwrap_or(0);
    let all: u64 = outcomes.values().sum();
    let caught = of(Some(Code::DataLoss)).min(of(Some(Code::Internal)));
    assert!(
        all < 200 || (of(None) * 20 > all && caught * 100 > all),
        "too one-sided to say anything: {outcomes:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_hangs_holds_up_no_other_load() {
    let faults = Arc::new(Faults::new(1, 1, &[Fault::Hung], "stuck"));
    let rig = Rig::new(|settings| settings.faults = Some(faults.clone()));
    let (stuck, bytes) = (rig.put("stuck", &[100_000]), rig.put("m", &[100_000]));
    let all = [(0, 100_000, 0, 0)];
    let held = rig.memory(stuck.len());
    let request = load("stuck", "s", GPUS[0], &[&held], &all);
    let mut client = rig.theirs().await;
    client.load_model_async(warm("stuck")).await.unwrap();
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.load_model_async(request).await });
    while faults.hanging() == 0 {
        tokio::task::yield_now().await;
    }
    for id in ["a", "b", "c"] {
        let memory = rig.memory(bytes.len());
        client.load_model_async(load("m", id, GPUS[0], &[&memory], &all)).await.unwrap();
        assert_eq!(memory.read(), bytes);
    }
    let status = rig.ours().await.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.loads.iter().any(|load| load.model == "stuck"), "{status:?}");
    faults.release();
    waiting.await.unwrap().unwrap();
    assert_eq!(held.read(), stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unloading_ends_a_fill_and_is_no_error() {
    let faults = Arc::new(Faults::new(1, 1, &[Fault::Hung], "m"));
    let rig = Rig::new(|settings| settings.faults = Some(faults.clone()));
    rig.put("m", &[1_000_000]);
    let mut client = rig.theirs().await;
    client.load_model_async(warm("m")).await.unwrap();
    while faults.hanging() == 0 {
        tokio::task::yield_now().await;
    }
    let target_device_type = DeviceType::Cpu.into();
    let request = UnloadModelRequest { model_path: "m".into(), target_device_type, ..Default::default() };
    let mut other = client.clone();
    let unloading = tokio::spawn(async move { other.unload_model(request).await });
    // It asks the fill to end, whose reads hang; then they come back.
    let mut ours = rig.ours().await;
    for _ in 0..100 {
        ours.status(StatusRequest {}).await.unwrap();
    }
    faults.release();
    unloading.await.unwrap().unwrap();
    // Asked for until it is done, the fill comes after the one that was ended.
    let is_warmed = || rig.events.lock().unwrap().iter().any(|event| matches!(event, Event::Warmed { .. }));
    while !is_warmed() {
        client.load_model_async(warm("m")).await.unwrap();
    }
    let events = rig.events.lock().unwrap();
    assert!(!events.iter().any(|event| matches!(event, Event::Failed { .. })), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_change_under_loads_fail_them_or_do_not_matter() {
    let rig = Rig::new(|settings| (settings.pool_bytes, settings.chunk_bytes) = (4 << 20, 4096));
    let bytes = rig.put("m", &[300_000, 300_000]);
    // The same bytes again, in another file; the same file cut short; none; and back.
    let second = rig.models().join("m/tensor.data_1");
    let (whole, next) = (bytes[300_000..].to_vec(), rig.dir.path().join("next"));
    let mut rng = fastrand::Rng::new();
    let mut outcomes = [0, 0];
    for id in 0..60 {
        let memory = rig.memory(bytes.len());
        let request = load("m", &format!("r{id}"), GPUS[0], &[&memory], &[(0, 600_000, 0, 0)]);
        let mut client = rig.theirs().await;
        let running = tokio::spawn(async move { client.load_model_async(request).await });
        (0..rng.u32(..2000)).for_each(|_| std::hint::spin_loop());
        let change = rng.u32(..4);
        match change {
            0 => fs::rename(written(&next, &whole), &second).unwrap(),
            1 => {
                fs::OpenOptions::new().write(true).open(&second).unwrap().set_len(rng.u64(..300_000)).unwrap()
            }
            2 => fs::remove_file(&second).unwrap(),
            _ => {}
        }
        let done = running.await.unwrap();
        let read = memory.read();
        match &done {
            Ok(_) => assert!(read == bytes, "{change} left wrong bytes, and the load went on"),
            Err(status) => {
                let filled = |byte| read.iter().all(|other| *other == byte);
                assert!(filled(0) || filled(0xff), "{change} left numbers: {status:?}");
            }
        }
        outcomes[usize::from(done.is_err())] += 1;
        fs::rename(written(&next, &whole), &second).unwrap();
    }
    assert!(outcomes[0] > 5, "right and failed: {outcomes:?}");
    assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0);
}

fn written<'p>(path: &'p std::path::Path, bytes: &[u8]) -> &'p std::path::Path {
    fs::write(path, bytes).unwrap();
    path
}
