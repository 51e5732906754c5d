//! What went wrong with a load, as a program decides on it.

use std::io;
use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::cufile::CufileError;
use crate::gpu;
use crate::gpu::GpuError;
use crate::load::pool::TooLarge;
use crate::load::transfer::ReadError;
use crate::node::memory::NoMemory;
use crate::os::cancel::Interrupted;

/// Why a load failed. The text of each says what, where, why and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such checkpoint, tensor or GPU.
    #[error("{0}")]
    NotFound(String),
    /// The checkpoint's files do not fit together, or are none.
    #[error("{0}")]
    Checkpoint(String),
    /// A file could not be read.
    #[error("{message}")]
    Io {
        /// The file.
        path: PathBuf,
        /// From its first byte.
        offset: u64,
        /// What the system said.
        source: io::Error,
        /// All of it in words.
        message: String,
    },
    /// Bytes arrived that are not those that were written.
    #[error("{} of the tensors arrived damaged: {}", tensors.len(), tensors.join("; "))]
    Corrupt {
        /// A line for each, with its name and digests.
        tensors: Vec<String>,
    },
    /// Host or device memory is short.
    #[error("{message}")]
    OutOfMemory {
        /// Bytes that were asked for.
        needed_bytes: u64,
        /// Bytes that could be had, where that is known.
        free_bytes: Option<u64>,
        /// All of it in words.
        message: String,
    },
    /// The CUDA driver refused something.
    #[error("{0}")]
    Cuda(String),
    /// The loader won't do this: a setting makes no sense, or a process forked.
    #[error("{0}")]
    Refused(String),
    /// It was cancelled.
    #[error("interrupted")]
    Interrupted,
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Error {
        let message = format!("{error:#}");
        if let Some(memory) = found::<NoMemory>(&error) {
            let (needed_bytes, free_bytes) = (memory.needed_bytes, Some(memory.free_bytes));
            return Error::OutOfMemory { needed_bytes, free_bytes, message };
        }
        if let Some(pool) = found::<TooLarge>(&error) {
            let (needed_bytes, free_bytes) = (pool.needed_bytes, Some(pool.free_bytes));
            return Error::OutOfMemory { needed_bytes, free_bytes, message };
        }
        if found::<Interrupted>(&error).is_some() {
            return Error::Interrupted;
        }
        if let Some(gpu) = found::<GpuError>(&error) {
            return match gpu.lacks() {
                Some((needed_bytes, free_bytes)) => Error::OutOfMemory { needed_bytes, free_bytes, message },
                None => Error::Cuda(message),
            };
        }
        match found::<CheckpointError>(&error) {
            Some(CheckpointError::Missing(_)) => return Error::NotFound(message),
            Some(_) => return Error::Checkpoint(message),
            None => {}
        }
        match error.downcast::<ReadError>() {
            Ok(ReadError { path, offset, source, .. }) => Error::Io { path, offset, source, message },
            Err(_) => Error::Refused(message),
        }
    }
}

/// Whether a CUDA context is lost with this error, by the driver's own answer or by cuFile's.
pub(super) fn breaks_context(error: &anyhow::Error) -> bool {
    let code = found::<CufileError>(error).and_then(|error| u32::try_from(error.cuda?).ok());
    found::<GpuError>(error).is_some_and(GpuError::breaks_context) || code.is_some_and(gpu::is_sticky)
}

/// An error of this type in the chain; within an I/O error, too, which engines wrap theirs in.
fn found<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| {
        let within = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<E>();
        cause.downcast_ref::<E>().or_else(within)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn kinds_are_told_apart_through_their_context() {
        let kind = |error: anyhow::Error| Error::from(error.context("load x"));
        assert!(matches!(kind(Interrupted.into()), Error::Interrupted));
        assert!(matches!(kind(CheckpointError::Missing("x".into()).into()), Error::NotFound(_)));
        let malformed = CheckpointError::Malformed { path: "x".into(), what: "cut".into() };
        assert!(matches!(kind(malformed.into()), Error::Checkpoint(text) if text.contains("cut")));
        let memory = NoMemory { needed_bytes: 9, free_bytes: 1 };
        let Error::OutOfMemory { needed_bytes: 9, free_bytes: Some(1), .. } = kind(memory.into()) else {
            panic!()
        };
        let Error::OutOfMemory { needed_bytes: 7, free_bytes: Some(2), .. } =
            kind(TooLarge { needed_bytes: 7, free_bytes: 2 }.into())
        else {
            panic!()
        };
        let within = Err::<(), _>(io::Error::other(Interrupted)).context("a thread").unwrap_err();
        assert!(matches!(kind(within), Error::Interrupted));
        let source = io::Error::from_raw_os_error(libc::EIO);
        let read = ReadError { path: "f".into(), offset: 4096, bytes: 10, source };
        match kind(read.into()) {
            Error::Io { path, offset: 4096, source, message } => {
                assert_eq!((path, source.raw_os_error()), ("f".into(), Some(libc::EIO)));
                assert!(message.contains("read 10 bytes at 4096 of f"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(kind(anyhow::anyhow!("no")), Error::Refused(_)));
    }

    #[test]
    fn a_lost_context_is_seen_wherever_in_the_chain_it_is_told() {
        let illegal_address = 700;
        let of_cufile = |cuda| CufileError {
            call: "cuFileRead",
            what: crate::cufile::What::Code(5011),
            cuda,
            cause: "CUDA failed".into(),
            remedy: "run nvidia-smi".into(),
            log: Vec::new(),
        };
        let read =
            |source| ReadError { path: "f".into(), offset: 0, bytes: 1, source: io::Error::other(source) };
        let by_driver =
            read(Box::new(GpuError::made_up(illegal_address)) as Box<dyn std::error::Error + Send + Sync>);
        let by_cufile = read(Box::new(of_cufile(Some(illegal_address as i32))));
        for lost in [by_driver.into(), by_cufile.into(), GpuError::made_up(illegal_address).into()] {
            assert!(breaks_context(&anyhow::Error::context(lost, "load x")));
        }
        let out_of_memory = 2;
        for kept in [GpuError::made_up(out_of_memory).into(), of_cufile(None).into(), Interrupted.into()] {
            assert!(!breaks_context(&anyhow::Error::context(kept, "load x")));
        }
    }
}
