//! `sllm-gds status`: what a store server holds and does.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::cli::help;
use crate::cli::{Outcome, print};
use crate::client::{Client, ClientError, Status, UnderWay};
use crate::os::text::size;

/// How often a server that is watched is asked.
const ASK: Duration = Duration::from_secs(1);
/// Characters of a bar.
const BAR: u64 = 30;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the server listens: HOST:PORT, or unix:PATH
    #[arg(long, default_value = "127.0.0.1:8073", value_name = "ADDRESS", help_heading = help::WHERE)]
    pub server: String,
    /// Show it anew every second, until Ctrl-C
    #[arg(long, help_heading = help::OUTPUT)]
    pub watch: bool,
    /// A JSON object; with --watch, a line each
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &StatusArgs) -> Result<Outcome> {
    let client = match Client::connect(&args.server) {
        Ok(client) => client,
        Err(error) => return not_there(error),
    };
    loop {
        let asked = Instant::now();
        match client.status() {
            Ok(status) => show(args, &status)?,
            Err(error) => return not_there(error),
        }
        if !args.watch {
            return Ok(Outcome::Yes);
        }
        std::thread::sleep(ASK.saturating_sub(asked.elapsed()));
    }
}

/// That no server answers is an answer; all else is an error.
fn not_there(error: ClientError) -> Result<Outcome> {
    match error {
        ClientError::Unreachable(why) => {
            print::tell(format_args!("error: {why}"));
            Ok(Outcome::No)
        }
        error => Err(error.into()),
    }
}

fn show(args: &StatusArgs, status: &Status) -> Result<()> {
    if args.json {
        print::say_json(&serde_json::to_string(status)?);
        return Ok(());
    }
    if args.watch && std::io::stdout().is_terminal() {
        print::clear_screen();
    }
    page(status).iter().for_each(print::say);
    Ok(())
}

/// What a person is told, line by line.
fn page(status: &Status) -> Vec<String> {
    let pool = &status.pool;
    let mut lines = vec![
        format!("sllm-gds {} serves {}, for {:.0} s", status.version, status.storage_path, status.uptime_s),
        match status.gpus.as_slice() {
            [] => "GPUs: none".to_string(),
            gpus => format!("GPUs: {}", gpus.join(", ")),
        },
        format!(
            "pool: {} of {} hold models, in chunks of {}",
            size(pool.full_chunks * pool.chunk_bytes),
            size(pool.bytes),
            size(pool.chunk_bytes)
        ),
    ];
    let longest = status.models.iter().map(|model| model.model.chars().count()).max().unwrap_or(0);
    for model in &status.models {
        let in_pool = match model.pool_bytes {
            0 => "not in the pool".to_string(),
            bytes if bytes >= model.bytes => "in the pool".to_string(),
            bytes => format!("{} in the pool", size(bytes)),
        };
        let pinned = if model.pinned { ", pinned" } else { "" };
        let loads = if model.loads > 0 { format!(", {} loads", model.loads) } else { String::new() };
        lines.push(format!(
            "  {:longest$}  {:>10}  {in_pool}{pinned}{loads}",
            model.model,
            size(model.bytes)
        ));
    }
    lines.extend(status.loads.iter().map(bar));
    lines
}

/// A load under way.
fn bar(load: &UnderWay) -> String {
    let UnderWay { model, to, read_bytes, total_bytes, elapsed_s, .. } = load;
    // A second pass over what was read already counts anew.
    let done = (*read_bytes).min(*total_bytes);
    let full =
        if *total_bytes == 0 { 0 } else { u128::from(BAR) * u128::from(done) / u128::from(*total_bytes) };
    let filled = "#".repeat(full as usize);
    let to = if to == "pool" { "the pool".to_string() } else { format!("GPU {to}") };
    let far = format!("{} of {} after {elapsed_s:.1} s", size(*read_bytes), size(*total_bytes));
    format!("  [{filled:-<width$}] {model} to {to}: {far}", width = BAR as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_has_a_bar_whatever_its_figures() {
        let load = |read_bytes, total_bytes| {
            let mut load = UnderWay::default();
            (load.model, load.to, load.elapsed_s) = ("m".into(), "0".into(), 1.5);
            (load.read_bytes, load.total_bytes) = (read_bytes, total_bytes);
            bar(&load)
        };
        let half = load(1_000_000, 2_000_000);
        assert_eq!(
            half,
            format!("  [{}{}] m to GPU 0: 1.0 MB of 2.0 MB after 1.5 s", "#".repeat(15), "-".repeat(15))
        );
        for (read, total, full) in [(0, 0, 0), (0, 9, 0), (9, 9, 30), (10, 9, 30), (u64::MAX, u64::MAX, 30)] {
            assert_eq!(load(read, total).matches('#').count(), full, "{read} of {total}");
        }
    }
}
