//! Fetching from a hub that is an HTTP server of this test, on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sllm_gds::checkpoint::hub::{Options, Token, fetch};
use sllm_gds::interrupt::{Cancel, Interrupted};

use server::{Nowhere, Reply, Request, Server, reply};

#[path = "hub/server.rs"]
mod server;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const ID: &str = "org/tiny";
const TOKEN: &str = "hf_verysecret";
const LISTING: &str = "GET /api/models/org/tiny/revision/main";
const WEIGHTS: &str = "/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors";

/// A made-up repository: name to bytes.
#[derive(Clone)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn tiny() -> Files {
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

    fn bytes(&self, name: &str) -> &[u8] {
        &self.0[name]
    }

    fn sha256(&self, name: &str) -> String {
        format!("{:x}", Sha256::digest(self.bytes(name)))
    }

    fn listing(&self) -> Reply {
        listing(self.0.keys().map(String::as_str))
    }

    /// Answers as the hub does: listing, then content with ranges; large files by their digest.
    fn answer(&self, request: &Request) -> Reply {
        if request.line.starts_with("GET /api/models/org/tiny/revision/") {
            return self.listing();
        }
        let name = request.line.rsplit_once(&format!("/org/tiny/resolve/{COMMIT}/")).map(|(_, name)| name);
        match name.and_then(|name| Some((name, self.0.get(name)?))) {
            Some((name, bytes)) => self.content(request, name, bytes),
            None => reply(404, "").with("X-Error-Code", "EntryNotFound"),
        }
    }

    fn content(&self, request: &Request, name: &str, bytes: &[u8]) -> Reply {
        let etag = if name.ends_with(".safetensors") { self.sha256(name) } else { format!("git-{name}") };
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

fn listing<'a>(names: impl Iterator<Item = &'a str>) -> Reply {
    let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    reply(200, serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string())
}

fn options(endpoint: &str, cache: &Path) -> Options {
    Options {
        token: None,
        endpoint: endpoint.to_string(),
        cache: cache.to_path_buf(),
        offline: false,
        back_off: Duration::ZERO,
        cancel: Cancel::new(),
    }
}

/// Fetches from such a server into an empty cache; for tests of one error.
fn error_from(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (String, Server) {
    let server = Server::start(handler);
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&server.url, cache.path());
    options.token = Token::new(TOKEN).unwrap();
    let error = format!("{:#}", fetch(ID, &options).unwrap_err());
    assert!(!error.contains(TOKEN), "{error}");
    (error, server)
}

#[track_caller]
fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}

#[test]
fn a_model_lands_in_pythons_layout_and_is_not_fetched_twice() {
    let files = Files::tiny();
    let served = files.clone();
    let server = Server::start(move |request| served.answer(request));
    let cache = tempfile::tempdir().unwrap();
    let options = options(&server.url, cache.path());
    let dir = fetch(ID, &options).unwrap();

    let root = cache.path().join("models--org--tiny");
    assert_eq!(dir, root.join("snapshots").join(COMMIT));
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
    let link = fs::read_link(dir.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(files.sha256("model.safetensors")));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), 2, "no .incomplete file is left");

    let before = server.lines().len();
    assert_eq!(fetch(ID, &options).unwrap(), dir);
    assert_eq!(server.lines()[before..], [LISTING], "a second fetch only asks where main stands");
    assert_eq!(fetch(&format!("{ID}@{COMMIT}"), &options).unwrap(), dir);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let files = Files::tiny();
    let served = files.clone();
    let server = Server::start(move |request| {
        let mut reply = served.answer(request);
        let first_try = request.line == format!("GET {WEIGHTS}") && request.header("range").is_none();
        reply.cut_at = first_try.then_some(40_000);
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let dir = fetch(ID, &options(&server.url, cache.path())).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
    let ranges: Vec<String> = server.headers("range").into_iter().flatten().collect();
    assert_eq!(ranges, ["bytes=40000-"]);
}

#[test]
fn what_an_earlier_run_left_is_taken_up() {
    let files = Files::tiny();
    let served = files.clone();
    let server = Server::start(move |request| served.answer(request));
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", files.sha256("model.safetensors")));
    fs::write(&partial, &files.bytes("model.safetensors")[..99_999]).unwrap();
    let dir = fetch(ID, &options(&server.url, cache.path())).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
    assert!(server.headers("range").contains(&Some("bytes=99999-".to_string())));
    assert!(!partial.exists());
}

#[test]
fn a_server_without_ranges_starts_over() {
    let files = Files::tiny();
    let served = files.clone();
    let server = Server::start(move |request| {
        let resumed = request.header("range").is_some();
        let plain = Request { line: request.line.clone(), headers: BTreeMap::new() };
        let mut reply = served.answer(&plain);
        reply.cut_at = (request.line == format!("GET {WEIGHTS}") && !resumed).then_some(40_000);
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let dir = fetch(ID, &options(&server.url, cache.path())).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
}

#[test]
fn a_range_from_elsewhere_is_refused() {
    let files = Files::tiny();
    let (error, _) = error_from(move |request| {
        let mut reply = files.answer(request);
        reply.cut_at = (request.line == format!("GET {WEIGHTS}") && reply.status == 200).then_some(40_000);
        for (name, value) in &mut reply.headers {
            if name == "Content-Range" {
                *value = "bytes 0-99999/100000".to_string();
            }
        }
        reply
    });
    assert_says(&error, &["from 40000", "from 0"]);
}

#[test]
fn a_server_that_always_cuts_is_given_up() {
    let files = Files::tiny();
    let (error, server) = error_from(move |request| {
        let mut reply = files.answer(request);
        reply.cut_at = (request.line == format!("GET {WEIGHTS}")).then_some(10);
        reply
    });
    assert_says(&error, &["model.safetensors", "cut at byte 50 of 100000", "5 tries", "run it again"]);
    assert_eq!(server.count(&format!("GET {WEIGHTS}")), 5);
}

#[test]
fn the_token_stays_with_the_hub() {
    let files = Files::tiny();
    let stored = files.clone();
    let store = Server::start(move |request| {
        stored.content(request, "model.safetensors", &stored.0["model.safetensors"])
    });
    let (served, store_url) = (files.clone(), store.url.clone());
    let hub = Server::start(move |request| {
        if request.line.ends_with(WEIGHTS) {
            return reply(302, "moved")
                .with("Location", format!("{store_url}/bucket/x?signature=s"))
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-Etag", format!("\"{}\"", served.sha256("model.safetensors")))
                .with("X-Linked-Size", served.bytes("model.safetensors").len());
        }
        // Small files are redirected within the hub, by a path alone.
        if request.line.ends_with("/config.json") && !request.line.contains("/cache/") {
            return reply(307, "").with("Location", format!("/cache/org/tiny/resolve/{COMMIT}/config.json"));
        }
        served.answer(request)
    });
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&hub.url, cache.path());
    options.token = Token::new(TOKEN).unwrap();
    let dir = fetch(ID, &options).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), files.bytes("config.json"));
    assert_eq!(store.lines(), ["GET /bucket/x"], "etag and size came from the hub");
    assert_eq!(store.headers("authorization"), [None]);
    let expected = Some(format!("Bearer {TOKEN}"));
    assert!(hub.headers("authorization").iter().all(|header| *header == expected));
}

#[test]
fn redirects_end() {
    let (error, _) = error_from(|request| {
        let path = request.line.split_once(' ').unwrap().1.to_string();
        reply(302, "").with("Location", path)
    });
    assert_says(&error, &["redirects more than"]);
    let (error, _) = error_from(|_| reply(302, ""));
    assert_says(&error, &["without saying where"]);
}

#[test]
fn gated_models_say_what_to_do() {
    for status in [401, 403] {
        let files = Files::tiny();
        let (error, server) = error_from(move |request| {
            if request.line == LISTING {
                return files.listing();
            }
            reply(status, "").with("X-Error-Code", "GatedRepo")
        });
        assert_says(&error, &["gated", "accept its terms at", "/org/tiny", "HF_TOKEN", "--hf-token"]);
        assert_eq!(server.lines().len(), 2, "a refusal is not tried again");
    }
}

#[test]
fn unknown_models_are_named() {
    let (error, _) = error_from(|_| reply(404, ""));
    assert_says(&error, &["no model org/tiny", "404", "private"]);
    let (error, _) = error_from(|_| reply(404, "").with("X-Error-Code", "RevisionNotFound"));
    assert_says(&error, &["org/tiny has no revision 'main'"]);
    let (error, _) = error_from(|_| reply(401, "Invalid username or password."));
    assert_says(&error, &["401", "token", "expired", "HF_TOKEN"]);

    let server = Server::start(|_| reply(401, ""));
    let cache = tempfile::tempdir().unwrap();
    let error = format!("{:#}", fetch(ID, &options(&server.url, cache.path())).unwrap_err());
    assert_says(&error, &["no public model org/tiny", "check the name", "accept its terms"]);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let files = Files::tiny();
    let left = Mutex::new(vec![reply(429, "").with("Retry-After", 0), reply(500, ""), reply(503, "")]);
    let server =
        Server::start(move |request| left.lock().unwrap().pop().unwrap_or_else(|| files.answer(request)));
    let cache = tempfile::tempdir().unwrap();
    fetch(ID, &options(&server.url, cache.path())).unwrap();
    assert_eq!(server.count(LISTING), 4);
}

#[test]
fn a_hub_out_of_order_is_given_up() {
    let (error, server) = error_from(|_| reply(503, ""));
    assert_says(&error, &["503", "5 tries"]);
    assert_eq!(server.lines().len(), 5);
    let (error, server) = error_from(|_| reply(429, "").with("Retry-After", 300));
    assert_says(&error, &["429", "300 s"]);
    assert_eq!(server.lines().len(), 1, "nobody waits five minutes unasked");
}

#[test]
fn sizes_that_lie_are_refused() {
    // The hub announces one size, the content has another.
    let files = Files::tiny();
    let (error, _) = error_from(move |request| {
        let reply = files.answer(request);
        if request.line == format!("HEAD {WEIGHTS}") { reply.with("X-Linked-Size", 99_000) } else { reply }
    });
    assert_says(&error, &["announced 99000 bytes", "100000"]);

    // No size at all, or one that makes no sense.
    for size in ["-1", "99999999999999999999", "many"] {
        let files = Files::tiny();
        let (error, _) = error_from(move |request| files.answer(request).with("X-Linked-Size", size));
        assert_says(&error, &["without a size that makes sense"]);
    }
}

#[test]
fn a_body_longer_than_announced_is_refused() {
    let files = Files::tiny();
    let (error, _) = error_from(move |request| {
        let mut reply = files.answer(request);
        if request.line == format!("GET {WEIGHTS}") {
            // Chunked: no Content-Length gives the lie away beforehand.
            let mut chunks = format!("{:x}\r\n", reply.body.len() + 1).into_bytes();
            chunks.extend(&reply.body);
            chunks.extend(b"x\r\n0\r\n\r\n");
            reply.body = chunks;
            return reply.with("Transfer-Encoding", "chunked");
        }
        reply
    });
    assert_says(&error, &["more than the 100000 bytes"]);
}

#[test]
fn a_wrong_digest_is_refused_and_the_bytes_thrown_away() {
    let files = Files::tiny();
    let wanted = files.sha256("model.safetensors");
    let served = files.clone();
    let server = Server::start(move |request| {
        let mut reply = served.answer(request);
        if request.line == format!("GET {WEIGHTS}") {
            reply.body[70_000] ^= 1;
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let error = format!("{:#}", fetch(ID, &options(&server.url, cache.path())).unwrap_err());
    assert_says(&error, &["SHA-256", &wanted, "thrown away"]);
    let root = cache.path().join("models--org--tiny");
    let partial = root.join("blobs").join(format!("{wanted}.incomplete"));
    assert_eq!(fs::metadata(partial).unwrap().len(), 0);
    assert!(!root.join("blobs").join(&wanted).exists());
    assert!(!root.join("refs/main").exists(), "a half fetched model is not announced");
}

#[test]
fn names_that_leave_the_cache_are_refused() {
    for name in ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json"] {
        let (error, server) = error_from(move |_| listing(["model.safetensors", name].into_iter()));
        assert_says(&error, &["refused", "evil.json"]);
        assert_eq!(server.lines(), [LISTING]);
    }
    // An etag names a file too.
    let files = Files::tiny();
    let (error, _) = error_from(move |request| files.answer(request).with("X-Linked-Etag", "\"../../evil\""));
    assert_says(&error, &["evil", "cannot be a file name"]);
}

#[test]
fn what_is_no_hub_is_told_so() {
    let (error, _) = error_from(|_| reply(200, "<html><body>Please log in</body></html>"));
    assert_says(&error, &["something else than the hub's JSON", "<html>", "login page"]);
    let (error, _) = error_from(|_| reply(200, r#"{"sha":"../..","siblings":[]}"#));
    assert_says(&error, &["no commit hash"]);
    let (error, _) = error_from(|_| listing(std::iter::empty()));
    assert_says(&error, &["no *.safetensors", "nothing at all"]);
    let (error, _) = error_from(|_| reply(200, vec![b' '; (32 << 20) + 1]));
    assert_says(&error, &["more than 32 MiB"]);
}

#[test]
fn only_pickles() {
    let (error, _) = error_from(|request| match request.line.as_str() {
        LISTING => listing(["config.json", "pytorch_model.bin"].into_iter()),
        _ => reply(404, ""),
    });
    assert_says(&error, &["org/tiny holds only PyTorch pickles", "convert"]);
}

#[test]
fn pickles_that_the_hubs_bot_converted() {
    let files = Files::tiny();
    let discussion = |num: u64, author: &str, status: &str, pull_request: bool| {
        serde_json::json!({
            "num": num, "author": { "name": author }, "status": status, "isPullRequest": pull_request,
            "title": "Adding `safetensors` variant of this model",
        })
    };
    let discussions = serde_json::json!({ "discussions": [
        discussion(9, "mallory", "open", true),
        discussion(8, "SFconvertbot", "closed", true),
        discussion(7, "SFconvertbot", "open", false),
        discussion(5, "SFconvertbot", "open", true),
    ]});
    let server = Server::start(move |request| match request.line.as_str() {
        LISTING => listing(["config.json", "pytorch_model.bin"].into_iter()),
        "GET /api/models/org/tiny/discussions" => reply(200, discussions.to_string()),
        "GET /api/models/org/tiny/revision/refs%2Fpr%2F5" => files.listing(),
        line if line.starts_with("GET /api/") => reply(404, ""),
        _ => files.answer(request),
    });
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&server.url, cache.path());
    let dir = fetch(ID, &options).unwrap();
    assert!(dir.join("model.safetensors").is_file());
    let refs = cache.path().join("models--org--tiny/refs");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/5")).unwrap(), COMMIT);
    assert!(!refs.join("main").exists(), "main stands elsewhere");
    options.offline = true;
    assert_eq!(fetch("org/tiny@refs/pr/5", &options).unwrap(), dir);
}

#[test]
fn a_warm_cache_serves_without_a_network() {
    let files = Files::tiny();
    let server = Server::start(move |request| files.answer(request));
    let cache = tempfile::tempdir().unwrap();
    let warm = options(&server.url, cache.path());
    let dir = fetch(ID, &warm).unwrap();
    let asked = server.lines().len();

    let offline = Options { offline: true, ..warm.clone() };
    assert_eq!(fetch(ID, &offline).unwrap(), dir);
    assert_eq!(server.lines().len(), asked, "offline asks nobody");
    let broken = Server::start(|_| reply(503, ""));
    assert_eq!(fetch(ID, &options(&broken.url, cache.path())).unwrap(), dir);
    assert_eq!(fetch(ID, &options(&Nowhere::new().url, cache.path())).unwrap(), dir);
    let gone = Server::start(|_| reply(404, ""));
    fetch(ID, &options(&gone.url, cache.path())).unwrap_err();

    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let error = format!("{:#}", fetch(ID, &offline).unwrap_err());
    assert_says(&error, &["HF_HUB_OFFLINE", "no complete org/tiny", "--model synthetic:"]);
}

#[test]
fn no_network_names_the_synthetic_twin() {
    let cache = tempfile::tempdir().unwrap();
    let nowhere = Nowhere::new();
    let error =
        format!("{:#}", fetch("facebook/opt-125m", &options(&nowhere.url, cache.path())).unwrap_err());
    let twin = "--model synthetic:facebook/opt-125m (same shapes, made-up values)";
    assert_says(&error, &[&format!("cannot reach {}", nowhere.url), "with no network use", twin]);
    let error = format!("{:#}", fetch(ID, &options(&nowhere.url, cache.path())).unwrap_err());
    assert_says(&error, &["cannot reach", "--model synthetic:<one of ", "facebook/opt-125m"]);
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let files = Files::tiny();
    let served = files.clone();
    let server = Server::start(move |request| served.answer(request));
    let cache = tempfile::tempdir().unwrap();
    let options = options(&server.url, cache.path());
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| fetch(ID, &options).unwrap()));
        for dir in both.map(|thread| thread.join().unwrap()) {
            assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
        }
    });
    assert_eq!(server.count(&format!("GET {WEIGHTS}")), 1);
}

#[test]
fn ctrl_c_keeps_what_has_arrived() {
    let files = Files::tiny();
    let cancel = Cancel::new();
    let (served, pressed) = (files.clone(), cancel.clone());
    let server = Server::start(move |request| {
        let mut reply = served.answer(request);
        if request.line == format!("GET {WEIGHTS}") {
            reply.cut_at = Some(40_000);
            pressed.set();
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let options = Options { cancel, ..options(&server.url, cache.path()) };
    let error = fetch(ID, &options).unwrap_err();
    assert!(error.is::<Interrupted>(), "{error:#}");
    assert_eq!(server.count(&format!("GET {WEIGHTS}")), 1);
}

#[test]
fn no_endpoint_worth_the_name() {
    let cache = tempfile::tempdir().unwrap();
    for bad in ["", "hub.example", "ftp://hub.example", "https://user:hf_verysecret@hub.example"] {
        let error = format!("{:#}", fetch(ID, &options(bad, cache.path())).unwrap_err());
        assert_says(&error, &["HF_ENDPOINT", "https://huggingface.co"]);
        assert!(!error.contains(TOKEN), "{error}");
    }
}
