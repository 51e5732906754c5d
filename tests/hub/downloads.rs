//! Downloads that work, with what can come between.

use crate::rig::*;
use crate::server::{Request, Server, reply};
use sllm_gds::origin::hub::{Token, fetch};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

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
    assert_eq!(names, ["README.md", "config.json", "model.safetensors"]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), files.bytes("model.safetensors"));
    let link = fs::read_link(dir.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(files.sha256("model.safetensors")));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), 3, "no .incomplete file is left");

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
        assert_says(&error, &["gated", "accept its terms at", "/org/tiny", "HF_TOKEN", "hub token"]);
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
