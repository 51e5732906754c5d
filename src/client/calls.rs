//! What can be asked of a server.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::checkpoint::{DType, Tensor};
use crate::client::connection::Connection;
use crate::client::error::ClientError;
use crate::client::loading::Loading;
use crate::client::model::ServedModel;
use crate::client::status::Status;
use crate::os::error::Error;
use crate::wire::Gpus;
use crate::wire::devices::Devices;
use crate::wire::v1;

/// A store server, connected to.
pub struct Client {
    connection: Arc<Connection>,
    devices: Arc<dyn Devices>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.connection.address).finish_non_exhaustive()
    }
}

/// The tensors of a model, and where they lie in it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Described {
    /// Of its files.
    pub bytes: u64,
    /// In the order of their offsets, which count over its files laid end to end.
    pub tensors: Vec<Tensor>,
}

/// How a model came into the pool. Sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Warmed {
    /// All of it.
    pub bytes: u64,
    /// What the pool held before.
    pub held_bytes: u64,
    /// What other loads brought meanwhile.
    pub joined_bytes: u64,
    /// What was read.
    pub read_bytes: u64,
    /// In seconds.
    pub elapsed_s: f64,
}

impl Client {
    /// Connects to a server: `HOST:PORT`, or `unix:PATH`. No GPU is looked for yet.
    ///
    /// # Errors
    /// - [`ClientError::Unreachable`]: none answers there.
    /// - [`ClientError::Refused`]: that is no address, or the system starts no thread.
    pub fn connect(address: &str) -> Result<Client, ClientError> {
        Client::connect_over(address, Arc::new(Gpus::default()))
    }

    /// The same with memory on other devices, for tests.
    ///
    /// # Errors
    /// As of [`Client::connect`].
    #[doc(hidden)]
    pub fn connect_over(address: &str, devices: Arc<dyn Devices>) -> Result<Client, ClientError> {
        Ok(Client { connection: Arc::new(Connection::new(address)?), devices })
    }

    /// What the server holds and does.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`]: it went away, or has said nothing for ten seconds.
    pub fn status(&self) -> Result<Status, ClientError> {
        let mut server = self.connection.server();
        let reply = self.connection.soon(async move { server.status(v1::StatusRequest {}).await })?;
        Ok(reply.into())
    }

    /// The tensors of a model.
    ///
    /// # Errors
    /// - [`ClientError::NotFound`]: there is no such model.
    /// - [`ClientError::Refused`]: its files do not fit together.
    pub fn describe(&self, model: &str) -> Result<Described, ClientError> {
        let (mut server, request) = (self.connection.server(), v1::DescribeRequest { model: model.into() });
        let reply = self.connection.call(async move { server.describe(request).await })?;
        let tensor = |tensor: v1::Tensor| {
            let v1::Tensor { name, dtype, shape, strides, offset, bytes } = tensor;
            let unknown = || {
                ClientError::Refused(format!("tensor '{name}' is of type {dtype}, which is not known here"))
            };
            let dtype = DType::from_safetensors(&dtype).ok_or_else(unknown)?;
            Ok(Tensor { name, dtype, shape, stride: strides, offset, bytes })
        };
        let tensors = reply.tensors.into_iter().map(tensor).collect::<Result<_, ClientError>>()?;
        Ok(Described { bytes: reply.bytes, tensors })
    }

    /// Brings a model into memory on a GPU, by its index under CUDA_VISIBLE_DEVICES, and returns when every byte is there.
    ///
    /// # Errors
    /// As of [`Client::begin`] and [`Loading::wait`].
    pub fn load(&self, model: &str, gpu: usize) -> Result<ServedModel, ClientError> {
        self.begin(model, gpu)?.wait(|_, _| ())
    }

    /// Begins to bring a model into memory on a GPU. Dropped, the load ends.
    ///
    /// # Errors
    /// - [`ClientError::NotFound`]: there is no such model.
    /// - [`ClientError::Here`]: there is no such GPU, or too little memory on it.
    /// - [`ClientError::Refused`]: the server does not see the GPU, or the model's files do not fit together.
    /// - [`ClientError::Busy`]: the server takes no more loads at the moment.
    /// - [`ClientError::Unreachable`]: it went away.
    pub fn begin(&self, model: &str, gpu: usize) -> Result<Loading, ClientError> {
        Loading::begin(&self.connection, self.devices.as_ref(), model, &self.uuid(gpu)?)
    }

    fn uuid(&self, gpu: usize) -> Result<String, ClientError> {
        let all = self.devices.list().map_err(|why| Error::NotFound(format!("there is no GPU: {why}")))?;
        let none = || Error::NotFound(format!("there is no GPU {gpu}: this process sees {}", all.len()));
        Ok(all.get(gpu).cloned().ok_or_else(none)?)
    }

    /// Brings a model into the pool, and returns when it is there.
    ///
    /// # Errors
    /// - [`ClientError::Denied`]: the server takes such calls over its Unix socket only.
    /// - [`ClientError::NotFound`]: there is no such model.
    /// - [`ClientError::Busy`]: the pool is too small for it, or all in use.
    pub fn warm(&self, model: &str) -> Result<Warmed, ClientError> {
        let (mut server, request) = (self.connection.server(), v1::WarmRequest { model: model.into() });
        let v1::WarmReply { bytes, held_bytes, joined_bytes, read_bytes, elapsed_s } =
            self.connection.call(async move { server.warm(request).await })?;
        Ok(Warmed { bytes, held_bytes, joined_bytes, read_bytes, elapsed_s })
    }

    /// Lets a model stay in the pool, brought there if need be, or go again.
    ///
    /// # Errors
    /// As of [`Client::warm`].
    pub fn pin(&self, model: &str, pinned: bool) -> Result<(), ClientError> {
        let (mut server, request) =
            (self.connection.server(), v1::PinRequest { model: model.into(), pinned });
        self.connection.call(async move { server.pin(request).await }).map(|_| ())
    }

    /// Turns a model out of the pool, after the loads that have it have ended; all where none is named. Bytes that came free.
    ///
    /// # Errors
    /// - [`ClientError::Denied`]: the server takes such calls over its Unix socket only.
    /// - [`ClientError::NotFound`]: there is no such model.
    pub fn evict(&self, model: Option<&str>) -> Result<u64, ClientError> {
        let request = v1::EvictRequest { model: model.unwrap_or_default().into() };
        let mut server = self.connection.server();
        Ok(self.connection.call(async move { server.evict(request).await })?.bytes)
    }
}
