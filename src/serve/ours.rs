//! This program's own interface.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Request, Response, Status};

use crate::checkpoint::Checkpoint;
use crate::load::{ByteRange, LoadReport};
use crate::os::cancel::Cancel;
use crate::serve::refusal::Refusal;
use crate::serve::running::{Entry, Running};
use crate::serve::store::{Store, no_thread};
use crate::serve::wanted::Wanted;
use crate::serve::work::{CancelOnDrop, blocking};
use crate::wire::v1;
use crate::wire::v1::load_event::Event;
use crate::wire::v1::server_server::Server;

/// Events of one load that wait for a client; it misses those of progress that come while it is slower.
const WAITING_EVENTS: usize = 16;

/// The service.
pub struct Ours {
    store: Arc<Store>,
    running: Running,
}

impl Ours {
    /// Over this store. The list of loads is that of all who serve it.
    pub fn new(store: Arc<Store>, running: Running) -> Ours {
        Ours { store, running }
    }

    /// Refuses calls over TCP that change what the server holds.
    fn check_admin<T>(&self, request: &Request<T>) -> Result<(), Refusal> {
        let is_tcp = request.extensions().get::<TcpConnectInfo>().is_some();
        if is_tcp && !self.store.settings.admin_tcp {
            let why = "calls that change what the server holds are taken over its Unix socket only: connect there, or start \
                       the server so that it takes them over TCP";
            return Err(Refusal::new(Code::PermissionDenied, why));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Server for Ours {
    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        let model = request.into_inner().model;
        let store = self.store.clone();
        let described = blocking(move |_| {
            let path = store.models.path(&model)?;
            let checkpoint = Checkpoint::open_below(&path, Some(store.models.storage_path()))
                .and_then(Checkpoint::whole)
                .map_err(crate::os::error::Error::from)?;
            Ok(description(&checkpoint))
        });
        Ok(Response::new(described.await?))
    }

    type LoadStream = ReceiverStream<Result<v1::LoadEvent, Status>>;

    async fn load(&self, request: Request<v1::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let v1::LoadRequest { model, memory, ranges, id } = request.into_inner();
        let memory = memory.into_iter().map(|memory| (memory.gpu_uuid, memory.cuda_ipc_handle)).collect();
        let range = |range: v1::Range| ByteRange {
            from: range.from,
            bytes: range.bytes,
            memory: range.memory as usize,
            to: range.to,
        };
        let wanted = Wanted::numbered(memory, ranges.into_iter().map(range).collect())?;
        let Ok(place) = self.store.places().try_acquire_owned() else {
            let why = "as many loads run as this server takes at a time: ask again in a second";
            return Err(Refusal::new(Code::ResourceExhausted, why).into());
        };
        let cancel = CancelOnDrop::new();
        let entry = self.running.begin(&id, cancel.flag())?;
        let (events, stream) = mpsc::channel(WAITING_EVENTS);
        let store = self.store.clone();
        let load = move || {
            let _place = place;
            load_now(&store, &model, &wanted, &cancel, entry, &events);
        };
        std::thread::Builder::new().name("load".into()).spawn(load).map_err(|error| no_thread(&error))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        self.running.cancel(&request.into_inner().id).await;
        Ok(Response::new(v1::CancelReply {}))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(status(&self.store)))
    }

    async fn warm(&self, request: Request<v1::WarmRequest>) -> Result<Response<v1::WarmReply>, Status> {
        self.check_admin(&request)?;
        let (store, model) = (self.store.clone(), request.into_inner().model);
        let warmed = blocking(move |cancel| store.warm(&model, cancel)).await?;
        Ok(Response::new(v1::WarmReply {
            bytes: warmed.bytes,
            held_bytes: warmed.held_bytes,
            joined_bytes: warmed.joined_bytes,
            read_bytes: warmed.read_bytes,
            elapsed_s: warmed.elapsed_s,
        }))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinReply>, Status> {
        self.check_admin(&request)?;
        let store = self.store.clone();
        let v1::PinRequest { model, pinned } = request.into_inner();
        blocking(move |cancel| store.pin(&model, pinned, cancel)).await?;
        Ok(Response::new(v1::PinReply {}))
    }

    async fn evict(&self, request: Request<v1::EvictRequest>) -> Result<Response<v1::EvictReply>, Status> {
        self.check_admin(&request)?;
        let (store, model) = (self.store.clone(), request.into_inner().model);
        let named = move |cancel: &Cancel| store.evict((!model.is_empty()).then_some(model.as_str()), cancel);
        let bytes = blocking(named).await?;
        Ok(Response::new(v1::EvictReply { bytes }))
    }
}

/// Loads, and tells the client of it. A client that is gone ends the load.
fn load_now(
    store: &Store,
    model: &str,
    wanted: &Wanted,
    cancel: &CancelOnDrop,
    entry: Option<Entry>,
    events: &mpsc::Sender<Result<v1::LoadEvent, Status>>,
) {
    let (flag, progress) = (cancel.flag(), events.clone());
    let tell = move |read_bytes, total_bytes| {
        let event = Event::Progress(v1::Progress { read_bytes, total_bytes });
        match progress.try_send(Ok(v1::LoadEvent { event: Some(event) })) {
            Err(mpsc::error::TrySendError::Closed(_)) => flag.set(),
            // The next one tells more.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
        }
    };
    let loaded = store.load(model, wanted, &cancel.flag(), Box::new(tell));
    // The client's memory is closed now.
    drop(entry);
    let last = loaded.map(|report| v1::LoadEvent { event: Some(Event::Report(reported(report))) });
    // Nobody waits where the client has gone.
    let _ = events.blocking_send(last.map_err(Status::from));
}

fn reported(report: LoadReport) -> v1::LoadReport {
    v1::LoadReport {
        bytes: report.bytes,
        read_bytes: report.read_bytes,
        elapsed_s: report.elapsed_s,
        gb_per_s: report.gb_per_s,
        path: report.path,
        path_reason: report.path_reason,
    }
}

fn description(checkpoint: &Checkpoint) -> v1::DescribeReply {
    let tensor = |tensor: &crate::checkpoint::Tensor| v1::Tensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.safetensors_name().to_string(),
        shape: tensor.shape.clone(),
        strides: tensor.stride.clone(),
        offset: tensor.offset,
        bytes: tensor.bytes,
    };
    v1::DescribeReply {
        bytes: checkpoint.file_bytes(),
        tensors: checkpoint.tensors().iter().map(tensor).collect(),
    }
}

fn status(store: &Store) -> v1::StatusReply {
    let pool = store.loader.pool().unwrap_or_default();
    let models = store.models.all().into_iter().map(|(name, checkpoint)| {
        let real = |path: &std::path::PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let files: Vec<_> = checkpoint.files.iter().map(|file| real(&file.path)).collect();
        let kept = pool.checkpoints.iter().find(|kept| kept.files == files);
        v1::Model {
            model: name,
            bytes: checkpoint.stored_bytes(),
            pool_bytes: kept.map_or(0, |kept| kept.full_chunks as u64 * pool.chunk_bytes),
            pinned: kept.is_some_and(|kept| kept.is_pinned),
            loads: kept.map_or(0, |kept| kept.loads as u64),
        }
    });
    let loads = store.under_way.list().into_iter().map(|running| {
        let (read_bytes, total_bytes) = running.progress();
        let (model, to) = (running.model.clone(), running.to.clone());
        v1::UnderWay { model, to, read_bytes, total_bytes, elapsed_s: running.since.elapsed().as_secs_f64() }
    });
    v1::StatusReply {
        version: env!("CARGO_PKG_VERSION").into(),
        storage_path: store.models.storage_path().display().to_string(),
        uptime_s: store.started.elapsed().as_secs_f64(),
        gpus: store.devices.list().unwrap_or_default(),
        models: models.collect(),
        loads: loads.collect(),
        pool: Some(v1::Pool {
            bytes: pool.bytes,
            chunk_bytes: pool.chunk_bytes,
            made_chunks: pool.made_chunks as u64,
            free_chunks: pool.free_chunks as u64,
            full_chunks: pool.full_chunks as u64,
        }),
    }
}
