//! A check, and what of GDS it decides.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::remedies::remedy;
use crate::load::gds::ways::{Assessment, Need, Requirement, State, Way};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub check: Check,
    /// What was found of a thing that GDS needs; `None` of what GDS works without.
    pub assessed: Option<Assessment>,
}

impl Finding {
    /// Of something that GDS needs.
    pub fn of(assessment: Assessment) -> Finding {
        let remedy = remedy(&assessment);
        Finding::worded(assessment, remedy)
    }

    /// Of something that was tried here, with what mends it.
    pub fn tried(assessment: Assessment, remedy: impl Into<String>) -> Finding {
        Finding::worded(assessment, Some(remedy.into()))
    }

    /// Of something that GDS works without; speed or health may not.
    pub fn beside(check: Check) -> Finding {
        Finding { check, assessed: None }
    }

    fn worded(assessment: Assessment, remedy: Option<String>) -> Finding {
        let (status, why) = match &assessment.state {
            State::Met => (Status::Pass, None),
            State::Doubtful(reason) => (Status::Warn, Some(reason.to_string())),
            State::Unmet(reason) => (Status::Fail, Some(reason.to_string())),
            State::Unknown(reason) => (Status::Unknown, Some(reason.to_string())),
        };
        let Assessment { requirement, subject, value, source, .. } = assessment.clone();
        let check =
            Check { why, remedy, ..Check::new(CheckId::Gds(requirement), subject, status, value, source) };
        Finding { check, assessed: Some(assessment) }
    }

    pub fn need(&self) -> Need {
        self.assessed.as_ref().map_or(Need::Neither, |assessed| assessed.need)
    }

    /// Whether it is about this requirement.
    pub fn is(&self, requirement: Requirement) -> bool {
        self.assessed.as_ref().is_some_and(|assessed| assessed.requirement == requirement)
    }

    /// Whether the requirement is known to be met.
    pub fn is_met(&self) -> bool {
        self.assessed.as_ref().is_some_and(|assessed| assessed.state == State::Met)
    }

    /// Whether it is known not to be met.
    pub fn is_unmet(&self) -> bool {
        self.assessed.as_ref().is_some_and(|assessed| matches!(assessed.state, State::Unmet(_)))
    }
}

/// Where a way is open, what only the other one needs is no failure.
pub fn excuse(finding: &mut Finding, open: Way) {
    let only_the_other = matches!(finding.need(), Need::Only(way) if way != open);
    if only_the_other && finding.check.status != Status::Pass {
        finding.check.status = Status::Pass;
        finding.check.why = Some(format!("not needed: {} is open", open.name()));
        finding.check.remedy = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::gds::ways::Reason;

    #[test]
    fn only_the_other_ways_needs_are_excused() {
        let finding = |need, state: fn(Reason) -> State| {
            let state = state(Reason::ByTrial("nvidia-fs is not loaded".into()));
            Finding::of(Assessment::new(Requirement::NvidiaFs, state, "value", "here").needed_by(need))
        };
        let mut other = finding(Need::Only(Way::NvidiaFs), State::Unmet);
        assert_eq!(other.check.status, Status::Fail);
        excuse(&mut other, Way::P2pdma);
        assert_eq!(other.check.status, Status::Pass);
        for need in [Need::Both, Need::Neither, Need::Only(Way::P2pdma)] {
            let mut own = finding(need, State::Doubtful);
            excuse(&mut own, Way::P2pdma);
            assert_eq!(own.check.status, Status::Warn);
        }
    }
}
