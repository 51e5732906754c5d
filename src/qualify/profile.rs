//! What a machine is held to: a TOML file, one of those built in, or an earlier node's record.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::measure::{Kind, Measured};
use crate::cli::QualifyArgs;

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

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Warnings fail, too: replayed packets, mended errors, heat.
    pub fail_on_warnings: bool,
}

/// Of an earlier node's qualify.json, what is compared.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Earlier {
    #[serde(default)]
    pub host: String,
    pub measured: Vec<Measured>,
    #[serde(skip)]
    pub path: String,
}

impl Rule {
    /// Reads what the arguments name; before any work, so that a slip costs none.
    pub fn of(args: &QualifyArgs) -> Result<Rule> {
        if let Some(path) = &args.against {
            return Ok(Rule::Against(Earlier::read(path)?, args.tolerance));
        }
        let Some(name) = &args.profile else { return Profile::parse("default", DEFAULT).map(Rule::Profile) };
        if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| built_in == name) {
            return Profile::parse(name, text).map(Rule::Profile);
        }
        let path = Path::new(name);
        if !path.exists() {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            bail!("--profile {name} is neither a file nor one of {}", names.join(", "));
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("read --profile {name}"))?;
        Profile::parse(name, &text).map(Rule::Profile)
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
            Rule::Profile(profile) => profile.health,
            Rule::Against(..) => Health::default(),
        }
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
        let at = || format!("profile {name}");
        let slip = |e: toml::de::Error| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            anyhow!("line {}: {}", before.matches('\n').count() + 1, e.message())
        };
        let mut profile: Profile = toml::from_str(text).map_err(slip).with_context(at)?;
        profile.name = name.to_string();
        for (kind, threshold) in &profile.limits {
            let Threshold { share_of_links, share_of_parts, floor_gb_per_s } = *threshold;
            let of = || format!("profile {name}, limits.{}", kind.name());
            let values = [share_of_links, share_of_parts, floor_gb_per_s];
            if values.iter().all(Option::is_none) {
                bail!("{}: set share_of_links, share_of_parts or floor_gb_per_s", of());
            }
            if values.iter().flatten().any(|value| !value.is_finite() || *value <= 0.0) {
                bail!("{}: a limit is a number above 0", of());
            }
        }
        if profile.drives.balance.is_some_and(|balance| !(0.0..=1.0).contains(&balance)) {
            bail!("profile {name}, drives.balance: from 0 to 1, which is an even spread");
        }
        Ok(profile)
    }
}

impl Earlier {
    fn read(path: &Path) -> Result<Earlier> {
        let at = || format!("--against {}: give the qualify.json of an earlier run", path.display());
        let text = std::fs::read_to_string(path).with_context(at)?;
        let mut earlier: Earlier = serde_json::from_str(&text).with_context(at)?;
        if earlier.measured.is_empty() {
            bail!("--against {}: it holds no figure to compare with", path.display());
        }
        earlier.path = path.display().to_string();
        Ok(earlier)
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
        let with = |limits: &str| parse(&format!("description = 'x'\n[limits.raw-read]\n{limits}"));
        assert!(parse("").contains("description"));
        assert!(with("share = 1").contains("share"));
        assert!(with("").contains("limits.raw-read"));
        assert!(with("floor_gb_per_s = 0").contains("above 0"));
        assert!(with("floor_gb_per_s = nan").contains("above 0"));
        assert!(parse("description = 'x'\n[limits.raw]\nfloor_gb_per_s = 1").contains("raw"));
        assert!(parse("description = 'x'\n[drives]\nbalance = 2").contains("balance"));
    }
}
