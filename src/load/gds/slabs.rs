//! Which device memory cuFile has mapped, and when. Where it can't all be mapped at once (BAR1 is often smaller than
//! the GPU's memory), a thread maps the next slab while the last is being read, and takes apart what is full.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::cufile::Driver;
use crate::doctor::hardware;
use crate::doctor::source::Source;
use crate::gpu::Gpu;
use crate::gpu::direct::{Registered, Span};
use crate::load::engine::{Job, Target};

/// Slabs mapped at a time: one is read, one is being mapped.
const WINDOW: usize = 2;

/// Registering takes cuFile about 20 ms a call, whatever the size, and holds up reads meanwhile: few large slabs.
const SLAB_BYTES: u64 = 4 << 30;
const SMALL_SLAB_BYTES: u64 = 32 << 20;

/// Bytes of a slab, so that as many as are mapped at a time fit what is free of a GPU's BAR1; by NVML, where it tells.
pub fn slab_bytes(gpu: &Gpu) -> u64 {
    let facts = hardware::gpus(&Source::live(false)).unwrap_or_default();
    let free = facts.iter().find(|f| f.uuid == gpu.uuid).and_then(|f| f.bar1_free_bytes);
    let share = free.map_or(SLAB_BYTES, |free| free / (WINDOW as u64 + 1));
    (share - share % SMALL_SLAB_BYTES).clamp(SMALL_SLAB_BYTES, SLAB_BYTES)
}

/// The slabs of one lane, in the order of its jobs.
pub struct Slabs<'a> {
    driver: Arc<Driver>,
    gpu: Arc<Gpu>,
    spans: Vec<Span<'a>>,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

struct State<'a> {
    slabs: Vec<Slab<'a>>,
    stopped: bool,
}

struct Slab<'a> {
    mapping: Mapping<'a>,
    left_bytes: u64,
}

enum Mapping<'a> {
    Waits,
    Mapped(Arc<Registered<'a>>),
    Failed(String),
    Gone,
}

impl<'a> Slabs<'a> {
    /// Cuts the memory of a lane's jobs into slabs of up to `slab_bytes`, none mapped yet.
    pub fn new(driver: &Arc<Driver>, gpu: &Arc<Gpu>, jobs: &[Job<'a>], slab_bytes: u64) -> Slabs<'a> {
        let mut spans: Vec<Span<'a>> = Vec::new();
        for job in jobs {
            let Target::Devices(slices) = &job.target else { continue };
            let Some(span) = slices.first().map(Span::of) else { continue };
            let joined = spans.last().and_then(|last| last.join(&span)).filter(|s| s.bytes() <= slab_bytes);
            match (spans.last_mut(), joined) {
                (Some(last), Some(joined)) => *last = joined,
                _ => spans.push(span),
            }
        }
        let slab = |span: &Span<'a>| Slab { mapping: Mapping::Waits, left_bytes: span.bytes() };
        let state = Mutex::new(State { slabs: spans.iter().map(slab).collect(), stopped: false });
        let (driver, gpu) = (driver.clone(), gpu.clone());
        Slabs { driver, gpu, spans, state, changed: Condvar::new() }
    }

    /// Maps everything now; what was mapped before a failure is taken apart.
    pub fn map_all(&self) -> anyhow::Result<()> {
        let mapped =
            self.spans.iter().map(|span| Registered::new(&self.driver, &self.gpu, span).map(Arc::new));
        let mapped = mapped.collect::<anyhow::Result<Vec<_>>>()?;
        for (slab, registered) in self.lock().slabs.iter_mut().zip(mapped) {
            slab.mapping = Mapping::Mapped(registered);
        }
        Ok(())
    }

    /// Maps slab after slab, no more than the window at a time, until all were or [`Slabs::stop`] is called. A failure
    /// is told to whoever waits for a slab.
    pub fn map_ahead(&self) {
        for (i, span) in self.spans.iter().enumerate() {
            let mut state = self.lock();
            while !state.stopped && state.mapped() >= WINDOW {
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.stopped {
                return;
            }
            drop(state);
            let result = Registered::new(&self.driver, &self.gpu, span);
            let mut state = self.lock();
            match result {
                Ok(registered) => state.slabs[i].mapping = Mapping::Mapped(Arc::new(registered)),
                Err(error) => {
                    for slab in &mut state.slabs[i..] {
                        slab.mapping = Mapping::Failed(format!("{error:#}"));
                    }
                }
            }
            let failed = matches!(state.slabs[i].mapping, Mapping::Failed(_));
            drop(state);
            self.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    /// Whether there is something left to map.
    pub fn waits(&self) -> bool {
        self.lock().slabs.iter().any(|s| matches!(s.mapping, Mapping::Waits))
    }

    /// Ends [`Slabs::map_ahead`] and everybody's waiting.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// The mapping around `address`, once there is one.
    pub fn mapping(&self, address: u64) -> Result<Arc<Registered<'a>>, String> {
        let i = self.index(address);
        let mut state = self.lock();
        loop {
            match &state.slabs[i].mapping {
                Mapping::Mapped(registered) => return Ok(registered.clone()),
                Mapping::Failed(why) => return Err(why.clone()),
                Mapping::Gone => {
                    return Err("its memory was taken apart too early; please report this".into());
                }
                Mapping::Waits if state.stopped => return Err("the load has ended".into()),
                Mapping::Waits => state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    /// Counts a job's memory as full. A slab whose last job it was is taken apart by whoever drops its mapping last.
    pub fn full(&self, span: &Span<'_>) {
        let i = self.index(span.address());
        let mut state = self.lock();
        let slab = &mut state.slabs[i];
        slab.left_bytes = slab.left_bytes.saturating_sub(span.bytes());
        let gone = match slab.left_bytes {
            0 => std::mem::replace(&mut slab.mapping, Mapping::Gone),
            _ => return,
        };
        drop(state);
        drop(gone);
        self.changed.notify_all();
    }

    /// The slab that holds `address`: spans ascend.
    fn index(&self, address: u64) -> usize {
        self.spans.partition_point(|span| span.end() <= address)
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State<'_> {
    fn mapped(&self) -> usize {
        self.slabs.iter().filter(|s| matches!(s.mapping, Mapping::Mapped(_))).count()
    }
}
