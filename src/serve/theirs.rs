//! ServerlessLLM's interface, as its own clients use it: better status codes, and an answer only when it is true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::{Code, Request, Response, Status};

use crate::os::cancel::Cancel;
use crate::serve::refusal::Refusal;
use crate::serve::replicas::{Begun, Start, ended};
use crate::serve::store::{Store, no_thread};
use crate::serve::wanted::Wanted;
use crate::serve::work::{CancelOnDrop, blocking};
use crate::wire::storage::storage_server::Storage;
use crate::wire::storage::{
    ClearMemRequest, ClearMemResponse, ConfirmModelRequest, ConfirmModelResponse, DeviceType,
    GetServerConfigRequest, GetServerConfigResponse, LoadModelRequest, LoadModelResponse,
    RegisterModelRequest, RegisterModelResponse, UnloadModelRequest, UnloadModelResponse,
};

/// How long a confirmation waits for a load that was not asked for yet: calls may overtake each other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer ids are none: theirs have 36 characters.
const MOST_ID_BYTES: usize = 256;

/// The service.
pub struct Theirs {
    store: Arc<Store>,
}

impl Theirs {
    /// Over this store.
    pub fn new(store: Arc<Store>) -> Theirs {
        Theirs { store }
    }

    fn check_registered(&self, model: &str) -> Result<(), Refusal> {
        if self.store.settings.registration_required && self.store.models.known(model).is_none() {
            let why = format!(
                "the model '{model}' was not registered, which this server wants: call RegisterModel first"
            );
            return Err(Refusal::new(Code::FailedPrecondition, why));
        }
        Ok(())
    }

    async fn load_to_gpus(&self, request: LoadModelRequest) -> Result<(), Refusal> {
        let (model, id) = (self.store.models.plain(&request.model_path), request.replica_uuid.clone());
        if id.is_empty() || id.len() > MOST_ID_BYTES {
            return Err(Refusal::invalid(format!(
                "a load to GPUs wants a replica id of 1 to {MOST_ID_BYTES} bytes, and this one has {}",
                id.len()
            )));
        }
        let begun = match self.store.replicas.start(&id, &model)? {
            Start::Known(outcome) => return ended(outcome).await,
            Start::New(begun) => begun,
        };
        // The client gives up, or dies: this future is dropped, and the load ends.
        let cancel = CancelOnDrop::new();
        let place = self.store.places().acquire_owned().await;
        let (done, outcome) = oneshot::channel();
        let (store, flag) = (self.store.clone(), cancel.flag());
        let load = move || {
            let _place = place;
            let loaded = load_now(&store, request, &flag);
            finish(begun, loaded, done);
        };
        std::thread::Builder::new().name("load".into()).spawn(load).map_err(|error| no_thread(&error))?;
        let lost = |_| {
            Err(Refusal::new(Code::Internal, "the load's thread ended without a word; please report this"))
        };
        outcome.await.unwrap_or_else(lost)
    }
}

fn load_now(store: &Store, request: LoadModelRequest, cancel: &Cancel) -> Result<(), Refusal> {
    let LoadModelRequest { model_path, chunks, handles, .. } = request;
    store
        .models
        .open_for_theirs(&model_path)
        .inspect_err(|refusal| store.failed("load", &model_path, refusal))?;
    let of = |chunk: crate::wire::storage::MemCopyChunk| {
        (chunk.src_offset, chunk.size, chunk.dst_offset, chunk.handle_idx)
    };
    let chunks: BTreeMap<_, Vec<_>> =
        chunks.into_iter().map(|(uuid, list)| (uuid, list.chunks.into_iter().map(of).collect())).collect();
    let of = |handle: crate::wire::storage::MemCopyHandle| handle.cuda_ipc_handle;
    let handles =
        handles.into_iter().map(|(uuid, list)| (uuid, list.handles.into_iter().map(of).collect())).collect();
    let wanted = Wanted::by_uuid(chunks, &handles)
        .inspect_err(|refusal| store.failed("load", &model_path, refusal))?;
    store.load(&model_path, &wanted, cancel, Box::new(|_, _| ())).map(drop)
}

/// Tells those who wait for the load by its id, and the call that began it.
fn finish(begun: Begun, loaded: Result<(), Refusal>, done: oneshot::Sender<Result<(), Refusal>>) {
    begun.end(loaded.clone());
    // Nobody waits where the client has gone.
    let _ = done.send(loaded);
}

fn unimplemented(what: &str, wanted: &str) -> Refusal {
    Refusal::new(
        Code::Unimplemented,
        format!("{what} is for the device type {wanted}, and another one was named"),
    )
}

#[tonic::async_trait]
impl Storage for Theirs {
    async fn load_model_async(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<LoadModelResponse>, Status> {
        let request = request.into_inner();
        let model_path = request.model_path.clone();
        self.check_registered(&model_path)?;
        match request.target_device_type() {
            DeviceType::Gpu => self.load_to_gpus(request).await?,
            DeviceType::Cpu => {
                let (store, model) = (self.store.clone(), model_path.clone());
                blocking(move |_| {
                    store
                        .models
                        .open_for_theirs(&model)
                        .inspect_err(|refusal| store.failed("load", &model, refusal))?;
                    store.warm_behind(&model)
                })
                .await?;
            }
            DeviceType::Disk => return Err(unimplemented("LoadModelAsync", "CPU or GPU").into()),
        }
        Ok(Response::new(LoadModelResponse { model_path }))
    }

    async fn confirm_model(
        &self,
        request: Request<ConfirmModelRequest>,
    ) -> Result<Response<ConfirmModelResponse>, Status> {
        let request = request.into_inner();
        if request.target_device_type() != DeviceType::Gpu {
            return Err(unimplemented("ConfirmModel", "GPU").into());
        }
        self.store.replicas.wait(&request.replica_uuid, PATIENCE).await?;
        Ok(Response::new(ConfirmModelResponse { model_path: request.model_path, code: 0 }))
    }

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<UnloadModelResponse>, Status> {
        let request = request.into_inner();
        if request.target_device_type() != DeviceType::Cpu {
            return Err(unimplemented("UnloadModel", "CPU").into());
        }
        let (store, model) = (self.store.clone(), request.model_path.clone());
        blocking(move |cancel| store.evict(Some(&model), cancel)).await?;
        Ok(Response::new(UnloadModelResponse { model_path: request.model_path, code: 0 }))
    }

    async fn clear_mem(&self, _: Request<ClearMemRequest>) -> Result<Response<ClearMemResponse>, Status> {
        let store = self.store.clone();
        blocking(move |cancel| store.evict(None, cancel)).await?;
        Ok(Response::new(ClearMemResponse {}))
    }

    async fn register_model(
        &self,
        request: Request<RegisterModelRequest>,
    ) -> Result<Response<RegisterModelResponse>, Status> {
        let model_path = request.into_inner().model_path;
        let (store, model) = (self.store.clone(), model_path.clone());
        let found = blocking(move |_| {
            store
                .models
                .open_for_theirs(&model)
                .inspect_err(|refusal| store.failed("register", &model, refusal))
        });
        // Files end before 2^62.
        let model_size = found.await?.file_bytes() as i64;
        Ok(Response::new(RegisterModelResponse { model_path, model_size }))
    }

    async fn get_server_config(
        &self,
        _: Request<GetServerConfigRequest>,
    ) -> Result<Response<GetServerConfigResponse>, Status> {
        let pool = self.store.loader.pool().unwrap_or_default();
        let (mem_pool_size, chunk_size) = (pool.bytes as i64, pool.chunk_bytes as i64);
        Ok(Response::new(GetServerConfigResponse { mem_pool_size, chunk_size }))
    }
}
