//! Why a call failed, as gRPC says it: a code for programs, and words that name cause and remedy.

use tonic::{Code, Status};

use crate::os::error::Error;

/// A call that was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// One of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// What was asked for makes no sense.
    pub fn invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(Code::InvalidArgument, message)
    }

    /// What was asked for lies beyond something's end.
    pub fn out_of_range(message: impl Into<String>) -> Refusal {
        Refusal::new(Code::OutOfRange, message)
    }

    /// A client's memory was not opened.
    pub fn of_memory(error: Error) -> Refusal {
        match error {
            // A GPU that the server does not see is no model that it does not have.
            Error::NotFound(why) => {
                Refusal::new(Code::FailedPrecondition, format!("the server's devices: {why}"))
            }
            error => error.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::Checkpoint(_) => Code::FailedPrecondition,
            Error::Corrupt { .. } => Code::DataLoss,
            Error::OutOfMemory { .. } => Code::ResourceExhausted,
            Error::Refused(_) => Code::InvalidArgument,
            Error::Interrupted => Code::Cancelled,
            Error::Io { .. } | Error::Cuda(_) => Code::Internal,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        // A status travels in a header: a list of a thousand tensors would not.
        const MOST_CHARS: usize = 4000;
        let mut message = refusal.message;
        if message.chars().count() > MOST_CHARS {
            message = message.chars().take(MOST_CHARS).chain("…".chars()).collect();
        }
        Status::new(refusal.code, message)
    }
}
