//! `sllm-gds load`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{LoadReport, Options, load, verify};
use crate::Outcome;
use crate::checkpoint::Checkpoint;
use crate::cli::{EngineChoice, Gpus, LoadArgs};
use crate::gpu;
use crate::interrupt::Cancel;

pub fn run(args: &LoadArgs, cancel: &Cancel) -> Result<Outcome> {
    let options = Options::new(&args.engine)?;
    let note = destination(args.gpus.as_ref(), args.engine.engine)?;
    let path: PathBuf = Checkpoint::locate(&args.checkpoint.name, &args.checkpoint.storage_path);
    let (loaded, report) = load(&path, &options, cancel)?;
    let verified = match args.verify {
        false => None,
        true => {
            let (expected, against) = verify::expected(&loaded.checkpoint)?;
            Some((verify::check(&loaded, &expected)?, against))
        }
    };
    let good = verified.as_ref().is_none_or(|(wrong, _)| wrong.is_empty());
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["note"] = note.into();
        value["verified"] = verified.as_ref().map(|(wrong, _)| wrong.is_empty()).into();
        value["verified_against"] = verified.as_ref().map(|(_, against)| *against).into();
        value["mismatches"] = verified.map(|(wrong, _)| wrong).unwrap_or_default().into();
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        if let Some(note) = &note {
            println!("{note}");
        }
        print!("{}", in_words(&report));
        if let Some((wrong, against)) = &verified {
            for line in wrong {
                eprintln!("error: {line}");
            }
            println!("verified  {} ({against})", if good { "every tensor" } else { "FAILED" });
        }
    }
    Ok(if good { Outcome::Yes } else { Outcome::No })
}

/// Settles where to load to. Returns the line to tell the user when it is not a GPU though one might expect it.
pub fn destination(gpus: Option<&Gpus>, engine: EngineChoice) -> Result<Option<String>> {
    match (gpus, gpu::devices()) {
        (Some(Gpus::None), _) => Ok(None),
        (None, Err(why)) => Ok(Some(format!("no CUDA device ({why}): loading into host memory"))),
        (None, Ok(_)) if engine == EngineChoice::Host => Ok(None),
        (Some(_), Err(why)) => bail!("no CUDA device: {why}; to load into host memory, say --gpus none"),
        (None, Ok(devices)) => Ok(Some(format!(
            "{} CUDA devices are here, and this version loads into host memory only",
            devices.len()
        ))),
        (Some(_), Ok(_)) => bail!("this version loads into host memory only: say --gpus none"),
    }
}

fn in_words(r: &LoadReport) -> String {
    let p = &r.phases;
    let ms = |s: f64| format!("{:.1} ms", s * 1e3);
    format!(
        "loaded    {} bytes in {:.4} s: {:.2} GB/s\npath      {} ({})\nphases    open {}, plan {}, allocate {}, \
         register {}, transfer {}\nreads     {} bytes with {} threads of {} KiB chunks\n",
        r.bytes,
        r.elapsed_s,
        r.gb_per_s,
        r.path,
        r.path_reason,
        ms(p.open_s),
        ms(p.plan_s),
        ms(p.allocate_s),
        ms(p.register_s),
        ms(p.transfer_s),
        r.read_bytes,
        r.threads,
        r.chunk_bytes >> 10
    )
}
