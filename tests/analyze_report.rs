//! `sllm-gds analyze --html`, and how a browser shows it; `--summary`.
#![cfg(feature = "analyze")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const HOSTILE: &str = "</td><script>alert(1)</script><img src=https://example.org/x onerror=alert(1)>&'\"";
const FORMATS: [&str; 7] = [
    "sllm",
    "safetensors-direct",
    "safetensors",
    "safetensors-prefetch",
    "fastsafetensors",
    "runai-streamer",
    "instanttensor",
];

/// Four hosts with seven formats each, one of them slow, one load of it failed, and a name that would escape.
fn results(root: &Path) {
    for (host, factor) in [("node-a", 1.0), ("node-b", 1.01), ("node-c", 0.99), ("node-slow", 3.0)] {
        let dir = root.join(host);
        fs::create_dir_all(&dir).unwrap();
        let environment =
            json!({ "run": { "host": host, "cpu": { "model": HOSTILE }, "kernel": factor.to_string() } });
        fs::write(dir.join("environment.json"), environment.to_string()).unwrap();
        for (rank, format) in FORMATS.iter().enumerate() {
            let record = |index: usize| {
                json!({
                    "model_name": format!("org/{HOSTILE}_{index}"), "loading_time": factor * (rank + 1) as f64 * 0.1,
                    "format": format, "mode": "cached", "engine": "auto", "bytes": 1_000_000_000u64, "gpus": ["0"],
                    "cache_state": "warm", "verified": true, "run_id": "run", "started_at_s": 1_795_505_391.5,
                    "path": "pinned-buffered",
                })
            };
            let mut records: Vec<Value> = (0..4).map(record).collect();
            if factor > 2.0 {
                records[3]["error"] = json!(HOSTILE);
            }
            fs::write(dir.join(format!("m_{format}_4_cached.json")), json!(records).to_string()).unwrap();
        }
    }
}

fn report(dir: &Path) -> PathBuf {
    let (results_dir, page) = (dir.join("results"), dir.join("report.html"));
    results(&results_dir);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
    let args =
        ["analyze", results_dir.to_str().unwrap(), "--html", page.to_str().unwrap(), "--fail-on", "none"];
    let output = command.args(args).env_remove("RUST_BACKTRACE").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    page
}

#[test]
fn the_page_is_whole_and_nothing_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let page = fs::read_to_string(report(dir.path())).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for part in ["nodes", "fleet", "plot", "loads", "environment", "records", "method"] {
        assert!(page.contains(&format!("<section id=\"{part}\">")), "{part}");
    }
    assert!(page.contains("name=\"viewport\"") && page.contains("@media print"));
    // One row a record.
    assert_eq!(page.matches("2026-11-24 07:29:51").count(), 4 * 7 * 4);
    assert!(page.contains("7 of 112 loads failed.") && page.contains("1 of 4 nodes stand out"));
    assert!(page.contains("<svg viewBox=") && page.contains("node-slow"));

    for forbidden in ["<script", "<img", "<link", "<iframe", "src=\"", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // Addresses stand in text, and name the SVG's language; nothing refers to them.
    for (at, _) in page.match_indices("http") {
        let before = &page[at - 7..at];
        let harmless =
            before.ends_with("xmlns=\"") || before.ends_with("src=") || page[at..].starts_with("http-equiv");
        assert!(harmless, "{before}");
    }
}

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

fn browse(chromium: &Path, dir: &Path, args: &[&str], page: &Path) -> Vec<u8> {
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let common = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        &profile,
    ];
    let url = format!("file://{}", page.display());
    let output = Command::new(chromium).args(common).args(args).arg(url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_browser_shows_it_on_a_desk_and_on_a_phone() {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: there is no chromium (Debian's package of that name has it)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let page = report(dir.path());
    let dom = String::from_utf8(browse(&chromium, dir.path(), &["--dump-dom"], &page)).unwrap();
    // Had a name opened a tag, the browser would have made an element of it.
    assert!(!dom.contains("<script") && !dom.contains("<img"));
    assert_eq!(dom.matches("2026-11-24 07:29:51").count(), 4 * 7 * 4);
    assert!(dom.contains("</section>") && dom.matches("<svg").count() >= 2);

    for (name, width, blank_bytes) in [("desk", 1280, 60_000), ("phone", 500, 40_000)] {
        let picture = dir.path().join(format!("{name}.png"));
        let args = [format!("--window-size={width},2400"), format!("--screenshot={}", picture.display())];
        browse(&chromium, dir.path(), &args.each_ref().map(String::as_str), &page);
        let bytes = fs::read(&picture).unwrap();
        // A white page of this size has a tenth of that.
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > blank_bytes, "{name}: {} bytes", bytes.len());
    }

    // A frame as wide as a phone tells whether anything but the tables and plots would have to be scrolled.
    let frame = dir.path().join("frame.html");
    let script = "const page = document.querySelector('iframe').contentDocument.documentElement;\
                  document.title = 'width ' + page.scrollWidth + ' height ' + page.scrollHeight;";
    let html = format!(
        "<iframe src=report.html style='width:390px;height:800px;border:0' onload=\"{script}\"></iframe>"
    );
    fs::write(&frame, html).unwrap();
    let dom = browse(&chromium, dir.path(), &["--virtual-time-budget=5000", "--dump-dom"], &frame);
    let dom = String::from_utf8(dom).unwrap();
    assert!(dom.contains("<title>width 390 height "), "{dom}");
}

#[test]
fn summaries_stand_beside_as_the_original_suite_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let results_dir = dir.path().join("results");
    results(&results_dir);
    let one = results_dir.join("node-a");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
    let args = ["analyze", one.to_str().unwrap(), "--summary", one.to_str().unwrap()];
    let output = command.args(args).env_remove("RUST_BACKTRACE").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(one.join("summary.txt")).unwrap();
    assert!(
        text.contains("SLLM                 0.100 ") && text.contains("SLLM Speedup: 3.00x faster"),
        "{text}"
    );
    let json: Value = serde_json::from_slice(&fs::read(one.join("summary.json")).unwrap()).unwrap();
    assert_eq!(json["statistics"].as_object().unwrap().len(), 7);
    assert_eq!((&json["num_replicas"], &json["statistics"]["safetensors"]["count"]), (&json!(4), &json!(4)));
}
