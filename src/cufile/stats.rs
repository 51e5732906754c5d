//! cuFile's own counters: the proof of which way the bytes went.

use std::mem::offset_of;

use crate::cufile::checked::STATS_FILL;
use crate::cufile::driver::Driver;
use crate::cufile::error::{CufileError, What};
use crate::cufile::raw;

/// Reads by the way they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathCounts {
    pub bytes: u64,
    pub total: u64,
    /// Straight from the drive, through the kernel's PCI P2PDMA.
    pub p2p: u64,
    /// Straight from the drive, through nvidia-fs.
    pub nvfs: u64,
    /// Compatibility mode: read into host memory, then copied.
    pub posix: u64,
    /// Through another GPU.
    pub routed: u64,
    /// Not aligned, so that a bounce buffer was used.
    pub unaligned: u64,
    pub errors: u64,
}

/// Reads into one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuReads {
    /// As `nvidia-smi -L` prints it, without dashes.
    pub uuid: [u8; 16],
    pub counts: PathCounts,
}

/// The process's reads since the counters were started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Calls that succeeded and that failed, into any memory.
    pub reads_ok: u64,
    pub reads_failed: u64,
    pub gpus: Vec<GpuReads>,
}

impl ReadStats {
    /// All GPUs together.
    pub fn sum(&self) -> PathCounts {
        self.gpus.iter().fold(PathCounts::default(), |sum, GpuReads { counts, .. }| PathCounts {
            bytes: sum.bytes.saturating_add(counts.bytes),
            total: sum.total.saturating_add(counts.total),
            p2p: sum.p2p.saturating_add(counts.p2p),
            nvfs: sum.nvfs.saturating_add(counts.nvfs),
            posix: sum.posix.saturating_add(counts.posix),
            routed: sum.routed.saturating_add(counts.routed),
            unaligned: sum.unaligned.saturating_add(counts.unaligned),
            errors: sum.errors.saturating_add(counts.errors),
        })
    }
}

impl Driver {
    /// Sets the counters to 0 and starts them. They cost a little, so not in a timed pass. Wants 1.15.
    pub fn stats_start(&self) -> Result<(), CufileError> {
        let calls = &self.library().calls;
        let started =
            calls.stats_level(3).and_then(|()| calls.stats_start()).and_then(|()| calls.stats_reset());
        started.map_err(|error| self.explain(error))
    }

    /// The reads since the start, for each GPU. An error where the library is older than 1.15, or so much later
    /// that its counters lie elsewhere: then nothing can be claimed.
    pub fn stats_reads_by_gpu(&self) -> Result<ReadStats, CufileError> {
        let bytes = self.library().calls.stats().map_err(|error| self.explain(error))?;
        read_stats(&bytes).ok_or_else(|| {
            let cause = format!(
                "libcufile {} lays its counters out in a way this program does not know",
                self.library().version_text()
            );
            CufileError::other(
                "cuFileGetStatsL3",
                What::Refused,
                cause,
                "use nvidia-fs's counters in /proc/driver/nvidia-fs/stats",
            )
        })
    }

    /// Stops the counters, which keep their values.
    pub fn stats_stop(&self) -> Result<(), CufileError> {
        self.library().calls.stats_stop().map_err(|error| self.explain(error))
    }
}

/// Where a version keeps the number of GPUs, and the first one's counters.
const LAYOUTS: [(usize, usize); 2] = [
    (offset_of!(raw::CUfileStatsLevel3_t, num_gpus), offset_of!(raw::CUfileStatsLevel3_t, per_gpu_stats)),
    (
        offset_of!(raw::CUfileStatsLevel3_v1190_t, num_gpus),
        offset_of!(raw::CUfileStatsLevel3_v1190_t, per_gpu_stats),
    ),
];
const MAX_GPUS: usize = 16;

/// Reads the counters of whichever known layout ends where the library stopped writing. The version is no help
/// with libraries later than this program; this is.
fn read_stats(bytes: &[u8]) -> Option<ReadStats> {
    let written = bytes.iter().rposition(|&byte| byte != STATS_FILL)? + 1;
    LAYOUTS.iter().find_map(|&layout| read_layout(bytes, layout, written))
}

fn read_layout(bytes: &[u8], (count_at, gpus_at): (usize, usize), written: usize) -> Option<ReadStats> {
    let gpu_bytes = size_of::<raw::CUfilePerGpuStats_t>();
    let gpus = u32::from_ne_bytes(bytes.get(count_at..count_at + 4)?.try_into().ok()?);
    let gpus = usize::try_from(gpus).ok().filter(|&gpus| gpus <= MAX_GPUS)?;
    let end = gpus_at + gpus * gpu_bytes;
    let ends = [end, gpus_at + MAX_GPUS * gpu_bytes, if gpus == 0 { count_at + 4 } else { end }];
    if !ends.contains(&written) {
        return None;
    }
    let gpus = (0..gpus).map(|gpu| read_gpu(bytes.get(gpus_at + gpu * gpu_bytes..)?));
    Some(ReadStats {
        reads_ok: word(bytes, 0)?,
        reads_failed: word(bytes, 8)?,
        gpus: gpus.collect::<Option<_>>()?,
    })
}

fn read_gpu(bytes: &[u8]) -> Option<GpuReads> {
    macro_rules! counter {
        ($name:ident) => {
            word(bytes, offset_of!(raw::CUfilePerGpuStats_t, $name))?
        };
    }
    let counts = PathCounts {
        bytes: counter!(read_bytes),
        total: counter!(n_total_reads),
        p2p: counter!(n_p2p_reads),
        nvfs: counter!(n_nvfs_reads),
        posix: counter!(n_posix_reads),
        routed: counter!(n_dr_reads),
        unaligned: counter!(n_unaligned_reads),
        errors: counter!(n_reads_err),
    };
    Some(GpuReads { uuid: bytes.get(..16)?.try_into().ok()?, counts })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cufile::checked::STATS_BYTES;

    /// Counters as a library of one layout writes them: each word its index.
    fn written((count_at, gpus_at): (usize, usize), gpus: u32, end: usize) -> Vec<u8> {
        let mut bytes = vec![STATS_FILL; STATS_BYTES];
        for at in (0..end).step_by(8) {
            let rest = (end - at).min(8);
            bytes[at..at + rest].copy_from_slice(&(at as u64 / 8).to_ne_bytes()[..rest]);
        }
        bytes[count_at..count_at + 4].copy_from_slice(&gpus.to_ne_bytes());
        if end > count_at + 4 && gpus == 0 {
            bytes[gpus_at..end].fill(0);
        }
        bytes
    }

    #[test]
    fn both_layouts_are_told_apart_by_where_they_end() {
        for (layout, gpu_word) in LAYOUTS.into_iter().zip([129, 143]) {
            let (count_at, gpus_at) = layout;
            assert_eq!(gpus_at / 8, gpu_word as usize);
            for (gpus, end) in [
                (0, count_at + 4),
                (0, gpus_at + 16 * 248),
                (1, gpus_at + 248),
                (8, gpus_at + 8 * 248),
                (2, gpus_at + 16 * 248),
            ] {
                let stats = read_stats(&written(layout, gpus, end)).unwrap();
                assert_eq!((stats.reads_ok, stats.reads_failed), (0, 1));
                assert_eq!(stats.gpus.len(), gpus as usize);
                let first =
                    stats.gpus.first().map(|gpu| (gpu.counts.bytes, gpu.counts.p2p, gpu.counts.posix));
                // uuid is 2 words, then bytes, 4 more, p2p, nvfs, posix.
                assert!(
                    first.is_none_or(|first| first == (gpu_word + 2, gpu_word + 7, gpu_word + 9)),
                    "{first:?}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_layout_claims_nothing() {
        let grown = (LAYOUTS[1].0 + 112, LAYOUTS[1].1 + 112);
        for gpus in [0, 1, 8, 16] {
            for end in [grown.0 + 4, grown.1 + gpus as usize * 248, grown.1 + 16 * 248] {
                if gpus == 0 || end > grown.1 {
                    assert_eq!(read_stats(&written(grown, gpus, end)), None, "{gpus} {end}");
                }
            }
        }
        assert_eq!(read_stats(&[STATS_FILL; STATS_BYTES]), None);
        assert_eq!(read_stats(&[]), None);
    }
}
