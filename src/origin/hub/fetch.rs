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

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::checkpoint::select;
use crate::checkpoint::select::Weights;
use crate::checkpoint::{CheckpointError, beside, json};
use crate::origin::hub::api::Listing;
use crate::origin::synthetic;
use crate::os::cancel::Cancel;
use crate::os::progress::{Meter, Progress, Unit};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const DEFAULT_REVISION: &str = "main";

/// A secret: neither Debug nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(super) String);

impl Token {
    /// `None` for blank text; an error for what cannot stand in a header.
    pub fn new(text: &str) -> Result<Option<Token>> {
        let text = text.trim();
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            bail!(
                "the hub token holds spaces or characters that no token has; set HF_TOKEN or --hf-token anew"
            );
        }
        Ok((!text.is_empty()).then(|| Token(text.to_string())))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where the hub and the cache are, and how patient to be.
#[derive(Clone)]
pub struct Options {
    pub token: Option<Token>,
    /// `https://huggingface.co`, without a slash at its end.
    pub endpoint: String,
    /// The directory of `models--org--name`.
    pub cache: PathBuf,
    /// Look into the cache only.
    pub offline: bool,
    /// The wait before a second try; each further one waits twice as long.
    pub back_off: Duration,
    pub cancel: Cancel,
    pub progress: Progress,
}

impl Options {
    /// As the Python client reads its environment: HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE, and for the
    /// token what is given here, HF_TOKEN, HF_TOKEN_PATH, or the file `token` in HF_HOME.
    pub fn from_env(token: Option<&str>) -> Result<Options> {
        Options::from_vars(token, |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn from_vars(token: Option<&str>, var: impl Fn(&str) -> Option<String>) -> Result<Options> {
        let path = |name: &str| var(name).map(|value| expand_home(&value, var("HOME").as_deref()));
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
            .or_else(|| path("HOME").map(|dir| dir.join(".cache/huggingface")))
            .context(
                "no place for the hub's cache: neither HF_HOME nor HOME is set; set HF_HOME to a directory",
            )?;
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        let token = match token.map(str::to_string).or_else(|| var("HF_TOKEN")) {
            Some(text) => Token::new(&text)?,
            None => read_token(&path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")))?,
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_string());
        let yes = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_uppercase().as_str());
        Ok(Options {
            token,
            endpoint: endpoint.trim().trim_end_matches('/').to_string(),
            cache,
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
            back_off: Duration::from_millis(500),
            cancel: Cancel::new(),
            progress: Progress::silent(),
        })
    }
}

fn expand_home(path: &str, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// The token that `hf auth login` left; no such file is no token.
fn read_token(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Token::new(&text).with_context(|| format!("read the hub token in {}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read the hub token in {}", path.display())),
    }
}

/// A model on the hub: `org/name`, or `name` for the oldest ones, at a branch, tag, `refs/pr/N` or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(super) id: String,
    pub(super) revision: String,
}

impl Model {
    /// `None` when the text is not shaped like an id. No part can leave the directory or the URL it is put into.
    fn parse(text: &str) -> Option<Model> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good_name = |part: &str| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|b| word(*b))
                && bytes.last().is_some_and(|b| word(*b))
                && bytes.iter().all(|b| word(*b) || *b == b'-' || *b == b'.')
                && !part.contains("--")
                && !part.contains("..")
        };
        let good_step = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| word(b) || [b'-', b'.', b'+'].contains(&b))
        };
        let good = id.len() <= 96
            && id.split('/').count() <= 2
            && id.split('/').all(good_name)
            && revision.len() <= 200
            && revision.split('/').all(good_step);
        good.then(|| Model { id: id.to_string(), revision: revision.to_string() })
    }

    fn at(&self, revision: &str) -> Model {
        Model { id: self.id.clone(), revision: revision.to_string() }
    }
}

/// Is this text shaped like a hub id (`org/name` or `name`, and perhaps `@revision`)?
pub fn is_id(text: &str) -> bool {
    Model::parse(text).is_some()
}

/// Brings the model's weights (safetensors), config and tokenizer into the cache, and returns the snapshot
/// directory that holds them. When the hub does not answer, a complete snapshot in the cache will do.
pub fn fetch(id: &str, options: &Options) -> Result<PathBuf> {
    let model = Model::parse(id)
        .with_context(|| format!("'{id}' is no hub id; write org/name or org/name@revision"))?;
    let cached = || crate::origin::hub::cache::Repo::new(&options.cache, &model.id).find(&model.revision);
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
    let Some(no_answer) = error.downcast_ref::<crate::origin::hub::client::NoAnswer>() else {
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
    format!("with no network use --model synthetic:{ids} ({same}, made-up values)")
}

fn fetch_online(model: &Model, options: &Options) -> Result<PathBuf> {
    let client = crate::origin::hub::client::Client::new(model, options)?;
    let listing = crate::origin::hub::api::listing(&client, model)?;
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
    let conversion = if model.revision == DEFAULT_REVISION {
        crate::origin::hub::api::conversion(&client, model)?
    } else {
        None
    };
    let Some(revision) = conversion else {
        return Err(CheckpointError::OnlyPickles(PathBuf::from(&model.id)).into());
    };
    options.progress.note(&format!(
        "{} has only pickles; taking the hub's own conversion, {}@{revision}",
        model.id, model.id
    ));
    let model = model.at(&revision);
    let listing = crate::origin::hub::api::listing(&client, &model)?;
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
fn choose(
    client: &crate::origin::hub::client::Client,
    model: &Model,
    listing: &Listing,
    options: &Options,
) -> Result<Weights> {
    let repo = crate::origin::hub::cache::Repo::new(&options.cache, &model.id);
    let read = |name: &str| {
        let meter = Meter::silent();
        if !repo.holds(&listing.commit, name) {
            fetch_file(
                client,
                &repo,
                &crate::origin::hub::api::remote(client, model, &listing.commit, name)?,
                &listing.commit,
                &meter,
                0,
            )?;
        }
        json::read_text(&repo.snapshot(&listing.commit).join(name))
    };
    let has = |name: &str| listing.files.iter().any(|file| file == name);
    select::weights(&listing.files, &has, &read).with_context(|| format!("choose the files of {}", model.id))
}

/// Fetches what the snapshot lacks; small files first, so that whoever finds the weights finds all.
fn download(
    client: &crate::origin::hub::client::Client,
    model: &Model,
    listing: &Listing,
    weights: &Weights,
    options: &Options,
) -> Result<PathBuf> {
    let repo = crate::origin::hub::cache::Repo::new(&options.cache, &model.id);
    let beside = beside::beside(&listing.files, &weights.names(), &weights.left_out);
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
        remotes.push(crate::origin::hub::api::remote(client, model, commit, name)?);
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
    repo.write_ref(&model.revision, commit)?;
    Ok(repo.snapshot(commit))
}

/// Brings one file into the cache and the snapshot.
fn fetch_file(
    client: &crate::origin::hub::client::Client,
    repo: &crate::origin::hub::cache::Repo,
    remote: &crate::origin::hub::api::Remote,
    commit: &str,
    meter: &Meter,
    before_bytes: u64,
) -> Result<()> {
    crate::origin::hub::blob::fetch(client, repo, remote, meter, before_bytes)?;
    repo.link(commit, &remote.name, &remote.etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["gpt2", "facebook/opt-125m", "a/b@main", "org/name.v1_x@refs/pr/3", "a/b@v1.0"] {
            assert!(is_id(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "./models",
            "../x",
            "a/..",
            "a b",
            "synthetic:gpt2",
            "a/b@",
            "a/b@../x",
            "a/b@/x",
            "a/b@x//y",
            "a/b@x/../y",
            "-a/b",
            "a--b/c",
            "a/b?c",
            "a/b@x@y",
            "ä/b",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
        assert_eq!(Model::parse("a/b@refs/pr/3").unwrap().revision, "refs/pr/3");
        assert_eq!(Model::parse("a/b").unwrap().revision, "main");
    }

    fn vars(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string())
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let plain = Options::from_vars(None, vars(&[("HOME", "/home/u")])).unwrap();
        assert_eq!(plain.cache, Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(plain.endpoint, DEFAULT_ENDPOINT);
        assert!(!plain.offline && plain.token.is_none());

        let set = [
            ("HOME", "/home/u"),
            ("HF_HOME", "~/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "true"),
        ];
        let set: &'static [_] = Box::leak(Box::new(set));
        let options = Options::from_vars(Some(" abc\n"), vars(set)).unwrap();
        assert_eq!(options.cache, Path::new("/home/u/hf/hub"));
        assert_eq!(options.endpoint, "http://mirror");
        assert!(options.offline);
        assert_eq!(options.token, Some(Token("abc".into())));

        let cache =
            Options::from_vars(None, vars(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")])).unwrap().cache;
        assert_eq!(cache, Path::new("/c"));
        assert!(Options::from_vars(None, vars(&[])).is_err());
    }

    #[test]
    fn a_token_file_is_found_and_no_token_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap().to_string();
        std::fs::write(dir.path().join("token"), "hf_secret\n").unwrap();
        let var = |name: &str| (name == "HF_HOME").then(|| home.clone());
        let options = Options::from_vars(None, var).unwrap();
        assert_eq!(options.token, Some(Token("hf_secret".into())));
        assert!(!format!("{:?}", options.token).contains("secret"));
        let error = Token::new("hf_sec ret").unwrap_err();
        assert!(!format!("{error:?}").contains("ret "), "{error:?}");
        assert_eq!(Token::new("  ").unwrap(), None);
    }

    #[test]
    fn the_twin_is_named_only_where_there_is_one() {
        let known = synthetic::known_ids()[0];
        assert!(synthetic_twin(known).contains(&format!("--model synthetic:{known} (same")));
        assert!(synthetic_twin("no/such").contains(&format!("synthetic:<one of {known}")));
    }
}
