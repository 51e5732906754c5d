//! Where the bytes of ranges land, whatever the plan, and however long the ranges are.

use std::sync::Arc;

use proptest::prelude::*;
use sllm_gds::load::landings::landings;
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::pool::Ranges;

use crate::world::{MODEL_BYTES, World};

#[test]
fn every_tensor_of_every_plan_lands_whole() {
    let world = World::new();
    let one = (0..MODEL_BYTES.len(), 1usize..5, 1u64..9, prop::collection::vec(0usize..6, 1..7));
    proptest!(|((m, destinations, pages, tensors) in one)| {
        let mut checkpoint = world.open(m);
        Arc::make_mut(&mut checkpoint.tensors).retain(|tensor| tensors.iter().any(|i| tensor.name == format!("layers.{i}.w")));
        let plan = Plan::new(&checkpoint, destinations.min(checkpoint.tensors.len()), Spacing::Aligned).unwrap();
        let ranges = Ranges::new(checkpoint.files.iter().map(|file| file.bytes), pages * 4096);
        let files: Vec<Vec<u8>> = checkpoint.files.iter().map(|file| std::fs::read(&file.path).unwrap()).collect();
        let mut memory: Vec<Vec<Option<u8>>> =
            plan.destination_bytes.iter().map(|bytes| vec![None; *bytes as usize]).collect();
        for (range, pieces) in landings(&plan, &ranges) {
            let spot = ranges.spot(range);
            let bytes = &files[spot.file][spot.offset as usize..][..spot.bytes as usize];
            prop_assert!(!pieces.is_empty());
            for run in pieces.iter().flat_map(|piece| piece.runs()) {
                for at in 0..run.bytes {
                    let place = &mut memory[run.destination][(run.to + at) as usize];
                    prop_assert_eq!(place.replace(bytes[(run.from + at) as usize]), None, "written twice");
                }
            }
        }
        for (tensor, place) in checkpoint.tensors.iter().zip(&plan.places) {
            let made = world.tensors(m);
            let wanted = made.iter().find(|made| made.name == tensor.name).unwrap();
            let found = &memory[place.destination][place.offset as usize..][..tensor.bytes as usize];
            prop_assert!(found.iter().copied().eq(wanted.bytes.iter().copied().map(Some)), "{} is wrong", tensor.name);
        }
    });
}
