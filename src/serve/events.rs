//! What the server tells whoever started it: a line for a person, or JSON.

use serde::Serialize;

use crate::load::{LoadReport, Warmed};

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It listens.
    Ready {
        /// Addresses, as clients name them.
        at: Vec<String>,
        /// The UUIDs of its GPUs.
        gpus: Vec<String>,
        /// Why there are none.
        #[serde(skip_serializing_if = "Option::is_none")]
        no_gpus: Option<String>,
        /// Bytes that the pool may have.
        pool_bytes: u64,
        /// Since it was started.
        elapsed_s: f64,
    },
    /// All of the pool has memory.
    PoolMade {
        /// Bytes.
        bytes: u64,
        /// From the start of making it.
        elapsed_s: f64,
    },
    /// A model was brought to a client's memory.
    Loaded {
        /// Which.
        model: String,
        /// Where to: GPUs.
        to: String,
        /// Opening the client's memory, with a look at the model's files.
        open_handles_s: f64,
        /// Closing it again.
        close_handles_s: f64,
        /// How.
        #[serde(flatten)]
        report: Box<LoadReport>,
    },
    /// A model was brought into the pool.
    Warmed {
        /// Which.
        model: String,
        /// How.
        #[serde(flatten)]
        warmed: Warmed,
    },
    /// A model was turned out of the pool.
    Evicted {
        /// Which; all where it is empty.
        model: String,
        /// Bytes of the pool that came free.
        bytes: u64,
    },
    /// A call was not done.
    Failed {
        /// What it was to do.
        what: String,
        /// Which model.
        model: String,
        /// gRPC's name of the code.
        code: String,
        /// Cause and remedy.
        error: String,
    },
    /// Something is odd, and nothing failed.
    Warning {
        /// What.
        what: String,
    },
    /// It ends.
    Stopping {
        /// Why.
        why: String,
    },
}
