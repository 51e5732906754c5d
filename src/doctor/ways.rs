//! The two ways that bytes can go from a drive to a GPU without host memory, and what stands in each one's way.

use serde::Serialize;

use crate::doctor::check::{Check, Status};

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

/// Which way needs what was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Both,
    Only(Way),
    /// GDS works without; speed or health may not.
    Neither,
}

impl Need {
    fn of(self, way: Way) -> bool {
        self == Need::Both || self == Need::Only(way)
    }
}

/// A check, and which way needs it. Where a need is not met, `check.why` says so in a short sentence that ends, or
/// goes on after a colon with the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub need: Need,
    pub check: Check,
}

impl Finding {
    pub fn new(need: Need, check: Check) -> Finding {
        Finding { need, check }
    }

    fn is_met(&self) -> bool {
        matches!(self.check.status, Status::Pass | Status::Warn)
    }

    /// The sentence for a user whose load is refused.
    pub fn reason(&self) -> String {
        self.check.why.clone().unwrap_or_else(|| format!("{}: {}", self.check.id, self.check.value))
    }
}

/// For each way: open, or the short sentences that say why not. What can't be read counts as not open: only what is
/// proven is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    pub nvidia_fs: Result<(), Vec<String>>,
    pub p2pdma: Result<(), Vec<String>>,
}

impl Ways {
    pub fn of(findings: &[&Finding]) -> Ways {
        let way = |way| {
            let mut unmet: Vec<&&Finding> =
                findings.iter().filter(|f| f.need.of(way) && !f.is_met()).collect();
            // GPUs without GDS first, then a way that is not there at all, then what stands in it: first what shuts both
            // ways, since mending the rest alone would not help.
            unmet.sort_by_key(|f| match (f.check.id, f.need) {
                (id, _) if id.starts_with("nvidia.") => 0,
                ("nvidia-fs.loaded" | "p2pdma.kernel", _) => 1,
                (_, Need::Both) => 2,
                _ => 3,
            });
            let reasons: Vec<String> = unmet.iter().map(|f| f.reason()).collect();
            if reasons.is_empty() { Ok(()) } else { Err(reasons) }
        };
        Ways { nvidia_fs: way(Way::NvidiaFs), p2pdma: way(Way::P2pdma) }
    }

    pub fn get(&self, way: Way) -> &Result<(), Vec<String>> {
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

/// Whether a way is surely shut, as opposed to not known.
pub fn surely_shut(findings: &[&Finding]) -> bool {
    Way::ALL.iter().all(|way| findings.iter().any(|f| f.need.of(*way) && f.check.status == Status::Fail))
}

/// Where a way is open, what only the other one needs is no failure.
pub fn excuse(finding: &mut Finding, open: Way) {
    let only_the_other = matches!(finding.need, Need::Only(way) if way != open);
    if only_the_other && finding.check.status != Status::Pass {
        finding.check.status = Status::Pass;
        finding.check.why = Some(format!("not needed: {} is open", open.name()));
        finding.check.remedy = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(need: Need, status: Status, why: &str) -> Finding {
        Finding::new(need, Check::new("x.y", "this machine", status, "value", "here").why(why))
    }

    #[test]
    fn a_way_is_open_when_all_that_it_needs_is_known_and_met() {
        let common = finding(Need::Both, Status::Pass, "");
        let not_loaded = finding(Need::Only(Way::NvidiaFs), Status::Fail, "nvidia-fs is not loaded: x");
        let unread =
            finding(Need::Only(Way::P2pdma), Status::Unknown, "the kernel's configuration is not known");
        let slow = finding(Need::Neither, Status::Fail, "slow");
        let ways = Ways::of(&[&common, &not_loaded, &slow]);
        assert_eq!(ways.nvidia_fs, Err(vec!["nvidia-fs is not loaded: x".to_string()]));
        assert_eq!((ways.p2pdma.is_ok(), ways.open()), (true, Some(Way::P2pdma)));
        let ways = Ways::of(&[&common, &not_loaded, &unread]);
        assert_eq!(ways.open(), None);
        assert!(!surely_shut(&[&not_loaded, &unread]));
        assert!(surely_shut(&[&finding(Need::Both, Status::Fail, "")]));
    }

    #[test]
    fn only_the_other_ways_needs_are_excused() {
        let mut other = finding(Need::Only(Way::NvidiaFs), Status::Fail, "nvidia-fs is not loaded");
        excuse(&mut other, Way::P2pdma);
        assert_eq!(other.check.status, Status::Pass);
        for need in [Need::Both, Need::Neither, Need::Only(Way::P2pdma)] {
            let mut own = finding(need, Status::Warn, "");
            excuse(&mut own, Way::P2pdma);
            assert_eq!(own.check.status, Status::Warn);
        }
    }
}
