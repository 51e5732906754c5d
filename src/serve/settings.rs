//! What a server was asked to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::load::Links;
use crate::load::fault::Faults;
use crate::serve::events::Event;

/// Which loads are held against recorded digests before they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// None.
    #[default]
    Off,
    /// A tensor in sixteen of each, one at least.
    Sample,
    /// Every tensor that a client takes whole.
    All,
}

/// What a server was asked to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Models lie below this.
    pub storage_path: PathBuf,
    /// Where it listens; port 0 is any that is free.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// A Unix socket, for processes of the same user.
    pub unix: Option<PathBuf>,
    /// Bytes of the pool, and of one of its chunks.
    pub pool_bytes: u64,
    /// Bytes of one of the pool's chunks.
    pub chunk_bytes: u64,
    /// Reader threads of each link.
    pub threads: Option<usize>,
    /// Over which links bytes come to GPUs.
    pub links: Links,
    /// Whether bytes are held against digests.
    pub verify: Verify,
    /// Models to bring into the pool at the start, and those that stay there.
    pub warm: Vec<String>,
    /// Models that stay in the pool.
    pub pin: Vec<String>,
    /// Loads to clients' memory that run at a time; the others wait.
    pub max_loads: Option<usize>,
    /// How long loads may go on once the server is to end.
    pub grace: Duration,
    /// Where Prometheus asks.
    pub metrics: Option<String>,
    /// Models must be registered before they are loaded.
    pub registration_required: bool,
    /// For tests: storage that fails.
    pub faults: Option<Arc<Faults>>,
    /// Whether calls that change what the server holds are taken over TCP, too.
    pub admin_tcp: bool,
}

/// Told of what happens, from any thread.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;
