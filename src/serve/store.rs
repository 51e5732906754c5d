//! What both interfaces do: loads into clients' memory, the pool, and what is under way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tonic::Code;

use crate::load::{ByteRange, Clock, LoadReport, Loader, Request, Target, To, Warmed};
use crate::os::cancel::Cancel;
use crate::os::error::Error;
use crate::serve::check::check;
use crate::serve::events::Event;
use crate::serve::metrics::{Metrics, Now};
use crate::serve::models::Models;
use crate::serve::refusal::Refusal;
use crate::serve::replicas::Replicas;
use crate::serve::settings::{Settings, Tell, Verify};
use crate::serve::under_way::UnderWay;
use crate::serve::wanted::Wanted;
use crate::wire::devices::{Devices, Window};

/// What a destination holds where a load failed: as floating point numbers of any width, none.
const NOT_A_NUMBER: u8 = 0xff;

/// The server, without its interfaces.
pub struct Store {
    /// What it was asked to be.
    pub settings: Settings,
    /// Moves the bytes.
    pub loader: Loader,
    /// Which models there are.
    pub models: Models,
    /// Where clients have memory.
    pub devices: Arc<dyn Devices>,
    /// Loads that run.
    pub under_way: UnderWay,
    /// What became of those that have ended.
    pub replicas: Replicas,
    /// Since when it runs.
    pub started: Instant,
    /// Places for loads to clients' memory.
    places: Arc<Semaphore>,
    /// By model: what ends a fill of the pool that no call waits for.
    fills: Mutex<HashMap<String, Cancel>>,
    /// The error that broke a CUDA context.
    broken: watch::Sender<Option<String>>,
    /// What Prometheus is told.
    metrics: Metrics,
    open_handles: AtomicUsize,
    tell: Tell,
}

impl Store {
    /// A server with nothing in it. Nothing is opened or pinned yet.
    pub fn new(settings: Settings, devices: Arc<dyn Devices>, tell: Tell) -> Result<Store, Error> {
        let not_there = |error: std::io::Error| {
            Error::NotFound(format!(
                "the storage path {} is no directory that can be read ({error}): name the one that holds the models",
                settings.storage_path.display()
            ))
        };
        let storage_path = settings.storage_path.canonicalize().map_err(not_there)?;
        std::fs::read_dir(&storage_path).map_err(not_there)?;
        let mut builder =
            Loader::builder().pool_bytes(settings.pool_bytes).pool_chunk_bytes(settings.chunk_bytes);
        if let Some(threads) = settings.threads {
            builder = builder.threads(threads);
        }
        let most = settings.max_loads.unwrap_or(Semaphore::MAX_PERMITS).clamp(1, Semaphore::MAX_PERMITS);
        let builder = builder.pool_host_loads(true).faults(settings.faults.clone());
        Ok(Store {
            loader: builder.build()?,
            models: Models::new(storage_path),
            devices,
            under_way: UnderWay::default(),
            replicas: Replicas::default(),
            started: Instant::now(),
            places: Arc::new(Semaphore::new(most)),
            fills: Mutex::default(),
            broken: watch::Sender::new(None),
            metrics: Metrics::new(),
            open_handles: AtomicUsize::new(0),
            tell,
            settings,
        })
    }

    /// Says that something happened.
    pub fn tell(&self, event: &Event) {
        self.metrics.observe(event);
        (self.tell)(event);
    }

    /// The page for Prometheus.
    pub fn metrics_page(&self) -> Option<String> {
        let now = Now {
            pool: self.loader.pool().unwrap_or_default(),
            loads: self.under_way.list().len(),
            open_handles: self.open_handles.load(Ordering::Relaxed),
        };
        self.metrics.text(&now).ok()
    }

    /// A place for a load to a client's memory: waits for one.
    pub fn places(&self) -> Arc<Semaphore> {
        self.places.clone()
    }

    /// Told when an error broke a CUDA context, so that nothing works in this process any more.
    pub fn broken(&self) -> watch::Receiver<Option<String>> {
        self.broken.subscribe()
    }

    /// Brings ranges of a model into a client's memory, and closes that. Blocks. After an error that came once bytes moved, every
    /// range that was wanted is filled with what is no number.
    pub fn load(
        &self,
        model: &str,
        wanted: &Wanted,
        cancel: &Cancel,
        progress: Progress,
    ) -> Result<LoadReport, Refusal> {
        let model = &self.models.plain(model);
        let done = self.load_quietly(model, wanted, cancel, progress);
        match &done {
            Ok(done) => self.tell(&Event::Loaded {
                model: model.into(),
                to: done.to.clone(),
                open_handles_s: done.open_handles_s,
                close_handles_s: done.close_handles_s,
                report: Box::new(done.report.clone()),
            }),
            Err(refusal) => self.failed("load", model, refusal),
        }
        done.map(|done| done.report)
    }

    fn load_quietly(
        &self,
        model: &str,
        wanted: &Wanted,
        cancel: &Cancel,
        progress: Progress,
    ) -> Result<Done, Refusal> {
        let mut clock = Clock::start();
        let checkpoint = self.models.open(model)?;
        let windows = wanted.open(checkpoint.file_bytes(), self.devices.as_ref())?;
        let _counted = Counted::new(&self.open_handles, windows.len());
        let open_handles_s = clock.lap();
        let labels: Vec<String> = windows.iter().map(|window| window.label()).collect();
        let to = labels.join(",");
        let entry = self.under_way.begin(model, &to, cancel).ok_or_else(ending)?;
        let running = entry.running.clone();
        let which = self.settings.verify;
        // Tensors are told apart only as the client named them.
        let ranges = if which == Verify::Off { wanted.joined() } else { wanted.ranges.clone() };
        let memory = windows.iter().map(|window| window.memory()).collect();
        let request = Request::to(To::Into(Target::ranges(memory, ranges.clone())))
            .links(self.settings.links.clone())
            .cancel(cancel)
            .progress(move |read_bytes, total_bytes| {
                running.tell(read_bytes, total_bytes);
                progress(read_bytes, total_bytes);
            });
        let recorded = match which {
            Verify::Off => Arc::default(),
            Verify::Sample | Verify::All => self.models.recorded(model, &checkpoint)?,
        };
        let loaded = self.loader.load(&checkpoint, &request).and_then(|loaded| {
            check(&loaded, &ranges, &recorded, which)?;
            Ok(loaded.report().clone())
        });
        self.look_whether_broken(&loaded);
        let report = loaded.map_err(|error| {
            if matches!(error, Error::Corrupt { .. }) {
                // What the pool holds of it may be wrong for all that come.
                let _ = self.loader.evict(&checkpoint, cancel);
            }
            let has_begun = entry.running.progress().0 > 0;
            spoil(error, has_begun, &windows, &ranges)
        })?;
        clock.lap();
        drop(windows);
        Ok(Done { to, report, open_handles_s, close_handles_s: clock.lap() })
    }

    /// Brings a model into the pool. Blocks.
    pub fn warm(&self, model: &str, cancel: &Cancel) -> Result<Warmed, Refusal> {
        let warmed = self.fill(model, cancel);
        if let Err(refusal) = &warmed {
            self.failed("bring into the pool", model, refusal);
        }
        warmed
    }

    /// As [`Store::warm`]; that it failed is for the caller to say.
    fn fill(&self, model: &str, cancel: &Cancel) -> Result<Warmed, Refusal> {
        let model = &self.models.plain(model);
        let checkpoint = self.models.open(model)?;
        let entry = self.under_way.begin(model, "pool", cancel).ok_or_else(ending)?;
        let (total_bytes, read_bytes) = (checkpoint.stored_bytes(), AtomicU64::new(0));
        let progress = |bytes| {
            let before = read_bytes.fetch_add(bytes, Ordering::Relaxed);
            entry.running.tell(before + bytes, total_bytes);
        };
        let warmed = self.loader.warm(&checkpoint, cancel, &progress);
        self.look_whether_broken(&warmed);
        let warmed = warmed?;
        self.tell(&Event::Warmed { model: model.into(), warmed: warmed.clone() });
        Ok(warmed)
    }

    /// Begins to bring a model into the pool, and returns: whoever loads it meanwhile joins in.
    pub fn warm_behind(self: &Arc<Store>, model: &str) -> Result<(), Refusal> {
        let cancel = Cancel::new();
        let model = &self.models.plain(model);
        {
            let mut fills = self.fills();
            if fills.contains_key(model) {
                return Ok(());
            }
            fills.insert(model.clone(), cancel.clone());
        }
        let (store, name) = (self.clone(), model.clone());
        let fill = move || {
            let _ended = FillEnded { store: &store, model: &name };
            match store.fill(&name, &cancel) {
                Ok(_) => {}
                // It was ended on purpose, as by an unloading.
                Err(refusal) if refusal.code == Code::Cancelled => {}
                // The load to a client's memory that comes next does without the pool.
                Err(refusal) if refusal.code == Code::ResourceExhausted => {
                    store.tell(&Event::Warning { what: refusal.message });
                }
                Err(refusal) => store.failed("bring into the pool", &name, &refusal),
            }
        };
        match std::thread::Builder::new().name("fill".into()).spawn(fill) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.fills().remove(model);
                Err(no_thread(&error))
            }
        }
    }

    /// Lets a model stay in the pool, brought there if need be, or go again. Blocks.
    pub fn pin(&self, model: &str, is_pinned: bool, cancel: &Cancel) -> Result<(), Refusal> {
        let what = if is_pinned { "pin" } else { "unpin" };
        self.pin_quietly(model, is_pinned, cancel).inspect_err(|refusal| self.failed(what, model, refusal))
    }

    fn pin_quietly(&self, model: &str, is_pinned: bool, cancel: &Cancel) -> Result<(), Refusal> {
        let checkpoint = match self.models.known(model) {
            Some(known) => known,
            None => self.models.open(model)?,
        };
        if !self.loader.pin(&checkpoint, is_pinned) && is_pinned {
            self.fill(model, cancel)?;
            let now = self.models.known(model).unwrap_or(checkpoint);
            if !self.loader.pin(&now, true) {
                let why =
                    format!("the model '{model}' left the pool again before it could be pinned: ask again");
                return Err(Refusal::new(Code::Aborted, why));
            }
        }
        Ok(())
    }

    /// Turns a model out of the pool, after the loads that have it have ended; all where none is named. Fills that nobody waits
    /// for are ended. Blocks.
    pub fn evict(&self, model: Option<&str>, cancel: &Cancel) -> Result<u64, Refusal> {
        let model = model.map(|model| self.models.plain(model));
        let model = model.as_deref();
        let ended = |(name, cancel): (&String, &Cancel)| {
            if model.is_none_or(|model| model == name) {
                cancel.set();
            }
        };
        self.fills().iter().for_each(ended);
        let evicted = match model {
            None => self.loader.evict_all(cancel)?,
            Some(model) => match self.models.known(model) {
                Some(known) => self.loader.evict(&known, cancel)?,
                None => self.loader.evict(&*self.models.open(model)?, cancel)?,
            },
        };
        let model = model.unwrap_or_default().to_string();
        self.tell(&Event::Evicted { model, bytes: evicted.bytes });
        Ok(evicted.bytes)
    }

    /// Says that a call was not done.
    pub fn failed(&self, what: &str, model: &str, refusal: &Refusal) {
        self.tell(&Event::Failed {
            what: what.into(),
            model: model.into(),
            code: format!("{:?}", refusal.code),
            error: refusal.message.clone(),
        });
    }

    fn look_whether_broken<T>(&self, done: &Result<T, Error>) {
        if let Err(error) = done
            && self.loader.is_broken()
        {
            self.broken.send_if_modified(|broken| {
                let is_first = broken.is_none();
                broken.get_or_insert_with(|| error.to_string());
                is_first
            });
        }
    }

    fn fills(&self) -> MutexGuard<'_, HashMap<String, Cancel>> {
        self.fills.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A load that went well.
struct Done {
    to: String,
    report: LoadReport,
    open_handles_s: f64,
    close_handles_s: f64,
}

/// So many of something, as long as this is there.
struct Counted<'c> {
    counter: &'c AtomicUsize,
    count: usize,
}

impl<'c> Counted<'c> {
    fn new(counter: &'c AtomicUsize, count: usize) -> Counted<'c> {
        counter.fetch_add(count, Ordering::Relaxed);
        Counted { counter, count }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// Told of bytes that came so far, and of all that will.
pub type Progress = Box<dyn Fn(u64, u64) + Send + Sync>;

struct FillEnded<'s> {
    store: &'s Store,
    model: &'s str,
}

impl Drop for FillEnded<'_> {
    fn drop(&mut self) {
        self.store.fills().remove(self.model);
    }
}

/// The refusal of a load that failed. Where bytes may have moved, none of them is left to pass for weights.
fn spoil(error: Error, has_begun: bool, windows: &[Box<dyn Window>], ranges: &[ByteRange]) -> Refusal {
    // What is refused is refused before the first byte, or so it should be.
    let has_begun = has_begun || !matches!(error, Error::Refused(_));
    let mut refusal = Refusal::from(error);
    if has_begun {
        let fill = |range: &ByteRange| windows[range.memory].fill(range.to, range.bytes, NOT_A_NUMBER);
        if let Err(why) = ranges.iter().try_for_each(fill) {
            refusal.message.push_str(&format!(
                "; the destination could not be filled with NaN, so use none of it: {why}"
            ));
        }
    }
    refusal
}

fn ending() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the server is about to end, and takes no more loads: ask again once it runs anew",
    )
}

/// The system started no thread.
pub fn no_thread(error: &std::io::Error) -> Refusal {
    Refusal::new(
        Code::ResourceExhausted,
        format!(
            "the system starts no thread ({error}): raise its limits (ulimit -u, pids.max), or load less at a time"
        ),
    )
}
