//! The engine `gds`: storage → GPU memory by cuFile, which is direct where nvidia-fs or the kernel's P2PDMA is there,
//! and a read with a copy behind it (compatibility mode) where not.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Scope;

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::cufile::{Driver, DriverOptions, Handle};
use crate::gpu::Gpu;
use crate::load::engine::Job;
use crate::load::gds::bar1;
use crate::load::gds::memory::Memory;
use crate::load::gds::no_start::NoStart;
use crate::load::gds::proof::Way;
use crate::load::gds::slabs::{self, Slabs};
use crate::load::settings::{IoChoice, OnError, Register};
use crate::load::shape::Shape;
use crate::load::source::Sources;
use crate::os::sys;
use crate::os::threads::{self, NoThread};

/// How to load by cuFile.
#[derive(Debug, Clone)]
pub struct Gds {
    pub driver: Arc<Driver>,
    /// What it was opened with.
    pub options: DriverOptions,
    pub allow_compat: bool,
    pub register: Register,
    pub on_error: OnError,
    /// Whether another engine may take over before the first byte, where the way is not proven.
    pub may_fall_back: bool,
    /// How the other engine loads then: what is good for cuFile is not for the ring. Set with the load's options.
    pub instead: Option<Shape>,
    /// The program that proves ways, `sllm-gds`; none is proven without it.
    pub helper: Option<PathBuf>,
    /// What was proven so far, by the device that files lie on.
    pub proofs: Arc<Mutex<HashMap<u64, Way>>>,
}

impl Gds {
    /// Settles which way reads of this checkpoint go, in a child process, once for each device. A mixture is no proof.
    pub fn prove(&self, checkpoint: &Checkpoint, gpus: &[Arc<Gpu>]) -> Way {
        let mut proofs = self.proofs.lock().unwrap_or_else(|e| e.into_inner());
        let mut ways = Vec::new();
        for file in checkpoint.files.iter().filter(|f| f.bytes > 0) {
            let Ok(facts) = std::fs::metadata(&file.path) else {
                return Way::Unproven(format!("{} can't be looked at", file.path.display()));
            };
            let way = proofs.entry(facts.dev()).or_insert_with(|| {
                crate::load::gds::proof::ask(
                    self.helper.as_deref(),
                    &crate::load::gds::proof::Request {
                        files: vec![std::path::absolute(&file.path).unwrap_or_else(|_| file.path.clone())],
                        gpus: gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
                        allow_compat: self.options.allow_compat,
                        use_p2pdma: self.options.use_p2pdma,
                    },
                )
            });
            ways.push(way.clone());
        }
        match ways.iter().find(|way| !way.is_direct()).or(ways.first()) {
            Some(way) if way.is_direct() && ways.iter().any(|other| other != way) => {
                Way::Unproven("the checkpoint's files lie on devices with different ways".into())
            }
            Some(way) => way.clone(),
            None => Way::Unproven("there was nothing to read".into()),
        }
    }
}

struct GdsFile {
    handle: Handle,
    /// Whether it goes past the page cache: not where buffered reads were asked for, nor where the file system refuses.
    past_cache: bool,
    /// For ranges that the page cache holds: compatibility mode can use it, and is faster so.
    cached: Option<Handle>,
}

/// Shared by all threads of a load. `'a` is what its destinations live for.
pub struct GdsEngine<'a> {
    files: Vec<GdsFile>,
    /// The same files by ordinary reads: for what cuFile failed at, and to ask the page cache.
    pub(super) sources: Sources,
    /// The GPUs of each lane; none where it is host memory.
    pub(super) lanes: Vec<Vec<Arc<Gpu>>>,
    /// One for each lane; empty where nothing is registered.
    pub(super) slabs: Vec<Slabs<'a>>,
    pub(super) on_error: OnError,
    pub(super) way: OnceLock<Way>,
    pub(super) direct_bytes: AtomicU64,
    pub(super) buffered_bytes: AtomicU64,
    pub(super) retried: Mutex<Retried>,
}

#[derive(Default)]
pub(super) struct Retried {
    pub(super) bytes: u64,
    pub(super) first_error: Option<String>,
}

impl<'a> GdsEngine<'a> {
    /// Registers every file with cuFile. In compatibility mode `io` chooses between page cache and `O_DIRECT` as for
    /// other engines.
    pub fn open(
        gds: &Gds,
        checkpoint: &Checkpoint,
        io: IoChoice,
        lanes: Vec<Vec<Arc<Gpu>>>,
    ) -> Result<GdsEngine<'a>, NoStart> {
        let sources = Sources::open(checkpoint, io)?;
        let mut files = Vec::new();
        for file in &checkpoint.files {
            let register = |opened: io::Result<File>| -> Result<Handle, NoStart> {
                // The sources have opened it, too: what fails here has to do with cuFile.
                let registered =
                    opened.context("open it").and_then(|opened| Ok(Handle::register(&gds.driver, opened)?));
                let refused = || format!("cuFile refused {}", file.path.display());
                registered.with_context(refused).map_err(NoStart::Refused)
            };
            let (handle, past_cache) = match (io, sys::open_direct(&file.path)) {
                (IoChoice::Buffered, _) => (register(sys::open_regular(&file.path))?, false),
                // A file system without O_DIRECT: cuFile finds a way or says why not.
                (_, Err(e)) if e.raw_os_error() == Some(libc::EINVAL) => {
                    (register(sys::open_regular(&file.path))?, false)
                }
                (_, opened) => (register(opened)?, true),
            };
            let cached = match past_cache && gds.allow_compat && io == IoChoice::Auto {
                true => Some(register(sys::open_regular(&file.path))?),
                false => None,
            };
            files.push(GdsFile { handle, past_cache, cached });
        }
        Ok(GdsEngine {
            files,
            sources,
            lanes,
            slabs: Vec::new(),
            on_error: gds.on_error,
            way: OnceLock::new(),
            direct_bytes: AtomicU64::new(0),
            buffered_bytes: AtomicU64::new(0),
            retried: Mutex::default(),
        })
    }

    /// The files as cuFile knows them, for a proof in this process.
    pub fn handles(&self) -> Vec<&Handle> {
        self.files.iter().map(|f| &f.handle).collect()
    }

    /// Keeps what was proven of the reads.
    pub fn settle(&self, way: Way) -> &Way {
        self.way.get_or_init(|| way)
    }

    /// Registers the memory of these jobs as asked; of what is mapped piece by piece the first, so that it shows before the
    /// first byte whether any can be. `is_direct`: whether drives will write to it.
    pub fn register(
        &mut self,
        gds: &Gds,
        jobs: &[Vec<Job<Memory<'a>>>],
        is_direct: bool,
    ) -> Result<(), NoStart> {
        let lanes = self.lanes.iter().zip(jobs).filter_map(|(gpus, jobs)| Some((gpus.first()?, jobs)));
        let lanes: Vec<(&Arc<Gpu>, &Vec<Job<Memory<'a>>>)> = lanes.collect();
        let of_bytes = |bytes: Vec<u64>| -> Vec<Slabs<'a>> {
            let each = lanes.iter().zip(bytes);
            each.map(|((gpu, jobs), bytes)| Slabs::new(&gds.driver, gpu, jobs, bytes)).collect()
        };
        let small = || of_bytes(bar1::slab_bytes(&lanes.iter().map(|(gpu, _)| *gpu).collect::<Vec<_>>()));
        let whole = || {
            let whole = of_bytes(vec![u64::MAX; lanes.len()]);
            whole.iter().try_for_each(Slabs::map_all).map(|()| whole)
        };
        self.slabs = match gds.register {
            Register::None => Vec::new(),
            Register::Auto if !is_direct => Vec::new(),
            Register::Slabs => small(),
            // What was mapped is gone before slabs are.
            Register::Auto => whole().unwrap_or_else(|_| small()),
            Register::Whole => whole()
                .context("register all device memory (BAR1 may be too small: register slabs)")
                .map_err(NoStart::of)?,
        };
        slabs::map_first(&self.slabs).map_err(NoStart::of)
    }

    /// Maps slabs ahead of the readers until all is mapped or [`GdsEngine::stop`] is called: on threads of `scope`.
    pub fn map_ahead<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<(), NoThread> {
        let mut waiting = self.slabs.iter().filter(|slabs| slabs.waits());
        waiting.try_for_each(|slabs| threads::start(scope, || slabs.map_ahead()).map(drop))
    }

    /// The handle for a range, and whether it goes past the page cache.
    pub(super) fn handle(&self, file: usize, offset: u64, bytes: u64) -> (&Handle, bool) {
        let GdsFile { handle, past_cache, cached } = &self.files[file];
        match cached {
            Some(cached) if self.sources.is_cached(file, offset, bytes) => (cached, false),
            _ => (handle, *past_cache),
        }
    }
}
