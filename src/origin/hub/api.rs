//! What the hub's interface offers: a model's listing, the bot's conversion of it, a file's etag and size.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use ureq::http::HeaderMap;

use crate::checkpoint::select;
use crate::origin::hub::cache;
use crate::origin::hub::client::{Client, Method, Refused, header};
use crate::origin::hub::model::Model;
use crate::origin::hub::url::percent_encode;

/// Who opens the hub's own pull requests with weights converted from pickles; nobody else's are taken.
const CONVERSION_BOT: &str = "SFconvertbot";

/// What the hub lists at one revision.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// A file as the hub describes it before it is fetched.
pub(super) struct Remote {
    pub name: String,
    pub url: String,
    /// Names the content: the SHA-256 of large files, git's blob id of small ones.
    pub etag: String,
    pub bytes: u64,
}

/// The commit and the file names of the model at its revision.
pub(super) fn listing(client: &Client, model: &Model) -> Result<Listing> {
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    #[derive(Deserialize)]
    struct Answer {
        sha: String,
        siblings: Vec<Sibling>,
    }
    let revision = percent_encode(&model.revision, false);
    let url = format!("{}/api/models/{}/revision/{revision}", client.endpoint(), model.id);
    let answer: Answer = client.json(&url)?;
    if !cache::is_commit(&answer.sha) {
        bail!("{url} gives the commit as {:?}, which is no commit hash; is this a hub?", answer.sha);
    }
    let files: Vec<String> = answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    for name in &files {
        if let Err(why) = select::check_path(name) {
            bail!("the hub lists a file named {name:?}, {why}");
        }
    }
    Ok(Listing { commit: answer.sha, files })
}

/// The open pull request in which the hub's bot converted this model to safetensors, as a revision.
pub(super) fn conversion(client: &Client, model: &Model) -> Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discussion {
        num: u64,
        status: String,
        is_pull_request: bool,
        author: Option<Author>,
    }
    #[derive(Deserialize)]
    struct Author {
        name: Option<String>,
    }
    #[derive(Deserialize)]
    struct Answer {
        discussions: Vec<Discussion>,
    }
    let query = format!("type=pull_request&status=open&author={CONVERSION_BOT}");
    let url = format!("{}/api/models/{}/discussions?{query}", client.endpoint(), model.id);
    let answer: Answer = match client.json(&url) {
        // Mirrors often have no discussions.
        Err(error) if error.is::<Refused>() => return Ok(None),
        other => other?,
    };
    let by_bot = |d: &&Discussion| {
        let name = d.author.as_ref().and_then(|author| author.name.as_deref()).unwrap_or_default();
        d.is_pull_request && d.status == "open" && name.eq_ignore_ascii_case(CONVERSION_BOT)
    };
    Ok(answer.discussions.iter().filter(by_bot).map(|d| d.num).max().map(|num| format!("refs/pr/{num}")))
}

/// Asks for a file's etag and size. The hub tells them before it redirects to where large files lie.
pub(super) fn remote(client: &Client, model: &Model, commit: &str, name: &str) -> Result<Remote> {
    let url = format!("{}/{}/resolve/{commit}/{}", client.endpoint(), model.id, percent_encode(name, true));
    let seen = client.retry(|| {
        let mut seen = Seen::default();
        let response = client.request(Method::Head, &url, &mut |headers| seen.note_linked(headers))?;
        if response.status().is_success() {
            seen.note_plain(response.headers());
        }
        Ok(seen)
    })?;
    if let Some(other) = seen.commit.filter(|found| found != commit) {
        bail!("{url} answers for the commit {other:?}");
    }
    let etag = seen.etag.with_context(|| format!("{url} comes without an ETag; is this a hub?"))?;
    let etag = cache::blob_name(&etag).with_context(|| url.clone())?;
    let bytes =
        seen.bytes.and_then(|text| text.trim().parse().ok()).filter(|bytes| *bytes <= i64::MAX as u64);
    let bytes = bytes.with_context(|| format!("{url} comes without a size that makes sense"))?;
    Ok(Remote { name: name.to_string(), url, etag, bytes })
}

/// What a file's headers told, hop by hop; the first word counts.
#[derive(Default)]
struct Seen {
    commit: Option<String>,
    etag: Option<String>,
    bytes: Option<String>,
}

impl Seen {
    /// What the hub says of a file that lies elsewhere. True once etag and size are known.
    fn note_linked(&mut self, headers: &HeaderMap) -> bool {
        note(&mut self.commit, headers, "x-repo-commit");
        note(&mut self.etag, headers, "x-linked-etag");
        note(&mut self.bytes, headers, "x-linked-size");
        self.etag.is_some() && self.bytes.is_some()
    }

    /// What the place itself says that holds the file.
    fn note_plain(&mut self, headers: &HeaderMap) {
        note(&mut self.etag, headers, "etag");
        note(&mut self.bytes, headers, "content-length");
    }
}

fn note(known: &mut Option<String>, headers: &HeaderMap, name: &str) {
    if known.is_none() {
        *known = header(headers, name).map(str::to_string);
    }
}
