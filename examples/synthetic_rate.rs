//! How fast synthetic values are made, in GB/s: one thread, then one a core.
//!
//! `cargo run --release --no-default-features --example synthetic_rate`

use std::time::Instant;

use sllm_gds::checkpoint::{DType, TensorSpec};
use sllm_gds::origin::synthetic::{Model, Values};

/// What each thread makes, again and again into the same buffer, as a writer would.
const CHUNK_BYTES: usize = 16 << 20;
const CHUNKS: u64 = 128;

fn main() -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    println!("dtype threads GB/s");
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let shape = vec![CHUNKS * CHUNK_BYTES as u64 / 8, 8];
        let tensor = TensorSpec { name: "rate.weight".into(), dtype, shape };
        let model = Model { id: "rate".into(), tensors: vec![tensor], config_json: String::new() };
        let values = Values::new(0, &model);
        for threads in [1, cores] {
            println!("{} {threads} {:.2}", dtype.safetensors_name(), rate(&values, threads));
        }
    }
    Ok(())
}

/// GB/s of all threads together, each with its own chunks of the tensor.
fn rate(values: &Values, threads: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            scope.spawn(move || {
                let mut buffer = vec![0u8; CHUNK_BYTES];
                for chunk in (0..CHUNKS).map(|c| c + thread * CHUNKS) {
                    values.fill(0, chunk * CHUNK_BYTES as u64, std::hint::black_box(&mut buffer));
                }
            });
        }
    });
    (threads as u64 * CHUNKS * CHUNK_BYTES as u64) as f64 / start.elapsed().as_secs_f64() / 1e9
}
