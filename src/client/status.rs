//! What a server holds and does.

use serde::Serialize;

use crate::wire::v1;

/// What a server holds and does. Sizes are bytes, times seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Of the server's program.
    pub version: String,
    /// Below which its models lie.
    pub storage_path: String,
    /// Since it was started.
    pub uptime_s: f64,
    /// The UUIDs of the GPUs that it sees, by their index there.
    pub gpus: Vec<String>,
    /// Host memory that keeps models.
    pub pool: PoolStatus,
    /// Models that were asked for since it was started, by name.
    pub models: Vec<ServedStatus>,
    /// Loads that run, the oldest first.
    pub loads: Vec<UnderWay>,
}

/// The pool of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Bytes that it may have.
    pub bytes: u64,
    /// Of one chunk.
    pub chunk_bytes: u64,
    /// Chunks that have memory.
    pub made_chunks: u64,
    /// Those of them that hold nothing.
    pub free_chunks: u64,
    /// Those of them that hold all of their bytes.
    pub full_chunks: u64,
}

/// A model that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServedStatus {
    /// Its path below the storage path.
    pub model: String,
    /// Of its files.
    pub bytes: u64,
    /// What it takes of the pool.
    pub pool_bytes: u64,
    /// Whether it stays there.
    pub pinned: bool,
    /// Loads that have it from the pool at the moment.
    pub loads: u64,
}

/// A load that runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct UnderWay {
    /// Of which model.
    pub model: String,
    /// `pool`, or the GPUs that it goes to.
    pub to: String,
    /// Bytes that came so far.
    pub read_bytes: u64,
    /// Bytes that will have come; 0 before the first.
    pub total_bytes: u64,
    /// Since it began.
    pub elapsed_s: f64,
}

impl From<v1::StatusReply> for Status {
    fn from(reply: v1::StatusReply) -> Status {
        let v1::StatusReply { version, storage_path, uptime_s, gpus, pool, models, loads } = reply;
        let pool = pool.unwrap_or_default();
        let model = |model: v1::Model| ServedStatus {
            model: model.model,
            bytes: model.bytes,
            pool_bytes: model.pool_bytes,
            pinned: model.pinned,
            loads: model.loads,
        };
        let load = |load: v1::UnderWay| UnderWay {
            model: load.model,
            to: load.to,
            read_bytes: load.read_bytes,
            total_bytes: load.total_bytes,
            elapsed_s: load.elapsed_s,
        };
        Status {
            version,
            storage_path,
            uptime_s,
            gpus,
            pool: PoolStatus {
                bytes: pool.bytes,
                chunk_bytes: pool.chunk_bytes,
                made_chunks: pool.made_chunks,
                free_chunks: pool.free_chunks,
                full_chunks: pool.full_chunks,
            },
            models: models.into_iter().map(model).collect(),
            loads: loads.into_iter().map(load).collect(),
        }
    }
}
