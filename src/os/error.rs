//! What went wrong, as a program decides on it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::os::cancel::Interrupted;
use crate::os::memory::NoHostMemory;
use crate::os::sys::AtPath;

/// Why a load failed. The text of each says what, where, why and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such checkpoint, file, tensor or GPU.
    #[error("{0}")]
    NotFound(String),
    /// The checkpoint's files do not fit together, some are missing, or they are none.
    #[error("{0}")]
    Checkpoint(String),
    /// A file or a directory could not be read: the system refused it, as for want of rights or descriptors, or storage failed.
    #[error("{message}")]
    Io {
        /// Which; the checkpoint, where it is not known which of its files.
        path: PathBuf,
        /// From its first byte; 0 where it was not a read that failed.
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
    /// The loader won't do this: a setting or a request makes no sense, a process forked, or the system starts no thread.
    #[error("{0}")]
    Refused(String),
    /// It was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// What was being done when something failed, and with which file or directory.
#[derive(Debug)]
pub struct Doing {
    what: String,
    path: PathBuf,
}

impl Doing {
    /// Such a context for an error.
    pub fn new(what: impl Into<String>, path: impl Into<PathBuf>) -> Doing {
        Doing { what: what.into(), path: path.into() }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// An error of this type in the chain; within an I/O error, too, which engines wrap theirs in.
pub fn found<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| {
        let within = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<E>();
        cause.downcast_ref::<E>().or_else(within)
    })
}

impl Error {
    /// What the system says: too little memory, a file that is not there or can't be read, an end that was asked for. `None`
    /// where it says nothing. `message` is all of it in words.
    pub(crate) fn of_system(error: &anyhow::Error, message: &str) -> Option<Error> {
        let message = message.to_string();
        if found::<Interrupted>(error).is_some() {
            return Some(Error::Interrupted);
        }
        if let Some(memory) = found::<NoHostMemory>(error) {
            return Some(Error::OutOfMemory { needed_bytes: memory.needed_bytes, free_bytes: None, message });
        }
        let system = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
        let at = system.get_ref().and_then(|inner| inner.downcast_ref::<AtPath>());
        if system.kind() == io::ErrorKind::NotFound {
            return Some(Error::NotFound(message));
        }
        // What programs wrap is none of the system's.
        if at.is_none() && system.raw_os_error().is_none() && system.get_ref().is_some() {
            return None;
        }
        let around = || error.downcast_ref::<Doing>().map(|doing| doing.path.clone());
        let path = at.map(|at| at.path.clone()).or_else(around).unwrap_or_default();
        let code = at.map_or(system.raw_os_error(), |at| at.code);
        let source = code
            .map_or_else(|| io::Error::new(system.kind(), system.to_string()), io::Error::from_raw_os_error);
        Some(Error::Io { path, offset: 0, source, message })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::Context;

    use super::*;
    use crate::os::sys;

    #[test]
    fn what_the_system_says_has_a_kind_and_the_best_path_that_is_known() {
        let of = |error: anyhow::Error| {
            let error = error.context(Doing::new("load the model", "model"));
            let message = format!("{error:#}");
            Error::of_system(&error, &message)
        };
        let coded = |code| anyhow::Error::from(io::Error::from_raw_os_error(code));
        assert!(
            matches!(of(coded(libc::ENOENT)), Some(Error::NotFound(text)) if text.contains("load the model"))
        );
        for code in [libc::EACCES, libc::ENFILE, libc::EMFILE, libc::ENOTDIR, libc::ENAMETOOLONG, libc::EIO] {
            let Some(Error::Io { path, offset: 0, source, .. }) = of(coded(code)) else { panic!("{code}") };
            assert_eq!((path.as_path(), source.raw_os_error()), (Path::new("model"), Some(code)));
            let known = sys::at(Path::new("model/w"))(io::Error::from_raw_os_error(code));
            let Some(Error::Io { path, source, message, .. }) = of(known.into()) else { panic!("{code}") };
            assert_eq!((path.as_path(), source.raw_os_error()), (Path::new("model/w"), Some(code)));
            assert_eq!(message.matches("os error").count(), 1, "{message}");
        }
        assert!(of(anyhow::anyhow!("no")).is_none());
        assert!(of(io::Error::other("a mistake").into()).is_none());
        let within = Err::<(), _>(io::Error::other(Interrupted)).context("a thread").unwrap_err();
        assert!(matches!(of(within), Some(Error::Interrupted)));
        let memory = NoHostMemory { needed_bytes: 9, why: "no".into() };
        let within = Err::<(), _>(io::Error::other(memory)).context("a thread").unwrap_err();
        assert!(matches!(of(within), Some(Error::OutOfMemory { needed_bytes: 9, free_bytes: None, .. })));
    }
}
