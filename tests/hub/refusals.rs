//! What is refused, and what serves without a network.

use crate::rig::*;
use crate::server::{Nowhere, Server, reply};
use sllm_gds::origin::hub::{Options, fetch};
use sllm_gds::os::cancel::{Cancel, Interrupted};
use std::fs;

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
    assert_says(&error, &["HF_HUB_OFFLINE", "no complete org/tiny", "the model synthetic:"]);
}

#[test]
fn no_network_names_the_synthetic_twin() {
    let cache = tempfile::tempdir().unwrap();
    let nowhere = Nowhere::new();
    let error =
        format!("{:#}", fetch("facebook/opt-125m", &options(&nowhere.url, cache.path())).unwrap_err());
    let twin = "the model synthetic:facebook/opt-125m (same shapes, made-up values)";
    assert_says(&error, &[&format!("cannot reach {}", nowhere.url), "with no network take", twin]);
    let error = format!("{:#}", fetch(ID, &options(&nowhere.url, cache.path())).unwrap_err());
    assert_says(&error, &["cannot reach", "the model synthetic:<one of ", "facebook/opt-125m"]);
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
