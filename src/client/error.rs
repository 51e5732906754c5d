//! Why a call failed, as a program decides on it.

use std::error::Error as _;

use tonic::{Code, Status};

use crate::os::error::Error;

/// Why a call failed. The text of each says what, why and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No server answers there, or it went away during the call.
    #[error("{0}")]
    Unreachable(String),
    /// The server has no such model, or the model no such tensor.
    #[error("{0}")]
    NotFound(String),
    /// The server takes such calls over its Unix socket only, or not from this user.
    #[error("{0}")]
    Denied(String),
    /// The server is short of something, as memory or places for loads, or is about to end: ask again later, or for less.
    #[error("{0}")]
    Busy(String),
    /// Bytes arrived that are not those that were saved.
    #[error("{0}")]
    Corrupt(String),
    /// What was asked for makes no sense, here or to the server: a malformed address, a GPU that it does not see, a model whose
    /// files do not fit together.
    #[error("{0}")]
    Refused(String),
    /// Something failed within the server: storage, the driver, or itself.
    #[error("{0}")]
    Server(String),
    /// Something failed in this process: too little device memory ([`Error::OutOfMemory`]), no such GPU ([`Error::NotFound`]),
    /// the driver ([`Error::Cuda`]).
    #[error(transparent)]
    Here(#[from] Error),
    /// It was cancelled.
    #[error("interrupted")]
    Interrupted,
}

impl ClientError {
    /// Of a server's answer.
    pub(super) fn of(status: Status, address: &str) -> ClientError {
        let message = status.message().to_string();
        // What the transport says of itself has a source; what a server said has none.
        if status.source().is_some() {
            let mut causes = vec![message];
            let mut next = status.source();
            while let Some(cause) = next {
                causes.push(cause.to_string());
                next = cause.source();
            }
            causes.dedup();
            return ClientError::unreachable(address, &causes.join(": "));
        }
        match status.code() {
            Code::NotFound => ClientError::NotFound(message),
            Code::PermissionDenied | Code::Unauthenticated => ClientError::Denied(message),
            Code::ResourceExhausted | Code::Unavailable => ClientError::Busy(message),
            Code::DataLoss => ClientError::Corrupt(message),
            Code::Cancelled => ClientError::Interrupted,
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::AlreadyExists => {
                ClientError::Refused(message)
            }
            Code::Unimplemented => ClientError::Refused(format!(
                "the server at {address} does not know this call: it is another version, or no sllm-gds at all {message}"
            )),
            code => ClientError::Server(format!("{code:?}: {message}")),
        }
    }

    pub(super) fn unreachable(address: &str, why: &str) -> ClientError {
        ClientError::Unreachable(format!(
            "no store server answers at {address} ({why}): start one there by `sllm-gds serve`, or name the address that its \
             ready line tells"
        ))
    }

    /// The server said something that makes no sense.
    pub(super) fn nonsense(what: &str) -> ClientError {
        ClientError::Server(format!("the server's answer makes no sense ({what}); please report this"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_codes_are_told_apart() {
        let of = |code| ClientError::of(Status::new(code, "why"), "a");
        assert!(matches!(of(Code::NotFound), ClientError::NotFound(why) if why == "why"));
        assert!(matches!(of(Code::PermissionDenied), ClientError::Denied(_)));
        assert!(matches!(of(Code::Unavailable), ClientError::Busy(_)));
        assert!(matches!(of(Code::DataLoss), ClientError::Corrupt(_)));
        assert!(matches!(of(Code::OutOfRange), ClientError::Refused(_)));
        assert!(matches!(of(Code::Cancelled), ClientError::Interrupted));
        assert!(matches!(of(Code::Internal), ClientError::Server(why) if why.contains("why")));
        let lost = Status::from_error(Box::new(std::io::Error::other("connection refused")));
        assert!(matches!(ClientError::of(lost, "host:1"), ClientError::Unreachable(why)
            if why.contains("host:1") && why.contains("connection refused")));
    }
}
