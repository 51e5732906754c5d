//! Whether a load goes by cuFile: settled before the first byte, with the reason kept.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::{EngineArgs, EngineChoice, Gpus, IoChoice};
use crate::cufile::{Driver, DriverOptions, Library};
use crate::load::gds::ways::{Way, Ways, gds_ways};
use crate::load::gds::{Gds, OnError};
use crate::node::source::Source;

/// cuFile 1.14, of CUDA 12.9, lets a program set its parameters.
const PARAMETERS_SINCE: u32 = 1140;

/// By cuFile; or not, and why, when the user may want to know.
pub type Choice = Result<Gds, Option<String>>;

/// Refuses options that would do nothing.
pub fn check(args: &EngineArgs) -> Result<()> {
    if args.engine != EngineChoice::Gds && (args.allow_compat || args.gds_register.is_some()) {
        bail!("--allow-compat and --gds-register are for --engine gds");
    }
    if !matches!(args.engine, EngineChoice::Gds | EngineChoice::Auto) && args.on_gds_error.is_some() {
        bail!("--on-gds-error is for --engine gds and auto");
    }
    Ok(())
}

/// Opens cuFile where these options want it and `path` can have it. `--engine gds` is a demand: what stands in its way
/// is an error. `auto` takes cuFile only where it reads directly; its own compatibility mode is slower than the ring.
pub fn choose(args: &EngineArgs, gpus: Option<&Gpus>, path: &Path) -> Result<Choice> {
    if !matches!(args.engine, EngineChoice::Gds | EngineChoice::Auto) || matches!(gpus, Some(Gpus::None)) {
        return Ok(Err(None));
    }
    match decide(args, &gds_ways(&Source::live(false), path), path)? {
        Decision::Not(why) => Ok(Err(Some(format!("no GDS: {why}")))),
        Decision::Open(way) if args.engine == EngineChoice::Gds => open(args, way).map(Ok),
        Decision::Open(way) => Ok(open(args, way).map_err(|why| Some(format!("no GDS: {why:#}")))),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Not(String),
    /// By this way, or by compatibility mode.
    Open(Option<Way>),
}

fn decide(args: &EngineArgs, ways: &Ways, path: &Path) -> Result<Decision> {
    match (args.engine, ways.open()) {
        (EngineChoice::Auto, None) => Ok(Decision::Not(in_short(ways))),
        (EngineChoice::Auto, Some(_)) if args.io == IoChoice::Buffered => {
            Ok(Decision::Not("--io buffered".into()))
        }
        (_, None) if !args.allow_compat => bail!(
            "--engine gds: GPUDirect Storage is not possible for {}: {}. Mend that (`sllm-gds doctor {0}` says how), take \
             --engine auto or pinned, or take cuFile's compatibility mode as it is with --allow-compat",
            path.display(),
            in_full(ways)
        ),
        (_, Some(_)) if args.io == IoChoice::Buffered => {
            bail!("--engine gds reads past the page cache: leave --io buffered out")
        }
        (_, way) => Ok(Decision::Open(way)),
    }
}

fn open(args: &EngineArgs, way: Option<Way>) -> Result<Gds> {
    let library = Library::load()?;
    let mut options = DriverOptions::default();
    // Before that, cuFile's own configuration decides, and the proof tells what came of it.
    if library.version().is_some_and(|version| version >= PARAMETERS_SINCE) {
        options.allow_compat = Some(way.is_none());
        options.use_p2pdma = (way == Some(Way::P2pdma)).then_some(true);
    }
    let is_demand = args.engine == EngineChoice::Gds;
    Ok(Gds {
        driver: Driver::open(&library, &options)?,
        options,
        allow_compat: way.is_none(),
        register: args.gds_register.unwrap_or(crate::load::gds::Register::Auto),
        on_error: args.on_gds_error.unwrap_or(if is_demand { OnError::Fail } else { OnError::Retry }),
        may_fall_back: !is_demand,
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
    use crate::load::gds::ways::Reason;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        engine: EngineArgs,
    }

    fn decide_by(words: &[&str], ways: &Ways) -> Result<Decision> {
        let words = Words::parse_from([&["test"], words].concat());
        decide(&words.engine, ways, Path::new("/mnt/m"))
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
        assert_eq!(decide_by(&[], &shut()).unwrap(), Decision::Not("nvidia-fs is not loaded".into()));
        let open = Ways { nvidia_fs: Ok(()), ..shut() };
        assert_eq!(decide_by(&[], &open).unwrap(), Decision::Open(Some(Way::NvidiaFs)));
        assert_eq!(decide_by(&["--io", "buffered"], &open).unwrap(), Decision::Not("--io buffered".into()));
        let both = Ways { p2pdma: Ok(()), ..open };
        assert_eq!(decide_by(&[], &both).unwrap(), Decision::Open(Some(Way::P2pdma)));
    }

    #[test]
    fn gds_is_a_demand() {
        let error = decide_by(&["--engine", "gds"], &shut()).unwrap_err().to_string();
        for part in ["/mnt/m", "nvidia-fs is not loaded", "no NVMe drive", "--allow-compat", "doctor"] {
            assert!(error.contains(part), "{error}");
        }
        let compat = decide_by(&["--engine", "gds", "--allow-compat"], &shut()).unwrap();
        assert_eq!(compat, Decision::Open(None));
        // Where a way is open, compatibility mode is not what was asked for.
        let open = Ways { nvidia_fs: Ok(()), ..shut() };
        let direct = decide_by(&["--engine", "gds", "--allow-compat"], &open).unwrap();
        assert_eq!(direct, Decision::Open(Some(Way::NvidiaFs)));
        assert!(decide_by(&["--engine", "gds", "--io", "buffered"], &open).is_err());
    }
}
