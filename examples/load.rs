//! Loads a checkpoint and prints a tensor: `cargo run --release --example load -- DIRECTORY [GPU]`. Without a GPU it goes
//! to host memory.

use sllm_gds::{Checkpoint, Loader, Request, To};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let directory = words.next().ok_or("usage: load DIRECTORY [GPU]")?;
    let to = words.next().map_or(To::Host, To::Gpu);

    let loader = Loader::builder().build()?;
    let checkpoint = Checkpoint::open(&directory)?;
    let model = loader.load(&checkpoint, &Request::to(to).verify(true))?;

    let report = model.report();
    println!(
        "{} tensors, {} bytes in {:.3} s by {}",
        model.len(),
        report.bytes,
        report.elapsed_s,
        report.path
    );
    if let Some(name) = model.names().next() {
        let weight = model.get(name)?;
        println!(
            "{name}: {:?} {:?} on {:?} at {:#x}",
            weight.dtype, weight.shape, weight.device, weight.address
        );
    }
    Ok(())
}
