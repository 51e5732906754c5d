//! cuFile's configuration: what it comes to, and whether it shuts the way.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cufile::places;
use crate::load::gds::ways::assessment::{Assessment, Need, Requirement, State};
use crate::load::gds::ways::reason::SoftwareReason;
use crate::node::source::{Source, Unread};

const VARIABLES: [&str; 5] = [
    "CUFILE_ENV_PATH_JSON",
    "CUFILE_ALLOW_COMPAT_MODE",
    "CUFILE_FORCE_COMPAT_MODE",
    "CUFILE_USE_PCIP2PDMA",
    "LD_LIBRARY_PATH",
];

/// The variables that lead cuFile or its loader, as they are set.
pub fn environment(source: &Source) -> BTreeMap<String, String> {
    let set = || {
        let names = VARIABLES.iter().chain(&places::VARIABLES);
        let set = names.filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?)));
        Ok(set.collect())
    };
    source.fact("cufile-environment", set).unwrap_or_default()
}

/// The settings that decide: from the environment first, then the file, then cuFile's defaults.
pub struct Settings {
    pub allow_compat: bool,
    pub force_compat: bool,
    pub use_p2pdma: bool,
    pub file: String,
    /// Whether the file was there.
    pub is_read: bool,
}

/// What is wrong with the file.
pub enum Wrong {
    /// The parser's words.
    NoJson(String),
    Unread(Unread),
}

impl Settings {
    /// The file that cuFile reads.
    fn file(environment: &BTreeMap<String, String>) -> (String, bool) {
        let set = environment.get("CUFILE_ENV_PATH_JSON").filter(|value| !value.is_empty());
        (set.map_or("/etc/cufile.json", String::as_str).to_string(), set.is_some())
    }

    pub fn read(source: &Source, environment: &BTreeMap<String, String>) -> Result<Settings, Wrong> {
        let (file, is_set) = Settings::file(environment);
        let text = source.text(&file);
        let json = match text.as_ref().map(|text| serde_json::from_str::<Value>(&without_comments(text))) {
            Ok(Ok(json)) => json,
            Ok(Err(e)) => return Err(Wrong::NoJson(e.to_string())),
            Err(Unread::Missing) if !is_set => Value::Null,
            Err(why) => return Err(Wrong::Unread(why.clone())),
        };
        let on = |variable: &str, default: bool, pointers: &[&str]| {
            let stated = environment.get(variable).and_then(|v| truth(v));
            stated.or_else(|| pointers.iter().find_map(|p| json.pointer(p)?.as_bool())).unwrap_or(default)
        };
        let p2pdma = ["/block/nvme/use_pci_p2pdma", "/properties/use_pci_p2pdma"];
        Ok(Settings {
            allow_compat: on("CUFILE_ALLOW_COMPAT_MODE", true, &["/properties/allow_compat_mode"]),
            force_compat: on("CUFILE_FORCE_COMPAT_MODE", false, &["/properties/force_compat_mode"]),
            use_p2pdma: on("CUFILE_USE_PCIP2PDMA", false, &p2pdma),
            is_read: text.is_ok(),
            file,
        })
    }
}

/// The configuration, and whether it rules out direct reads.
pub fn configuration(source: &Source) -> Vec<Assessment> {
    let environment = environment(source);
    let settings = match Settings::read(source, &environment) {
        Ok(settings) => settings,
        Err(wrong) => return vec![no_settings(wrong, Settings::file(&environment).0)],
    };
    let Settings { allow_compat, force_compat, use_p2pdma, file, is_read } = settings;
    let value = format!(
        "{}allow_compat_mode {allow_compat}, force_compat_mode {force_compat}, use_pci_p2pdma {use_p2pdma}",
        if is_read { "" } else { "no file, defaults: " }
    );
    let found = Assessment::new(Requirement::CufileConfiguration, State::Met, value, file.clone());
    let mut all = vec![found.needed_by(Need::Neither)];
    if force_compat {
        let state = State::Unmet(SoftwareReason::ForcedCompat.into());
        all.push(Assessment::new(Requirement::NoForcedCompat, state, "true", file));
    }
    all
}

/// A file that is no JSON keeps cuFile shut; of one that can't be read the defaults hold.
fn no_settings(wrong: Wrong, file: String) -> Assessment {
    let requirement = Requirement::CufileConfiguration;
    match wrong {
        Wrong::NoJson(words) => {
            let state = State::Unmet(SoftwareReason::ConfigurationNoJson.into());
            Assessment::new(requirement, state, words, file)
        }
        Wrong::Unread(why) => {
            let state = State::Doubtful(SoftwareReason::ConfigurationUnread.into());
            Assessment::new(requirement, state, why.to_string(), file).needed_by(Need::Neither)
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// JSON as cuFile takes it has `//` comments to the line's end; in strings they are text. Line breaks stay, so that
/// errors name the right line.
fn without_comments(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let (mut in_string, mut escaped, mut in_comment) = (false, false, false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        in_comment &= c != '\n';
        in_comment |= !in_string && c == '/' && characters.peek() == Some(&'/');
        if in_comment {
            continue;
        }
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && c == '\\' && !escaped;
        plain.push(c);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        let text = "// x\n{ \"a\": \"http://b\\\"//c\", // y\n  \"d\": 1 }//";
        let json: Value = serde_json::from_str(&without_comments(text)).unwrap();
        assert_eq!(json["a"], "http://b\"//c");
        assert_eq!(json["d"], 1);
    }
}
