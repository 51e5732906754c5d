//! Fetching a model from the Hugging Face hub, into the cache that its Python client uses too.
//!
//! An own client over ureq, for hf-hub 1.0 does not meet the need. Tried over plain HTTP against a hub on loopback,
//! with its blocking face, it begins a cut download of 4 MB anew from byte 0; it takes 4 MB with one wrong byte, 1000
//! bytes where 4 MB were promised, and the text of a 403 for the weights, and serves each from its cache ever after,
//! since it compares neither digest nor size nor looks at the status of the download itself. It does not know
//! HF_HUB_OFFLINE; where nothing answers it falls back to its cache for a single file, not for a snapshot; and it takes
//! a snapshot without its weights for whole. What the hub says of a gated model does arrive. No blocking call can be
//! cancelled: a program that catches Ctrl-C waits for the download's end. And it brings 130 crates that are not here
//! yet, which take about 6 minutes of a release build on two cores beside the 5.3 of all else, more than the 9 that it
//! may take. It has Xet, which this lacks.
//!
//! The path of a file: listing (`api`) → which files (`checkpoint::select`, `checkpoint::beside`) → its etag and size (`api`) →
//! `blobs/<etag>` (`blob`) → `snapshots/<commit>/<name>` (`cache`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::checkpoint::select;
use crate::checkpoint::select::Weights;
use crate::checkpoint::{Checkpoint, CheckpointError, beside, json};
use crate::origin::hub::api::{Listing, Remote};
use crate::origin::hub::cache::Repo;
use crate::origin::hub::client::{Client, NoAnswer};
use crate::origin::hub::model::{DEFAULT_REVISION, Model};
use crate::origin::hub::options::Options;
use crate::origin::hub::{api, blob};
use crate::origin::synthetic;
use crate::os::progress::{Meter, Unit};

/// Brings the model's weights (safetensors), config and tokenizer into the cache, and returns the snapshot
/// directory that holds them. When the hub does not answer, a complete snapshot in the cache will do.
pub fn fetch(id: &str, options: &Options) -> Result<PathBuf> {
    let model = Model::parse(id)
        .with_context(|| format!("'{id}' is no hub id; write org/name or org/name@revision"))?;
    let cached = || {
        let repo = Repo::new(&options.cache, &model.id);
        let dir = repo.find(&model.revision)?;
        if repo.may_lack_files(&dir) {
            options.progress.note(&format!(
                "nothing in {} tells whether all weight files of {id} are there: it has no index, and its names have \
                 no numbers",
                dir.display()
            ));
        }
        Some(dir)
    };
    if options.offline {
        return cached().with_context(|| {
            format!(
                "HF_HUB_OFFLINE is set, and no complete {id} lies in {}; {}",
                options.cache.display(),
                synthetic_twin(&model.id)
            )
        });
    }
    let error = match fetch_online(&model, options) {
        Ok(dir) => return Ok(dir),
        Err(error) => error,
    };
    let Some(no_answer) = error.downcast_ref::<NoAnswer>() else {
        return Err(error.context(format!("fetch {id} from the hub")));
    };
    if let Some(dir) = cached() {
        options.progress.note(&format!("{no_answer}; taking {id} from the cache, {}", dir.display()));
        return Ok(dir);
    }
    if no_answer.network { Err(anyhow!("{error:#}; {}", synthetic_twin(&model.id))) } else { Err(error) }
}

/// What to do where there is no hub.
fn synthetic_twin(id: &str) -> String {
    let known = synthetic::known_ids();
    let ids = if known.contains(&id) { id.to_string() } else { format!("<one of {}>", known.join(", ")) };
    let same = if known.contains(&id) { "same shapes" } else { "published shapes" };
    format!("with no network take the model synthetic:{ids} ({same}, made-up values)")
}

fn fetch_online(model: &Model, options: &Options) -> Result<PathBuf> {
    let client = Client::new(model, options)?;
    let listing = api::listing(&client, model)?;
    let weights = choose(&client, model, &listing, options)?;
    if !weights.files.is_empty() {
        return download(&client, model, &listing, &weights, options);
    }
    if !listing.files.iter().any(|name| is_pickle(name)) {
        bail!(
            "{} holds no *.safetensors at its top level; it holds {}",
            model.id,
            beside::summary(&listing.files)
        );
    }
    let conversion = if model.revision == DEFAULT_REVISION { api::conversion(&client, model)? } else { None };
    let Some(revision) = conversion else {
        return Err(CheckpointError::OnlyPickles(PathBuf::from(&model.id)).into());
    };
    options.progress.note(&format!(
        "{} has only pickles; taking the hub's own conversion, {}@{revision}",
        model.id, model.id
    ));
    let model = model.at(&revision);
    let listing = api::listing(&client, &model)?;
    let weights = choose(&client, &model, &listing, options)?;
    if weights.files.is_empty() {
        return Err(CheckpointError::OnlyPickles(PathBuf::from(&model.id)).into());
    }
    download(&client, &model, &listing, &weights, options)
}

fn is_pickle(name: &str) -> bool {
    !name.contains('/') && [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end))
}

/// Which files are the model. An index is fetched for it, since it decides.
fn choose(client: &Client, model: &Model, listing: &Listing, options: &Options) -> Result<Weights> {
    let has = |name: &str| listing.files.iter().any(|file| file == name);
    let read = |name: &str| read_small(client, model, listing, options, name);
    select::weights(&listing.files, &has, &read).with_context(|| {
        format!(
            "choose the files of {} (what it lacks, only another revision or its owners can give)",
            model.id
        )
    })
}

/// The text of a small file that is looked at before anything else is fetched.
fn read_small(
    client: &Client,
    model: &Model,
    listing: &Listing,
    options: &Options,
    name: &str,
) -> Result<String> {
    let repo = Repo::new(&options.cache, &model.id);
    if !repo.holds(&listing.commit, name) {
        let remote = api::remote(client, model, &listing.commit, name)?;
        fetch_file(client, &repo, &remote, &listing.commit, &Meter::silent(), 0)?;
    }
    json::read_text(&repo.snapshot(&listing.commit).join(name))
}

/// Refuses an index that was cut, where the sizes of files that it does not name explain what its total says more than
/// the tensors that came.
fn check_total(
    client: &Client,
    model: &Model,
    commit: &str,
    weights: &Weights,
    snapshot: &Path,
) -> Result<()> {
    /// Headers of safetensors files: of a file whose tensors are not known, what it may have beside them.
    const HEADER_BYTES: u64 = 1 << 20;
    let others: Vec<&String> = weights.left_out.iter().chain(&weights.below).collect();
    let Some(index) = &weights.index else { return Ok(()) };
    let opened = Checkpoint::read(snapshot)?;
    let came_bytes: u64 = opened.tensors.iter().map(|tensor| tensor.bytes).sum();
    // The hub's listing tells of files that the snapshot does not have.
    index.check_whole(came_bytes).map_err(|why| anyhow!("{} of {} {why}", index.file, model.id))?;
    let more_bytes = index.total_bytes.unwrap_or(0).saturating_sub(came_bytes);
    if more_bytes == 0 || others.is_empty() {
        return Ok(());
    }
    let mut sizes = Vec::new();
    for name in others {
        sizes.push((api::remote(client, model, commit, name)?.bytes, name));
    }
    let explains = |files: &[(u64, &String)]| {
        let bytes = files.iter().fold(0u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
        bytes > more_bytes && bytes - more_bytes <= HEADER_BYTES * files.len() as u64
    };
    let found = sizes.chunks(1).chain([sizes.as_slice()]).find(|files| explains(files));
    if let Some([(_, name), ..]) = found {
        bail!(
            "the index of {} says {more_bytes} bytes more than the tensors of its files, which {name} may hold, and does not \
             name it: the index was cut; name another revision, or take the files that you mean into a directory",
            model.id
        );
    }
    Ok(())
}

/// Fetches what the snapshot lacks; small files first, so that whoever finds the weights finds all.
fn download(
    client: &Client,
    model: &Model,
    listing: &Listing,
    weights: &Weights,
    options: &Options,
) -> Result<PathBuf> {
    let repo = Repo::new(&options.cache, &model.id);
    let read = |name: &str| read_small(client, model, listing, options, name);
    let modules = beside::modules(&listing.files, &read)?;
    let beside = beside::beside(&listing.files, &weights.names(), &weights.left_out, &modules);
    if !beside.left_out.is_empty() {
        options.progress.note(&format!(
            "not fetched from {}, as other weights or other forms of them: {}",
            model.id,
            beside::summary(&beside.left_out)
        ));
    }
    let commit = &listing.commit;
    let mut remotes = Vec::new();
    for name in beside.carried.iter().chain(&weights.files).filter(|name| !repo.holds(commit, name)) {
        remotes.push(api::remote(client, model, commit, name)?);
    }
    let total_bytes = remotes.iter().fold(0u64, |sum, remote| sum.saturating_add(remote.bytes));
    let meter = options.progress.begin(&model.id, total_bytes, Unit::Bytes);
    let mut before_bytes = 0u64;
    for remote in &remotes {
        fetch_file(client, &repo, remote, commit, &meter, before_bytes)
            .with_context(|| format!("download {} of {}", remote.name, model.id))?;
        before_bytes = before_bytes.saturating_add(remote.bytes);
        meter.set(before_bytes);
    }
    repo.note(commit, beside.carried.iter().chain(&weights.names()))?;
    check_total(client, model, commit, weights, &repo.snapshot(commit))?;
    repo.write_ref(&model.revision, commit)?;
    Ok(repo.snapshot(commit))
}

/// Brings one file into the cache and the snapshot.
fn fetch_file(
    client: &Client,
    repo: &Repo,
    remote: &Remote,
    commit: &str,
    meter: &Meter,
    before_bytes: u64,
) -> Result<()> {
    blob::fetch(client, repo, remote, meter, before_bytes)?;
    repo.link(commit, &remote.name, &remote.etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twin_is_named_only_where_there_is_one() {
        let known = synthetic::known_ids()[0];
        assert!(synthetic_twin(known).contains(&format!("the model synthetic:{known} (same")));
        assert!(synthetic_twin("no/such").contains(&format!("synthetic:<one of {known}")));
    }
}
