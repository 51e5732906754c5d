//! Which way the bytes go, by counters: that cuFile works says nothing of how.
//!
//! It is settled in a child process. cuFile's own counters can't be trusted with ours: when they are stopped, a thread
//! of libcufile 1.15 may write to memory that is gone (seen as a crash of about one load in fifty).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cufile::{Driver, DriverOptions, Handle, Library};
use crate::gpu;
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{Gpu, direct};
use crate::os::child;
use crate::os::memory::HostBuffer;
use crate::os::sys;

/// The way that was proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// nvidia-fs: the drive writes to the GPU.
    Nvfs,
    /// The kernel's P2PDMA: the same without nvidia-fs.
    P2pdma,
    /// Through host memory, by cuFile's own reads and copies.
    Compat,
    /// Nothing counted what could be told apart; why.
    Unproven(String),
}

impl Way {
    /// As records name it.
    pub fn name(&self) -> &'static str {
        match self {
            Way::Nvfs => "gds-nvfs",
            Way::P2pdma => "gds-p2pdma",
            Way::Compat => "gds-compat",
            Way::Unproven(_) => "gds-unproven",
        }
    }

    pub fn is_direct(&self) -> bool {
        matches!(self, Way::Nvfs | Way::P2pdma)
    }
}

/// What the child is to read, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// One on each device is enough.
    pub files: Vec<PathBuf>,
    /// By UUID, as seen under the same CUDA_VISIBLE_DEVICES.
    pub gpus: Vec<String>,
    pub allow_compat: Option<bool>,
    pub use_p2pdma: Option<bool>,
}

/// Opening the driver and making a context take a second or two.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks a child, `HELPER prove-gds REQUEST`. Without a helper nothing is proven: the program that has this crate built in
/// may be any, and is never started again.
pub fn ask(helper: Option<&Path>, request: &Request) -> Way {
    let Some(helper) = helper else {
        return Way::Unproven("no helper program was given that could prove it: name sllm-gds's".into());
    };
    let text = serde_json::to_string(request).unwrap_or_default();
    let ended = match child::run_program(helper, &["prove-gds", &text], LIMIT) {
        Ok(ended) => ended,
        Err(error) => return Way::Unproven(format!("the proof did not start: {error}")),
    };
    let answer = ended.text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    answer.unwrap_or_else(|| match (ended.in_time, ended.status) {
        (false, _) => Way::Unproven(format!("the proof took over {} s", LIMIT.as_secs())),
        (true, Some(status)) => Way::Unproven(format!("the proof ended without an answer ({status})")),
        (true, None) => Way::Unproven("the proof ended without an answer".into()),
    })
}

/// The child's part: says the way, as JSON, and ends without stopping anything.
pub fn answer(request: &str, say: impl Fn(&str)) -> Result<()> {
    let request: Request = serde_json::from_str(request).context("read the request")?;
    let way = prove_here(&request).unwrap_or_else(|error| Way::Unproven(format!("{error:#}")));
    say(&serde_json::to_string(&way)?);
    Ok(())
}

fn prove_here(request: &Request) -> Result<Way> {
    let gpus = gpu::open(&request.gpus).map_err(anyhow::Error::msg)?;
    let options = DriverOptions {
        allow_compat: request.allow_compat,
        use_p2pdma: request.use_p2pdma,
        ..DriverOptions::default()
    };
    let driver = Driver::open(&Library::load()?, &options)?;
    let mut handles = Vec::new();
    for path in &request.files {
        let file = sys::open_direct(path).or_else(|_| sys::open_regular(path));
        let at = || format!("register {} with cuFile", path.display());
        handles.push(Handle::register(&driver, file.with_context(at)?).with_context(at)?);
    }
    let way = prove(&driver, &handles.iter().collect::<Vec<_>>(), &gpus);
    // Closing the driver would stop the counters: this process ends with it open.
    std::mem::forget((handles, driver));
    Ok(way)
}

/// Bytes of each file that are read for proof.
const PROBE_BYTES: u64 = 1 << 20;

/// Reads the beginning of each file to each GPU (to host memory where there are none) and looks at what was counted:
/// cuFile's own counters where the version has them, else nvidia-fs's, which can only prove that reads did not go that way.
/// Not for the clock. The counters are left on.
pub fn prove(driver: &Arc<Driver>, files: &[&Handle], gpus: &[Arc<Gpu>]) -> Way {
    let started = driver.stats_start();
    let before = Counters::read(driver, started.is_ok());
    let reads = read_all(files, gpus);
    let after = Counters::read(driver, started.is_ok());
    let why_not = started.err().map(|e| e.to_string());
    match reads {
        Ok(reads) => judge(&before, &after, reads, has_p2pdma(driver.library()), why_not),
        Err(error) => Way::Unproven(format!("a read that was to prove it failed: {error:#}")),
    }
}

/// The first version that reads by P2PDMA.
const P2PDMA_SINCE: u32 = 1130;

/// Whether reads may go by P2PDMA; also where 1.13 can't be asked whether it is turned on.
fn has_p2pdma(library: &Library) -> bool {
    let setting = || {
        let named = |(name, _): &(&str, _)| *name == "properties.use_pci_p2pdma";
        library.configuration().into_iter().find(named)?.1.ok()
    };
    library.version().is_some_and(|version| version >= P2PDMA_SINCE) && setting().as_deref() != Some("false")
}

/// Says how many reads there were.
fn read_all(files: &[&Handle], gpus: &[Arc<Gpu>]) -> Result<u64> {
    let mut reads = 0;
    for handle in files {
        let bytes = handle.file().metadata()?.len().min(PROBE_BYTES);
        if bytes == 0 {
            continue;
        }
        if gpus.is_empty() {
            let mut room = HostBuffer::new(bytes)?;
            handle.read_host(&mut room.as_mut_slice()[..bytes as usize], 0)?;
            reads += 1;
        }
        for gpu in gpus {
            gpu.make_current()?;
            let mut room = DeviceBuffer::new(gpu, bytes)?;
            direct::read(handle, &room.as_mut_slice(), 0, bytes, 0, None)?;
            reads += 1;
        }
    }
    Ok(reads)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    /// Of cuFile, over all GPUs; `None` where this version has none.
    cufile: Option<Ways>,
    /// Of nvidia-fs, over all processes.
    nvidia_fs_reads: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ways {
    nvfs: u64,
    p2p: u64,
    posix: u64,
}

impl Counters {
    fn read(driver: &Driver, with_cufile: bool) -> Counters {
        let counts = with_cufile.then(|| driver.stats_reads_by_gpu().ok()).flatten();
        let cufile = counts.map(|stats| {
            let sum = stats.sum();
            Ways { nvfs: sum.nvfs, p2p: sum.p2p, posix: sum.posix }
        });
        let text = std::fs::read_to_string("/proc/driver/nvidia-fs/stats").ok();
        Counters { cufile, nvidia_fs_reads: text.as_deref().and_then(nvidia_fs_reads) }
    }
}

/// `n` of the line `Reads : n=12 ok=12 err=0 …`; none where nvidia-fs does not count, and says so.
fn nvidia_fs_reads(text: &str) -> Option<u64> {
    let disabled = |line: &str| line.contains("IO stats") && line.contains("Disabled");
    if text.lines().any(disabled) {
        return None;
    }
    let line = text.lines().find(|line| line.trim_start().starts_with("Reads"))?;
    let (_, rest) = line.split_once("n=")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// One way only counts when it took every read: a mixture is the slower of both. `p2pdma`: whether there is that way, too.
fn judge(
    before: &Counters,
    after: &Counters,
    reads: u64,
    p2pdma: bool,
    why_no_counters: Option<String>,
) -> Way {
    if reads == 0 {
        return Way::Unproven("there was nothing to read".into());
    }
    if let (Some(before), Some(after)) = (before.cufile, after.cufile) {
        let (nvfs, p2p) = (after.nvfs.saturating_sub(before.nvfs), after.p2p.saturating_sub(before.p2p));
        let posix = after.posix.saturating_sub(before.posix);
        return match (nvfs, p2p, posix) {
            (_, _, posix) if posix > 0 => Way::Compat,
            (0, p2p, _) if p2p >= reads => Way::P2pdma,
            (nvfs, 0, _) if nvfs >= reads => Way::Nvfs,
            _ => Way::Unproven(format!(
                "of {reads} reads cuFile counted {nvfs} by nvidia-fs and {p2p} by P2PDMA"
            )),
        };
    }
    let why_not = why_no_counters.unwrap_or_else(|| "its counters could not be read".into());
    match (before.nvidia_fs_reads, after.nvidia_fs_reads) {
        (Some(before), Some(after)) => judge_by_machine(before, after, reads, p2pdma, &why_not),
        _ => Way::Unproven(format!(
            "neither cuFile ({why_not}) nor nvidia-fs counts reads here (where nvidia-fs is loaded: echo 1 >/sys/module/nvidia_fs/parameters/rw_stats_enabled, as root)"
        )),
    }
}

/// By nvidia-fs's counts, which are of all processes: fewer than ours prove that ours did not all go that way; as many
/// prove nothing, since others may have made them.
fn judge_by_machine(before: u64, after: u64, reads: u64, p2pdma: bool, why_not: &str) -> Way {
    let Some(counted) = after.checked_sub(before) else {
        return Way::Unproven("nvidia-fs's counters were set back while its reads were counted".into());
    };
    match (counted >= reads, p2pdma) {
        (true, _) => Way::Unproven(format!(
            "{counted} reads were counted while {reads} were made, but by nvidia-fs, of all processes, and others may have made \
             them; cuFile's own counters, which tell, come with libcufile 1.15 ({why_not})"
        )),
        (false, true) => Way::Unproven(format!(
            "of {reads} reads nvidia-fs counted {counted}; whether the others went by P2PDMA or through host memory is told by \
             cuFile's own counters, which come with libcufile 1.15 ({why_not})"
        )),
        (false, false) => Way::Compat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(cufile: Option<(u64, u64, u64)>, nvidia_fs_reads: Option<u64>) -> Counters {
        Counters { cufile: cufile.map(|(nvfs, p2p, posix)| Ways { nvfs, p2p, posix }), nvidia_fs_reads }
    }

    #[test]
    fn a_way_is_claimed_only_when_it_took_every_read() {
        let judged = |after: (u64, u64, u64)| {
            judge(&counters(Some((5, 5, 5)), None), &counters(Some(after), None), 2, true, None)
        };
        // One of two reads was counted: no proof of the other.
        assert!(matches!(judged((6, 5, 5)), Way::Unproven(_)));
        assert!(matches!(judged((5, 6, 5)), Way::Unproven(_)));
        assert_eq!(judged((7, 5, 5)), Way::Nvfs);
        assert_eq!(judged((5, 7, 5)), Way::P2pdma);
        assert_eq!(judged((5, 5, 7)), Way::Compat);
        assert_eq!(judged((6, 5, 6)), Way::Compat);
        assert!(matches!(judged((6, 6, 5)), Way::Unproven(_)));
        assert!(matches!(judged((5, 5, 5)), Way::Unproven(_)));
    }

    #[test]
    fn counts_of_all_processes_prove_only_that_reads_went_another_way() {
        let judged = |before, after, p2pdma| {
            judge(&counters(None, before), &counters(None, after), 3, p2pdma, Some("too old".into()))
        };
        let unproven = |way: Way, tells: &str| match way {
            Way::Unproven(why) => assert!(why.contains(tells), "{why}"),
            proven => panic!("{proven:?}"),
        };
        for p2pdma in [false, true] {
            // Others may have made them: all three, or more.
            unproven(judged(Some(10), Some(13), p2pdma), "3 reads were counted while 3 were made");
            unproven(judged(Some(10), Some(99), p2pdma), "others may have made them");
            unproven(judged(Some(10), Some(9), p2pdma), "set back");
            unproven(judged(None, None, p2pdma), "neither cuFile (too old) nor nvidia-fs");
            unproven(judged(Some(10), None, p2pdma), "neither");
        }
        // Not all of ours were among them, and there is no third way.
        assert_eq!(judged(Some(10), Some(12), false), Way::Compat);
        assert_eq!(judged(Some(10), Some(10), false), Way::Compat);
        unproven(judged(Some(10), Some(10), true), "of 3 reads nvidia-fs counted 0");
    }

    #[test]
    fn nvidia_fs_counts_are_read_where_they_are_on() {
        let text = "GDS Version: 1.13.0.11\nNVFS statistics(ver: 4.0)\nActive Shadow-Buffer (MiB): 0\n\
                    Reads                         : n=1204 ok=1200 err=4 readMiB=19 io_state_err=0\nWrites : n=3 ok=3";
        assert_eq!(nvidia_fs_reads(text), Some(1204));
        assert_eq!(nvidia_fs_reads("Writes : n=3"), None);
        let off = text.replace("Active Shadow", "IO stats: Disabled, peer IO stats: Disabled\nActive Shadow");
        assert_eq!(nvidia_fs_reads(&off), None);
    }
}
