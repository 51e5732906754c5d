//! One thread's reads by cuFile, and by ordinary reads where it failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cufile::{CufileError, What};
use crate::gpu::copies::Stream;
use crate::gpu::memory::{DeviceBuffer, DeviceSlice};
use crate::gpu::scatter::Piece;
use crate::gpu::{Gpu, GpuError, direct};
use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::gds::engine::GdsEngine;
use crate::load::gds::memory::Memory;
use crate::load::gds::proof::Way;
use crate::load::gds::slabs::{NoMapping, Slabs};
use crate::load::jobs::Landing;
use crate::load::settings::OnError;
use crate::load::source::Storage;
use crate::os::memory::HostBuffer;
use crate::os::sys;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// A read that is interrupted more often in a row than this has failed.
const INTERRUPTIONS_MAX: u32 = 1000;

impl<'a> Engine for GdsEngine<'a> {
    type Memory = Memory<'a>;

    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker<Memory<'a>> + '_>> {
        Ok(Box::new(GdsWorker::new(self, lane)?))
    }

    fn stop(&self) {
        self.slabs.iter().for_each(Slabs::stop);
    }

    fn outcome(&self) -> PathTaken {
        let retried = self.retried.lock().unwrap_or_else(|e| e.into_inner());
        let way = self.way.get();
        let mut reason = match way {
            Some(Way::Nvfs) => "a probe's reads were counted as nvidia-fs's".to_string(),
            Some(Way::P2pdma) => "a probe's reads were counted as P2PDMA".to_string(),
            Some(Way::Compat) => "cuFile reads through host memory: GDS is not real here".to_string(),
            Some(Way::Unproven(why)) => format!("the way is not proven: {why}"),
            None => "the way is not proven: nothing was counted".to_string(),
        };
        if let Some(error) = &retried.first_error {
            reason.push_str(&format!("; {} bytes went through host memory instead: {error}", retried.bytes));
        }
        let path = match retried.bytes {
            0 => way.map_or("gds-unproven", Way::name),
            _ => "gds-mixed",
        };
        // What came by ordinary reads counts by how they went.
        let others = self.sources.outcome("");
        PathTaken {
            path: path.to_string(),
            reason,
            direct_bytes: self.direct_bytes.load(Ordering::Relaxed) + others.direct_bytes,
            buffered_bytes: self.buffered_bytes.load(Ordering::Relaxed) + others.buffered_bytes,
        }
    }
}

pub struct GdsWorker<'e, 'a> {
    engine: &'e GdsEngine<'a>,
    gpus: &'e [Arc<Gpu>],
    slabs: Option<&'e Slabs<'a>>,
    /// For copies from the first GPU on to their places and to the other GPUs.
    onward: Option<Stream>,
    /// Device memory that reads come to first, made when it is wanted.
    staging: Option<DeviceBuffer>,
    /// Host memory for what cuFile failed at, made when it is wanted.
    bounce: Option<HostBuffer>,
    /// In a row.
    interruptions: u32,
}

impl<'e, 'a> GdsWorker<'e, 'a> {
    pub fn new(engine: &'e GdsEngine<'a>, lane: usize) -> io::Result<Self> {
        let gpus = engine.lanes.get(lane).map(Vec::as_slice).unwrap_or_default();
        let mut onward = None;
        if let Some(gpu) = gpus.first() {
            sys::run_near(gpu.numa_node);
            gpu.make_current().map_err(io::Error::other)?;
            onward = Some(Stream::new(gpu).map_err(io::Error::other)?);
        }
        let slabs = engine.slabs.get(lane);
        Ok(GdsWorker { engine, gpus, slabs, onward, staging: None, bounce: None, interruptions: 0 })
    }
}

impl<'a> Worker<Memory<'a>> for GdsWorker<'_, 'a> {
    fn read(&mut self, job: &mut Job<Memory<'a>>, done: u64) -> io::Result<u64> {
        let n = match self.by_cufile(job, done) {
            Ok(n) => n,
            // The loop knows by now that it is to end.
            Err(Unread::Stopped) => return Err(io::ErrorKind::Interrupted.into()),
            Err(Unread::Failed(error)) if error.is_transient() && self.interruptions < INTERRUPTIONS_MAX => {
                self.interruptions += 1;
                return Err(io::ErrorKind::Interrupted.into());
            }
            Err(Unread::Failed(error)) if self.engine.on_error == OnError::Retry => {
                self.by_host(job, done, &error)?
            }
            Err(Unread::Failed(error)) => return Err(io::Error::other(error)),
        };
        self.interruptions = 0;
        self.send_on(job, done, n)?;
        if done + n == job.bytes
            && let (Some(slabs), Memory::InPlace(slices)) = (self.slabs, &job.memory)
        {
            slabs.full(&direct::Span::of(&slices[0]));
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.onward.iter().try_for_each(Stream::synchronize).map_err(io::Error::other)
    }
}

impl<'a> GdsWorker<'_, 'a> {
    fn by_cufile(&mut self, job: &mut Job<Memory<'a>>, done: u64) -> Result<u64, Unread> {
        let (offset, bytes) = (job.file_offset + done, job.bytes - done);
        let (handle, past_cache) = self.engine.handle(job.file, offset, bytes);
        let n = match &mut job.memory {
            Memory::Host(room) => {
                handle.read_host(&mut room[done as usize..(done + bytes) as usize], offset)?
            }
            Memory::InPlace(slices) => {
                let target = &slices[0];
                let mapping = self.slabs.map(|s| s.mapping(target.address())).transpose();
                let mapping = mapping.map_err(|e| match e {
                    NoMapping::Stopped => Unread::Stopped,
                    NoMapping::Failed(why) => not_called(why),
                })?;
                direct::read(handle, target, done, bytes, offset, mapping.as_deref())?
            }
            Memory::Staged(_) => {
                let staging = self.staging.take();
                let mut staging = large_enough(staging, &self.gpus[0], job.bytes)
                    .map_err(|error| not_called(error.to_string()))?;
                let read = direct::read(handle, &staging.as_mut_slice(), done, bytes, offset, None);
                self.staging = Some(staging);
                read?
            }
        };
        // What comes short goes on at an aligned place, or every read after it would be unaligned.
        let n = match n < bytes && n >= DIRECT_ALIGN {
            true => n - (done + n) % DIRECT_ALIGN,
            false => n.min(bytes),
        };
        let counter = if past_cache { &self.engine.direct_bytes } else { &self.engine.buffered_bytes };
        counter.fetch_add(n, Ordering::Relaxed);
        Ok(n)
    }

    /// The rest of a job by an ordinary read, and a copy where it belongs on a GPU.
    fn by_host(&mut self, job: &mut Job<Memory<'a>>, done: u64, error: &CufileError) -> io::Result<u64> {
        let (offset, bytes) = (job.file_offset + done, job.bytes - done);
        let n = match &mut job.memory {
            Memory::Host(room) => {
                self.engine.sources.read(job.file, offset, bytes, &mut room[done as usize..])?
            }
            Memory::InPlace(slices) => self.by_bounce(&mut slices[0], job.file, offset, done, bytes)?,
            Memory::Staged(_) => {
                let staging = self.staging.take();
                let mut staging =
                    large_enough(staging, &self.gpus[0], job.bytes).map_err(io::Error::other)?;
                let read = self.by_bounce(&mut staging.as_mut_slice(), job.file, offset, done, bytes);
                self.staging = Some(staging);
                read?
            }
        };
        let mut retried = self.engine.retried.lock().unwrap_or_else(|e| e.into_inner());
        retried.bytes += n;
        retried.first_error.get_or_insert_with(|| error.to_string());
        Ok(n)
    }

    /// Reads `bytes` bytes of a file from `offset` on to `done` of a target, by host memory.
    fn by_bounce(
        &mut self,
        target: &mut DeviceSlice<'_>,
        file: usize,
        offset: u64,
        done: u64,
        bytes: u64,
    ) -> io::Result<u64> {
        let room_bytes = align_up(bytes, DIRECT_ALIGN);
        let bounce = match &mut self.bounce {
            Some(bounce) if bounce.as_slice().len() as u64 >= room_bytes => bounce,
            bounce => bounce.insert(HostBuffer::new(room_bytes).map_err(io::Error::other)?),
        };
        let room = &mut bounce.as_mut_slice()[..room_bytes as usize];
        let n = self.engine.sources.read(file, offset, bytes, room)?;
        target.write(&self.gpus[0], done, &room[..n as usize]).map_err(io::Error::other)?;
        self.gpus[0].synchronize().map_err(io::Error::other)?;
        Ok(n)
    }

    /// Sends what came on: from where it was read to its places, and to the other GPUs.
    fn send_on(&mut self, job: &Job<Memory<'a>>, done: u64, bytes: u64) -> io::Result<()> {
        let mistake =
            || io::Error::other("bytes that were read have nothing to go on by; please report this");
        let sent = match (&job.memory, &self.onward, &mut self.staging) {
            (Memory::Host(_), ..) => Ok(()),
            (Memory::InPlace(slices), Some(stream), _) => {
                let (first, others) = slices.split_first().ok_or_else(mistake)?;
                let first = first.part(done, bytes);
                others.iter().try_for_each(|other| stream.copy_between(&first, &other.part(done, bytes)))
            }
            (Memory::Staged(landing), Some(stream), Some(staging)) => {
                let copied = copy_pieces(stream, &staging.as_mut_slice(), landing, done, done + bytes);
                // The next read comes to the same memory.
                copied.and_then(|()| stream.synchronize())
            }
            _ => return Err(mistake()),
        };
        sent.map_err(io::Error::other)
    }
}

/// Copies what lies in `[start, end)` of the staged bytes to its places.
fn copy_pieces(
    stream: &Stream,
    staging: &DeviceSlice<'_>,
    landing: &Landing<'_>,
    start: u64,
    end: u64,
) -> Result<(), GpuError> {
    for piece in landing.pieces.iter().flat_map(|piece| piece.within(start, end)) {
        let end = piece.from_end().unwrap_or(piece.from);
        let source = staging.part(start + piece.from, end - piece.from);
        for (_, target) in landing.targets.of(&piece)? {
            match piece.rows {
                1 => stream.copy_between(&source, &target)?,
                _ => stream.copy_rows_between(&source, &target, &Piece { from: 0, ..piece })?,
            }
        }
    }
    Ok(())
}

/// Device memory for a read of `bytes` bytes: what there is, or new.
fn large_enough(made: Option<DeviceBuffer>, gpu: &Arc<Gpu>, bytes: u64) -> Result<DeviceBuffer, GpuError> {
    match made {
        Some(made) if made.bytes() >= bytes => Ok(made),
        _ => DeviceBuffer::new(gpu, align_up(bytes, DIRECT_ALIGN)),
    }
}

/// A read that did not get as far as cuFile.
fn not_called(cause: String) -> Unread {
    Unread::Failed(CufileError {
        call: "cuFileRead",
        what: What::Refused,
        cuda: None,
        cause: cause.into(),
        remedy: "load with the engine pinned".into(),
        log: Vec::new(),
    })
}

/// Why cuFile brought nothing.
enum Unread {
    /// Somebody else failed, and the load ends.
    Stopped,
    Failed(CufileError),
}

impl From<CufileError> for Unread {
    fn from(error: CufileError) -> Unread {
        Unread::Failed(error)
    }
}

impl Drop for GdsWorker<'_, '_> {
    /// After a failure copies may still be under way; they end here, while their targets are borrowed.
    fn drop(&mut self) {
        if let Some(stream) = &self.onward {
            let _ = stream.synchronize();
        }
    }
}
