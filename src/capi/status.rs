//! How a call ended, and why.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::os::error::Error;

/// How a call ended: one of `SLLM_GDS_OK` and what follows.
#[allow(non_camel_case_types)]
pub type sllm_gds_status = i32;

pub const SLLM_GDS_ABI_VERSION: u32 = 1;

pub const SLLM_GDS_OK: sllm_gds_status = 0;
pub const SLLM_GDS_NOT_FOUND: sllm_gds_status = 1;
pub const SLLM_GDS_CHECKPOINT: sllm_gds_status = 2;
pub const SLLM_GDS_IO: sllm_gds_status = 3;
pub const SLLM_GDS_CORRUPT: sllm_gds_status = 4;
pub const SLLM_GDS_OUT_OF_MEMORY: sllm_gds_status = 5;
pub const SLLM_GDS_CUDA: sllm_gds_status = 6;
pub const SLLM_GDS_REFUSED: sllm_gds_status = 7;
pub const SLLM_GDS_INTERRUPTED: sllm_gds_status = 8;
pub const SLLM_GDS_INVALID_ARGUMENT: sllm_gds_status = 9;
pub const SLLM_GDS_PANIC: sllm_gds_status = 10;

/// Why a call failed.
pub(super) enum Failure {
    Of(Error),
    Argument(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Of(error)
    }
}

/// An argument that makes no sense.
pub(super) fn invalid<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Argument(why.into()))
}

impl Failure {
    fn status(&self) -> sllm_gds_status {
        match self {
            Failure::Argument(_) => SLLM_GDS_INVALID_ARGUMENT,
            Failure::Of(error) => match error {
                Error::NotFound(_) => SLLM_GDS_NOT_FOUND,
                Error::Checkpoint(_) => SLLM_GDS_CHECKPOINT,
                Error::Io { .. } => SLLM_GDS_IO,
                Error::Corrupt { .. } => SLLM_GDS_CORRUPT,
                Error::OutOfMemory { .. } => SLLM_GDS_OUT_OF_MEMORY,
                Error::Cuda(_) => SLLM_GDS_CUDA,
                Error::Refused(_) => SLLM_GDS_REFUSED,
                Error::Interrupted => SLLM_GDS_INTERRUPTED,
            },
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Argument(why) => why.clone(),
            Failure::Of(error) => error.to_string(),
        }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    // A message with a zero byte in it ends there.
    let text = message.split('\0').next().unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = CString::new(text).unwrap_or_default());
}

/// Runs a call: an error or a panic becomes its status, and its message this thread's last.
pub(super) fn run(call: impl FnOnce() -> Result<(), Failure>) -> sllm_gds_status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => SLLM_GDS_OK,
        Ok(Err(failure)) => {
            remember(&failure.message());
            failure.status()
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
            remember(&format!("a panic in sllm-gds; please report this: {text}"));
            SLLM_GDS_PANIC
        }
    }
}

/// Runs a call that can't fail, and gives `otherwise` where it panics all the same.
pub(super) fn quietly<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}

/// The version of this interface: `SLLM_GDS_ABI_VERSION` of the header that the library was built with.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_gds_abi_version() -> u32 {
    SLLM_GDS_ABI_VERSION
}

/// Why the last call on this thread that failed did so. The text is the library's, and stays until the next failure on this
/// thread.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_gds_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// The name of a status, as `OUT_OF_MEMORY`. The text is the library's, for ever.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_gds_status_name(status: sllm_gds_status) -> *const c_char {
    let name: &'static CStr = match status {
        SLLM_GDS_OK => c"OK",
        SLLM_GDS_NOT_FOUND => c"NOT_FOUND",
        SLLM_GDS_CHECKPOINT => c"CHECKPOINT",
        SLLM_GDS_IO => c"IO",
        SLLM_GDS_CORRUPT => c"CORRUPT",
        SLLM_GDS_OUT_OF_MEMORY => c"OUT_OF_MEMORY",
        SLLM_GDS_CUDA => c"CUDA",
        SLLM_GDS_REFUSED => c"REFUSED",
        SLLM_GDS_INTERRUPTED => c"INTERRUPTED",
        SLLM_GDS_INVALID_ARGUMENT => c"INVALID_ARGUMENT",
        SLLM_GDS_PANIC => c"PANIC",
        _ => c"UNKNOWN",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: the text stays until the next failure on this thread.
        unsafe { CStr::from_ptr(sllm_gds_last_error()) }.to_str().unwrap().to_string()
    }

    #[test]
    fn errors_and_panics_become_statuses_with_their_words() {
        assert_eq!(run(|| Ok(())), SLLM_GDS_OK);
        assert_eq!(run(|| Err(Error::NotFound("no such thing".into()).into())), SLLM_GDS_NOT_FOUND);
        assert_eq!(last(), "no such thing");
        assert_eq!(run(|| invalid("a null pointer\0and more")), SLLM_GDS_INVALID_ARGUMENT);
        assert_eq!(last(), "a null pointer");
        assert_eq!(run(|| panic!("told {}", "enough")), SLLM_GDS_PANIC);
        assert!(last().contains("report this: told enough"), "{}", last());
        assert_eq!(quietly(7, || panic!("no number")), 7);
    }
}
