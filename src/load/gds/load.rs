//! A load by cuFile, from the call to the last byte in place.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::gpu::Gpu;
use crate::load::engine::Engine;
use crate::load::gds::engine::{Gds, GdsEngine};
use crate::load::gds::memory::of_landings;
use crate::load::gds::proof::Way;
use crate::load::jobs::{targets, to_devices};
use crate::load::loaded::{Loaded, Placement};
use crate::load::options::Options;
use crate::load::phases::Phases;
use crate::load::plan::{Plan, Spacing};
use crate::load::prepare::{Open, allocate, gpus_of_lanes, poison_all};
use crate::load::report::{Clock, LoadReport};
use crate::load::transfer::transfer;
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
pub fn load(
    checkpoint: &Open<'_>,
    gpus: &[Arc<Gpu>],
    placement: Placement,
    options: &Options,
    gds: &Gds,
    cancel: &Cancel,
) -> Result<Came> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let gpus_of_lane = gpus_of_lanes(gpus, placement);
    let checkpoint = checkpoint()?;
    let mut buffers;
    let mut engine = GdsEngine::open(gds, &checkpoint, options.io, gpus_of_lane.clone())?;
    phases.open_s = clock.lap();
    if !gds.allow_compat {
        let way = engine.settle(gds.prove(&checkpoint, gpus));
        let why = || engine.outcome().reason;
        match verdict(way, gds.may_fall_back) {
            Verdict::Taken => {}
            Verdict::Left => return Ok(Came::NotDirect(why())),
            Verdict::Refused => bail!(
                "GPUDirect Storage was asked for, and its reads do not go straight to the GPU: {}. See `sllm-gds doctor`; \
                 allow compatibility mode to take them as they are, or take the engine auto, the fastest that is real",
                why()
            ),
        }
        clock.skip();
    }
    let plan = Plan::new(&checkpoint, gpus_of_lane.len(), Spacing::Aligned)?;
    phases.plan_s = clock.lap();
    buffers = allocate(&plan, &gpus_of_lane)?;
    phases.allocate_s = clock.lap();
    poison_all(&mut buffers, options, &mut clock)?;
    let jobs = of_landings(to_devices(&plan, targets(&plan, &mut buffers), options.chunk_bytes));
    engine.register(gds, &jobs, !gds.allow_compat)?;
    phases.register_s = clock.lap();
    std::thread::scope(|scope| {
        let engine = &engine;
        let _stop = Stop(engine);
        scope.spawn(|| engine.map_ahead());
        transfer(&checkpoint.files, jobs, engine, options.threads, cancel)
    })?;
    for file in &checkpoint.files {
        let handle =
            sys::open_regular(&file.path).with_context(|| format!("open {}", file.path.display()))?;
        file.check_unchanged(&handle)?;
    }
    phases.transfer_s = clock.lap();
    let elapsed_s = clock.total();
    engine.settle(gds.prove(&checkpoint, gpus));
    let taken = engine.outcome();
    drop(engine);
    let report = LoadReport::new(&checkpoint, &plan, options, phases, elapsed_s, taken);
    Ok(Came::Loaded(Box::new((Loaded { checkpoint, plan, buffers }, report))))
}

/// What becomes of a load whose way is settled.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// To another engine.
    Left,
    Refused,
}

/// Who leaves the choice open gets only what is proven. A demand is refused where the way is proven to be none; where nothing
/// is proven it is met, with compatibility mode off, and the report says that it is not proven.
fn verdict(way: &Way, may_fall_back: bool) -> Verdict {
    match (way, may_fall_back) {
        (Way::Nvfs | Way::P2pdma, _) => Verdict::Taken,
        (Way::Compat | Way::Unproven(_), true) => Verdict::Left,
        (Way::Compat, false) => Verdict::Refused,
        (Way::Unproven(_), false) => Verdict::Taken,
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
        let unproven = Way::Unproven("nothing was counted".into());
        for direct in [Way::Nvfs, Way::P2pdma] {
            assert_eq!(
                [true, false].map(|left_open| verdict(&direct, left_open)),
                [Verdict::Taken, Verdict::Taken]
            );
        }
        assert_eq!(
            [true, false].map(|left_open| verdict(&unproven, left_open)),
            [Verdict::Left, Verdict::Taken]
        );
        assert_eq!(
            [true, false].map(|left_open| verdict(&Way::Compat, left_open)),
            [Verdict::Left, Verdict::Refused]
        );
    }
}
