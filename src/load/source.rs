//! The files of a checkpoint, read range by range: through the page cache where it holds the range, past it
//! (`O_DIRECT`) where it does not.
//!
//! Why both: buffered reads of a cold range run at a third of a fast drive's rate, since the kernel copies
//! each page; direct reads of a warm range go back to the drive for what memory already has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};

use crate::checkpoint::{Checkpoint, malformed};
use crate::load::engine::PathTaken;
use crate::load::settings::IoChoice;
use crate::os::residency::{Residency, Way};
use crate::os::sys;
use crate::os::sys::DIRECT_ALIGN;

/// Numbered files, to be read from by many threads. What lies below the loader: [`Sources`], and for tests
/// [`crate::load::fault::FaultStorage`] around it.
pub trait Storage: Sync {
    /// Reads up to `bytes` at `offset` into `room`, which is at least as long and may be up to 4 KiB longer; says how
    /// many, possibly fewer. 0 means that the file has ended. One system call: the caller loops.
    fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64>;

    /// Which way the bytes went, as an engine called `name` reports it.
    fn outcome(&self, name: &str) -> PathTaken;
}

struct SourceFile {
    buffered: File,
    /// Absent where the file system refuses `O_DIRECT`.
    direct: Option<File>,
    /// Absent where nothing depends on it.
    residency: Option<Residency>,
}

impl SourceFile {
    fn is_cached(&self, offset: u64, bytes: u64) -> bool {
        self.residency.as_ref().is_some_and(|residency| residency.holds(&self.buffered, offset, bytes))
    }
}

/// Shared by all threads of a load.
pub struct Sources {
    files: Vec<SourceFile>,
    io: IoChoice,
    /// Cleared when the device refuses a direct read that was aligned to 4 KiB.
    direct_works: AtomicBool,
    direct_bytes: AtomicU64,
    buffered_bytes: AtomicU64,
}

impl Sources {
    /// As [`Sources::open`], to be read past the page cache.
    pub fn open_direct(checkpoint: &Checkpoint) -> Result<Sources> {
        Sources::open(checkpoint, IoChoice::Direct)
    }

    /// Opens every file, and checks that each is still as long as the checkpoint says.
    pub fn open(checkpoint: &Checkpoint, io: IoChoice) -> Result<Sources> {
        let mut files = Vec::new();
        for (number, file) in checkpoint.files.iter().enumerate() {
            let at = || format!("open {}", file.path.display());
            let buffered = sys::open_regular(&file.path).with_context(at)?;
            let bytes = buffered.metadata().map_err(sys::at(&file.path)).with_context(at)?.len();
            let before = checkpoint.stored_file_bytes(number);
            if bytes != before {
                return Err(malformed(
                    &file.path,
                    format!("{bytes} bytes long, and was {before} just before"),
                ));
            }
            let direct = match io {
                IoChoice::Buffered => None,
                IoChoice::Auto | IoChoice::Direct => match sys::open_direct(&file.path) {
                    Ok(direct) => Some(direct),
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => None,
                    Err(e) => return Err(sys::at(&file.path)(e)).with_context(at),
                },
            };
            let ask = io == IoChoice::Auto && direct.is_some();
            let residency = ask.then(|| Residency::of(&buffered, &file.path)).transpose().with_context(at)?;
            files.push(SourceFile { buffered, direct, residency });
        }
        let (direct_bytes, buffered_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Sources { files, io, direct_works: AtomicBool::new(true), direct_bytes, buffered_bytes })
    }

    /// Refuses where what was loaded may be half old, half new.
    pub fn check_unchanged(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint
            .files
            .iter()
            .zip(&self.files)
            .try_for_each(|(file, own)| file.check_unchanged(&own.buffered))
    }

    /// The descriptor to read past the page cache with, if this range should be read so.
    fn direct_for<'a>(
        &self,
        source: &'a SourceFile,
        offset: u64,
        bytes: u64,
        room: &[u8],
    ) -> Option<&'a File> {
        let direct = source.direct.as_ref()?;
        let aligned =
            [offset, room.len() as u64, room.as_ptr() as u64].iter().all(|v| v.is_multiple_of(DIRECT_ALIGN));
        if !aligned || !self.direct_works.load(Ordering::Relaxed) {
            return None;
        }
        (!source.is_cached(offset, bytes)).then_some(direct)
    }

    /// Behind a sentence about the page cache; empty where the kernel tells, as it usually does.
    fn how_residency_is_known(&self) -> &'static str {
        let any = |way| self.files.iter().filter_map(|f| f.residency.as_ref()).any(|r| r.way() == way);
        if any(Way::Unknown) {
            ", as far as is known: the kernel tells nothing of files that one may not write, and on this file system none can be tried"
        } else if any(Way::Tried) {
            ", by trial: the kernel tells nothing of files that one may not write"
        } else {
            ""
        }
    }

    /// Whether to read a range from the page cache; no where `io` does not leave it open.
    pub(super) fn is_cached(&self, file: usize, offset: u64, bytes: u64) -> bool {
        self.files.get(file).is_some_and(|file| file.is_cached(offset, bytes))
    }
}

impl Storage for Sources {
    fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64> {
        let source = &self.files[file];
        if let Some(direct) = self.direct_for(source, offset, bytes, room) {
            match direct.read_at(room, offset) {
                Ok(n) => {
                    let n = (n as u64).min(bytes);
                    self.direct_bytes.fetch_add(n, Ordering::Relaxed);
                    return Ok(n);
                }
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    self.direct_works.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        let n = source.buffered.read_at(&mut room[..bytes as usize], offset)? as u64;
        self.buffered_bytes.fetch_add(n, Ordering::Relaxed);
        Ok(n)
    }

    fn outcome(&self, name: &str) -> PathTaken {
        let direct_bytes = self.direct_bytes.load(Ordering::Relaxed);
        let buffered_bytes = self.buffered_bytes.load(Ordering::Relaxed);
        let refused =
            self.files.iter().any(|f| f.direct.is_none()) || !self.direct_works.load(Ordering::Relaxed);
        let way = match (direct_bytes, buffered_bytes) {
            (0, _) => "buffered",
            (_, 0) => "direct",
            _ => "mixed",
        };
        let reason = match self.io {
            IoChoice::Buffered => "buffered reads were asked for".to_string(),
            IoChoice::Direct if refused => {
                "direct reads were asked for, but the file system refuses O_DIRECT".to_string()
            }
            IoChoice::Direct if buffered_bytes > 0 => {
                format!("direct reads were asked for; {buffered_bytes} bytes were not aligned to 4 KiB")
            }
            IoChoice::Direct => "direct reads were asked for".to_string(),
            IoChoice::Auto if refused => "the file system refuses O_DIRECT".to_string(),
            IoChoice::Auto if buffered_bytes == 0 => {
                format!("the page cache held too little of any range{}", self.how_residency_is_known())
            }
            IoChoice::Auto if direct_bytes == 0 => {
                format!("the page cache held every range{}", self.how_residency_is_known())
            }
            IoChoice::Auto => {
                format!("the page cache held {buffered_bytes} bytes{}", self.how_residency_is_known())
            }
        };
        PathTaken { path: format!("{name}-{way}"), reason, direct_bytes, buffered_bytes }
    }
}
