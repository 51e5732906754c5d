//! libcufile: where it is, which version, what its configuration comes to, and whether its driver opens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cufile::CODES;
use crate::cufile::places;
use crate::cufile::places::NAME;
use crate::doctor::check::{Check, Status};
use crate::doctor::probe;
use crate::doctor::ways::{Finding, Need, Way};
use crate::node::source::{Source, Unread};

const MACHINE: &str = "this machine";
/// The first version that knows P2PDMA, and the first that a program can tell to use it.
const P2PDMA_MIN: (u32, u32) = (1, 13);
const PARAMETERS_MIN: (u32, u32) = (1, 14);
const VARIABLES: [&str; 5] = [
    "CUFILE_ENV_PATH_JSON",
    "CUFILE_ALLOW_COMPAT_MODE",
    "CUFILE_FORCE_COMPAT_MODE",
    "CUFILE_USE_PCIP2PDMA",
    "LD_LIBRARY_PATH",
];

/// What opening cuFile in a child process came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// The file that was loaded.
    pub path: Option<String>,
    /// What `cuFileGetVersion` says: 1150 is 1.15.
    pub version: Option<i32>,
    pub driver_open: Option<DriverOpen>,
    /// What cuFile then says it has a direct path to: `NVMe`, `NVMe P2PDMA`, `NFS`, …
    #[serde(default)]
    pub direct: Option<Vec<String>>,
    /// Why it went no further: the linker's words where nothing was loaded, cuFile's error where the driver did not
    /// open, the status of the process where it ended meanwhile.
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverOpen {
    /// Whether the call came back within the time limit.
    pub ended: bool,
    /// cuFile's code: 0 is success, which compatibility mode is, too.
    pub code: Option<i64>,
    pub seconds: f64,
}

/// The variables that lead cuFile or its loader, as they are set.
fn environment(source: &Source) -> BTreeMap<String, String> {
    let set = || {
        let names = VARIABLES.iter().chain(&places::VARIABLES);
        let set = names.filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?)));
        Ok(set.collect())
    };
    source.fact("cufile-environment", set).unwrap_or_default()
}

/// The library, its driver and its configuration.
pub fn findings(source: &Source) -> Vec<Finding> {
    let environment = environment(source);
    let probed = source.fact("cufile", probe::cufile);
    let mut findings = library(source, &environment, &probed);
    let loads = findings.iter().all(|f| f.check.id != "cufile.library" || f.check.status == Status::Pass);
    let configuration = configuration(source);
    if loads {
        // A bad configuration keeps the driver shut, with an error that names no cause.
        let mut bad = configuration.iter().map(|f| &f.check);
        let bad = bad.find(|c| c.id == "cufile.config" && c.status == Status::Fail);
        findings.push(driver_open(&probed, bad.and_then(|c| c.remedy.as_deref())));
    }
    findings.extend(configuration);
    findings
}

fn library(
    source: &Source,
    environment: &BTreeMap<String, String>,
    probed: &Result<Probed, Unread>,
) -> Vec<Finding> {
    let find = || find(source, environment);
    let path = match probed {
        Ok(Probed { path: Some(path), .. }) => path.clone(),
        // The probe ran to its end, and nothing was loaded: a file that is there is none that loads.
        Ok(Probed { driver_open: None, error, .. }) => return vec![not_loaded(find(), error.as_deref())],
        _ => match find() {
            Ok(path) => path,
            found => return vec![not_loaded(found, None)],
        },
    };
    let called = probed.as_ref().ok().and_then(|p| p.version).and_then(from_call);
    let version = called.or_else(|| from_name(&source.canonical(&path).ok()?));
    let value = version.map_or("version not known".to_string(), |(major, minor)| format!("{major}.{minor}"));
    let check = |id, status| Check::new(id, MACHINE, status, value.clone(), path.clone());
    let mut findings = vec![Finding::new(Need::Both, check("cufile.library", Status::Pass))];
    let Some(version) = version else { return findings };
    let told = Settings::read(source, environment).is_ok_and(|s| s.use_p2pdma);
    let lacks = if version < P2PDMA_MIN {
        format!("cuFile {value} does not know P2PDMA: it takes 1.13")
    } else if version < PARAMETERS_MIN && !told {
        format!("cuFile {value} is not told to use P2PDMA: only from 1.14 on can sllm-gds tell it")
    } else {
        return findings;
    };
    let remedy = "install libcufile of CUDA 12.9 or later; with 1.13, set properties.use_pci_p2pdma in /etc/cufile.json";
    findings.push(Finding::new(
        Need::Only(Way::P2pdma),
        check("p2pdma.cufile", Status::Fail).why(lacks).remedy(remedy),
    ));
    findings
}

/// The file that was found, if any, and the linker's words.
fn not_loaded(found: Result<String, Unread>, error: Option<&str>) -> Finding {
    const INSTALL: &str = "install package libcufile of your CUDA version, or: pip install nvidia-cufile";
    let check = |status, value: &str, from: &str| Check::new("cufile.library", MACHINE, status, value, from);
    let directories = "the loader's directories";
    let check = match (found, error) {
        (Ok(path), error) => check(Status::Fail, "does not load", &path)
            .why(format!(
                "cuFile can't be loaded: {}",
                error.unwrap_or("the linker's words were not recorded")
            ))
            .remedy(format!("look at {path}: it must be {NAME} for this machine; or {INSTALL}")),
        (Err(why @ (Unread::Denied | Unread::Other(_))), None) => {
            check(Status::Unknown, &why.to_string(), directories)
                .why(format!("whether there is a {NAME} can't be told"))
                .remedy("give this user read access to its directory")
        }
        (Err(_), error) => {
            let words = error.map_or(format!("{NAME} was not found"), str::to_string);
            check(Status::Fail, "not found", directories)
                .why(format!("cuFile is not installed: {words}"))
                .remedy(INSTALL)
        }
    };
    Finding::new(Need::Both, check)
}

/// Where the dynamic linker would find it, then where a load looks next.
fn find(source: &Source, environment: &BTreeMap<String, String>) -> Result<String, Unread> {
    let linked = linker_directories(source, environment).into_iter();
    let linked = linked.filter(|d| d.starts_with('/')).map(|d| format!("{d}/{NAME}"));
    let variable = |name: &str| environment.get(name).cloned();
    let others = places::candidates(&variable, &|directory| source.list(directory).unwrap_or_default());
    let mut why_not = Unread::Missing;
    for file in linked.chain(others) {
        match source.is_there(&file) {
            Ok(true) => return Ok(file),
            Ok(false) => {}
            Err(why) => why_not = why,
        }
    }
    Err(why_not)
}

fn linker_directories(source: &Source, environment: &BTreeMap<String, String>) -> Vec<String> {
    let named = environment.get("LD_LIBRARY_PATH").map_or("", String::as_str);
    let mut directories: Vec<String> = named.split(':').map(str::to_string).collect();
    for conf in source.list("/etc/ld.so.conf.d").unwrap_or_default() {
        let text = source.text(&format!("/etc/ld.so.conf.d/{conf}")).unwrap_or_default();
        directories.extend(text.lines().map(|line| line.trim().to_string()));
    }
    let fixed = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    directories.extend(fixed.map(String::from));
    directories
}

/// (1, 13) of `…/libcufile.so.1.13.1`; `libcufile.so.0` says nothing.
fn from_name(path: &str) -> Option<(u32, u32)> {
    let mut numbers = path.rsplit_once("libcufile.so.")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// (1, 15) of 1150, as `cuFileGetVersion` counts: 1000 a major, 10 a minor.
fn from_call(version: i32) -> Option<(u32, u32)> {
    let version = u32::try_from(version).ok()?;
    (version >= 1000).then_some((version / 1000, version % 1000 / 10))
}

/// cuFile's own list. Newer versions leave P2PDMA out of it, so that an empty one shuts no way.
fn direct_words(probed: &Result<Probed, Unread>) -> String {
    match probed.as_ref().ok().and_then(|p| p.direct.as_ref()) {
        Some(direct) if !direct.is_empty() => format!("cuFile lists direct paths: {}", direct.join(", ")),
        Some(_) => "cuFile lists no direct path".into(),
        None => "which proves no path".into(),
    }
}

/// `mend` is the remedy of a bad configuration, which is then the cause.
fn driver_open(probed: &Result<Probed, Unread>, mend: Option<&str>) -> Finding {
    let from = "cuFileDriverOpen, in a child process";
    let check = |status, value: String| Check::new("cufile.driver-open", MACHINE, status, value, from);
    let error = probed.as_ref().ok().and_then(|p| p.error.as_deref());
    let check = match probed {
        Ok(Probed { driver_open: Some(opened), .. }) => match (opened.ended, opened.code) {
            (false, _) => check(Status::Fail, format!("not back after {:.1} s", opened.seconds))
                .why("cuFile's driver never finishes opening: it was stopped at the time limit")
                .remedy(mend.unwrap_or("look at proc.modules; or take another version of libcufile")),
            (true, Some(0)) => {
                let value = format!("opened in {:.1} s; {}", opened.seconds, direct_words(probed));
                check(Status::Pass, value)
            }
            (true, code) => {
                let known = CODES.iter().find(|known| Some(i64::from(known.number)) == code);
                let number = code.map_or("no code".to_string(), |c| format!("code {c}"));
                let cause = match (known, error) {
                    (Some(known), _) => format!("{}, {number}", known.cause),
                    (None, error) => error.unwrap_or(&number).to_string(),
                };
                let look_up = "look it up in NVIDIA's cuFile API reference";
                check(Status::Fail, format!("{number} after {:.1} s", opened.seconds))
                    .why(format!("cuFile's driver does not open: {cause}"))
                    .remedy(mend.unwrap_or(known.map_or(look_up, |k| k.remedy)))
            }
        },
        Ok(_) => check(Status::Fail, error.unwrap_or("no answer").to_string())
            .why("cuFile's driver does not open: it crashed or ended while opening")
            .remedy(mend.unwrap_or("take another version of libcufile")),
        Err(why) => check(Status::Unknown, why.to_string())
            .why("whether cuFile's driver opens is not known")
            .remedy(mend.unwrap_or("sllm-gds doctor --probe-cufile says what comes of it")),
    };
    Finding::new(Need::Both, check)
}

/// The settings that decide: from the environment first, then the file, then cuFile's defaults.
struct Settings {
    allow_compat: bool,
    force_compat: bool,
    use_p2pdma: bool,
    file: String,
    /// Whether the file was there.
    read: bool,
}

impl Settings {
    /// Or what is wrong with the file.
    fn read(source: &Source, environment: &BTreeMap<String, String>) -> Result<Settings, Box<Finding>> {
        let set = environment.get("CUFILE_ENV_PATH_JSON").filter(|v| !v.is_empty());
        let file = set.map_or("/etc/cufile.json", String::as_str).to_string();
        let text = source.text(&file);
        let wrong = |need, status, value: String, why: &str, remedy: String| {
            let check = Check::new("cufile.config", MACHINE, status, value, file.clone());
            Box::new(Finding::new(need, check.why(why).remedy(remedy)))
        };
        let json = match text.as_ref().map(|text| serde_json::from_str::<Value>(&without_comments(text))) {
            Ok(Ok(json)) => json,
            Ok(Err(e)) => {
                let why = "cuFile's configuration is no JSON: cuFile does not open its driver with it";
                let remedy = format!("mend {file}; // comments are allowed");
                return Err(wrong(Need::Both, Status::Fail, e.to_string(), why, remedy));
            }
            Err(Unread::Missing) if set.is_none() => Value::Null,
            Err(e) => {
                let why = "cuFile's configuration can't be read, so that its defaults hold";
                let remedy = format!("give this user read access to {file}, or set CUFILE_ENV_PATH_JSON");
                return Err(wrong(Need::Neither, Status::Warn, e.to_string(), why, remedy));
            }
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
            read: text.is_ok(),
            file,
        })
    }
}

pub fn configuration(source: &Source) -> Vec<Finding> {
    let settings = match Settings::read(source, &environment(source)) {
        Ok(settings) => settings,
        Err(finding) => return vec![*finding],
    };
    let Settings { allow_compat, force_compat, use_p2pdma, file, read } = settings;
    let value = format!(
        "{}allow_compat_mode {allow_compat}, force_compat_mode {force_compat}, use_pci_p2pdma {use_p2pdma}",
        if read { "" } else { "no file, defaults: " }
    );
    let check = Check::new("cufile.config", MACHINE, Status::Pass, value, file.clone());
    let mut findings = vec![Finding::new(Need::Neither, check)];
    if force_compat {
        let check = Check::new("cufile.force-compat", MACHINE, Status::Fail, "true", file.clone())
            .why("cuFile is told to use compatibility mode only: force_compat_mode is true")
            .remedy(format!("unset CUFILE_FORCE_COMPAT_MODE, and set force_compat_mode to false in {file}"));
        findings.push(Finding::new(Need::Both, check));
    }
    findings
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

    /// The places below a made-up root, as they are found one after the other, the first taken away each time.
    #[test]
    fn a_load_and_the_doctor_look_in_the_same_order() {
        let root = tempfile::tempdir().unwrap();
        let below = |path: &str| format!("{}{path}", root.path().display());
        let environment = BTreeMap::from(
            [
                ("CUDA_HOME", "/opt/cuda"),
                ("CUDA_PATH", ""),
                ("CONDA_PREFIX", "/conda"),
                ("VIRTUAL_ENV", "/venv"),
            ]
            .map(|(name, value)| (name.to_string(), value.to_string())),
        );
        let files = [
            "/opt/cuda/lib64",
            "/opt/cuda/targets/x86_64-linux/lib",
            "/opt/cuda/lib",
            "/venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "/venv/lib/python3.12/site-packages/nvidia/cufile/lib",
            "/venv/lib/python3.9/site-packages/nvidia/cufile/lib",
            "/conda/lib",
        ]
        .map(|directory| {
            std::fs::create_dir_all(below(directory)).unwrap();
            std::fs::write(below(&format!("{directory}/{NAME}")), "").unwrap();
            format!("{directory}/{NAME}")
        });
        let variable = |name: &str| environment.get(name).filter(|v| !v.is_empty()).map(|v| below(v));
        let mut for_a_load = places::here(&variable);
        for_a_load.retain(|file| files.iter().any(|f| below(f) == *file));
        assert_eq!(for_a_load, files.each_ref().map(|file| below(file)));

        let source = Source::recorded(root.path()).unwrap();
        for file in &files {
            assert_eq!(find(&source, &environment).as_ref(), Ok(file));
            std::fs::remove_file(below(file)).unwrap();
        }
        assert_eq!(find(&source, &environment), Err(Unread::Missing));
    }

    #[test]
    fn versions() {
        assert_eq!(from_name("/usr/lib/libcufile.so.1.13.1"), Some((1, 13)));
        assert_eq!(from_name("/usr/lib/libcufile.so.0"), None);
        assert_eq!(from_call(1150), Some((1, 15)));
        assert_eq!(from_call(-1), None);
    }
}
