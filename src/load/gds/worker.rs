//! One thread's reads by cuFile, and by ordinary reads where it failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cufile::{CufileError, What};
use crate::gpu::copies::Stream;
use crate::gpu::{Gpu, direct};
use crate::load::engine::{Job, Target, Worker, wrong_target};
use crate::load::gds::slabs::{NoMapping, Slabs};
use crate::load::gds::{GdsEngine, OnError};
use crate::load::source::Storage;
use crate::os::memory::HostBuffer;
use crate::os::sys;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// A read that is interrupted more often in a row than this has failed.
const INTERRUPTIONS_MAX: u32 = 1000;

pub struct GdsWorker<'e, 'a> {
    engine: &'e GdsEngine<'a>,
    gpus: &'e [Arc<Gpu>],
    slabs: Option<&'e Slabs<'a>>,
    to_others: Option<Stream>,
    /// Host memory for what cuFile failed at, made when it is wanted.
    bounce: Option<HostBuffer>,
    /// In a row.
    interruptions: u32,
}

impl<'e, 'a> GdsWorker<'e, 'a> {
    pub fn new(engine: &'e GdsEngine<'a>, lane: usize) -> io::Result<Self> {
        let gpus = engine.lanes.get(lane).map(Vec::as_slice).unwrap_or_default();
        if let Some(gpu) = gpus.first() {
            sys::run_near(gpu.numa_node);
            gpu.make_current().map_err(io::Error::other)?;
        }
        // Copies on to the other GPUs of a replicated load start at the first one.
        let to_others =
            (gpus.len() > 1).then(|| Stream::new(&gpus[0])).transpose().map_err(io::Error::other)?;
        let slabs = engine.slabs.get(lane);
        Ok(GdsWorker { engine, gpus, slabs, to_others, bounce: None, interruptions: 0 })
    }
}

impl Worker for GdsWorker<'_, '_> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
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
        self.copy_to_others(job, done, n)?;
        if done + n == job.bytes
            && let (Some(slabs), Target::Devices(slices)) = (self.slabs, &job.target)
        {
            slabs.full(&direct::Span::of(&slices[0]));
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.to_others.iter().try_for_each(Stream::synchronize).map_err(io::Error::other)
    }
}

impl GdsWorker<'_, '_> {
    fn by_cufile(&self, job: &mut Job<'_>, done: u64) -> Result<u64, Unread> {
        let (offset, bytes) = (job.file_offset + done, job.bytes - done);
        let (handle, past_cache) = self.engine.handle(job.file, offset, bytes);
        let n = match &mut job.target {
            Target::Host(room) => {
                handle.read_host(&mut room[done as usize..(done + bytes) as usize], offset)?
            }
            Target::Devices(slices) => {
                let target = &mut slices[0];
                let mapping = self.slabs.map(|s| s.mapping(target.address())).transpose();
                let mapping = mapping.map_err(|e| match e {
                    NoMapping::Stopped => Unread::Stopped,
                    NoMapping::Failed(why) => not_called(why),
                })?;
                direct::read(handle, target, done, bytes, offset, mapping.as_deref())?
            }
            Target::Part(_) | Target::Staged(..) => {
                return Err(not_called("the engine was given memory that it can't fill".into()));
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
    fn by_host(&mut self, job: &mut Job<'_>, done: u64, error: &CufileError) -> io::Result<u64> {
        let sources = &self.engine.sources;
        let (offset, bytes) = (job.file_offset + done, job.bytes - done);
        let n = match &mut job.target {
            Target::Host(room) => sources.read(job.file, offset, bytes, &mut room[done as usize..])?,
            Target::Devices(slices) => {
                let room_bytes = align_up(bytes, DIRECT_ALIGN);
                let bounce = match &mut self.bounce {
                    Some(bounce) if bounce.as_slice().len() as u64 >= room_bytes => bounce,
                    bounce => bounce.insert(HostBuffer::new(room_bytes).map_err(io::Error::other)?),
                };
                let room = &mut bounce.as_mut_slice()[..room_bytes as usize];
                let n = sources.read(job.file, offset, bytes, room)?;
                slices[0].write(&self.gpus[0], done, &room[..n as usize]).map_err(io::Error::other)?;
                self.gpus[0].synchronize().map_err(io::Error::other)?;
                n
            }
            Target::Part(_) | Target::Staged(..) => return Err(wrong_target("gds")),
        };
        let mut retried = self.engine.retried.lock().unwrap_or_else(|e| e.into_inner());
        retried.bytes += n;
        retried.first_error.get_or_insert_with(|| error.to_string());
        Ok(n)
    }

    fn copy_to_others(&self, job: &mut Job<'_>, done: u64, bytes: u64) -> io::Result<()> {
        let (Some(stream), Target::Devices(slices)) = (&self.to_others, &mut job.target) else {
            return Ok(());
        };
        let Some((first, others)) = slices.split_first_mut() else { return Ok(()) };
        others
            .iter_mut()
            .try_for_each(|other| stream.copy_between(first, other, done, bytes))
            .map_err(io::Error::other)
    }
}

/// A read that did not get as far as cuFile.
fn not_called(cause: String) -> Unread {
    Unread::Failed(CufileError {
        call: "cuFileRead",
        what: What::Refused,
        cuda: None,
        cause: cause.into(),
        remedy: "load with --engine pinned".into(),
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
        if let Some(stream) = &self.to_others {
            let _ = stream.synchronize();
        }
    }
}
