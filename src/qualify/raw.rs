//! The storage's own ceiling: sequential reads past the page cache by plain threads, over one file of random bytes.
//!
//! The file is the partition of a checkpoint of equal tensors, so that the loader can take the same bytes to GPUs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::checkpoint::reader::TensorSource;
use crate::checkpoint::sllm::partition_name;
use crate::checkpoint::{DType, contiguous_stride};
use crate::origin::input::{Input, InputTensor};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::memory::HostBuffer;
use crate::os::progress::Progress;
use crate::os::residency;
use crate::os::sys;
use crate::qualify::measure::{ROUNDS_MIN, ROUNDS_WANTED, Rounds, not_cold, repeat};
use crate::write::save::{Layout, save};

/// Tensors of the file: enough to share out to many GPUs evenly.
const TENSORS: u64 = 64;
const TENSOR_ALIGN_BYTES: u64 = 1 << 20;
/// The least that the file can have.
pub const FILE_BYTES_MIN: u64 = TENSORS * TENSOR_ALIGN_BYTES;

/// The largest size of up to `bytes` that the file can have, 0 where there is none.
pub fn file_bytes(bytes: u64) -> u64 {
    bytes - bytes % FILE_BYTES_MIN
}

/// A file of random bytes, and the checkpoint that it is the only partition of.
pub struct RawFile {
    pub checkpoint: PathBuf,
    pub path: PathBuf,
    pub bytes: u64,
}

/// Lays the file out in `dir`. `bytes` is what [`file_bytes`] gave.
pub fn lay_out(dir: &Path, bytes: u64, cancel: &Cancel) -> Result<RawFile> {
    let tensor = |i: u64| {
        let shape = vec![bytes / TENSORS];
        InputTensor {
            name: format!("layers.{i}.bytes"),
            dtype: DType::U8,
            stride: contiguous_stride(&shape),
            shape,
            bytes: bytes / TENSORS,
            tied_to: None,
        }
    };
    let tensors = (0..TENSORS).map(tensor).collect();
    let input = Input::made_up("random".into(), "random bytes".into(), tensors, Box::new(Random));
    let checkpoint = dir.join("random");
    save(&input, &Layout::new(&input, 1, u64::MAX)?, &checkpoint, false, cancel, &Progress::silent())?;
    let path = checkpoint.join(partition_name(0));
    Ok(RawFile { checkpoint, path, bytes })
}

/// Bytes that no drive or file system can make smaller.
struct Random;

impl TensorSource for Random {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        fastrand::Rng::with_seed((tensor as u64) << 44 ^ offset).fill(out);
        Ok(())
    }
}

/// Rounds of the whole file, or of as much as comes in a part of the time, and how it was read.
pub fn read(
    file: &RawFile,
    threads: usize,
    chunk_bytes: u64,
    share: Duration,
    cancel: &Cancel,
) -> Result<(Rounds, String)> {
    let at = || format!("open {}", file.path.display());
    let (handle, direct) = match sys::open_direct(&file.path) {
        Ok(handle) => (handle, true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (File::open(&file.path).with_context(at)?, false),
        Err(e) => return Err(e).with_context(at),
    };
    let buffers = (0..threads).map(|_| HostBuffer::new(chunk_bytes)).collect::<Result<Vec<_>, _>>()?;
    let longest = share / ROUNDS_WANTED as u32;
    let mut pass = Pass { file, handle: &handle, buffers, position: 0, longest, cancel };
    let mut resident = Vec::new();
    let mut rounds = repeat(ROUNDS_MIN, share, cancel, || {
        handle.sync_all().and_then(|()| residency::evict(&handle)).context("empty the page cache")?;
        resident
            .push(residency::resident_bytes(&handle, 0, file.bytes).map(|n| n as f64 / file.bytes as f64));
        pass.run()
    })?;
    // Direct reads pass the page cache by; only a file that is memory itself (tmpfs) stays, and that is always told.
    resident.retain(|share| !direct || share.is_some());
    rounds.not_cold = not_cold(&resident);
    let way = if direct { "O_DIRECT" } else { "through the page cache: no O_DIRECT here" };
    Ok((rounds, format!("{threads} threads of {} KiB, {way}", chunk_bytes >> 10)))
}

struct Pass<'a> {
    file: &'a RawFile,
    handle: &'a File,
    buffers: Vec<HostBuffer>,
    /// The chunk of the file that comes next: where the pass before stopped.
    position: u64,
    /// A pass stops then: on a slow drive a whole one would take too long.
    longest: Duration,
    cancel: &'a Cancel,
}

impl Pass<'_> {
    /// Reads the file once, or as much as comes; says how many bytes those were, and the seconds.
    fn run(&mut self) -> Result<(u64, f64)> {
        let (next, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        let (file, handle, cancel) = (self.file, self.handle, self.cancel);
        let chunk_bytes = self.buffers.first().map_or(1, |buffer| buffer.as_slice().len() as u64);
        let (chunks, first) = (file.bytes.div_ceil(chunk_bytes), self.position);
        let started = Instant::now();
        // `None`: so late that no clock tells it.
        let until = started.checked_add(self.longest);
        std::thread::scope(|scope| {
            for buffer in &mut self.buffers {
                let (next, done, stop, failure) = (&next, &done, &stop, &failure);
                let mut work = move || -> Result<()> {
                    let buffer = buffer.as_mut_slice();
                    loop {
                        let late = done.load(Ordering::Relaxed) > 0
                            && until.is_some_and(|until| Instant::now() >= until);
                        if late || stop.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= chunks {
                            return Ok(());
                        }
                        if cancel.is_set() {
                            bail!(Interrupted);
                        }
                        let offset = (first + number) % chunks * chunk_bytes;
                        let bytes = (file.bytes - offset).min(chunk_bytes);
                        read_whole(handle, &mut buffer[..bytes as usize], offset)
                            .with_context(|| format!("read at {offset} of {}", file.path.display()))?;
                        done.fetch_add(bytes, Ordering::Relaxed);
                    }
                };
                scope.spawn(move || {
                    if let Err(error) = work() {
                        stop.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                });
            }
        });
        let elapsed_s = started.elapsed().as_secs_f64();
        self.position = (first + next.into_inner().min(chunks)) % chunks;
        match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None => Ok((done.into_inner(), elapsed_s)),
        }
    }
}

/// Short reads of a direct file end at multiples of its blocks, so that what is left is aligned, too.
fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn laid_out_read_and_loadable() {
        let dir = tempfile::tempdir_in(".").unwrap();
        assert_eq!((file_bytes(200 << 20), file_bytes(63 << 20)), (192 << 20, 0));
        let cancel = Cancel::new();
        let file = lay_out(dir.path(), 64 << 20, &cancel).unwrap();
        assert_eq!(file.path.metadata().unwrap().len(), 64 << 20);
        let checkpoint = Checkpoint::read(&file.checkpoint).unwrap();
        assert_eq!((checkpoint.files.len(), checkpoint.tensor_bytes()), (1, 64 << 20));
        // No time left: one chunk a thread at most, and no more passes than it takes.
        let (rounds, how) = read(&file, 3, 5 << 20, Duration::ZERO, &cancel).unwrap();
        assert_eq!(rounds.gb_per_s.len(), ROUNDS_MIN);
        let chunks = rounds.bytes.div_ceil(5 << 20) as usize;
        assert!((ROUNDS_MIN..=3 * ROUNDS_MIN).contains(&chunks), "{chunks} {how}");
        // All the time there is: each pass is the whole file, wherever it begins.
        let handle = File::open(&file.path).unwrap();
        let buffers = vec![HostBuffer::new(5 << 20).unwrap(), HostBuffer::new(5 << 20).unwrap()];
        let longest = Duration::MAX;
        let mut pass = Pass { file: &file, handle: &handle, buffers, position: 7, longest, cancel: &cancel };
        assert_eq!((pass.run().unwrap().0, pass.position), (64 << 20, 7));
        cancel.set();
        assert!(read(&file, 3, 5 << 20, Duration::ZERO, &cancel).err().unwrap().is::<Interrupted>());
    }
}
