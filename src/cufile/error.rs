//! What went wrong in cuFile, in one line that a user understands.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::cufile::codes;

/// cuFile's codes start above this.
pub const CODE_BASE: i32 = 5000;

/// A call to cuFile that failed. Printed, it is one line: the call, what it returned, the likely cause, the
/// remedy, and the errors that cuFile wrote to its log meanwhile.
#[derive(Debug, Clone, thiserror::Error)]
pub struct CufileError {
    pub call: &'static str,
    pub what: What,
    /// CUDA's own code, where CUDA failed below cuFile.
    pub cuda: Option<i32>,
    pub cause: Cow<'static, str>,
    pub remedy: Cow<'static, str>,
    /// The errors of cuFile's log since the last failure.
    pub log: Vec<String>,
}

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// One of cuFile's codes, above 5000.
    Code(i32),
    /// The operating system's error of a read.
    Errno(i32),
    /// A value that means nothing that is documented.
    Unknown(i64),
    /// The library lacks the function, or is older than the version that brought it.
    Missing,
    /// No library could be loaded.
    NotLoaded,
    /// Not called, for the cause given.
    Refused,
    /// The call did not return in time.
    NeverReturned,
}

impl CufileError {
    /// From a code of cuFile or any other value that is not 0.
    pub(super) fn from_code(call: &'static str, number: i64, cuda: Option<i32>) -> Self {
        let code = i32::try_from(number.unsigned_abs()).unwrap_or(0);
        let known = codes::code(code);
        let what = match code > CODE_BASE {
            true => What::Code(code),
            false => What::Unknown(number),
        };
        let cause = known.map_or("a value this program does not know", |code| code.cause);
        let remedy = known.map_or("look it up in NVIDIA's cuFile API reference", |code| code.remedy);
        Self { call, what, cuda, cause: cause.into(), remedy: remedy.into(), log: Vec::new() }
    }

    pub(super) fn from_errno(call: &'static str, errno: i32) -> Self {
        let (cause, remedy) = match errno {
            libc::EINTR | libc::EAGAIN => ("the read was interrupted", "try it again"),
            libc::EIO => (
                "the drive or file system failed the read",
                "look for its errors in the kernel's log (dmesg)",
            ),
            libc::EINVAL => (
                "offset, size or address is not aligned as O_DIRECT wants",
                "please report it, with the path",
            ),
            libc::EBADF => ("the file was not opened for reading", "please report it"),
            libc::ENOMEM => ("no memory was left for the read", "free host memory"),
            libc::ESTALE => {
                ("the file went away on its server", "check the network file system, then load again")
            }
            _ => ("the operating system refused the read", "see the system's error"),
        };
        Self {
            call,
            what: What::Errno(errno),
            cuda: None,
            cause: cause.into(),
            remedy: remedy.into(),
            log: Vec::new(),
        }
    }

    pub(super) fn other(
        call: &'static str,
        what: What,
        cause: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { call, what, cuda: None, cause: cause.into(), remedy: remedy.into(), log: Vec::new() }
    }

    pub(super) fn with_log(mut self, log: Vec<String>) -> Self {
        self.log = log;
        self
    }

    /// cuFile's code, above 5000.
    pub fn code(&self) -> Option<i32> {
        match self.what {
            What::Code(code) => Some(code),
            _ => None,
        }
    }

    /// The code's name in NVIDIA's API, where it is known.
    pub fn name(&self) -> Option<&'static str> {
        self.code().and_then(codes::code).map(|code| code.name)
    }

    /// The operating system's error.
    pub fn errno(&self) -> Option<i32> {
        match self.what {
            What::Errno(errno) => Some(errno),
            _ => None,
        }
    }

    /// The operating system's error as the standard library names it.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.errno().map(|errno| io::Error::from_raw_os_error(errno).kind())
    }

    /// Whether the same call may well succeed: `EINTR` and `EAGAIN`.
    pub fn is_transient(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock))
    }
}

impl fmt::Display for CufileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.call)?;
        match self.what {
            What::Code(code) => write!(f, "{} ({code})", self.name().unwrap_or("unknown code"))?,
            What::Errno(errno) => write!(f, "{}", io::Error::from_raw_os_error(errno))?,
            What::Unknown(value) => write!(f, "returned {value}")?,
            What::Missing => write!(f, "not in this libcufile")?,
            What::NotLoaded => write!(f, "libcufile not loaded")?,
            What::Refused => write!(f, "not called")?,
            What::NeverReturned => write!(f, "did not return")?,
        }
        // 0 is success and is left out: cuFile fills the field on every error.
        if let Some(cuda) = self.cuda.filter(|&cuda| cuda != 0) {
            write!(f, ", CUDA error {cuda}")?;
        }
        write!(f, ": {}; {}", self.cause, self.remedy)?;
        if !self.log.is_empty() {
            write!(f, " [cuFile's log: {}]", self.log.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_prints_its_name_number_cause_and_remedy() {
        for code in codes::CODES {
            let line = CufileError::from_code("cuFileX", i64::from(code.number), Some(0)).to_string();
            for part in ["cuFileX: ", code.name, &format!("({})", code.number), code.cause, code.remedy] {
                assert!(line.contains(part), "{line}");
            }
            assert!(!line.contains('\n') && !line.contains("CUDA error"), "{line}");
        }
        assert!(codes::CODES.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn unknown_values_keep_their_number() {
        let unknown = CufileError::from_code("cuFileRead", 5999, Some(700));
        assert_eq!((unknown.code(), unknown.name()), (Some(5999), None));
        assert!(unknown.to_string().contains("unknown code (5999), CUDA error 700"), "{unknown}");
        for value in [-22, 17, i64::MIN, i64::MAX] {
            let strange = CufileError::from_code("cuFileRead", value, None);
            assert_eq!(strange.what, What::Unknown(value));
            assert!(strange.to_string().contains(&format!("returned {value}")), "{strange}");
        }
    }

    #[test]
    fn negative_codes_are_codes() {
        assert_eq!(CufileError::from_code("cuFileRead", -5011, None).code(), Some(5011));
    }

    #[test]
    fn a_missing_udev_entry_is_explained() {
        let line = CufileError::from_code("cuFileHandleRegister", 5027, None).to_string();
        for part in ["/run/udev/data/b<major>:<minor>", "E:ID_FS_USAGE=filesystem", "mount /run/udev"] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn only_interruptions_are_transient() {
        for (errno, transient) in [(libc::EINTR, true), (libc::EAGAIN, true), (libc::EIO, false)] {
            let error = CufileError::from_errno("cuFileRead", errno);
            assert_eq!((error.errno(), error.is_transient()), (Some(errno), transient));
        }
        assert!(!CufileError::from_code("cuFileRead", 5044, None).is_transient());
    }
}
