//! Whether a load goes by cuFile: settled before the first byte, with the reason kept.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cufile::{Driver, DriverOptions, Library};
use crate::load::gds::engine::Gds;
use crate::load::gds::ways::{Way, Ways, gds_ways};
use crate::load::settings::{EngineChoice, IoChoice, OnError, Register, Settings};
use crate::node::source::Source;

/// cuFile 1.14, of CUDA 12.9, lets a program set its parameters.
const PARAMETERS_SINCE: u32 = 1140;

/// By cuFile; or not, and why, when the user may want to know.
pub type Choice = Result<Gds, Option<String>>;

/// Opens cuFile where these options want it and `path` can have it. [`EngineChoice::Gds`] is a demand: what stands in its way
/// is an error. `auto` takes cuFile only where it reads directly; its own compatibility mode is slower than the ring.
pub fn choose(settings: &Settings, path: &Path) -> Result<Choice> {
    if !matches!(settings.engine, EngineChoice::Gds | EngineChoice::Auto) {
        return Ok(Err(None));
    }
    match decide(settings, &gds_ways(&Source::live(false), path), path)? {
        Decision::Not(why) => Ok(Err(Some(format!("no GDS: {why}")))),
        Decision::Open(way) if settings.engine == EngineChoice::Gds => open(settings, way).map(Ok),
        Decision::Open(way) => Ok(open(settings, way).map_err(|why| Some(format!("no GDS: {why:#}")))),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Not(String),
    /// By this way, or by compatibility mode.
    Open(Option<Way>),
}

fn decide(settings: &Settings, ways: &Ways, path: &Path) -> Result<Decision> {
    match (settings.engine, ways.open()) {
        (EngineChoice::Auto, None) => Ok(Decision::Not(in_short(ways))),
        (EngineChoice::Auto, Some(_)) if settings.io == IoChoice::Buffered => {
            Ok(Decision::Not("buffered reads were asked for".into()))
        }
        (_, None) if !settings.allow_compat => bail!(
            "GPUDirect Storage is not possible for {}, and it was asked for: {}. Mend that (`sllm-gds doctor {0}` says how), \
             take the engine auto or pinned, or allow cuFile's compatibility mode",
            path.display(),
            in_full(ways)
        ),
        (_, Some(_)) if settings.io == IoChoice::Buffered => {
            bail!("GPUDirect Storage reads past the page cache: buffered reads can't be asked for with it")
        }
        (_, way) => Ok(Decision::Open(way)),
    }
}

fn open(settings: &Settings, way: Option<Way>) -> Result<Gds> {
    let library = Library::load()?;
    let mut options = DriverOptions::default();
    // Before that, cuFile's own configuration decides, and the proof tells what came of it.
    if library.version().is_some_and(|version| version >= PARAMETERS_SINCE) {
        options.allow_compat = Some(way.is_none());
        options.use_p2pdma = (way == Some(Way::P2pdma)).then_some(true);
    }
    let is_demand = settings.engine == EngineChoice::Gds;
    Ok(Gds {
        driver: Driver::open(&library, &options)?,
        options,
        allow_compat: way.is_none(),
        register: settings.register.unwrap_or(Register::Auto),
        on_error: settings.on_gds_error.unwrap_or(if is_demand { OnError::Fail } else { OnError::Retry }),
        may_fall_back: !is_demand,
        instead: None,
        helper: settings.helper.clone(),
        proofs: Default::default(),
    })
}

/// The first obstacle of the way that has the fewest.
fn in_short(ways: &Ways) -> String {
    let reasons = ways.get(ways.nearest()).as_ref().err().and_then(|reasons| reasons.first());
    reasons.map_or("no way is open".into(), |reason| reason.to_string())
}

fn in_full(ways: &Ways) -> String {
    let of = |way: Way| {
        let reasons = ways.get(way).as_ref().err().into_iter().flatten();
        let reasons: Vec<String> = reasons.map(|reason| reason.to_string()).collect();
        format!("by {}: {}", way.name(), reasons.join("; "))
    };
    Way::ALL.map(of).join(". ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Links;
    use crate::load::gds::ways::Reason;

    const AUTO: Settings = settings(EngineChoice::Auto);
    const GDS: Settings = settings(EngineChoice::Gds);

    const fn settings(engine: EngineChoice) -> Settings {
        Settings {
            engine,
            io: IoChoice::Auto,
            links: Links::Auto,
            chunk_bytes: None,
            threads: None,
            copy_bytes: None,
            ring_bytes: None,
            allow_compat: false,
            register: None,
            on_gds_error: None,
            helper: None,
            faults: None,
        }
    }

    fn decide_by(settings: Settings, ways: &Ways) -> Result<Decision> {
        decide(&settings, ways, Path::new("/mnt/m"))
    }

    fn shut() -> Ways {
        let no = |why: &[&str]| Err(why.iter().map(|w| Reason::ByTrial(w.to_string())).collect());
        Ways {
            nvidia_fs: no(&["nvidia-fs is not loaded"]),
            p2pdma: no(&["the kernel lacks P2PDMA", "no NVMe drive"]),
        }
    }

    #[test]
    fn auto_takes_cufile_only_where_a_way_is_open() {
        assert_eq!(decide_by(AUTO, &shut()).unwrap(), Decision::Not("nvidia-fs is not loaded".into()));
        let open = Ways { nvidia_fs: Ok(()), ..shut() };
        assert_eq!(decide_by(AUTO, &open).unwrap(), Decision::Open(Some(Way::NvidiaFs)));
        assert_eq!(
            decide_by(Settings { io: IoChoice::Buffered, ..AUTO }, &open).unwrap(),
            Decision::Not("buffered reads were asked for".into())
        );
        let both = Ways { p2pdma: Ok(()), ..open };
        assert_eq!(decide_by(AUTO, &both).unwrap(), Decision::Open(Some(Way::P2pdma)));
    }

    #[test]
    fn gds_is_a_demand() {
        let error = decide_by(GDS, &shut()).unwrap_err().to_string();
        for part in ["/mnt/m", "nvidia-fs is not loaded", "no NVMe drive", "compatibility mode", "doctor"] {
            assert!(error.contains(part), "{error}");
        }
        let compat = decide_by(Settings { allow_compat: true, ..GDS }, &shut()).unwrap();
        assert_eq!(compat, Decision::Open(None));
        // Where a way is open, compatibility mode is not what was asked for.
        let open = Ways { nvidia_fs: Ok(()), ..shut() };
        let direct = decide_by(Settings { allow_compat: true, ..GDS }, &open).unwrap();
        assert_eq!(direct, Decision::Open(Some(Way::NvidiaFs)));
        assert!(decide_by(Settings { io: IoChoice::Buffered, ..GDS }, &open).is_err());
    }
}
