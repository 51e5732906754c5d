//! The link's own ceiling: large copies from pinned host memory, each GPU alone and all at once, with its link watched.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::gpu::Gpu;
use crate::gpu::copies::Stream;
use crate::gpu::memory::{DeviceBuffer, DeviceSlice};
use crate::gpu::pinned::{Pinned, pin};
use crate::node::link_watch::{LinkSeen, LinkWatch};
use crate::node::source::Unread;
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::sys;
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::measure::{ROUNDS_MIN, Rounds, repeat};

/// A batch of copies: long enough that starting and ending it do not count, short enough for a median of many.
const PIECE_BYTES: u64 = 32 << 20;
const PIECES: usize = 8;
const TIMES: usize = 4;
const BATCH_BYTES: u64 = PIECE_BYTES * (PIECES * TIMES) as u64;

/// How, in words.
pub fn how() -> String {
    format!("batches of {} copies of {} MiB", PIECES * TIMES, PIECE_BYTES >> 20)
}

/// Host and device memory of one GPU's copies.
struct Copies {
    pinned: Vec<Pinned>,
    device: DeviceBuffer,
    stream: Stream,
}

impl Copies {
    /// Pins on the node of the GPU: call it on the thread that copies.
    fn new(gpu: &Arc<Gpu>) -> Result<Copies> {
        sys::run_near(gpu.numa_node);
        let pinned = pin(gpu, PIECE_BYTES, PIECES, PIECES)?;
        let device = DeviceBuffer::new(gpu, PIECE_BYTES * PIECES as u64)?;
        Ok(Copies { pinned, device, stream: Stream::new(gpu)? })
    }

    /// One batch; its seconds.
    fn batch(&mut self) -> Result<f64> {
        let mut targets: Vec<DeviceSlice<'_>> = Vec::new();
        let mut rest = self.device.as_mut_slice();
        for _ in 0..PIECES {
            let (piece, after) = rest.split_at(PIECE_BYTES);
            targets.push(piece);
            rest = after;
        }
        let once: Vec<(&DeviceSlice<'_>, &[u8])> =
            targets.iter().zip(self.pinned.iter().map(Pinned::as_slice)).collect();
        let copies = once.repeat(TIMES);
        let started = Instant::now();
        self.stream.copy_all(&copies)?;
        Ok(started.elapsed().as_secs_f64())
    }
}

/// One GPU alone, and what its link was seen to run at meanwhile.
pub fn alone(
    gpu: &QualifiedGpu,
    share: Duration,
    cancel: &Cancel,
) -> Result<(Rounds, Result<LinkSeen, Unread>)> {
    std::thread::scope(|scope| {
        // On a thread of its own: it is bound to the GPU's node.
        let copied = scope.spawn(|| -> Result<_> {
            let mut copies = Copies::new(&gpu.gpu)?;
            // The first wakes the link up.
            copies.batch()?;
            let watch = LinkWatch::start(&gpu.uuid);
            let rounds = repeat(ROUNDS_MIN, share, cancel, || Ok((BATCH_BYTES, copies.batch()?)));
            let ended_early = || Unread::Other("the link's watcher ended early".into());
            let seen = watch.and_then(|watch| watch.stop().ok_or_else(ended_early));
            Ok((rounds?, seen))
        });
        copied.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// All GPUs at once: a round is a batch on each, begun together, and lasts until the slowest is done.
pub fn together(gpus: &[&QualifiedGpu], share: Duration, cancel: &Cancel) -> Result<Rounds> {
    let ready = set_up(gpus)?;
    let mut all: Vec<Copies> = ready;
    repeat(ROUNDS_MIN, share, cancel, || {
        let start = Barrier::new(all.len());
        let elapsed: Vec<Result<f64>> = std::thread::scope(|scope| {
            let run = |(copies, gpu): (_, &&QualifiedGpu)| {
                let (copies, start): (&mut Copies, &Barrier) = (copies, &start);
                let node = gpu.gpu.numa_node;
                scope.spawn(move || {
                    sys::run_near(node);
                    start.wait();
                    copies.batch()
                })
            };
            let handles: Vec<_> = all.iter_mut().zip(gpus).map(run).collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, Result<f64>>| {
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            handles.into_iter().map(join).collect()
        });
        let elapsed = elapsed.into_iter().collect::<Result<Vec<f64>>>()?;
        let slowest = elapsed.iter().copied().fold(0.0, f64::max);
        Ok((BATCH_BYTES * elapsed.len() as u64, slowest))
    })
    .map_err(|error| if cancel.is_set() { anyhow!(Interrupted) } else { error })
}

/// Each GPU's memory, made side by side on threads near it, and its first batch.
fn set_up(gpus: &[&QualifiedGpu]) -> Result<Vec<Copies>> {
    if gpus.is_empty() {
        bail!("there is no GPU to copy to");
    }
    std::thread::scope(|scope| {
        let make = |gpu: &&QualifiedGpu| {
            let gpu = gpu.gpu.clone();
            scope.spawn(move || -> Result<Copies> {
                let mut copies = Copies::new(&gpu)?;
                copies.batch()?;
                Ok(copies)
            })
        };
        let handles: Vec<_> = gpus.iter().map(make).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<Copies>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect()
    })
}
