//! What went wrong with a load, as a program decides on it.

use crate::checkpoint::CheckpointError;
use crate::cufile::CufileError;
use crate::gpu;
use crate::gpu::GpuError;
use crate::load::pool::TooLarge;
use crate::load::transfer::{EndsEarly, ReadError};
use crate::node::memory::NoMemory;
use crate::os::cancel::Interrupted;
use crate::os::error::{Error, found};

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
        if found::<EndsEarly>(&error).is_some() {
            return Error::Checkpoint(message);
        }
        if let Some(error) = CheckpointError::kind(&error, &message) {
            return error;
        }
        match error.downcast::<ReadError>() {
            Ok(ReadError { path, offset, source, .. }) => Error::Io { path, offset, source, message },
            Err(error) => Error::of_system(&error, &message).unwrap_or(Error::Refused(message)),
        }
    }
}

/// Whether a CUDA context is lost with this error, by the driver's own answer or by cuFile's.
pub(super) fn breaks_context(error: &anyhow::Error) -> bool {
    let code = found::<CufileError>(error).and_then(|error| u32::try_from(error.cuda?).ok());
    found::<GpuError>(error).is_some_and(GpuError::breaks_context) || code.is_some_and(gpu::is_sticky)
}

#[cfg(test)]
mod tests {
    use std::io;

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
        assert!(matches!(kind(io::Error::from_raw_os_error(libc::EMFILE).into()), Error::Io { .. }));
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
