//! A load under way: the server writes into this process's memory until it says that it has closed that.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tonic::Status;

use crate::client::connection::Connection;
use crate::client::error::ClientError;
use crate::client::model::{Placed, Report, ServedModel};
use crate::os::cancel::Cancel;
use crate::wire::devices::{Devices, Own};
use crate::wire::layout::pack;
use crate::wire::v1;
use crate::wire::v1::load_event::Event;

/// How often the flag that ends a load is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long the server may take to close memory once it was asked to, as where its storage hangs.
const CLOSE: Duration = Duration::from_secs(30);

/// A load under way. Dropped, it is cancelled: the drop waits until the server has closed this process's memory. Where the server
/// does not do that within half a minute, the memory is left to the end of the process.
pub struct Loading {
    connection: Arc<Connection>,
    id: String,
    /// There until it is handed on.
    memory: Option<Box<dyn Own>>,
    tensors: Vec<Placed>,
    events: Receiver<Result<v1::LoadEvent, Status>>,
    /// Whether the server has said its last word, and so closed the memory.
    is_over: bool,
}

impl Loading {
    /// Takes memory for a model on a GPU, and asks for the model.
    pub(super) fn begin(
        connection: &Arc<Connection>,
        devices: &dyn Devices,
        model: &str,
        uuid: &str,
    ) -> Result<Loading, ClientError> {
        let mut server = connection.server();
        let request = v1::DescribeRequest { model: model.into() };
        let described = connection.call(async move { server.describe(request).await })?;
        let too_large = || ClientError::nonsense("a model of more than 2^64 bytes");
        let packed = pack(described.tensors.iter().map(|tensor| (tensor.offset, tensor.bytes)));
        let packed = packed.ok_or_else(too_large)?;
        let memory = devices.make(uuid, packed.bytes)?;
        let mut ranges = Vec::new();
        let mut tensors = Vec::new();
        let mut taken = 0;
        for (tensor, place) in described.tensors.into_iter().zip(&packed.places) {
            // One that shares its place with an earlier one came with that.
            if *place >= taken && tensor.bytes > 0 {
                ranges.push(v1::Range { from: tensor.offset, bytes: tensor.bytes, memory: 0, to: *place });
                taken = place + tensor.bytes;
            }
            tensors.push(Placed::new(tensor, *place, packed.bytes)?);
        }
        let id = format!("{:032x}", fastrand::u128(..));
        let handle = v1::Memory { gpu_uuid: uuid.into(), cuda_ipc_handle: memory.handle()?.to_vec() };
        let request = v1::LoadRequest { model: model.into(), memory: vec![handle], ranges, id: id.clone() };
        let mut loading = Loading {
            connection: connection.clone(),
            id,
            memory: Some(memory),
            tensors,
            events: channel().1,
            is_over: false,
        };
        loading.events = loading.ask(request)?;
        Ok(loading)
    }

    /// Asks for the load; what the server says of it.
    fn ask(
        &mut self,
        request: v1::LoadRequest,
    ) -> Result<Receiver<Result<v1::LoadEvent, Status>>, ClientError> {
        let mut server = self.connection.server();
        let answered = self.connection.wait(async move { server.load(request).await })?;
        let mut stream = match answered {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let error = ClientError::of(status, &self.connection.address);
                // A server that refused has opened nothing; of one that is not heard that is not known.
                self.is_over = !matches!(error, ClientError::Unreachable(_));
                return Err(error);
            }
        };
        let (told, events) = channel();
        self.connection.spawn(async move {
            while let Some(event) = stream.message().await.transpose() {
                if told.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(events)
    }

    /// Waits for its end. `progress` is told of bytes that came so far, and of all that will.
    ///
    /// # Errors
    /// - [`ClientError::NotFound`], [`ClientError::Refused`]: the model left the server meanwhile, or its files changed.
    /// - [`ClientError::Busy`], [`ClientError::Corrupt`], [`ClientError::Server`]: as the server says.
    /// - [`ClientError::Unreachable`]: the server went away.
    pub fn wait(self, progress: impl FnMut(u64, u64)) -> Result<ServedModel, ClientError> {
        self.wait_unless(&Cancel::new(), progress)
    }

    /// The same until a flag is set: then the load ends with [`ClientError::Interrupted`].
    ///
    /// # Errors
    /// As of [`Loading::wait`].
    pub fn wait_unless(
        mut self,
        cancel: &Cancel,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<ServedModel, ClientError> {
        let report = loop {
            if cancel.is_set() {
                return Err(ClientError::Interrupted);
            }
            match self.events.recv_timeout(POLL) {
                Ok(Ok(v1::LoadEvent {
                    event: Some(Event::Progress(v1::Progress { read_bytes, total_bytes })),
                })) => {
                    progress(read_bytes, total_bytes);
                }
                Ok(Ok(v1::LoadEvent { event: Some(Event::Report(report)) })) => break Report::from(report),
                // Of a later version.
                Ok(Ok(v1::LoadEvent { event: None })) => {}
                Ok(Err(status)) => {
                    let error = ClientError::of(status, &self.connection.address);
                    self.is_over = !matches!(error, ClientError::Unreachable(_));
                    return Err(error);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ClientError::nonsense("no report of a load"));
                }
            }
        };
        self.is_over = true;
        let memory = self.memory.take().ok_or_else(|| ClientError::nonsense("a load without memory"))?;
        Ok(ServedModel::new(memory, std::mem::take(&mut self.tensors), report))
    }

    /// Asks the server to end it. Whether the memory is the caller's alone again.
    fn cancel(&self) -> bool {
        let (mut server, id) = (self.connection.server(), self.id.clone());
        let call = async move { server.cancel(v1::CancelRequest { id }).await };
        match self.connection.wait(async move { tokio::time::timeout(CLOSE, call).await }) {
            Ok(Ok(Ok(_))) => true,
            // A server that is not there any more has nothing open.
            Ok(Ok(Err(status))) => {
                matches!(ClientError::of(status, &self.connection.address), ClientError::Unreachable(_))
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        if !self.is_over && !self.cancel() {
            // CUDA forbids to free what another process has open.
            std::mem::forget(memory);
        }
    }
}
