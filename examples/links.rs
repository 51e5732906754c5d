//! What several links bring: one checkpoint into one GPU and into two, from the pool and from the page cache, over one link and
//! over all, in turns with plain pinned copies.
//!
//!     cargo run --release --no-default-features --example links -- DIR [turns=5] [pool=24] [threads=] [chunk=] [copy=] [ring=]
//!
//! `pool` is in GB (0 leaves it out), `chunk`, `copy` and `ring` in MiB. Prints one JSON line a load or copy: what it was, its
//! turn, bytes delivered (to each GPU, of a replicated load), seconds of the transfer and of all, and what each link carried. The
//! first turn, which warms up, has the number 0; each kind of load is verified in it.

use std::error::Error;
use std::time::Instant;

use sllm_gds::gpu::copies::Stream;
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::gpu::pinned::{Pinned, pin};
use sllm_gds::{Checkpoint, Links, Loader, Model, Request, To, gpu};

type Anything<T> = Result<T, Box<dyn Error>>;

const COPY_BYTES: u64 = 16 << 20;
const COPIES: usize = 256;

fn main() -> Anything<()> {
    let mut words = std::env::args().skip(1);
    let dir = words.next().ok_or("name a directory: links DIR [turns=5] [pool=24] …")?;
    let settings: Vec<(String, u64)> = words
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_string(), value.parse()?)),
            None => Err(format!("'{word}' is no setting: name=value").into()),
        })
        .collect::<Anything<_>>()?;
    let setting = |name: &str| settings.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let turns = setting("turns").unwrap_or(5);
    let builder = || {
        let mut builder = Loader::builder();
        if let Some(threads) = setting("threads") {
            builder = builder.threads(threads as usize);
        }
        if let Some(mib) = setting("chunk") {
            builder = builder.chunk_bytes(mib << 20);
        }
        if let Some(mib) = setting("copy") {
            builder = builder.copy_bytes(mib << 20);
        }
        if let Some(mib) = setting("ring") {
            builder = builder.ring_bytes(mib << 20);
        }
        builder
    };
    let mut loaders = vec![("page cache", builder().build()?)];
    let pool_gb = setting("pool").unwrap_or(24);
    if pool_gb > 0 {
        loaders.push(("pool", builder().pool_bytes(pool_gb * 1_000_000_000).prefault(true).build()?));
    }
    let checkpoint = Checkpoint::open(&dir)?;
    let two = || vec!["0".to_string(), "1".to_string()];
    let has_two = gpu::count().is_ok_and(|count| count > 1);
    let mut cases = vec![("one GPU", "own", To::gpu(0), Links::Own)];
    if has_two {
        cases.extend([
            ("one GPU", "all", To::gpu(0), Links::All),
            ("balanced", "own", To::Balanced(two()), Links::Own),
            ("balanced", "auto", To::Balanced(two()), Links::Auto),
            ("replicate", "own", To::Replicate(two()), Links::Own),
            ("replicate", "auto", To::Replicate(two()), Links::Auto),
        ]);
    }
    let mut ceiling = Ceiling::new()?;
    for turn in 0..=turns {
        println!("{{\"what\": \"pinned copy\", \"turn\": {turn}, \"gb_per_s\": {:.3}}}", ceiling.gb_per_s()?);
        for (source, loader) in &loaders {
            for (what, links, to, over) in &cases {
                let request = Request::to(to.clone()).links(over.clone()).verify(turn == 0);
                let started = Instant::now();
                let model = loader.load(&checkpoint, &request)?;
                let call_s = started.elapsed().as_secs_f64();
                print(source, what, links, turn, call_s, &model)?;
            }
        }
    }
    Ok(())
}

fn print(source: &str, what: &str, links: &str, turn: u64, call_s: f64, model: &Model) -> Anything<()> {
    let report = model.report();
    let line = serde_json::json!({
        "what": what, "source": source, "links": links, "turn": turn, "bytes": report.bytes, "call_s": call_s,
        "elapsed_s": report.elapsed_s, "transfer_s": report.phases.transfer_s, "path": report.path,
        "threads": report.threads, "chunk_bytes": report.chunk_bytes, "copy_bytes": report.copy_bytes,
        "staging_bytes": report.staging_bytes, "carried": report.links, "phases": report.phases,
    });
    println!("{line}");
    Ok(())
}

/// Long copies from pinned memory to the first GPU, with nothing else going on: no byte of either side twice, as in a load.
struct Ceiling {
    pinned: Vec<Pinned>,
    device: DeviceBuffer,
    stream: Stream,
}

impl Ceiling {
    fn new() -> Anything<Ceiling> {
        let gpu = gpu::open(&["0".into()])?.remove(0);
        let pinned = pin(&gpu, COPY_BYTES, COPIES, 8)?;
        let device = DeviceBuffer::new(&gpu, COPY_BYTES * COPIES as u64)?;
        Ok(Ceiling { pinned, device, stream: Stream::new(&gpu)? })
    }

    fn gb_per_s(&mut self) -> Anything<f64> {
        let target = self.device.as_mut_slice();
        let targets: Vec<_> = (0..COPIES as u64).map(|i| target.part(i * COPY_BYTES, COPY_BYTES)).collect();
        let copies: Vec<_> = targets.iter().zip(self.pinned.iter().map(Pinned::as_slice)).collect();
        // The first wakes the link up.
        self.stream.copy_all(&copies)?;
        let started = Instant::now();
        self.stream.copy_all(&copies)?;
        Ok((COPIES as u64 * COPY_BYTES) as f64 / started.elapsed().as_secs_f64() / 1e9)
    }
}
