//! What slices cost: a checkpoint loaded to a GPU whole, and one rank's share of it along each axis, in turns.
//!
//!     cargo run --release --no-default-features --example slices -- DIR [RANKS] [TURNS] [whole] [pool]
//!
//! Prints one JSON line a load: what was loaded, bytes read and delivered, seconds that opening the checkpoint took, seconds
//! from the load's call to its return, and GB/s of what was read. With `whole` there are no slices; with
//! `pool` loads go through a pool of 24 GB.

use std::error::Error;
use std::time::Instant;

use sllm_gds::{Checkpoint, Loader, Request, Select, To};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let dir = words.next().ok_or("name a directory: slices DIR [RANKS] [TURNS]")?;
    let ranks: u64 = words.next().map_or(Ok(2), |word| word.parse())?;
    let turns: usize = words.next().map_or(Ok(5), |word| word.parse())?;
    let more: Vec<String> = words.collect();
    let builder = match more.iter().any(|word| word == "pool") {
        true => Loader::builder().pool_bytes(24 << 30).prefault(true),
        false => Loader::builder(),
    };
    let loader = builder.build()?;
    let whole = more.iter().any(|word| word == "whole");
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&dir)?;
    let open_s = started.elapsed().as_secs_f64();
    let along = |axis: usize| {
        let even = move |_: &str, shape: &[u64]| {
            shape.get(axis).is_some_and(|extent| extent.is_multiple_of(ranks)).then_some(axis)
        };
        Select::rank(&checkpoint, 0, ranks, even)
    };
    let mut selections = vec![("whole", Select::All)];
    if !whole {
        selections.extend([("axis 0", along(0)?), ("axis 1", along(1)?)]);
    }
    for _ in 0..turns {
        for (what, select) in &selections {
            let started = Instant::now();
            let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).select(select.clone()))?;
            let elapsed_s = started.elapsed().as_secs_f64();
            let report = model.report();
            let gb_per_s = report.read_bytes as f64 / elapsed_s / 1e9;
            println!(
                "{{\"what\": \"{what}\", \"read_bytes\": {}, \"bytes\": {}, \"open_s\": {open_s:.4}, \"elapsed_s\": {:.6}, \"read_gb_per_s\": {gb_per_s:.2}, \"path\": \"{}\"}}",
                report.read_bytes, report.bytes, elapsed_s, report.path
            );
        }
    }
    Ok(())
}
