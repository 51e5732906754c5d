//! The two ways that bytes can go from a drive to a GPU without host memory, and what each was found to need.

use serde::Serialize;

use crate::load::gds::ways::reason::Reason;

/// nvidia-fs hooks the storage driver; P2PDMA is the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    NvidiaFs,
    P2pdma,
}

impl Way {
    pub const ALL: [Way; 2] = [Way::NvidiaFs, Way::P2pdma];

    pub fn name(self) -> &'static str {
        match self {
            Way::NvidiaFs => "nvidia-fs",
            Way::P2pdma => "P2PDMA",
        }
    }
}

/// Which way needs a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Both,
    Only(Way),
    /// GDS works without; speed or health may not.
    Neither,
}

impl Need {
    pub fn of(self, way: Way) -> bool {
        self == Need::Both || self == Need::Only(way)
    }
}

/// What GDS needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Requirement {
    NvidiaDriver,
    /// The open kernel module.
    OpenModule,
    /// GPUs for data centers or workstations.
    Gpu,
    ProcModules,
    /// nvidia-fs is loaded.
    NvidiaFs,
    NvidiaFsDevice,
    /// nvidia-fs has hooked the storage driver.
    NvidiaFsStorage,
    P2pdmaKernel,
    P2pdmaDriver,
    P2pdmaGpuMemory,
    P2pdmaMultipath,
    P2pdmaCufile,
    FileSystem,
    Journal,
    /// Not mounted with dax.
    NoDax,
    BlockDevice,
    UdevEntry,
    UdevRaid,
    Direct,
    CufileLibrary,
    CufileDriver,
    CufileConfiguration,
    /// Not told to use compatibility mode only.
    NoForcedCompat,
}

impl Requirement {
    /// Stable and lower case, for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Requirement::NvidiaDriver => "nvidia.driver",
            Requirement::OpenModule => "nvidia.open-module",
            Requirement::Gpu => "nvidia.gpu",
            Requirement::ProcModules => "proc.modules",
            Requirement::NvidiaFs => "nvidia-fs.loaded",
            Requirement::NvidiaFsDevice => "nvidia-fs.device",
            Requirement::NvidiaFsStorage => "nvidia-fs.storage",
            Requirement::P2pdmaKernel => "p2pdma.kernel",
            Requirement::P2pdmaDriver => "p2pdma.driver",
            Requirement::P2pdmaGpuMemory => "p2pdma.gpu-memory",
            Requirement::P2pdmaMultipath => "p2pdma.multipath",
            Requirement::P2pdmaCufile => "p2pdma.cufile",
            Requirement::FileSystem => "fs.type",
            Requirement::Journal => "fs.journal",
            Requirement::NoDax => "fs.dax",
            Requirement::BlockDevice => "storage.device",
            Requirement::UdevEntry => "udev.entry",
            Requirement::UdevRaid => "udev.raid",
            Requirement::Direct => "direct.read",
            Requirement::CufileLibrary => "cufile.library",
            Requirement::CufileDriver => "cufile.driver-open",
            Requirement::CufileConfiguration => "cufile.config",
            Requirement::NoForcedCompat => "cufile.force-compat",
        }
    }
}

/// Whether a requirement is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Met,
    /// Met, as far as is known; it may turn out otherwise.
    Doubtful(Reason),
    Unmet(Reason),
    /// What it takes to tell was not there, or not for us to read.
    Unknown(Reason),
}

/// One requirement, held against this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    pub requirement: Requirement,
    pub need: Need,
    /// What it is about: `this machine`, `nvme0n1`, `/mnt/models`, …
    pub subject: String,
    pub state: State,
    /// The raw value, short.
    pub value: String,
    /// Where it was read: a path, a call.
    pub source: String,
}

impl Assessment {
    /// Of this machine, needed by both ways.
    pub fn new(
        requirement: Requirement,
        state: State,
        value: impl Into<String>,
        source: impl Into<String>,
    ) -> Assessment {
        let (value, source) = (value.into(), source.into());
        Assessment { requirement, need: Need::Both, subject: "this machine".into(), state, value, source }
    }

    pub fn of(self, subject: impl Into<String>) -> Assessment {
        Assessment { subject: subject.into(), ..self }
    }

    pub fn needed_by(self, need: Need) -> Assessment {
        Assessment { need, ..self }
    }

    /// Why it is not met; what is not known is not.
    fn unmet(&self) -> Option<&Reason> {
        match &self.state {
            State::Met | State::Doubtful(_) => None,
            State::Unmet(reason) | State::Unknown(reason) => Some(reason),
        }
    }
}

/// For each way: open, or the reasons why not. What can't be read counts as not open: only what is
/// proven is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    pub nvidia_fs: Result<(), Vec<Reason>>,
    pub p2pdma: Result<(), Vec<Reason>>,
}

impl Ways {
    pub fn of(assessments: &[&Assessment]) -> Ways {
        let way = |way| {
            let mut unmet: Vec<(&Assessment, &Reason)> = assessments
                .iter()
                .filter(|a| a.need.of(way))
                .filter_map(|a| Some((*a, a.unmet()?)))
                .collect();
            // GPUs without GDS first, then a way that is not there at all, then what stands in it: first what shuts both
            // ways, since mending the rest alone would not help.
            unmet.sort_by_key(|(assessment, _)| match (assessment.requirement, assessment.need) {
                (Requirement::NvidiaDriver | Requirement::OpenModule | Requirement::Gpu, _) => 0,
                (Requirement::NvidiaFs | Requirement::P2pdmaKernel, _) => 1,
                (_, Need::Both) => 2,
                _ => 3,
            });
            let reasons: Vec<Reason> = unmet.into_iter().map(|(_, reason)| reason.clone()).collect();
            if reasons.is_empty() { Ok(()) } else { Err(reasons) }
        };
        Ways { nvidia_fs: way(Way::NvidiaFs), p2pdma: way(Way::P2pdma) }
    }

    pub fn get(&self, way: Way) -> &Result<(), Vec<Reason>> {
        match way {
            Way::NvidiaFs => &self.nvidia_fs,
            Way::P2pdma => &self.p2pdma,
        }
    }

    /// The way that is open; of two P2PDMA, which is open only where the driver was set up for it.
    pub fn open(&self) -> Option<Way> {
        [Way::P2pdma, Way::NvidiaFs].into_iter().find(|way| self.get(*way).is_ok())
    }

    /// The way with the fewest obstacles.
    pub fn nearest(&self) -> Way {
        let obstacles = |way: &Way| self.get(*way).as_ref().err().map_or(0, Vec::len);
        Way::ALL.into_iter().min_by_key(obstacles).unwrap_or(Way::NvidiaFs)
    }
}

/// Whether both ways are surely shut, as opposed to not known.
pub fn surely_shut(assessments: &[&Assessment]) -> bool {
    let shuts = |a: &&&Assessment, way: &Way| a.need.of(*way) && matches!(a.state, State::Unmet(_));
    Way::ALL.iter().all(|way| assessments.iter().any(|a| shuts(&a, way)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assessment(need: Need, state: State) -> Assessment {
        Assessment::new(Requirement::Direct, state, "value", "here").needed_by(need)
    }

    fn why(words: &str) -> Reason {
        Reason::ByTrial(words.into())
    }

    #[test]
    fn a_way_is_open_when_all_that_it_needs_is_known_and_met() {
        let common = assessment(Need::Both, State::Met);
        let not_loaded = why("nvidia-fs is not loaded: x");
        let not_loaded = assessment(Need::Only(Way::NvidiaFs), State::Unmet(not_loaded));
        let unread = State::Unknown(why("the kernel's configuration is not known"));
        let unread = assessment(Need::Only(Way::P2pdma), unread);
        let slow = assessment(Need::Neither, State::Unmet(why("slow")));
        let ways = Ways::of(&[&common, &not_loaded, &slow]);
        assert_eq!(ways.nvidia_fs, Err(vec![why("nvidia-fs is not loaded: x")]));
        assert_eq!((ways.p2pdma.is_ok(), ways.open()), (true, Some(Way::P2pdma)));
        let ways = Ways::of(&[&common, &not_loaded, &unread]);
        assert_eq!(ways.open(), None);
        assert!(!surely_shut(&[&not_loaded, &unread]));
        assert!(surely_shut(&[&assessment(Need::Both, State::Unmet(why("")))]));
    }

    #[test]
    fn a_doubt_shuts_no_way() {
        let doubtful = assessment(Need::Both, State::Doubtful(why("it may fail")));
        assert_eq!(Ways::of(&[&doubtful]).open(), Some(Way::P2pdma));
    }

    #[test]
    fn a_gpu_that_cannot_and_a_way_that_is_not_there_are_told_first() {
        let unmet = |requirement, need, words: &str| {
            Assessment::new(requirement, State::Unmet(why(words)), "value", "here").needed_by(need)
        };
        let all = [
            unmet(Requirement::UdevRaid, Need::Only(Way::NvidiaFs), "raid"),
            unmet(Requirement::FileSystem, Need::Both, "file system"),
            unmet(Requirement::NvidiaFs, Need::Only(Way::NvidiaFs), "not loaded"),
            unmet(Requirement::Gpu, Need::Both, "no GPU"),
        ];
        let ways = Ways::of(&all.iter().collect::<Vec<_>>());
        assert_eq!(ways.nvidia_fs, Err(["no GPU", "not loaded", "file system", "raid"].map(why).to_vec()));
        assert_eq!(ways.nearest(), Way::P2pdma);
    }
}
