//! A server, connected to: calls run on threads of this, and whoever makes one waits for it.

use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::client::address::endpoint;
use crate::client::error::ClientError;
use crate::wire::v1::server_client::ServerClient;

/// A description of some hundred thousand tensors; gRPC's own limit is 4 MiB.
const MOST_MESSAGE_BYTES: usize = 64 << 20;
/// How long the server may take to let a client in.
const CONNECT: Duration = Duration::from_secs(10);

/// How long it may take to answer what it knows.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a server that says nothing during a call is asked whether it is there, and how long that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A server, connected to. It connects anew where the server was started anew.
pub struct Connection {
    /// As the caller wrote it.
    pub address: String,
    channel: Channel,
    /// There until the drop.
    runtime: Option<Runtime>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Waiting for it is forbidden within another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Connection {
    /// Connects, or says why not.
    pub fn new(address: &str) -> Result<Connection, ClientError> {
        let malformed =
            |error: tonic::transport::Error| ClientError::Refused(format!("'{address}': {error}"));
        let endpoint = Endpoint::from_shared(endpoint(address)?)
            .map_err(malformed)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sllm-gds client")
            .enable_all()
            .build()
            .map_err(|error| ClientError::Refused(format!("the system starts no thread: {error}")))?;
        let connected = wait(&runtime, async move { endpoint.connect().await })?;
        let channel = connected.map_err(|error| {
            let cause =
                std::error::Error::source(&error).map_or(error.to_string(), |cause| cause.to_string());
            ClientError::unreachable(address, &cause)
        })?;
        Ok(Connection { address: address.into(), channel, runtime: Some(runtime) })
    }

    /// To make calls with.
    pub fn server(&self) -> ServerClient<Channel> {
        ServerClient::new(self.channel.clone())
            .max_decoding_message_size(MOST_MESSAGE_BYTES)
            .max_encoding_message_size(MOST_MESSAGE_BYTES)
    }

    /// Runs something, and waits for it.
    pub fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ClientError> {
        wait(self.runtime.as_ref().ok_or_else(lost)?, work)
    }

    /// Makes a call, and waits for its answer.
    pub fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
    ) -> Result<T, ClientError> {
        self.wait(call)?.map(Response::into_inner).map_err(|status| ClientError::of(status, &self.address))
    }

    /// Makes a call that a server answers from memory, and waits for its answer only as long as that may take.
    pub fn soon<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
    ) -> Result<T, ClientError> {
        let answered = self.wait(async move { tokio::time::timeout(ANSWER, call).await })?;
        let silent = format!("it has said nothing for {} s", ANSWER.as_secs());
        match answered {
            Ok(answer) => {
                answer.map(Response::into_inner).map_err(|status| ClientError::of(status, &self.address))
            }
            Err(_) => Err(ClientError::unreachable(&self.address, &silent)),
        }
    }

    /// Runs something, and does not wait for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }
}

/// On the runtime's own threads: `block_on` is forbidden within another runtime.
fn wait<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ClientError> {
    let (done, result) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Whoever asked waits below.
        let _ = done.send(work.await);
    });
    result.recv().map_err(|_| lost())
}

fn lost() -> ClientError {
    ClientError::Server("the call ended without a word; please report this".into())
}
