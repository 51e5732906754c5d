//! Packed models: served to this program's own clients, and refused to ServerlessLLM's with what to do.

use std::sync::atomic::Ordering;

use sllm_gds::origin::input;
use sllm_gds::os::progress::Progress;
use sllm_gds::serve::Verify;
use sllm_gds::wire::storage::RegisterModelRequest;
use sllm_gds::write::pack;
use sllm_gds::{Cancel, Checkpoint};
use tonic::Code;

use crate::client::{client, unix};
use crate::model::{self, Pristine};
use crate::rig::{GPUS, Rig, load, warm};

/// A server with a packed model, and the values that it holds.
fn rig(chunk_bytes: u64, verify: Verify) -> (Rig, Pristine) {
    let rig = Rig::new(|settings| {
        (settings.verify, settings.chunk_bytes) = (verify, chunk_bytes);
    });
    let source = rig.dir.path().join("source");
    let pristine = model::write_these(&source, &model::SMALL);
    let input = input::of_checkpoint(Checkpoint::open(&source).unwrap()).unwrap();
    let layout = pack::layout(&input, 1, 2 << 20).unwrap();
    pack::save(&input, &layout, &rig.models().join("p"), false, &Cancel::new(), &Progress::silent()).unwrap();
    (rig, pristine)
}

#[test]
fn our_clients_get_what_it_unpacks_to() {
    // Chunks of the pool that are shorter and longer than those of the files.
    for (chunk_bytes, verify) in [(64 << 10, Verify::Off), (4 << 20, Verify::All)] {
        let (rig, pristine) = rig(chunk_bytes, verify);
        let checkpoint = Checkpoint::open(rig.models().join("p")).unwrap();
        let client = client(&rig, &unix(&rig));
        let described = client.describe("p").unwrap();
        assert_eq!((described.bytes, described.tensors.len()), (checkpoint.file_bytes(), pristine.len()));
        for round in 0..3 {
            let model = client.load("p", 1).unwrap();
            for (name, wanted) in &pristine {
                let mut found = vec![0; wanted.len()];
                model.read(name, &mut found).unwrap();
                assert!(found == *wanted, "{name}, {chunk_bytes}, {round}: {}", model.report().path);
            }
            assert_eq!(model.report().path == "pool", round > 0, "{}", model.report().path);
        }
        let status = client.status().unwrap();
        let model = &status.models[0];
        assert_eq!(model.bytes, checkpoint.stored_bytes(), "what it takes on the drive");
        assert!(model.pool_bytes >= model.bytes, "{model:?}");
        assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn theirs_are_told_what_to_serve_instead() {
    let (rig, _) = rig(4 << 20, Verify::Off);
    let mut client = rig.theirs().await;
    let memory = rig.memory(1000);
    let to_gpu = load("p", "r1", GPUS[0], &[&memory], &[(0, 1000, 0, 0)]);
    let register = RegisterModelRequest { model_path: "p".into() };
    let refused = [
        client.register_model(register).await.err().unwrap(),
        client.load_model_async(warm("p")).await.err().unwrap(),
        client.load_model_async(to_gpu).await.err().unwrap(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("`sllm-gds export`"), "{status}");
    }
    assert!(memory.read().iter().all(|byte| *byte == 0), "nothing was begun");
}
