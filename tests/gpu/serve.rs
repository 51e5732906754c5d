//! The store server with clients' memory on a real GPU: other processes of this binary hold it, since no process may open its
//! own.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use sllm_gds::Checkpoint;
use sllm_gds::client::Client;
use sllm_gds::gpu::ipc::handle_of;
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::gpu::{self, Gpu};
use sllm_gds::load::Links;
use sllm_gds::os::cancel::Cancel;
use sllm_gds::serve::events::Event;
use sllm_gds::serve::wire::storage::storage_client::StorageClient;
use sllm_gds::serve::wire::storage::{
    DeviceType, LoadModelRequest, MemCopyChunk, MemCopyChunkList, MemCopyHandle, MemCopyHandleList,
};
use sllm_gds::serve::{Ended, Gpus, Settings, Verify, serve};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::fixture::Fixture;
use crate::rig::{Session, session};

/// What a client process is told: where the server is, which model, what to do.
const CLIENT: &str = "SLLM_GDS_TEST_CLIENT";

struct Server {
    at: String,
    events: mpsc::Receiver<Event>,
    stop: Cancel,
    thread: Option<JoinHandle<anyhow::Result<Ended>>>,
}

impl Server {
    fn start(storage_path: &Path, pool_bytes: u64) -> Server {
        let settings = Settings {
            storage_path: storage_path.into(),
            host: "127.0.0.1".into(),
            port: 0,
            unix: None,
            pool_bytes,
            chunk_bytes: 64 << 10,
            threads: Some(4),
            links: Links::Auto,
            verify: Verify::All,
            warm: Vec::new(),
            pin: Vec::new(),
            max_loads: None,
            grace: Duration::from_secs(20),
            metrics: None,
            registration_required: false,
            faults: None,
            admin_tcp: true,
        };
        let (told, events) = mpsc::channel();
        let tell = move |event: &Event| drop(told.send(event.clone()));
        let stop = Cancel::new();
        let flag = stop.clone();
        let run = move || serve(settings, Arc::new(Gpus::default()), &flag, Arc::new(tell));
        let thread = Some(std::thread::spawn(run));
        let at = loop {
            if let Event::Ready { at, .. } = events.recv().expect("the server did not come up") {
                break at[0].clone();
            }
        };
        Server { at, events, stop, thread }
    }

    /// The next load that ended well: what it read, and its path.
    fn loaded(&self) -> (u64, String) {
        loop {
            match self.events.recv().unwrap() {
                Event::Loaded { report, .. } => break (report.read_bytes, report.path),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// A process with memory on the GPU.
    fn client(&self, model: &Path, what: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serve::client", "--ignored", "--nocapture"]);
        command.env(CLIENT, format!("{}\n{}\n{what}", self.at, model.display()));
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    async fn theirs(&self) -> StorageClient<Channel> {
        theirs_at(&self.at).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || matches!(ended, Ok(Ok(Ended::Stopped))), "{ended:?}");
        }
    }
}

async fn theirs_at(at: &str) -> StorageClient<Channel> {
    StorageClient::new(Endpoint::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap())
}

fn request(id: &str, gpu: &Gpu, handle: Vec<u8>, chunks: Vec<MemCopyChunk>) -> LoadModelRequest {
    let uuid = gpu.uuid.trim_start_matches("GPU-").to_string();
    LoadModelRequest {
        model_path: "ours".into(),
        replica_uuid: id.into(),
        chunks: [(uuid.clone(), MemCopyChunkList { chunks })].into(),
        handles: [(uuid, MemCopyHandleList { handles: vec![MemCopyHandle { cuda_ipc_handle: handle }] })]
            .into(),
        target_device_type: DeviceType::Gpu.into(),
    }
}

/// All tensors, packed without alignment as their clients do; the bytes that it takes.
fn packed(checkpoint: &Checkpoint) -> (Vec<MemCopyChunk>, u64) {
    let (mut chunks, mut dst_offset) = (Vec::new(), 0);
    for tensor in checkpoint.tensors() {
        chunks.push(MemCopyChunk {
            src_offset: tensor.offset,
            size: tensor.bytes,
            dst_offset,
            handle_idx: 0,
        });
        dst_offset += tensor.bytes;
    }
    fastrand::shuffle(&mut chunks);
    (chunks, dst_offset)
}

/// Lines of a client, until it says this. It can go on as long as the rest is kept.
fn wait_for(child: &mut Child, word: &str) -> (String, Lines<BufReader<ChildStdout>>) {
    let mut lines = BufReader::new(child.stdout.take().expect("is read once")).lines();
    let found = lines.by_ref().map(Result::unwrap).find(|line| line.contains(word));
    (found.unwrap_or_else(|| panic!("the client ended without '{word}'")), lines)
}

/// A client's whole load.
fn load_in_another_process(server: &Server, model: &Path) {
    let output = server.client(model, "load").wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("every byte is right"), "{said}");
}

#[test]
fn other_processes_get_every_byte_and_the_second_time_none_is_read() {
    let Some(session) = session() else { return };
    let fixture = Fixture::new_in(&std::env::temp_dir());
    for (pool_bytes, second) in [(64 << 20, 0), (128 << 10, u64::MAX)] {
        let server = Server::start(fixture.root.path(), pool_bytes);
        for most_read in [u64::MAX, second] {
            load_in_another_process(&server, &fixture.ours());
            let (read, path) = server.loaded();
            assert!(read <= most_read, "{read} bytes were read by {path}");
        }
    }
    drop(session);
}

#[test]
fn our_own_client_loads_every_tensor_aligned() {
    let Some(_session) = session() else { return };
    let fixture = Fixture::new_in(&std::env::temp_dir());
    let server = Server::start(fixture.root.path(), 64 << 20);
    let output = server.client(&fixture.ours(), "our own").wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("every tensor is right"), "{said}");
}

/// Loads by this program's own client, and holds each tensor against the files.
fn load_by_our_own(at: &str, checkpoint: &Checkpoint) {
    let files: Vec<u8> = checkpoint.files.iter().flat_map(|file| fs::read(&file.path).unwrap()).collect();
    let model = Client::connect(at).unwrap().load("ours", 0).unwrap();
    for tensor in checkpoint.tensors() {
        let found = model.get(&tensor.name).unwrap();
        assert!(found.address.is_multiple_of(256) && found.bytes == tensor.bytes, "{found:?}");
        let mut bytes = vec![0; tensor.bytes as usize];
        model.read(&tensor.name, &mut bytes).unwrap();
        assert!(bytes == files[tensor.offset as usize..][..bytes.len()], "{}", tensor.name);
    }
}

#[test]
fn handles_that_are_none_fail_their_call_and_the_server_lives() {
    let Some(Session { gpu, .. }) = &session() else { return };
    let fixture = Fixture::new_in(&std::env::temp_dir());
    let server = Server::start(fixture.root.path(), 64 << 20);
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let (chunks, bytes) = packed(&checkpoint);
    let own = DeviceBuffer::new(gpu, bytes.max(4 << 20)).unwrap();
    let mut dead = server.client(&fixture.ours(), "handle");
    let (line, _rest) = wait_for(&mut dead, "handle ");
    dead.kill().unwrap();
    dead.wait().unwrap();
    let hex = line.split("handle ").nth(1).unwrap();
    let dead: Vec<u8> = (0..64).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = server.theirs().await;
        let random = (0..64).map(|_| fastrand::u8(..)).collect();
        let own = handle_of(&own).unwrap().to_vec();
        for (id, handle) in [vec![0; 64], random, own, dead].into_iter().enumerate() {
            let refused =
                client.load_model_async(request(&id.to_string(), gpu, handle, chunks.clone())).await;
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "handle {id}: {refused:?}");
            assert!(refused.message().contains("PID and IPC namespaces"), "{refused:?}");
        }
    });
    load_in_another_process(&server, &fixture.ours());
}

#[test]
fn clients_that_are_killed_leave_no_memory_taken() {
    let Some(Session { gpu, .. }) = &session() else { return };
    let fixture = Fixture::new_in(&std::env::temp_dir());
    let server = Server::start(fixture.root.path(), 64 << 20);
    load_in_another_process(&server, &fixture.ours());
    let (free_before, _) = gpu.memory_info().unwrap();
    for _ in 0..8 {
        let mut client = server.client(&fixture.ours(), "again and again");
        let (_, _rest) = wait_for(&mut client, "load 2 begins");
        (0..fastrand::u32(..2_000_000)).for_each(|_| std::hint::spin_loop());
        client.kill().unwrap();
        client.wait().unwrap();
    }
    load_in_another_process(&server, &fixture.ours());
    let (free_after, _) = gpu.memory_info().unwrap();
    assert!(free_after + (8 << 20) >= free_before, "{free_before} bytes were free, and {free_after} are");
}

/// A client: started by the tests above.
#[test]
#[ignore = "a client for other tests"]
fn client() {
    let Ok(told) = std::env::var(CLIENT) else { return };
    let [at, model, what] = told.split('\n').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let checkpoint = Checkpoint::open(model).unwrap();
    if what == "our own" {
        load_by_our_own(at, &checkpoint);
        println!("every tensor is right");
        return;
    }
    let gpu = gpu::open(&["0".into()]).unwrap().remove(0);
    let (chunks, bytes) = packed(&checkpoint);
    // Past what shares pages with others.
    let buffer = DeviceBuffer::new(&gpu, bytes.max(4 << 20)).unwrap();
    let handle = handle_of(&buffer).unwrap();
    let say = |line: String| {
        println!("{line}");
        std::io::stdout().flush().unwrap();
    };
    if what == "handle" {
        say(format!("handle {}", handle.map(|byte| format!("{byte:02x}")).concat()));
        loop {
            std::thread::park();
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = theirs_at(at).await;
        for number in 0..if what == "load" { 1 } else { u64::MAX } {
            say(format!("load {number} begins"));
            let warm = LoadModelRequest {
                model_path: "ours".into(),
                target_device_type: DeviceType::Cpu.into(),
                ..LoadModelRequest::default()
            };
            client.load_model_async(warm).await.unwrap();
            let id = format!("{}-{number}", std::process::id());
            client.load_model_async(request(&id, &gpu, handle.to_vec(), chunks.clone())).await.unwrap();
        }
    });
    let files: Vec<u8> = checkpoint.files.iter().flat_map(|file| fs::read(&file.path).unwrap()).collect();
    for chunk in &chunks {
        let mut found = vec![0; chunk.size as usize];
        buffer.read(chunk.dst_offset, &mut found).unwrap();
        assert!(
            found == files[chunk.src_offset as usize..][..chunk.size as usize],
            "at {}",
            chunk.dst_offset
        );
    }
    say("every byte is right".into());
}
