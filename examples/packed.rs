//! What packing brings, and how fast one core does it, in memory: `cargo run --release --example packed -- DIR…`.
//!
//! Takes checkpoints of any layout and prints a line of JSON for each: bytes, ratio, by type, and the rates of one core
//! in GB/s of unpacked bytes, the best of three turns. Every window is held against what it was.

use std::collections::BTreeMap;
use std::time::Instant;

use sllm_gds::Checkpoint;
use sllm_gds::checkpoint::packed::{Chunk, Decoder, Encoder, Form, Span, WINDOW_BYTES};
use sllm_gds::checkpoint::reader::{TensorReader, TensorSource};

const TURNS: usize = 3;

struct Window {
    dtype: &'static str,
    form: Form,
    bytes: Vec<u8>,
}

/// The first windows of a checkpoint's tensors, a gigabyte at most: whole multiples of 16 bytes.
fn windows(checkpoint: Checkpoint) -> Result<Vec<Window>, Box<dyn std::error::Error>> {
    let reader = TensorReader::new(checkpoint)?;
    let (mut windows, mut total, mut last) = (Vec::new(), 0, None);
    for (i, tensor) in reader.checkpoint.tensors().iter().enumerate() {
        // Tied tensors are packed once.
        if last.replace(tensor.offset) == Some(tensor.offset) && tensor.bytes > 0 {
            continue;
        }
        for start in (0..tensor.bytes & !15).step_by(WINDOW_BYTES as usize) {
            let mut bytes = vec![0; WINDOW_BYTES.min((tensor.bytes & !15) - start) as usize];
            reader.fill(i, start, &mut bytes)?;
            total += bytes.len();
            let (dtype, form) = (tensor.dtype.safetensors_name(), Form::of(tensor.dtype));
            windows.push(Window { dtype, form, bytes });
        }
        if total > 1 << 30 {
            break;
        }
    }
    Ok(windows)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for dir in std::env::args().skip(1) {
        let windows = windows(Checkpoint::open(&dir)?)?;
        let total: usize = windows.iter().map(|window| window.bytes.len()).sum();
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut chunks: Vec<Vec<u8>> = vec![Vec::new(); windows.len()];
        let mut out = vec![0; WINDOW_BYTES as usize];
        let (mut encode_s, mut decode_s) = (f64::MAX, f64::MAX);
        for _ in 0..TURNS {
            let started = Instant::now();
            for (window, chunk) in windows.iter().zip(&mut chunks) {
                let spans = [Span { range: 0..window.bytes.len(), form: window.form }];
                chunk.clear();
                chunk.extend_from_slice(encoder.encode(&window.bytes, 0, &spans).chunk);
            }
            encode_s = encode_s.min(started.elapsed().as_secs_f64());
            let mut turn_s = 0.0;
            for (window, chunk) in windows.iter().zip(&chunks) {
                let out = &mut out[..window.bytes.len()];
                let started = Instant::now();
                decoder.decode(&Chunk::parse(chunk, 0, out.len() as u64)?, 0, out)?;
                turn_s += started.elapsed().as_secs_f64();
                assert!(out == window.bytes, "a window came back otherwise");
            }
            decode_s = decode_s.min(turn_s);
        }
        let mut types: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (window, chunk) in windows.iter().zip(&chunks) {
            let (bytes, packed) = types.entry(window.dtype).or_default();
            (*bytes, *packed) = (*bytes + window.bytes.len(), *packed + chunk.len());
        }
        let packed: usize = chunks.iter().map(Vec::len).sum();
        let ratio = |packed: usize, bytes: usize| packed as f64 / bytes.max(1) as f64;
        let types: BTreeMap<&str, f64> = types.into_iter().map(|(t, (b, p))| (t, ratio(p, b))).collect();
        let line = serde_json::json!({
            "checkpoint": dir, "bytes": total, "ratio": ratio(packed, total), "types": types,
            "encode_gb_per_s": total as f64 / encode_s / 1e9, "decode_gb_per_s": total as f64 / decode_s / 1e9,
        });
        println!("{line}");
    }
    Ok(())
}
