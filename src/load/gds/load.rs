//! A load by cuFile, from the call to the last byte in place.

use anyhow::{Context, Result, bail};

use crate::load::engine::Engine;
use crate::load::gds::engine::{Gds, GdsEngine};
use crate::load::gds::memory::of_landings;
use crate::load::jobs::{targets, to_devices};
use crate::load::loaded::Loaded;
use crate::load::options::Options;
use crate::load::phases::Phases;
use crate::load::prepare::{each_once, poison_all};
use crate::load::report::{Clock, LoadReport};
use crate::load::task::Task;
use crate::load::transfer::transfer_telling;
use crate::os::cancel::Cancel;
use crate::os::sys;

/// What came of it.
pub enum Came {
    Loaded(Box<(Loaded, LoadReport)>),
    /// Before the first byte: the way is not a direct one, and another engine may take over. Why.
    NotDirect(String),
}

/// Loads to GPUs by cuFile. The proof of its way, which reads a little of each file, and poisoning are not on the clock;
/// the driver is open already.
pub fn load(task: &Task<'_>, options: &Options, gds: &Gds, cancel: &Cancel) -> Result<Came> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let gpus = each_once(task.lanes.iter().flatten());
    let checkpoint = (task.open)()?;
    let mut buffers;
    let mut engine = GdsEngine::open(gds, &checkpoint, options.io, task.lanes.clone())?;
    phases.open_s = clock.lap();
    if !gds.allow_compat {
        let way = engine.settle(gds.prove(&checkpoint, &gpus));
        if !way.is_direct() {
            let why = engine.outcome().reason;
            if gds.may_fall_back {
                return Ok(Came::NotDirect(why));
            }
            bail!(
                "GPUDirect Storage was asked for, and its reads do not go straight to the GPU: {why}. See `sllm-gds doctor`; \
                 allow compatibility mode to take them as they are, or take the engine auto, the fastest that is real"
            );
        }
        clock.skip();
    }
    let plan = task.plan(&checkpoint)?;
    phases.plan_s = clock.lap();
    buffers = task.memory(&plan)?;
    phases.allocate_s = clock.lap();
    poison_all(&mut buffers, options, &mut clock)?;
    let jobs = of_landings(to_devices(&plan, targets(&plan, &mut buffers), options.chunk_bytes));
    engine.register(gds, &jobs, !gds.allow_compat)?;
    phases.register_s = clock.lap();
    let meter = task.meter(&plan);
    std::thread::scope(|scope| {
        let engine = &engine;
        let _stop = Stop(engine);
        scope.spawn(|| engine.map_ahead());
        transfer_telling(&checkpoint.files, jobs, engine, options.threads, cancel, &meter)
    })?;
    for file in &checkpoint.files {
        let handle =
            sys::open_regular(&file.path).with_context(|| format!("open {}", file.path.display()))?;
        file.check_unchanged(&handle)?;
    }
    phases.transfer_s = clock.lap();
    let elapsed_s = clock.total();
    engine.settle(gds.prove(&checkpoint, &gpus));
    let taken = engine.outcome();
    drop(engine);
    let report = LoadReport::new(&checkpoint, &plan, options, phases, elapsed_s, taken);
    Ok(Came::Loaded(Box::new((task.loaded(checkpoint, plan, buffers), report))))
}

/// Ends mapping ahead, whatever became of the transfer.
struct Stop<'e, 'a>(&'e GdsEngine<'a>);

impl Drop for Stop<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
