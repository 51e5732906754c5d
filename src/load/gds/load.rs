//! A load by cuFile, from the call to the last byte in place.

use anyhow::{Context, Result, anyhow};

use crate::load::engine::Engine;
use crate::load::gds::engine::{Gds, GdsEngine};
use crate::load::gds::memory::of_landings;
use crate::load::gds::no_start::NoStart;
use crate::load::gds::proof::Way;
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
pub enum Attempt {
    Loaded(Box<(Loaded, LoadReport)>),
    /// Before the first byte: cuFile does not serve this load, and another engine may.
    Refused {
        why: String,
        /// What it took until then, the proof not counted.
        lost_s: f64,
    },
}

/// Loads to GPUs by cuFile. The proof of its way, which reads a little of each file, and poisoning are not on the clock;
/// the driver is open already.
pub fn load(task: &Task<'_>, options: &Options, gds: &Gds, cancel: &Cancel) -> Result<Attempt> {
    let mut clock = Clock::start();
    match run(task, options, gds, cancel, &mut clock) {
        Ok(done) => Ok(Attempt::Loaded(Box::new(done))),
        Err(NoStart::Refused(why)) if gds.may_fall_back => {
            clock.lap();
            Ok(Attempt::Refused { why: format!("{why:#}"), lost_s: clock.total() })
        }
        Err(NoStart::Refused(error) | NoStart::Failed(error)) => Err(error),
    }
}

fn run(
    task: &Task<'_>,
    options: &Options,
    gds: &Gds,
    cancel: &Cancel,
    clock: &mut Clock,
) -> Result<(Loaded, LoadReport), NoStart> {
    let mut phases = Phases::default();
    let gpus = each_once(task.lanes.iter().flatten());
    let checkpoint = (task.open)()?;
    if checkpoint.packed.is_some() {
        return Err(NoStart::Refused(anyhow!(
            "cuFile brings bytes as they lie on disk, and these are packed"
        )));
    }
    let mut buffers;
    let mut engine = GdsEngine::open(gds, &checkpoint, options.io, task.lanes.clone())?;
    phases.open_s = clock.lap();
    if !gds.allow_compat {
        let way = engine.settle(gds.prove(&checkpoint, &gpus));
        clock.skip();
        check_way(way, gds.may_fall_back, || engine.outcome().reason)?;
    }
    let plan = task.plan(&checkpoint)?;
    phases.plan_s = clock.lap();
    buffers = task.memory(&plan)?;
    phases.allocate_s = clock.lap();
    poison_all(&mut buffers, options, clock)?;
    let jobs = of_landings(to_devices(&plan, targets(&plan, &mut buffers), options.chunk_bytes));
    engine.register(gds, &jobs, !gds.allow_compat)?;
    phases.register_s = clock.lap();
    let meter = task.meter(plan.bytes());
    let ran = std::thread::scope(|scope| {
        let engine = &engine;
        let _stop = Stop(engine);
        engine.map_ahead(scope)?;
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
    let mut report = LoadReport::new(&checkpoint, &plan, options, phases, elapsed_s, taken);
    report.threads = ran;
    Ok((task.loaded(checkpoint, plan, buffers), report))
}

/// Whoever leaves the choice open gets only what is proven. A demand fails where the way is proven to be none; where nothing
/// is proven it is met, with compatibility mode off, and the report says that it is not proven.
fn check_way(way: &Way, may_fall_back: bool, why: impl Fn() -> String) -> Result<(), NoStart> {
    match (way, may_fall_back) {
        (Way::Nvfs | Way::P2pdma, _) | (Way::Unproven(_), false) => Ok(()),
        (Way::Compat | Way::Unproven(_), true) => Err(NoStart::Refused(anyhow::Error::msg(why()))),
        (Way::Compat, false) => Err(NoStart::Failed(anyhow!(
            "GPUDirect Storage was asked for, and its reads do not go straight to the GPU: {}. See `sllm-gds doctor`; allow \
             compatibility mode to take them as they are, or take the engine auto, the fastest that is real",
            why()
        ))),
    }
}

/// Ends mapping ahead, whatever became of the transfer.
struct Stop<'e, 'a>(&'e GdsEngine<'a>);

impl Drop for Stop<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proven_way_is_chosen_and_only_a_disproven_one_is_refused_to_a_demand() {
        let checked = |way: &Way, may_fall_back| check_way(way, may_fall_back, || "for a reason".into());
        let unproven = Way::Unproven("nothing was counted".into());
        for way in [Way::Nvfs, Way::P2pdma] {
            assert!(checked(&way, true).is_ok() && checked(&way, false).is_ok());
        }
        for way in [&unproven, &Way::Compat] {
            let left = checked(way, true).unwrap_err();
            assert!(matches!(&left, NoStart::Refused(why) if why.to_string() == "for a reason"), "{left:?}");
        }
        assert!(checked(&unproven, false).is_ok());
        let failed = checked(&Way::Compat, false).unwrap_err();
        assert!(
            matches!(&failed, NoStart::Failed(why) if why.to_string().contains(": for a reason.")),
            "{failed:?}"
        );
    }
}
