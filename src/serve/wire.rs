//! What both interfaces say on the wire, generated from `proto/`.

#![allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]

/// ServerlessLLM's.
pub mod storage {
    include!("generated/storage.rs");
}

/// This program's own.
pub mod v1 {
    include!("generated/sllm_gds.v1.rs");
}
