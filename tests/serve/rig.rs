//! A server in this process, over made-up GPUs whose memory lies in files.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use sllm_gds::Cancel;
use sllm_gds::load::Links;
use sllm_gds::serve::events::Event;
use sllm_gds::serve::fake::{FakeDevices, handle_of};
use sllm_gds::serve::wire::storage::storage_client::StorageClient;
use sllm_gds::serve::wire::storage::{
    DeviceType, LoadModelRequest, MemCopyChunk, MemCopyChunkList, MemCopyHandle, MemCopyHandleList,
};
use sllm_gds::serve::wire::v1::server_client::ServerClient;
use sllm_gds::serve::{Ended, Settings, Verify, serve};
use tonic::transport::{Channel, Endpoint};

pub const GPUS: [&str; 2] = ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"];

/// A server, the models that it serves, and its made-up GPUs.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub at: String,
    /// With the other places where it listens.
    pub all_at: Vec<String>,
    pub open_windows: Arc<AtomicUsize>,
    pub events: Arc<Mutex<Vec<Event>>>,
    stop: Cancel,
    server: Option<JoinHandle<anyhow::Result<Ended>>>,
    next: AtomicUsize,
}

/// A request for loads into one made-up GPU's memory.
pub struct Memory {
    pub name: String,
    pub path: PathBuf,
}

impl Rig {
    pub fn new(change: impl FnOnce(&mut Settings)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (models, memory) = (dir.path().join("models"), dir.path().join("memory"));
        fs::create_dir_all(&models).unwrap();
        fs::create_dir_all(&memory).unwrap();
        let mut settings = Settings {
            storage_path: models,
            host: "127.0.0.1".into(),
            port: 0,
            unix: Some(dir.path().join("socket")),
            pool_bytes: 64 << 20,
            chunk_bytes: 64 << 10,
            threads: Some(2),
            links: Links::Auto,
            verify: Verify::Off,
            warm: Vec::new(),
            pin: Vec::new(),
            max_loads: None,
            grace: Duration::from_secs(20),
            metrics: None,
            registration_required: false,
            admin_tcp: false,
            faults: None,
        };
        change(&mut settings);
        let devices = FakeDevices::new(memory, GPUS.map(str::to_string).into());
        let open_windows = devices.open_windows();
        let (stop, events) = (Cancel::new(), Arc::new(Mutex::new(Vec::new())));
        let (told, ready) = mpsc::channel();
        let log = events.clone();
        let tell = move |event: &Event| {
            if let Event::Ready { at, .. } = event {
                told.send(at.clone()).unwrap();
            }
            log.lock().unwrap().push(event.clone());
        };
        let flag = stop.clone();
        let run = move || serve(settings, Arc::new(devices), &flag, Arc::new(tell));
        let server = std::thread::spawn(run);
        let all_at = ready.recv().expect("the server did not come up");
        Rig {
            dir,
            at: all_at[0].clone(),
            all_at,
            open_windows,
            events,
            stop,
            server: Some(server),
            next: AtomicUsize::new(0),
        }
    }

    pub fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// A model of these partitions, of bytes that tell their places.
    pub fn put(&self, name: &str, partitions: &[usize]) -> Vec<u8> {
        let dir = self.models().join(name);
        fs::create_dir_all(&dir).unwrap();
        let mut rng = fastrand::Rng::with_seed(name.len() as u64);
        let mut all = Vec::new();
        for (number, bytes) in partitions.iter().enumerate() {
            let part: Vec<u8> = (0..*bytes).map(|_| rng.u8(..)).collect();
            fs::write(dir.join(format!("tensor.data_{number}")), &part).unwrap();
            all.extend(part);
        }
        all
    }

    /// Memory on a made-up GPU, of zeros.
    pub fn memory(&self, bytes: usize) -> Memory {
        let name = format!("m{}", self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.dir.path().join("memory").join(&name);
        fs::write(&path, vec![0u8; bytes]).unwrap();
        Memory { name, path }
    }

    pub async fn theirs(&self) -> StorageClient<Channel> {
        theirs_at(&self.at).await
    }

    pub async fn ours(&self) -> ServerClient<Channel> {
        ServerClient::new(channel(format!("http://{}", self.at)).await)
    }

    /// Over the Unix socket.
    pub async fn admin(&self) -> ServerClient<Channel> {
        ServerClient::new(channel(format!("unix://{}", self.dir.path().join("socket").display())).await)
    }

    /// Ends it, and says how.
    pub fn end(&mut self) -> anyhow::Result<Ended> {
        self.stop.set();
        self.server.take().unwrap().join().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl Memory {
    pub fn read(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    pub fn handle(&self) -> Vec<u8> {
        handle_of(&self.name).unwrap().to_vec()
    }
}

pub async fn theirs_at(at: &str) -> StorageClient<Channel> {
    StorageClient::new(channel(format!("http://{at}")).await).max_encoding_message_size(64 << 20)
}

async fn channel(at: String) -> Channel {
    Endpoint::from_shared(at).unwrap().connect().await.unwrap()
}

/// (source, bytes, place, handle).
pub type Chunk = (u64, u64, u64, u64);

/// A load to these memories of one GPU.
pub fn load(model: &str, id: &str, gpu: &str, memory: &[&Memory], chunks: &[Chunk]) -> LoadModelRequest {
    raw_load(model, id, gpu, memory.iter().map(|memory| memory.handle()).collect(), chunks)
}

/// The same with handles that may be none.
pub fn raw_load(
    model: &str,
    id: &str,
    gpu: &str,
    handles: Vec<Vec<u8>>,
    chunks: &[Chunk],
) -> LoadModelRequest {
    let chunk = |(src_offset, size, dst_offset, handle_idx): &Chunk| MemCopyChunk {
        src_offset: *src_offset,
        size: *size,
        dst_offset: *dst_offset,
        handle_idx: *handle_idx,
    };
    let chunks = MemCopyChunkList { chunks: chunks.iter().map(chunk).collect() };
    let handle = |cuda_ipc_handle| MemCopyHandle { cuda_ipc_handle };
    let handles = MemCopyHandleList { handles: handles.into_iter().map(handle).collect() };
    LoadModelRequest {
        model_path: model.into(),
        replica_uuid: id.into(),
        chunks: [(gpu.to_string(), chunks)].into(),
        handles: [(gpu.to_string(), handles)].into(),
        target_device_type: DeviceType::Gpu.into(),
    }
}

/// A load to the pool.
pub fn warm(model: &str) -> LoadModelRequest {
    let target_device_type = DeviceType::Cpu.into();
    LoadModelRequest { model_path: model.into(), target_device_type, ..LoadModelRequest::default() }
}
