//! Packed files read as what they unpack to: chunks are read, and unpacked by the thread that read them.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::{self, Decoder, Packed, Within};
use crate::load::engine::PathTaken;
use crate::load::source::Storage;
use crate::os::memory::HostBuffer;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Storage of unpacked files, over the files as they lie on disk.
pub struct Unpacking<'s> {
    inner: &'s dyn Storage,
    packed: Arc<Packed>,
    /// For what is said of a damaged chunk.
    paths: Vec<PathBuf>,
    /// Of threads that are not reading just now.
    idle: Mutex<Vec<Thread>>,
}

/// What a thread needs to unpack.
#[derive(Default)]
struct Thread {
    decoder: Decoder,
    chunk: Option<HostBuffer>,
}

impl<'s> Unpacking<'s> {
    /// Around the files of this checkpoint; `None` where they are not packed.
    pub fn new(inner: &'s dyn Storage, checkpoint: &Checkpoint) -> Option<Unpacking<'s>> {
        let packed = checkpoint.packed.clone()?;
        let paths = checkpoint.files.iter().map(|file| file.path.clone()).collect();
        Some(Unpacking { inner, packed, paths, idle: Mutex::default() })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.idle.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Fills `out` with what is wanted of a window.
    fn unpack(&self, thread: &mut Thread, file: usize, window: &Within, out: &mut [u8]) -> io::Result<u64> {
        let whole = self.packed.files[file].stored_bytes();
        let start = window.stored.start & !(DIRECT_ALIGN - 1);
        let end = align_up(window.stored.end, DIRECT_ALIGN);
        let buffer = room(&mut thread.chunk, end - start)?;
        let bytes = window.stored.end.min(whole) - start;
        let mut done = 0;
        while done < bytes {
            let room = &mut buffer[done as usize..(end - start) as usize];
            // Those up to the next page are read along, so that a direct read ends at one.
            match self.inner.read(file, start + done, (end.min(whole) - start) - done, room)? {
                0 => return Ok(0),
                n => done += n,
            }
        }
        let chunk = &buffer[(window.stored.start - start) as usize..(window.stored.end - start) as usize];
        packed::decode(&mut thread.decoder, window, chunk, out)
            .map_err(|why| packed::damaged(&self.paths[file], window, &why.to_string()))
            .map_err(io::Error::other)?;
        Ok(out.len() as u64)
    }
}

/// A buffer of at least so many bytes.
fn room(buffer: &mut Option<HostBuffer>, bytes: u64) -> io::Result<&mut [u8]> {
    if buffer.as_ref().is_none_or(|buffer| (buffer.as_slice().len() as u64) < bytes) {
        *buffer = Some(HostBuffer::new(align_up(bytes, 1 << 20)).map_err(io::Error::other)?);
    }
    Ok(buffer.as_mut().map(HostBuffer::as_mut_slice).unwrap_or_default())
}

impl Storage for Unpacking<'_> {
    /// One window at most.
    fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64> {
        let Some(window) = self.packed.files[file].windows(offset, offset + bytes).next() else {
            return Ok(0);
        };
        let out = &mut room[..(window.bytes.end - window.bytes.start) as usize];
        let mut thread = self.idle().pop().unwrap_or_default();
        let unpacked = self.unpack(&mut thread, file, &window, out);
        self.idle().push(thread);
        unpacked
    }

    fn outcome(&self, name: &str) -> PathTaken {
        let taken = self.inner.outcome(name);
        PathTaken { reason: format!("{}; unpacked on the CPU", taken.reason), ..taken }
    }
}
