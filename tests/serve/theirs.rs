//! ServerlessLLM's interface.

use std::fs;
use std::sync::atomic::Ordering;

use sllm_gds::serve::Ended;
use sllm_gds::serve::events::Event;
use sllm_gds::serve::wire::storage::{
    ClearMemRequest, ConfirmModelRequest, DeviceType, GetServerConfigRequest, RegisterModelRequest,
    UnloadModelRequest,
};
use tonic::Code;

use crate::rig::{GPUS, Rig, load, raw_load, warm};

fn confirm(id: &str) -> ConfirmModelRequest {
    ConfirmModelRequest {
        model_path: "m".into(),
        replica_uuid: id.into(),
        target_device_type: DeviceType::Gpu.into(),
    }
}

fn unload(model: &str) -> UnloadModelRequest {
    let target_device_type = DeviceType::Cpu.into();
    UnloadModelRequest { model_path: model.into(), target_device_type, ..UnloadModelRequest::default() }
}

#[tokio::test]
async fn a_clients_whole_flow_brings_every_byte_to_its_place() {
    let mut rig = Rig::new(|_| ());
    let bytes = rig.put("org/m", &[300_001, 70_000, 1]);
    let mut client = rig.theirs().await;
    let config = client.get_server_config(GetServerConfigRequest {}).await.unwrap().into_inner();
    assert_eq!((config.mem_pool_size, config.chunk_size), (64 << 20, 64 << 10));
    let register = RegisterModelRequest { model_path: "org/m".into() };
    assert_eq!(client.register_model(register).await.unwrap().into_inner().model_size, bytes.len() as i64);
    client.load_model_async(warm("org/m")).await.unwrap();
    // Chunks out of order, one over the border of two files, into two memories.
    let (one, two) = (rig.memory(400_000), rig.memory(1000));
    let chunks =
        [(200_000, 150_000, 7, 0), (0, 100_000, 200_000, 0), (370_000, 2, 3, 1), (100_000, 500, 500, 1)];
    client.load_model_async(load("org/m", "r1", GPUS[0], &[&one, &two], &chunks)).await.unwrap();
    let (one, two) = (one.read(), two.read());
    assert!(one[7..150_007] == bytes[200_000..350_000] && one[200_000..300_000] == bytes[..100_000]);
    assert!(two[3..5] == bytes[370_000..] && two[500..] == bytes[100_000..100_500]);
    let untouched = |all: &[u8]| all.iter().all(|byte| *byte == 0);
    assert!(untouched(&one[..7]) && untouched(&one[150_007..200_000]) && untouched(&one[300_000..]));
    assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0, "closed before the answer");
    assert_eq!(client.confirm_model(confirm("r1")).await.unwrap().into_inner().code, 0);
    client.unload_model(unload("org/m")).await.unwrap();
    client.clear_mem(ClearMemRequest {}).await.unwrap();
    assert_eq!(rig.end().unwrap(), Ended::Stopped);
}

#[tokio::test]
async fn what_is_in_the_pool_is_not_read_again_and_a_small_pool_is_done_without() {
    for pool_bytes in [64 << 20, 128 << 10] {
        let rig = Rig::new(|settings| settings.pool_bytes = pool_bytes);
        let bytes = rig.put("m", &[500_000]);
        let mut client = rig.theirs().await;
        for id in ["a", "b"] {
            let memory = rig.memory(bytes.len());
            let all = [(0, bytes.len() as u64, 0, 0)];
            client.load_model_async(load("m", id, GPUS[1], &[&memory], &all)).await.unwrap();
            assert_eq!(memory.read(), bytes);
        }
        let reads: Vec<u64> = rig.events.lock().unwrap().iter().filter_map(read_bytes).collect();
        match pool_bytes {
            131_072 => assert!(reads.len() == 2 && reads.iter().all(|read| *read >= 500_000), "{reads:?}"),
            _ => assert_eq!(reads, [500_000, 0]),
        }
    }
}

fn read_bytes(event: &Event) -> Option<u64> {
    match event {
        Event::Loaded { report, .. } => Some(report.read_bytes),
        _ => None,
    }
}

#[tokio::test]
async fn what_makes_no_sense_fails_its_call_alone_and_touches_nothing() {
    let rig = Rig::new(|_| ());
    let bytes = rig.put("m", &[100_000]);
    fs::create_dir(rig.models().join("empty")).unwrap();
    let mut client = rig.theirs().await;
    let memory = rig.memory(1000);
    let good = [(0, 1000, 0, 0)];
    let junk = raw_load("m", "x", GPUS[0], vec![vec![0; 64]], &good);
    let foreign = raw_load("m", "x", GPUS[0], vec![b"/etc/passwd".to_vec()], &good);
    let of =
        |model: &str, gpu: &str, chunks: &[(u64, u64, u64, u64)]| load(model, "x", gpu, &[&memory], chunks);
    let no_id = load("m", "", GPUS[0], &[&memory], &good);
    let disk = {
        let mut request = of("m", GPUS[0], &good);
        request.set_target_device_type(DeviceType::Disk);
        request
    };
    for (number, (request, code, words)) in [
        (of("../m", GPUS[0], &good), Code::InvalidArgument, "leads out of the storage path"),
        (of("/etc", GPUS[0], &good), Code::InvalidArgument, "leads out of the storage path"),
        (of("", GPUS[0], &good), Code::InvalidArgument, "is empty"),
        (of("none", GPUS[0], &good), Code::NotFound, "no model 'none'"),
        (of("empty", GPUS[0], &good), Code::FailedPrecondition, "tensor.data_0"),
        (of("m", "no-such-gpu", &good), Code::FailedPrecondition, GPUS[0]),
        (of("m", GPUS[0], &[]), Code::InvalidArgument, "nothing is to be loaded"),
        (of("m", GPUS[0], &[(0, 1, 0, 1)]), Code::InvalidArgument, "handle 1"),
        (of("m", GPUS[0], &[(99_999, 2, 0, 0)]), Code::OutOfRange, "have 100000"),
        (of("m", GPUS[0], &[(u64::MAX, 2, 0, 0)]), Code::OutOfRange, "have 100000"),
        (of("m", GPUS[0], &[(0, 2, 999, 0)]), Code::OutOfRange, "which has 1000 bytes"),
        (of("m", GPUS[0], &[(0, 2, u64::MAX, 0)]), Code::OutOfRange, "which has 1000 bytes"),
        (of("m", GPUS[0], &[(0, 20, 0, 0), (50, 20, 19, 0)]), Code::InvalidArgument, "overwrite"),
        (junk, Code::InvalidArgument, "handle"),
        (foreign, Code::InvalidArgument, "64 bytes"),
        (no_id, Code::InvalidArgument, "replica id"),
        (disk, Code::Unimplemented, "device type"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut request = request;
        if !request.replica_uuid.is_empty() {
            request.replica_uuid = format!("x{number}");
        }
        let refused = client.load_model_async(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message().contains(words)), (code, true), "{words}: {refused:?}");
        assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0, "{words}");
    }
    assert_eq!(memory.read(), vec![0; 1000]);
    // The same memory by two handles.
    let twice = load("m", "y", GPUS[0], &[&memory, &memory], &[(0, 10, 0, 0), (10, 10, 500, 1)]);
    client.load_model_async(twice).await.unwrap();
    let read = memory.read();
    assert!(read[..10] == bytes[..10] && read[500..510] == bytes[10..20], "two mappings of one memory");
}

#[tokio::test]
async fn an_id_has_one_load_and_an_unknown_one_is_not_waited_for_for_ever() {
    let rig = Rig::new(|_| ());
    let bytes = rig.put("m", &[10_000]);
    let mut client = rig.theirs().await;
    let memory = rig.memory(bytes.len());
    let request = || load("m", "r", GPUS[0], &[&memory], &[(0, 10_000, 0, 0)]);
    client.load_model_async(request()).await.unwrap();
    fs::write(&memory.path, vec![9; bytes.len()]).unwrap();
    client.load_model_async(request()).await.unwrap();
    assert_eq!(memory.read(), vec![9; bytes.len()], "no second copy");
    let refused = client.load_model_async(load("m", "bad", GPUS[0], &[&memory], &[])).await.unwrap_err();
    let confirmed = client.confirm_model(confirm("bad")).await.unwrap_err();
    assert_eq!((confirmed.code(), confirmed.message()), (refused.code(), refused.message()));
    assert_eq!(client.confirm_model(confirm("never")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_model_that_fails_half_way_leaves_no_number_behind() {
    let rig = Rig::new(|_| ());
    let bytes = rig.put("m", &[200_000, 200_000]);
    let mut client = rig.theirs().await;
    let memory = rig.memory(bytes.len() + 8);
    // Registered, then cut short: the files are looked at anew, so that the load is refused before a byte moves.
    client.load_model_async(load("m", "a", GPUS[0], &[&memory], &[(0, 400_000, 4, 0)])).await.unwrap();
    assert_eq!(memory.read()[4..400_004], bytes);
    let file = fs::OpenOptions::new().write(true).open(rig.models().join("m/tensor.data_1")).unwrap();
    file.set_len(1000).unwrap();
    let refused = client.load_model_async(load("m", "b", GPUS[0], &[&memory], &[(0, 400_000, 4, 0)])).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(memory.read()[4..400_004], bytes, "nothing had begun");
    // The pool's old ranges went with the old files.
    client.load_model_async(load("m", "c", GPUS[0], &[&memory], &[(0, 201_000, 4, 0)])).await.unwrap();
}

#[tokio::test]
async fn a_model_that_is_shorter_than_it_was_saved_is_neither_registered_nor_brought_into_the_pool() {
    let rig = Rig::new(|_| ());
    rig.put("m", &[99_999]);
    let digest = sllm_gds::os::digest::NAME;
    let recorded = format!(
        r#"{{"version":1,"digest":"{digest}","partitions":[{{"file":"tensor.data_0","bytes":100000,"digests":[]}}]}}"#
    );
    fs::write(rig.models().join("m/sllm_gds.json"), recorded).unwrap();
    let mut client = rig.theirs().await;
    let register = RegisterModelRequest { model_path: "m".into() };
    for refused in [
        client.register_model(register).await.unwrap_err(),
        client.load_model_async(warm("m")).await.unwrap_err(),
    ] {
        let says = |words| refused.message().contains(words);
        assert!(
            says("99999 bytes long, and 100000 were written") && says("save the model again"),
            "{refused:?}"
        );
        assert_eq!(refused.code(), Code::FailedPrecondition);
    }
}

#[tokio::test]
async fn registration_can_be_required_and_memory_cleared_keeps_it() {
    let rig = Rig::new(|settings| settings.registration_required = true);
    rig.put("m", &[1000]);
    let mut client = rig.theirs().await;
    let refused = client.load_model_async(warm("m")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("RegisterModel")),
        (Code::FailedPrecondition, true)
    );
    client.register_model(RegisterModelRequest { model_path: "m".into() }).await.unwrap();
    client.load_model_async(warm("m")).await.unwrap();
    client.clear_mem(ClearMemRequest {}).await.unwrap();
    client.load_model_async(warm("m")).await.unwrap();
    assert_eq!(client.unload_model(unload("none")).await.unwrap_err().code(), Code::NotFound);
    for _ in 0..2 {
        client.unload_model(unload("m")).await.unwrap();
    }
}
