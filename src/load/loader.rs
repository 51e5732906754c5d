//! The loader that others hold: what it keeps makes the next load cheaper.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::Context;

use crate::checkpoint::Checkpoint;
use crate::gpu::{self, Gpu};
use crate::load::error::breaks_context;
use crate::load::fault::Faults;
use crate::load::gds::choose::{self, Choice};
use crate::load::into;
use crate::load::links;
use crate::load::loaded::{Destination, Loaded, Placement};
use crate::load::model::Model;
use crate::load::options::Options;
use crate::load::own_pool::{OwnPool, PoolChoice};
use crate::load::pooled::{self, Attempted};
use crate::load::report::LoadReport;
use crate::load::request::{Request, To};
use crate::load::rings::Rings;
use crate::load::run::load_task;
use crate::load::settings::{EngineChoice, IoChoice, Settings};
use crate::load::task::Task;
use crate::load::verify;
use crate::os::error::{Doing, Error};

/// Loads checkpoints. Loads may run side by side, from any threads: they share CUDA contexts, pinned memory, streams and the pool,
/// which live as long as the loader. It changes nothing of its process: no signal handler, no environment variable.
pub struct Loader {
    pub(super) settings: Settings,
    pub(super) rings: Rings,
    /// GPUs that were opened so far.
    gpus: Arc<Mutex<Vec<Arc<Gpu>>>>,
    pub(super) pool: OwnPool,
    /// Whether cuFile is taken, by the device that files lie on.
    gds: Mutex<HashMap<u64, Choice>>,
    /// The error that broke a CUDA context: no load works in this process any more.
    broken: OnceLock<String>,
    /// The process that made it: CUDA does not survive a fork.
    process: u32,
}

/// The settings of a loader to be built.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    settings: Settings,
    pool: PoolChoice,
}

impl Builder {
    /// Through the page cache, past it, or as the page cache has it range by range (the default).
    pub fn io(mut self, io: IoChoice) -> Builder {
        self.settings.io = io;
        self
    }

    /// Who moves the bytes; the fastest that is proven to work where that is left open (the default).
    pub fn engine(mut self, engine: EngineChoice) -> Builder {
        self.settings.engine = engine;
        self
    }

    /// Reader threads of each link to a GPU, or in all to host memory, 1 to 1024 [default: 4 to 16, by cores]. Where the system gives fewer, the load goes
    /// on with those.
    pub fn threads(mut self, threads: usize) -> Builder {
        self.settings.threads = Some(threads);
        self
    }

    /// Bytes of one read [default: 2 MiB, 1 MiB where several links share the pinned ring, 8 MiB by cuFile].
    pub fn chunk_bytes(mut self, bytes: u64) -> Builder {
        self.settings.chunk_bytes = Some(bytes);
        self
    }

    /// Bytes of one copy to a GPU [default: 16 MiB, 4 MiB where several links share a load].
    pub fn copy_bytes(mut self, bytes: u64) -> Builder {
        self.settings.copy_bytes = Some(bytes);
        self
    }

    /// Pinned memory of each link of a load [default: 64 MiB, of all links together].
    pub fn ring_bytes(mut self, bytes: u64) -> Builder {
        self.settings.ring_bytes = Some(bytes);
        self
    }

    /// Keeps what was loaded to GPUs in pinned host memory, up to so many bytes, least recently used out first: a later load
    /// of it copies at the link's rate and reads nothing, and loads of one checkpoint at the same time read each byte once
    /// [default: no pool]. A load that does not fit goes past the pool, and its report says so. The memory is taken as loads
    /// need it, and kept as long as the loader.
    pub fn pool_bytes(mut self, bytes: u64) -> Builder {
        self.pool.bytes = Some(bytes);
        self
    }

    /// Bytes of the ranges that the pool cuts files into; a file's last range takes as much memory as the others [default:
    /// 16 MiB].
    pub fn pool_chunk_bytes(mut self, bytes: u64) -> Builder {
        self.pool.chunk_bytes = Some(bytes);
        self
    }

    /// Takes and pins all of the pool's memory at the first load to a GPU, which waits for that, not bit by bit as loads
    /// need it [default: no].
    pub fn prefault(mut self, prefault: bool) -> Builder {
        self.pool.prefault = prefault;
        self
    }

    /// Takes loads to host memory through the pool, too, and keeps them there [default: no].
    pub fn pool_host_loads(mut self, host_loads: bool) -> Builder {
        self.pool.host_loads = host_loads;
        self
    }

    /// The program that proves which way reads by cuFile go: `sllm-gds`, started for a moment as a child. Without one no
    /// child is started, and GPUDirect Storage counts as not proven, so that the ring is taken.
    pub fn gds_helper(mut self, program: impl Into<PathBuf>) -> Builder {
        self.settings.helper = Some(program.into());
        self
    }

    /// For tests: storage that fails.
    #[doc(hidden)]
    pub fn faults(mut self, faults: Option<Arc<Faults>>) -> Builder {
        self.settings.faults = faults;
        self
    }

    /// The loader. Nothing is opened or pinned before its first load.
    ///
    /// # Errors
    /// - [`Error::Refused`]: settings that make no sense, alone or together.
    /// - [`Error::OutOfMemory`]: a pool that memory has no room for.
    pub fn build(self) -> Result<Loader, Error> {
        // Settings that make no sense are refused here, for both kinds of destinations.
        for destination in [Destination::Host, Destination::Gpus(Vec::new(), Placement::Balanced)] {
            Options::new(&self.settings, &destination, Err(None))?;
        }
        if self.pool.bytes.is_some() && self.settings.engine == EngineChoice::Gds {
            let why = "the engine gds reads past host memory, and a pool keeps what was loaded there: leave one of them out";
            return Err(Error::Refused(why.into()));
        }
        let gpus = Arc::<Mutex<Vec<Arc<Gpu>>>>::default();
        Ok(Loader {
            settings: self.settings,
            rings: Rings::default(),
            pool: OwnPool::new(self.pool, gpus.clone())?,
            gpus,
            gds: Mutex::default(),
            broken: OnceLock::new(),
            process: std::process::id(),
        })
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Loader").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Loader {
    /// A loader with settings of its own; `Loader::builder().build()` has the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Loads a checkpoint, and returns when every byte is in its place. After an error nothing is left of the load but what it
    /// wrote to memory of the caller's.
    ///
    /// # Errors
    /// - [`Error::NotFound`]: there is no such tensor or GPU, or a file of the checkpoint is gone.
    /// - [`Error::Checkpoint`]: a file changed or was cut since the checkpoint was opened, or tensors are lost.
    /// - [`Error::Io`]: a file can't be opened or read.
    /// - [`Error::Corrupt`]: with [`Request::verify`], tensors that are not what they should be.
    /// - [`Error::OutOfMemory`]: host or device memory is short.
    /// - [`Error::Cuda`]: the driver failed, or an earlier error of this loader broke the CUDA context.
    /// - [`Error::Refused`]: the request makes no sense (a selection of nothing, memories that overlap, slices that are none),
    ///   the process was forked from the loader's, or the system starts no thread.
    /// - [`Error::Interrupted`]: [`Request::cancel`]'s flag was set.
    pub fn load(&self, checkpoint: &Checkpoint, request: &Request) -> Result<Model, Error> {
        self.check_usable()?;
        let chosen = match request.select.apply(checkpoint)? {
            Some(chosen) => chosen,
            None => checkpoint.clone(),
        };
        // Ranges are held against the files, not against an index.
        let chosen = Arc::new(if request.to.is_ranges() { chosen } else { chosen.whole()? });
        let to = self.destination(&request.to)?;
        let (loaded, report) = self.run(&chosen, &to, request)?;
        if request.verify {
            let checked = verify::expected(&loaded, &request.cancel)
                .and_then(|(expected, _)| verify::check(&loaded, &expected, &request.cancel))
                .with_context(|| loading(&chosen));
            let tensors = checked.map_err(|error| self.failed(error))?.wrong;
            if !tensors.is_empty() {
                return Err(Error::Corrupt { tensors });
            }
        }
        Ok(Model::new(loaded, report))
    }

    /// Through the pool, where there is one and the checkpoint fits; else from storage.
    fn run(
        &self,
        chosen: &Arc<Checkpoint>,
        to: &Destination,
        request: &Request,
    ) -> Result<(Loaded, LoadReport), Error> {
        let open = || Ok(chosen.clone());
        let what = || loading(chosen);
        let cancel = &request.cancel;
        let mut task = Task::whole(&open, to);
        task.progress = request.progress.as_deref();
        task.digest = request.verify && chosen.manifest.is_none();
        task.after = request.after;
        if let To::Into(target) = &request.to {
            let (planned, lanes) = into::plan(chosen, &request.select, target, to)?;
            (task.planned, task.lanes) = (Some(planned), lanes);
        } else if request.select.has_slices() {
            task.planned = Some(into::plan_slices(chosen, &request.select, task.lanes.len())?);
        }
        let settings = Settings { links: request.links.clone(), ..self.settings.clone() };
        let helpers = links::helpers(&request.links, to, |labels| self.open(labels))?;
        let mut why_past = None;
        if !task.lanes.is_empty() || self.pool.takes_host_loads() {
            let options = Options { helpers: helpers.clone(), ..Options::new(&settings, to, Err(None))? };
            if let Some(pool) = self.pool.get(options.threads)? {
                task.wait_for_caller().map_err(|error| self.failed(error.into()))?;
                let attempted =
                    pooled::attempt(&pool, &task, &options, &self.rings, cancel).with_context(what);
                match attempted.map_err(|error| self.failed(error))? {
                    Attempted::Loaded(done) => return Ok(*done),
                    Attempted::Past(why) => why_past = Some(why),
                }
            }
        }
        let options = Options { helpers, ..Options::new(&settings, to, self.gds(to, &chosen.dir)?)? };
        let done = load_task(&task, &options, &self.rings, cancel).with_context(what);
        let done = done.map_err(|error| self.failed(error))?;
        Ok(match why_past {
            Some(why) => pooled::past(done, &why),
            None => done,
        })
    }

    /// Refuses in a process that was forked, and after an error that broke the CUDA context.
    pub(super) fn check_usable(&self) -> Result<(), Error> {
        if std::process::id() != self.process {
            let why = "this process was forked from the one that made the loader, and CUDA does not survive that: \
                       start processes by spawn, or build a loader in each";
            return Err(Error::Refused(why.into()));
        }
        match self.broken.get() {
            Some(error) => Err(Error::Cuda(format!(
                "nothing can be loaded in this process any more: an earlier error broke its CUDA context, and only a new \
                 process gets a new one. The error was: {error}"
            ))),
            None => Ok(()),
        }
    }

    /// Whether an earlier error broke a CUDA context, so that no load can work in this process any more.
    pub fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Remembers an error after which no load can work.
    pub(super) fn failed(&self, error: anyhow::Error) -> Error {
        if breaks_context(&error) {
            // Of several the first is kept: the others follow from it.
            let _ = self.broken.set(format!("{error:#}"));
        }
        error.into()
    }

    pub(super) fn destination(&self, to: &To) -> Result<Destination, Error> {
        let placed = |labels: &[String], placement| Ok(Destination::Gpus(self.open(labels)?, placement));
        let to = match to {
            To::Into(target) => &target.destination()?,
            to => to,
        };
        match (to, self.settings.engine) {
            (To::Host, EngineChoice::Pinned | EngineChoice::Gds) => Err(Error::Refused(
                "the engines pinned and gds load to GPUs, and host memory was named".into(),
            )),
            (To::Host, _) => Ok(Destination::Host),
            (_, EngineChoice::Host) => {
                Err(Error::Refused("the engine host loads into host memory, and GPUs were named".into()))
            }
            (To::Balanced(labels) | To::Replicate(labels), _) if labels.is_empty() => {
                Err(Error::Refused("no GPU is named to load to".into()))
            }
            (To::Gpu(label), _) => placed(std::slice::from_ref(label), Placement::Balanced),
            (To::Balanced(labels), _) => placed(labels, Placement::Balanced),
            (To::Replicate(labels), _) => placed(labels, Placement::Replicate),
            (To::Into(_), _) => Err(Error::Refused("memory within memory; please report this".into())),
        }
    }

    /// Opens GPUs by their labels; those that were opened before are the same.
    pub(super) fn open(&self, labels: &[String]) -> Result<Vec<Arc<Gpu>>, Error> {
        let mut opened = self.gpus.lock().unwrap_or_else(|e| e.into_inner());
        let mut found = Vec::new();
        for label in labels {
            let gpu = match opened.iter().find(|gpu| gpu.label == *label) {
                Some(gpu) => gpu.clone(),
                None => {
                    let made = gpu::open(std::slice::from_ref(label)).map_err(Error::NotFound)?;
                    opened.extend(made.iter().cloned());
                    made.into_iter()
                        .next()
                        .ok_or_else(|| Error::NotFound(format!("there is no GPU {label}")))?
                }
            };
            found.push(gpu);
        }
        Ok(found)
    }

    /// Whether cuFile is taken for files there: asked once for each device.
    pub(super) fn gds(&self, to: &Destination, dir: &Path) -> Result<Choice, Error> {
        if matches!(to, Destination::Host) {
            return Ok(Err(None));
        }
        let device = std::fs::metadata(dir).map_or(0, |about| about.dev());
        let mut known = self.gds.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(choice) = known.get(&device) {
            return Ok(choice.clone());
        }
        let choice = choose::choose(&self.settings, dir)?;
        known.insert(device, choice.clone());
        Ok(choice)
    }
}

pub(super) fn loading(checkpoint: &Checkpoint) -> Doing {
    Doing::new(format!("load {}", checkpoint.dir.display()), &checkpoint.dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuError;

    #[test]
    fn a_lost_context_ends_every_later_load_of_this_loader_and_no_other_error_does() {
        let dir = tempfile::tempdir().unwrap();
        let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header, &[7]].concat();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, file).unwrap();
        let checkpoint = Checkpoint::read(&path).unwrap();
        let loader = Loader::builder().build().unwrap();
        let load = || loader.load(&checkpoint, &Request::to(To::Host));
        let (out_of_memory, launch_failed) = (2, 719);
        assert!(matches!(loader.failed(GpuError::made_up(out_of_memory).into()), Error::Cuda(_)));
        assert_eq!(load().unwrap().get("w").unwrap().host_bytes(), Some(&[7][..]));
        assert!(matches!(loader.failed(GpuError::made_up(launch_failed).into()), Error::Cuda(_)));
        loader.failed(GpuError::made_up(launch_failed + 2).into());
        let error = load().err().unwrap();
        let Error::Cuda(text) = &error else { panic!("{error:?}") };
        for part in ["earlier error", "new process", "GPU 0: finish a copy: code 719"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
