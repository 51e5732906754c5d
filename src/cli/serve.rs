//! `sllm-gds serve`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::cli::help;
use crate::cli::words::{parse_duration, parse_links, parse_size};
use crate::cli::{Outcome, print};
use crate::load::Links;
use crate::os::cancel::Cancel;
use crate::os::text::size;
use crate::serve::events::Event;
use crate::serve::{Ended, Gpus, Settings, Verify, serve};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Models lie below this
    #[arg(long, env = "STORAGE_PATH", default_value = "./models", value_name = "DIR", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
    /// Address to listen at
    ///
    /// 0.0.0.0 lets other machines ask, who may then load, unload and clear.
    #[arg(long, default_value = "127.0.0.1", help_heading = help::WHERE)]
    pub host: String,
    /// Port to listen at: ServerlessLLM's clients want 8073
    ///
    /// 0 takes one that is free, which the ready line tells.
    #[arg(long, default_value_t = 8073, help_heading = help::WHERE)]
    pub port: u16,
    /// Listen at this Unix socket, too, for processes of the same user
    #[arg(long, value_name = "PATH", help_heading = help::WHERE)]
    pub unix: Option<PathBuf>,
    /// Host memory that keeps models, pinned where there is a GPU
    #[arg(long, default_value = "4GB", value_parser = parse_size, value_name = "SIZE", help_heading = help::TUNING)]
    pub mem_pool_size: u64,
    /// Bytes of one chunk of the pool
    ///
    /// A file's last chunk takes as much as the others.
    #[arg(long, default_value = "32MB", value_parser = parse_size, value_name = "SIZE", help_heading = help::TUNING)]
    pub chunk_size: u64,
    /// Reader threads of each link [default: 4 to 16, by cores]
    #[arg(long, alias = "num-thread", value_name = "N", help_heading = help::TUNING)]
    pub num_threads: Option<usize>,
    /// Taken as ServerlessLLM's server takes it, and without effect there and here
    #[arg(long, value_name = "SIZE", hide = true)]
    pub disk_size: Option<String>,
    /// Over which links bytes come to GPUs: as of `load`
    #[arg(long, value_parser = parse_links, default_value = "auto", value_name = "LINKS", help_heading = help::TUNING)]
    pub links: Links,
    /// Hold loads to clients against recorded digests before they are answered: all tensors, a sample, or none
    ///
    /// `sample` takes a sixteenth of the tensors, other ones each time. Fills of the pool are not held against any: what comes from
    /// there is, with each load.
    #[arg(long, default_value = "off", value_name = "WHICH", help_heading = help::WHAT)]
    pub verify: VerifyArg,
    /// Bring these models into the pool at the start
    ///
    /// One that can't be is told, and is no reason not to serve.
    #[arg(long, num_args = 1.., value_name = "NAME", help_heading = help::WHAT)]
    pub warm: Vec<String>,
    /// Bring these models into the pool at the start, and keep them there
    #[arg(long, num_args = 1.., value_name = "NAME", help_heading = help::WHAT)]
    pub pin: Vec<String>,
    /// Loads to clients' memory that run at a time; further ones wait [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = help::TUNING)]
    pub max_loads: Option<u16>,
    /// How long loads may go on once the server is asked to end
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "TIME", help_heading = help::TUNING)]
    pub grace: Duration,
    /// Answer Prometheus at this address, under /metrics
    #[arg(long, value_name = "HOST:PORT", help_heading = help::OUTPUT)]
    pub metrics: Option<String>,
    /// Refuse to load models that were not registered before
    ///
    /// May be followed by true or false, as with ServerlessLLM.
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", value_name = "BOOL", value_parser = parse_bool, help_heading = help::WHAT)]
    pub registration_required: bool,
    /// Take calls that change what the server holds (warm, pin, evict) over TCP, too
    #[arg(long, help_heading = help::WHAT)]
    pub admin_tcp: bool,
    /// A JSON line for each event
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

/// Which loads are verified.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum VerifyArg {
    Off,
    Sample,
    All,
}

pub fn run(args: &ServeArgs, cancel: &Cancel) -> Result<Outcome> {
    let json = args.json;
    let tell = move |event: &Event| match json {
        true => print::say_json_if_heard(&serde_json::to_string(event).unwrap_or_default()),
        false => say(event),
    };
    match serve(settings(args), Arc::new(Gpus::default()), cancel, Arc::new(tell))? {
        Ended::Stopped => Ok(Outcome::Yes),
        Ended::Broken(_) => Ok(Outcome::No),
    }
}

fn settings(args: &ServeArgs) -> Settings {
    Settings {
        storage_path: args.storage_path.clone(),
        host: args.host.clone(),
        port: args.port,
        unix: args.unix.clone(),
        pool_bytes: args.mem_pool_size,
        chunk_bytes: args.chunk_size,
        threads: args.num_threads,
        links: args.links.clone(),
        verify: match args.verify {
            VerifyArg::Off => Verify::Off,
            VerifyArg::Sample => Verify::Sample,
            VerifyArg::All => Verify::All,
        },
        warm: args.warm.clone(),
        pin: args.pin.clone(),
        max_loads: args.max_loads.map(usize::from),
        grace: args.grace,
        metrics: args.metrics.clone(),
        registration_required: args.registration_required,
        admin_tcp: args.admin_tcp,
        faults: None,
    }
}

/// True and false as click reads them, which ServerlessLLM's server is started through.
fn parse_bool(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => anyhow::bail!("'{text}' is neither true nor false"),
    }
}

/// An event for a person.
fn say(event: &Event) {
    match event {
        Event::Ready { at, gpus, no_gpus, pool_bytes, elapsed_s } => {
            print::say_if_heard(format_args!(
                "ready at {} after {elapsed_s:.2} s, with a pool of {}",
                at.join(" and "),
                size(*pool_bytes)
            ));
            match no_gpus {
                None => print::say_if_heard(format_args!("GPUs: {}", gpus.join(", "))),
                Some(why) => print::say_if_heard(format_args!(
                    "no GPU ({why}): it registers models and fills the pool"
                )),
            }
        }
        Event::PoolMade { bytes, elapsed_s } => {
            print::say_if_heard(format_args!(
                "all {} of the pool are pinned, after {elapsed_s:.2} s",
                size(*bytes)
            ));
        }
        Event::Loaded { model, to, report, .. } => print::say_if_heard(format_args!(
            "loaded {model} to GPU {to}: {} in {:.3} s, {:.1} GB/s, {}",
            size(report.bytes),
            report.elapsed_s,
            report.gb_per_s,
            report.path
        )),
        Event::Warmed { model, warmed } => print::say_if_heard(format_args!(
            "{model} is in the pool: {} in {:.3} s, {} of them read",
            size(warmed.bytes),
            warmed.elapsed_s,
            size(warmed.read_bytes)
        )),
        Event::Evicted { model, bytes } => {
            let what = if model.is_empty() { "all models" } else { model };
            print::say_if_heard(format_args!("{what} left the pool: {} are free again", size(*bytes)));
        }
        Event::Failed { what, model, code, error } => {
            let model = if model.is_empty() { "a model without a name" } else { model };
            print::tell(format_args!("error: {what} {model}: {code}: {error}"));
        }
        Event::Warning { what } => print::tell(format_args!("warning: {what}")),
        Event::Stopping { why } => print::say_if_heard(format_args!("ending: {why}")),
    }
}
