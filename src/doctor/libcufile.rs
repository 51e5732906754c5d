//! libcufile: where it is, which version, what its configuration comes to, and whether its driver opens.

use std::collections::BTreeMap;

use crate::cufile::CODES;
use crate::cufile::places;
use crate::cufile::places::NAME;
use crate::doctor::finding::Finding;
use crate::doctor::probe;
use crate::doctor::probe::Probed;
use crate::load::gds::ways;
use crate::load::gds::ways::{Assessment, Need, Reason, Requirement, Settings, State, Way};
use crate::node::source::{Source, Unread};

/// The first version that knows P2PDMA, and the first that a program can tell to use it.
const P2PDMA_MIN: (u32, u32) = (1, 13);
const PARAMETERS_MIN: (u32, u32) = (1, 14);
fn by_trial(why: impl Into<String>) -> Reason {
    Reason::ByTrial(why.into())
}

/// The library, its driver and its configuration.
pub fn findings(source: &Source) -> Vec<Finding> {
    let environment = ways::environment(source);
    let probed = source.fact("cufile", probe::cufile);
    let mut findings = library(source, &environment, &probed);
    let is_shut = |f: &Finding| f.is(Requirement::CufileLibrary) && !f.is_met();
    let loads = !findings.iter().any(is_shut);
    let configuration: Vec<Finding> = ways::configuration(source).into_iter().map(Finding::of).collect();
    if loads {
        // A bad configuration keeps the driver shut, with an error that names no cause.
        let is_bad = |f: &&Finding| f.is(Requirement::CufileConfiguration) && f.is_unmet();
        let bad = configuration.iter().find(is_bad);
        findings.push(driver_open(&probed, bad.and_then(|f| f.check.remedy.as_deref())));
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
    let found = |requirement, state| Assessment::new(requirement, state, value.clone(), path.clone());
    let mut findings = vec![Finding::of(found(Requirement::CufileLibrary, State::Met))];
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
    let unmet = found(Requirement::P2pdmaCufile, State::Unmet(by_trial(lacks)));
    findings.push(Finding::tried(unmet.needed_by(Need::Only(Way::P2pdma)), remedy));
    findings
}

/// The file that was found, if any, and the linker's words.
fn not_loaded(found: Result<String, Unread>, error: Option<&str>) -> Finding {
    const INSTALL: &str = "install package libcufile of your CUDA version, or: pip install nvidia-cufile";
    let tried = |state, value: &str, from: &str, remedy: String| {
        Finding::tried(Assessment::new(Requirement::CufileLibrary, state, value, from), remedy)
    };
    let directories = "the loader's directories";
    match (found, error) {
        (Ok(path), error) => {
            let words = error.unwrap_or("the linker's words were not recorded");
            let state = State::Unmet(by_trial(format!("cuFile can't be loaded: {words}")));
            let remedy = format!("look at {path}: it must be {NAME} for this machine; or {INSTALL}");
            tried(state, "does not load", &path, remedy)
        }
        (Err(why @ (Unread::Denied | Unread::Other(_))), None) => {
            let state = State::Unknown(by_trial(format!("whether there is a {NAME} can't be told")));
            let remedy = "give this user read access to its directory".into();
            tried(state, &why.to_string(), directories, remedy)
        }
        (Err(_), error) => {
            let words = error.map_or(format!("{NAME} was not found"), str::to_string);
            let state = State::Unmet(by_trial(format!("cuFile is not installed: {words}")));
            tried(state, "not found", directories, INSTALL.into())
        }
    }
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
    let found = |state, value: String| {
        Assessment::new(Requirement::CufileDriver, state, value, "cuFileDriverOpen, in a child process")
    };
    let unmet = |why: String, value: String, remedy: &str| {
        Finding::tried(found(State::Unmet(by_trial(why)), value), mend.unwrap_or(remedy))
    };
    let error = probed.as_ref().ok().and_then(|p| p.error.as_deref());
    match probed {
        Ok(Probed { driver_open: Some(opened), .. }) => match (opened.ended, opened.code) {
            (false, _) => unmet(
                "cuFile's driver never finishes opening: it was stopped at the time limit".into(),
                format!("not back after {:.1} s", opened.seconds),
                "look at proc.modules; or take another version of libcufile",
            ),
            (true, Some(0)) => {
                let value = format!("opened in {:.1} s; {}", opened.seconds, direct_words(probed));
                Finding::of(found(State::Met, value))
            }
            (true, code) => {
                let known = CODES.iter().find(|known| Some(i64::from(known.number)) == code);
                let number = code.map_or("no code".to_string(), |c| format!("code {c}"));
                let cause = match (known, error) {
                    (Some(known), _) => format!("{}, {number}", known.cause),
                    (None, error) => error.unwrap_or(&number).to_string(),
                };
                unmet(
                    format!("cuFile's driver does not open: {cause}"),
                    format!("{number} after {:.1} s", opened.seconds),
                    known.map_or("look it up in NVIDIA's cuFile API reference", |k| k.remedy),
                )
            }
        },
        Ok(_) => unmet(
            "cuFile's driver does not open: it crashed or ended while opening".into(),
            error.unwrap_or("no answer").to_string(),
            "take another version of libcufile",
        ),
        Err(why) => {
            let state = State::Unknown(by_trial("whether cuFile's driver opens is not known"));
            let remedy = mend.unwrap_or("sllm-gds doctor --probe-cufile says what comes of it");
            Finding::tried(found(state, why.to_string()), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
