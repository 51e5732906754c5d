//! What both interfaces say on the wire, generated from `proto/` (`tests/proto.rs` holds that it is fresh).

#![allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]

/// ServerlessLLM's.
#[cfg(feature = "serve")]
pub mod storage {
    include!("generated/storage.rs");
}

/// This program's own.
pub mod v1 {
    include!("generated/sllm_gds.v1.rs");
}
