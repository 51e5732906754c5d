//! This program's own interface.

use std::sync::atomic::Ordering;

use sllm_gds::serve::wire::v1::load_event::Event;
use sllm_gds::serve::wire::v1::{
    DescribeRequest, EvictRequest, LoadRequest, Memory, PinRequest, Range, StatusRequest, WarmRequest,
};
use tonic::Code;

use crate::fixture::Fixture;
use crate::rig::{GPUS, Rig};

fn request(model: &str, memory: &crate::rig::Memory, ranges: Vec<Range>) -> LoadRequest {
    let memory = vec![Memory { gpu_uuid: format!("GPU-{}", GPUS[0]), cuda_ipc_handle: memory.handle() }];
    LoadRequest { model: model.into(), memory, ranges }
}

#[tokio::test]
async fn a_model_is_described_and_its_tensors_are_loaded_by_that() {
    let fixture = Fixture::new();
    let rig = Rig::new(|settings| settings.storage_path = fixture.root.path().into());
    let mut client = rig.ours().await;
    let described = client.describe(DescribeRequest { model: "ours".into() }).await.unwrap().into_inner();
    assert_eq!(described.tensors.len(), fixture.pristine.len());
    let (mut ranges, mut to) = (Vec::new(), 0);
    for tensor in &described.tensors {
        ranges.push(Range { from: tensor.offset, bytes: tensor.bytes, memory: 0, to });
        to += tensor.bytes;
    }
    let memory = rig.memory(to as usize);
    let mut events = client.load(request("ours", &memory, ranges)).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = events.message().await.unwrap() {
        assert!(!matches!(last, Some(Event::Report(_))), "the report is the last");
        last = event.event;
    }
    let Some(Event::Report(report)) = last else { panic!("{last:?}") };
    assert_eq!(report.bytes, to);
    let (read, mut at) = (memory.read(), 0);
    for tensor in &described.tensors {
        let bytes = tensor.bytes as usize;
        assert!(read[at..at + bytes] == fixture.pristine[&tensor.name], "{}", tensor.name);
        at += bytes;
    }
    let refused = client.describe(DescribeRequest { model: "none".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut failed = client
        .load(request("ours", &memory, vec![Range { from: 0, bytes: 1 << 40, memory: 0, to: 0 }]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(failed.message().await.unwrap_err().code(), Code::OutOfRange);
    let beyond = request("ours", &memory, vec![Range { from: 0, bytes: 1, memory: 1, to: 0 }]);
    assert_eq!(client.load(beyond).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_pool_is_ruled_over_the_unix_socket_alone() {
    let rig = Rig::new(|_| ());
    let bytes = rig.put("m", &[200_000]).len() as u64;
    let (mut tcp, mut admin) = (rig.ours().await, rig.admin().await);
    let warm = || WarmRequest { model: "m".into() };
    for refused in [
        tcp.warm(warm()).await.unwrap_err(),
        tcp.pin(PinRequest { model: "m".into(), pinned: true }).await.unwrap_err(),
        tcp.evict(EvictRequest { model: "m".into() }).await.unwrap_err(),
    ] {
        let named = refused.message().contains("Unix socket");
        assert_eq!((refused.code(), named), (Code::PermissionDenied, true), "{refused:?}");
    }
    for read_bytes in [bytes, 0] {
        let warmed = admin.warm(warm()).await.unwrap().into_inner();
        assert_eq!((warmed.bytes, warmed.read_bytes), (bytes, read_bytes));
    }
    admin.pin(PinRequest { model: "m".into(), pinned: true }).await.unwrap();
    let status = tcp.status(StatusRequest {}).await.unwrap().into_inner();
    let [model] = status.models.as_slice() else { panic!("{status:?}") };
    assert!(
        model.model == "m" && model.pinned && model.bytes == bytes && model.pool_bytes >= bytes,
        "{model:?}"
    );
    assert_eq!((status.gpus.len(), status.loads.len()), (2, 0));
    assert_eq!(status.pool.unwrap().full_chunks, bytes.div_ceil(64 << 10));
    assert!(admin.evict(EvictRequest { model: String::new() }).await.unwrap().into_inner().bytes >= bytes);
    assert_eq!(admin.warm(warm()).await.unwrap().into_inner().read_bytes, bytes);
    let missing = admin.warm(WarmRequest { model: "none".into() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let rig = Rig::new(|settings| settings.admin_tcp = true);
    rig.put("m", &[1]);
    assert!(rig.ours().await.warm(warm()).await.is_ok());
}

#[tokio::test]
async fn models_are_warmed_and_pinned_from_the_start() {
    let fixture = Fixture::new();
    let rig = Rig::new(|settings| {
        settings.storage_path = fixture.root.path().into();
        (settings.warm, settings.pin) = (vec!["foreign".into()], vec!["ours".into()]);
    });
    let mut client = rig.ours().await;
    loop {
        let status = client.status(StatusRequest {}).await.unwrap().into_inner();
        let held =
            |name: &str| status.models.iter().find(|model| model.model == name && model.pool_bytes > 0);
        if held("foreign").is_some_and(|model| !model.pinned)
            && held("ours").is_some_and(|model| model.pinned)
        {
            break;
        }
        tokio::task::yield_now().await;
    }
}
