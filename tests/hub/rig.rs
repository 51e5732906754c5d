//! A made-up repository, served on loopback.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sllm_gds::origin::hub::{Options, Token, fetch};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::progress::Progress;

use crate::server::{Reply, Request, Server, reply};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const ID: &str = "org/tiny";
pub const TOKEN: &str = "hf_verysecret";
pub const LISTING: &str = "GET /api/models/org/tiny/revision/main";
pub const WEIGHTS: &str = "/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors";

/// A made-up repository: name to bytes.
#[derive(Clone)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn tiny() -> Files {
        let weights: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let files = [
            ("config.json", b"{\"model_type\":\"tiny\"}".to_vec()),
            ("model.safetensors", weights),
            ("pytorch_model.bin", b"pickle".to_vec()),
            ("README.md", b"# tiny".to_vec()),
            ("original/model.safetensors", b"the same again".to_vec()),
        ];
        Files(files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect())
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.0[name]
    }

    pub fn sha256(&self, name: &str) -> String {
        format!("{:x}", Sha256::digest(self.bytes(name)))
    }

    pub fn listing(&self) -> Reply {
        listing(self.0.keys().map(String::as_str))
    }

    /// Answers as the hub does: listing, then content with ranges; large files by their digest.
    pub fn answer(&self, request: &Request) -> Reply {
        if request.line.starts_with("GET /api/models/org/tiny/revision/") {
            return self.listing();
        }
        let name = request.line.rsplit_once(&format!("/org/tiny/resolve/{COMMIT}/")).map(|(_, name)| name);
        match name.and_then(|name| Some((name, self.0.get(name)?))) {
            Some((name, bytes)) => self.content(request, name, bytes),
            None => reply(404, "").with("X-Error-Code", "EntryNotFound"),
        }
    }

    pub fn content(&self, request: &Request, name: &str, bytes: &[u8]) -> Reply {
        let etag = if name.ends_with(".safetensors") {
            self.sha256(name)
        } else {
            format!("git-{}", name.replace('/', "-"))
        };
        let whole = |reply: Reply| reply.with("ETag", format!("\"{etag}\"")).with("X-Repo-Commit", COMMIT);
        let from = request.header("range").map(|range| {
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
        });
        match from {
            None => whole(reply(200, bytes)),
            Some(from) => whole(reply(206, &bytes[from..]))
                .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        }
    }
}

pub fn listing<'a>(names: impl Iterator<Item = &'a str>) -> Reply {
    let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    reply(200, serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string())
}

pub fn options(endpoint: &str, cache: &Path) -> Options {
    Options {
        token: None,
        endpoint: endpoint.to_string(),
        cache: cache.to_path_buf(),
        offline: false,
        back_off: Duration::ZERO,
        cancel: Cancel::new(),
        progress: Progress::silent(),
    }
}

/// Fetches from such a server into an empty cache; for tests of one error.
pub fn error_from(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (String, Server) {
    let server = Server::start(handler);
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&server.url, cache.path());
    options.token = Token::new(TOKEN).unwrap();
    let error = format!("{:#}", fetch(ID, &options).unwrap_err());
    assert!(!error.contains(TOKEN), "{error}");
    (error, server)
}

#[track_caller]
pub fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}
