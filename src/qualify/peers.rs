//! The rate from one GPU's memory to another's.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::gpu::copies::Stream;
use crate::gpu::memory::{DeviceBuffer, DeviceSlice};
use crate::gpu::peers;
use crate::node::gpu_links::GpuPair;
use crate::os::cancel::Cancel;
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::measure::{ROUNDS_MIN, Rounds, repeat};

const PIECE_BYTES: u64 = 256 << 20;
const TIMES: u64 = 4;

/// Copies batch by batch, by peer access where that is possible, and says how. Peer access stays on for the rest of the
/// process, which is why only what measures or needs it asks for it.
pub fn copies(
    from: &QualifiedGpu,
    to: &QualifiedGpu,
    told: Option<&GpuPair>,
    share: Duration,
    cancel: &Cancel,
) -> Result<(Rounds, String)> {
    // In both directions: the driver may copy from either side.
    let access = peers::open(&from.gpu, &to.gpu).and_then(|()| peers::open(&to.gpu, &from.gpu));
    let mut source = DeviceBuffer::new(&from.gpu, PIECE_BYTES)?;
    let mut target = DeviceBuffer::new(&to.gpu, PIECE_BYTES)?;
    let stream = Stream::new(&from.gpu)?;
    let (source, target) = (source.as_mut_slice(), target.as_mut_slice());
    // The first wakes the links up.
    batch(&stream, &source, &target)?;
    let round = || Ok((PIECE_BYTES * TIMES, batch(&stream, &source, &target)?));
    let rounds = repeat(ROUNDS_MIN, share, cancel, round)?;
    let way = match (access, told.map_or("?".into(), GpuPair::short)) {
        (Ok(()), short) => format!("peer access ({short})"),
        (Err(why), _) => format!("no peer access, so by way of host memory: {why}"),
    };
    Ok((rounds, format!("batches of {TIMES} copies of {} MiB, {way}", PIECE_BYTES >> 20)))
}

/// Seconds of one batch.
fn batch(stream: &Stream, source: &DeviceSlice<'_>, target: &DeviceSlice<'_>) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..TIMES {
        stream.copy_between(source, target)?;
    }
    stream.synchronize()?;
    Ok(started.elapsed().as_secs_f64())
}
