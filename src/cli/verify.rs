//! `sllm-gds verify`: digests recomputed from disk, and comparison with another checkpoint.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::served::served;
use crate::cli::checkpoint::CheckpointArg;
use crate::cli::help;
use crate::cli::{Outcome, print, progress};
use crate::load::compare::compare;
use crate::load::stored;
use crate::os::cancel::Cancel;
use crate::os::progress::Progress;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// Compare tensor by tensor with this checkpoint, whatever its layout
    #[arg(long, value_name = "DIR", help_heading = help::WHAT)]
    pub against: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &VerifyArgs, cancel: &Cancel) -> Result<Outcome> {
    let checkpoint = args.checkpoint.find()?;
    if let Some(note) = checkpoint.note_of_place().filter(|_| args.against.is_none()) {
        print::tell(format_args!("note: {note}"));
    }
    // By kind, so that many of one hide none of another.
    let mut problems: Vec<Vec<String>> = Vec::new();
    let mut done = Vec::new();
    let progress = progress::progress();
    if let Some(lost) = checkpoint.what_is_lost() {
        problems.push(vec![lost]);
        done.push("what the files hold of the index's tensors".to_string());
    }
    let gone = checkpoint.missing_beside();
    problems.push(
        gone.iter().map(|name| format!("{name}, which was saved beside the weights, is missing")).collect(),
    );
    let digests = against_digests(&checkpoint, args, cancel, &progress)?;
    problems.extend(digests.problems);
    done.extend(digests.done);
    let mut hint = digests.hint;
    if let Some(against) = &args.against {
        // As the first one, by its name, too.
        let stored = args.checkpoint.storage_path.join(against);
        let against = if !against.exists() && stored.exists() { &stored } else { against };
        let compared = compare(checkpoint, against, cancel, &progress)?;
        problems.extend(compared.problems);
        hint = compared.hint.or(hint);
        done.push(format!("{} tensors against {}", compared.tensors, against.display()));
    }
    let count: usize = problems.iter().map(Vec::len).sum();
    let good = count == 0;
    if args.json {
        let value =
            serde_json::json!({ "good": good, "checked": done, "hint": hint, "problems": problems.concat() });
        print::say_json(&serde_json::to_string_pretty(&value)?);
    } else {
        problems.iter().for_each(|kind| print::tell_findings(kind));
        if let Some(hint) = hint {
            print::tell(format_args!("note: {hint}"));
        }
        let verdict = if good { "all good".into() } else { format!("{count} problems") };
        print::say(format_args!("verified {}: {verdict}", done.join(", ")));
    }
    Ok(if good { Outcome::Yes } else { Outcome::No })
}

/// What holding it against recorded digests came to.
#[derive(Default)]
struct Held {
    problems: Vec<Vec<String>>,
    done: Option<String>,
    hint: Option<String>,
}

/// Holds a checkpoint against the digests that a save or an index recorded of it. Refuses one that has none, where nothing else
/// is asked for.
fn against_digests(
    checkpoint: &Checkpoint,
    args: &VerifyArgs,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Held> {
    if let Some(manifest) = &checkpoint.manifest {
        let chunks: usize = match &checkpoint.packed {
            Some(packed) => packed.files.iter().map(|file| file.chunks()).sum(),
            None => manifest.partitions.iter().map(|p| p.digests.len()).sum(),
        };
        let problems = vec![stored::digests(checkpoint, manifest, cancel, progress)?];
        let done = format!("{chunks} chunks and {} tensors against the manifest", checkpoint.tensors.len());
        return Ok(Held { problems, done: Some(done), hint: None });
    }
    let indexed = checkpoint.chosen.indexed.as_ref();
    let again = indexed.map(|indexed| format!("{} --digests", indexed.again(&checkpoint.dir)));
    let wanted = indexed.map(|indexed| &indexed.tensors).filter(|digests| !digests.is_empty());
    match (wanted, again) {
        (Some(wanted), again) => {
            let stale = served(&checkpoint.dir, Some(&args.checkpoint.storage_path)).err();
            let stale = stale.iter().map(|error| error.to_string()).collect();
            let differing = stored::tensor_digests(checkpoint, wanted, cancel)?;
            let hint = again
                .filter(|_| !differing.is_empty())
                .map(|again| format!("if they were changed on purpose, `{again}` records what they are now"));
            let done = format!("{} tensors against the digests of its index", checkpoint.tensors.len());
            Ok(Held { problems: vec![stale, differing], done: Some(done), hint })
        }
        (None, _) if args.against.is_some() || !checkpoint.lost.is_empty() => Ok(Held::default()),
        (None, Some(again)) => bail!(
            "{} has an index without digests: `{again}` records those of its tensors as they are now; to compare with \
             another checkpoint, say --against DIR",
            checkpoint.dir.display()
        ),
        (None, None) => bail!(
            "{} has no manifest with digests (sllm_gds.json): say --against DIR to compare with another checkpoint, or \
             save it again to get one",
            checkpoint.dir.display()
        ),
    }
}
