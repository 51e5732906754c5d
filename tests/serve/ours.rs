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
    LoadRequest { model: model.into(), memory, ranges, id: String::new() }
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

#[tokio::test]
async fn a_model_has_one_name_however_clients_spell_it() {
    let rig = Rig::new(|_| ());
    rig.put("org/m", &[1000]);
    let mut admin = rig.admin().await;
    let whole = rig.models().canonicalize().unwrap().join("org/m/");
    for name in ["org/m", "org/m/", "./org//m", whole.to_str().unwrap()] {
        admin.warm(WarmRequest { model: name.into() }).await.unwrap();
        admin.pin(PinRequest { model: name.into(), pinned: true }).await.unwrap();
    }
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    let names: Vec<&str> = status.models.iter().map(|model| model.model.as_str()).collect();
    assert_eq!(names, ["org/m"]);
    assert!(admin.evict(EvictRequest { model: "org/m/".into() }).await.unwrap().into_inner().bytes > 0);
}

/// What stands at /metrics.
fn page(at: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_what_was_loaded_and_what_failed() {
    let rig = Rig::new(|settings| settings.metrics = Some("127.0.0.1:0".into()));
    let at = rig.all_at.iter().find_map(|at| at.strip_prefix("http://")?.strip_suffix("/metrics")).unwrap();
    rig.put("m", &[200_000]);
    let mut client = rig.theirs().await;
    for (id, bytes) in [("a", 200_000), ("b", 200_000), ("c", 200_001)] {
        let memory = rig.memory(300_000);
        let request = crate::rig::load("m", id, GPUS[0], &[&memory], &[(0, bytes, 0, 0)]);
        assert_eq!(client.load_model_async(request).await.is_ok(), id != "c");
    }
    let text = page(at, "/metrics");
    for line in [
        "HTTP/1.1 200 OK",
        "sllm_gds_loads_total{source=\"pool\"} 1",
        "sllm_gds_loaded_bytes_total{source=\"pool\"} 200000",
        "sllm_gds_failures_total{call=\"load\",code=\"OutOfRange\"} 1",
        "sllm_gds_pool_chunks{state=\"full\"} 4",
        "sllm_gds_open_handles 0",
        "# TYPE sllm_gds_pool_evictions counter",
        "sllm_gds_pool_evictions_total 0",
        "sllm_gds_load_seconds_count 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "'{line}' is not in:\n{text}");
    }
    assert!(text.contains("sllm_gds_load_phase_seconds_total{phase=\"transfer\"}"), "{text}");
    assert!(page(at, "/").starts_with("HTTP/1.1 404"));
}
