//! How to load: what was asked for, and the defaults.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::gpu::Gpu;
use crate::load::gds::choose::Choice;
use crate::load::gds::engine::Gds;
use crate::load::loaded::Destination;
use crate::load::settings::{IoChoice, Links, Settings};
use crate::load::shape::{self, Shape};
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// How to load.
#[derive(Debug, Clone)]
pub struct Options {
    pub io: IoChoice,
    /// Bytes of one read: a multiple of 4 KiB.
    pub chunk_bytes: u64,
    /// Reader threads of each link; to host memory, in all.
    pub threads: usize,
    /// Bytes of one copy to a GPU: whole chunks. GPU loads only.
    pub copy_bytes: u64,
    /// Pinned slots that the threads of a link share, one for each copy that is filled or under way. GPU loads only.
    pub slots: usize,
    /// Over which links bytes come to GPUs, and those GPUs that are no destinations and may help.
    pub links: Links,
    pub helpers: Vec<Arc<Gpu>>,
    /// By cuFile, where that was chosen; else why not, when the user may want to know.
    pub gds: Choice,
    /// Poison device memory before the transfer, so that what is never written can't pass. Not on the clock.
    pub poison: bool,
    /// Links inside a checkpoint may lead anywhere below this.
    pub storage_path: Option<PathBuf>,
    /// What was asked for: sizes that were not fit the number of links.
    pub asked: Settings,
}

/// Reads are short, so that what is being filled fits the processor's cache with what is under way: in host memory the page
/// that was just brought in (2 GB, warm, two cores: 0.56 s of processor time so, 0.71 by reads of 16 MiB).
const HOST_CHUNK_BYTES: u64 = 2 << 20;
const RING_CHUNK_BYTES: u64 = 2 << 20;
const GDS_CHUNK_BYTES: u64 = 8 << 20;
/// More are faster only once cuFile has made its buffers; a load of 10 GB ran at 34 GB/s with 8, 28 with 16.
const GDS_THREADS: usize = 8;
/// Past 16 nothing was gained anywhere; each takes memory and a place among the system's threads.
const MOST_THREADS: usize = 1024;

impl Options {
    pub fn new(settings: &Settings, destination: &Destination, gds: Choice) -> Result<Options> {
        let default_chunk_bytes = match destination {
            Destination::Host => HOST_CHUNK_BYTES,
            Destination::Gpus(..) => RING_CHUNK_BYTES,
        };
        let shape = shape_of(settings, destination, default_chunk_bytes, default_threads(destination))?;
        let (shape, gds) = match (destination, gds) {
            (Destination::Gpus(..), Ok(gds)) => {
                let by_cufile = shape_of(settings, destination, GDS_CHUNK_BYTES, GDS_THREADS)?;
                (by_cufile, Ok(Gds { instead: Some(shape), ..gds }))
            }
            (_, gds) => (shape, gds),
        };
        let Shape { chunk_bytes, threads, copy_bytes, slots } = shape;
        Ok(Options {
            io: settings.io,
            chunk_bytes,
            threads,
            copy_bytes,
            slots,
            gds,
            links: settings.links.clone(),
            helpers: Vec::new(),
            poison: false,
            storage_path: None,
            asked: settings.clone(),
        })
    }

    /// The same load through the ring over so many links: what is in flight over all of them together must fit the processor's
    /// cache, and reader threads leave cores to the driver and the kernel.
    pub fn over_links(&self, links: usize) -> Options {
        let cores = std::thread::available_parallelism().map_or(4, |n| n.get());
        let Shape { chunk_bytes, threads, copy_bytes, slots } =
            shape::over_links(&self.asked, links, cores).unwrap_or(self.shape());
        Options { chunk_bytes, threads, copy_bytes, slots, ..self.clone() }
    }

    fn shape(&self) -> Shape {
        let Options { chunk_bytes, threads, copy_bytes, slots, .. } = *self;
        Shape { chunk_bytes, threads, copy_bytes, slots }
    }

    /// The same load through the ring, where cuFile does not take it.
    pub fn by_ring(&self) -> Options {
        let mut options = self.clone();
        if let Some(shape) = self.gds.as_ref().ok().and_then(|gds| gds.instead) {
            let Shape { chunk_bytes, threads, copy_bytes, slots } = shape;
            options = Options { chunk_bytes, threads, copy_bytes, slots, ..options };
        }
        options
    }
}

/// What was asked for, and for the rest these defaults.
fn shape_of(
    settings: &Settings,
    destination: &Destination,
    chunk_bytes: u64,
    threads: usize,
) -> Result<Shape> {
    let chunk_bytes = settings.chunk_bytes.unwrap_or(chunk_bytes);
    if chunk_bytes > shape::MOST_BYTES_AT_ONCE {
        bail!("a chunk size of {chunk_bytes} bytes is more than 1 GiB; 4MB to 16MB are usual");
    }
    if chunk_bytes == 0 {
        bail!("a chunk size of 0 bytes would read nothing; 4MB to 16MB are usual");
    }
    let threads = settings.threads.unwrap_or(threads);
    if !(1..=MOST_THREADS).contains(&threads) {
        bail!(
            "{threads} reader threads of each destination: at least 1 reads, and {MOST_THREADS} are the most; 4 to 16 are usual"
        );
    }
    let chunk_bytes = align_up(chunk_bytes, DIRECT_ALIGN);
    let (copy_bytes, slots) = match destination {
        Destination::Host => (0, 0),
        Destination::Gpus(..) => shape::ring(settings, chunk_bytes)?,
    };
    Ok(Shape { chunk_bytes, threads, copy_bytes, slots })
}

/// Four keep a slow drive's queue full; past 16 nothing was gained where it was measured. Loads to GPUs leave a
/// quarter of the cores to the driver and the kernel: 12 of 16 was faster than 10, and than all.
pub(crate) fn default_threads(destination: &Destination) -> usize {
    let cores = std::thread::available_parallelism().map_or(4, |n| n.get());
    match destination {
        Destination::Host => cores.clamp(4, 16),
        Destination::Gpus(..) => (cores * 3 / 4).clamp(4, 16),
    }
}
