//! What a machine is held to: a TOML file, one of those built in, or an earlier node's record.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::qualify::fact::Fact;
use crate::qualify::measure::{Kind, Measured};

const BUILT_IN: [(&str, &str); 4] = [
    ("h100-sxm-nvme4", include_str!("../../profiles/h100-sxm-nvme4.toml")),
    ("h200-pcie5", include_str!("../../profiles/h200-pcie5.toml")),
    ("a5000-nvme2", include_str!("../../profiles/a5000-nvme2.toml")),
    ("laptop", include_str!("../../profiles/laptop.toml")),
];
/// Shares only: no figure that depends on what was bought.
const DEFAULT: &str = include_str!("../../profiles/default.toml");

/// By what a machine is judged.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    Profile(Profile),
    /// An earlier node's figures, and how much less is still good.
    Against(Earlier, f64),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The file's name or the built-in one; not in the file.
    #[serde(skip_deserializing)]
    pub name: String,
    pub description: String,
    #[serde(default)]
    pub limits: BTreeMap<Kind, Threshold>,
    #[serde(default)]
    pub drives: Drives,
    #[serde(default)]
    pub health: Health,
}

/// The highest of those that can be told counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Threshold {
    /// Of what the PCIe links on the way allow.
    pub share_of_links: Option<f64>,
    /// Of the slowest part that was measured on the way: raw reads, or the copy to the GPU.
    pub share_of_parts: Option<f64>,
    pub floor_gb_per_s: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drives {
    /// At least so many below the path.
    pub count: Option<usize>,
    /// Of an even spread of the raw reads, what the idlest drive must have had.
    pub balance: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Warnings fail, too: replayed packets, mended errors, heat.
    pub fail_on_warnings: bool,
    /// Where one of these is not told of every part that has it, the run can't be judged.
    pub must_be_told: Vec<Fact>,
}

/// Of an earlier node's qualify.json, what is compared.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Earlier {
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub verdict: String,
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub size_bytes: u64,
    #[serde(default)]
    pub duration_s: f64,
    pub measured: Vec<Measured>,
    #[serde(skip)]
    pub path: String,
}

/// What two runs must share for their figures to be alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Model,
    Size,
    Duration,
}

/// A setting that was another in the earlier run, with both values in words.
#[derive(Debug, PartialEq)]
pub struct SettingDifference {
    pub setting: Setting,
    pub then: String,
    pub now: String,
}

impl Rule {
    /// A built-in profile by its name, or the TOML file there; without a name, shares only. As with an earlier record,
    /// errors leave it to the caller to say what was asked for.
    pub fn of_profile(name: Option<&str>) -> Result<Rule> {
        let Some(name) = name else { return Profile::parse("default", DEFAULT).map(Rule::Profile) };
        if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Profile::parse(name, text).map(Rule::Profile);
        }
        let path = Path::new(name);
        if !path.exists() {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            bail!("it is neither a file nor one of {}", names.join(", "));
        }
        let text = std::fs::read_to_string(path).context("read the profile")?;
        Profile::parse(name, &text).map(Rule::Profile)
    }

    /// The record that an earlier run left, and how much less than its figures is still good.
    pub fn of_earlier(record: &Path, tolerance: f64) -> Result<Rule> {
        Ok(Rule::Against(Earlier::read(record)?, tolerance))
    }

    /// In words: what it is called.
    pub fn name(&self) -> String {
        match self {
            Rule::Profile(profile) => format!("profile {}", profile.name),
            Rule::Against(earlier, tolerance) => {
                format!("{} ({}) less {:.0} %", earlier.host, earlier.path, tolerance * 100.0)
            }
        }
    }

    pub fn health(&self) -> Health {
        match self {
            Rule::Profile(profile) => profile.health.clone(),
            Rule::Against(..) => Health::default(),
        }
    }

    pub fn must_be_told(&self, fact: Fact) -> bool {
        self.health().must_be_told.contains(&fact)
    }

    pub fn drives(&self) -> Drives {
        match self {
            Rule::Profile(profile) => profile.drives,
            Rule::Against(..) => Drives::default(),
        }
    }

    /// Whether it is the built-in one that holds for any machine.
    pub fn is_default(&self) -> bool {
        matches!(self, Rule::Profile(profile) if profile.name == "default")
    }
}

impl Profile {
    fn parse(name: &str, text: &str) -> Result<Profile> {
        let slip = |e: toml::de::Error| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            anyhow!("line {}: {}", before.matches('\n').count() + 1, e.message())
        };
        let mut profile: Profile = toml::from_str(text).map_err(slip)?;
        profile.name = name.to_string();
        let Drives { count, balance } = profile.drives;
        let of_drives = count.is_some_and(|n| n > 0) || balance.is_some_and(|least| least > 0.0);
        if profile.limits.is_empty() && !of_drives {
            bail!("it sets no limit, so that any machine would pass: add [limits.raw-read] or another");
        }
        for (kind, threshold) in &profile.limits {
            let Threshold { share_of_links, share_of_parts, floor_gb_per_s } = *threshold;
            let of = || format!("limits.{}", kind.name());
            let values = [share_of_links, share_of_parts, floor_gb_per_s];
            if values.iter().all(Option::is_none) {
                bail!("{}: set share_of_links, share_of_parts or floor_gb_per_s", of());
            }
            if values.iter().flatten().any(|value| !value.is_finite() || *value <= 0.0) {
                bail!("{}: a limit is a number above 0", of());
            }
        }
        if profile.drives.balance.is_some_and(|balance| !(0.0..=1.0).contains(&balance)) {
            bail!("drives.balance: from 0 to 1, which is an even spread");
        }
        Ok(profile)
    }
}

impl Earlier {
    fn read(path: &Path) -> Result<Earlier> {
        let at = "give the qualify.json of an earlier run";
        let text = std::fs::read_to_string(path).context(at)?;
        let mut earlier: Earlier = serde_json::from_str(&text).context(at)?;
        if earlier.measured.is_empty() {
            bail!("it holds no figure to compare with");
        }
        if earlier.verdict == "interrupted" {
            bail!("that run was interrupted: give the record of a whole one");
        }
        let is_rate = |figure: &&Measured| figure.gb_per_s.is_finite() && figure.gb_per_s > 0.0;
        if let Some(bad) = earlier.measured.iter().find(|figure| !is_rate(figure)) {
            bail!(
                "{} ({}) is {} GB/s, which is no rate to compare with",
                bad.kind.name(),
                bad.of,
                bad.gb_per_s
            );
        }
        if earlier.measured.iter().all(|figure| figure.kind == Kind::FioRead) {
            bail!("fio's figure is never compared, and it holds no other");
        }
        earlier.path = path.display().to_string();
        Ok(earlier)
    }

    /// In what the runs differ, so that their figures may, too.
    pub fn differences(&self, model: &str, size_bytes: u64, duration_s: f64) -> Vec<SettingDifference> {
        let mut differences = vec![
            SettingDifference::new(Setting::Size, self.size_bytes, size_bytes, "bytes"),
            SettingDifference::new(Setting::Duration, self.duration_s, duration_s, "s"),
        ];
        // An interrupted run may not have come to its model.
        if !model.is_empty() {
            differences.insert(0, SettingDifference::new(Setting::Model, &self.model, model, ""));
        }
        differences.retain(|difference| difference.then != difference.now);
        differences
    }
}

impl SettingDifference {
    fn new(setting: Setting, then: impl Display, now: impl Display, unit: &str) -> SettingDifference {
        let [then, now] = [then.to_string(), now.to_string()].map(|text| format!("{text} {unit}"));
        SettingDifference { setting, then: then.trim_end().into(), now: now.trim_end().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_parses() {
        for (name, text) in BUILT_IN {
            let profile = Profile::parse(name, text).unwrap();
            assert!(!profile.limits.is_empty() && !profile.description.is_empty(), "{name}");
            let floors = profile.limits.values().filter(|limit| limit.floor_gb_per_s.is_some()).count();
            assert!(floors > 0, "{name} holds for one kind of machine: it has floors");
        }
        let default = Profile::parse("default", DEFAULT).unwrap();
        assert!(default.limits.values().all(|limit| limit.floor_gb_per_s.is_none()), "shares only");
    }

    #[test]
    fn slips_are_told() {
        let parse = |text: &str| format!("{:#}", Profile::parse("p", text).unwrap_err());
        assert!(parse("description = 'x'").contains("sets no limit"));
        assert!(parse("description = 'x'\n[drives]\ncount = 0").contains("sets no limit"));
        let with = |limits: &str| parse(&format!("description = 'x'\n[limits.raw-read]\n{limits}"));
        assert!(parse("").contains("description"));
        assert!(with("share = 1").contains("share"));
        assert!(with("").contains("limits.raw-read"));
        assert!(with("floor_gb_per_s = 0").contains("above 0"));
        assert!(with("floor_gb_per_s = nan").contains("above 0"));
        assert!(parse("description = 'x'\n[limits.raw]\nfloor_gb_per_s = 1").contains("raw"));
        assert!(parse("description = 'x'\n[drives]\nbalance = 2").contains("balance"));
        assert!(
            parse("description = 'x'\n[health]\nmust_be_told = ['smarts']").contains("`drive-temperature`")
        );
    }

    #[test]
    fn a_record_that_is_no_measure_is_refused_and_another_run_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qualify.json");
        let figure = |kind: &str, rate: &str| {
            format!(
                r#"{{"kind":"{kind}","of":"storage","gb_per_s":{rate},"rounds_gb_per_s":[],"bytes":1,"elapsed_s":1.0,"how":"","links":""}}"#
            )
        };
        let read = |verdict: &str, figure: &str| {
            let text = format!(
                r#"{{"verdict":"{verdict}","model":"m","size_bytes":5,"duration_s":60.0,"measured":[{figure}]}}"#
            );
            std::fs::write(&path, text).unwrap();
            Earlier::read(&path)
        };
        for (verdict, figure, says) in [
            ("interrupted", figure("raw-read", "1.0"), "was interrupted"),
            ("passed", figure("raw-read", "0.0"), "no rate"),
            ("passed", figure("raw-read", "-3.0"), "no rate"),
            ("passed", figure("fio-read", "1.0"), "never compared"),
        ] {
            let error = format!("{:#}", read(verdict, &figure).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        let earlier = read("passed", &figure("raw-read", "1.0")).unwrap();
        assert!(earlier.differences("m", 5, 60.0).is_empty());
        assert_eq!(earlier.differences("n", 6, 1.0).len(), 3);
    }
}
