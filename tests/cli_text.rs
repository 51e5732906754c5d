//! Names, paths and headers of others, on their way to the terminal: none may paint it or forge a line.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use common::{Ran, flip_bit, run, temp_dir};

mod common;

/// Escapes, line ends, C1, bidi, what has no width, long ones; and two that must stay as they are.
fn hostile_names() -> Vec<String> {
    let long = "a".repeat(5000);
    let names = [
        "\u{1b}[31mred\u{1b}[0m",
        "\u{1b}]0;title\u{7}",
        "new\nerror: forged",
        "tab\tcr\rbs\u{8}",
        "nul\0x",
        "del\u{7f}",
        "c1\u{9b}31m",
        "nel\u{85}",
        "rtl\u{202e}gpj",
        "isolate\u{2066}x",
        "line\u{2028}para\u{2029}",
        "zero\u{200b}\u{feff}",
        &long,
        "größe 日本語.重み 😀",
        "quote\"'\\",
    ];
    names.map(str::to_string).to_vec()
}

fn write_model(path: &Path, names: &[String], dtype: Dtype, value: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = [value; 8];
    let shape = vec![bytes.len() * 8 / dtype.bitsize()];
    let view = || TensorView::new(dtype, shape.clone(), &bytes).unwrap();
    safetensors::serialize_to_file(names.iter().map(|name| (name, view())), None, path).unwrap();
}

fn write_text(path: &Path, header: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
}

/// Fails the test where a character could act on a terminal, or where lines are more or fewer than wanted.
#[track_caller]
fn assert_clean(ran: &Ran, stdout_lines: usize, stderr_lines: usize) {
    for (text, lines) in [(&ran.stdout, stdout_lines), (&ran.stderr, stderr_lines)] {
        let bad = text.chars().find(|c| {
            matches!(*c as u32, 0..=9 | 11..=31 | 0x7f..=0x9f | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff)
        });
        assert_eq!(bad, None, "{text}");
        assert_eq!(text.lines().count(), lines, "{text}");
    }
}

/// The text of standard output must be JSON, with nothing in it that a terminal acts on.
#[track_caller]
fn clean_json(ran: &Ran, stderr_lines: usize) -> Value {
    assert_clean(ran, ran.stdout.lines().count(), stderr_lines);
    ran.json()
}

#[test]
fn inspect_shows_hostile_names_as_one_line_each_and_json_keeps_them() {
    let dir = temp_dir();
    let names = hostile_names();
    write_model(&dir.path().join("ev\u{1b}[2Jil/mo\ndel.safetensors"), &names, Dtype::F32, 1);
    let ran = run(dir.path(), &["inspect", "ev\u{1b}[2Jil"]).expect(0);
    assert_clean(&ran, 4 + names.len(), 0);
    assert!(ran.stdout.contains("\\u{1b}[31mred\\u{1b}[0m ") && ran.stdout.contains("new\\nerror: forged "));
    assert!(ran.stdout.contains("größe 日本語.重み 😀 ") && ran.stdout.contains("mo\\ndel.safetensors"));
    let rows: Vec<&str> = ran.stdout.lines().skip(3).collect();
    let columns: Vec<usize> =
        rows[1..].iter().map(|row| row[..row.find("  F32 ").unwrap()].chars().count()).collect();
    assert!(columns.iter().all(|column| *column == columns[0] && *column <= 100), "{columns:?}");
    let long = rows.iter().find(|row| row.starts_with("aaaa")).unwrap();
    assert!(long.contains(" characters left out)"), "{long}");

    let report = clean_json(&run(dir.path(), &["inspect", "ev\u{1b}[2Jil", "--json"]).expect(0), 0);
    let mut found: Vec<&str> =
        report["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn save_verify_load_and_export_keep_hostile_names_off_the_terminal() {
    let dir = temp_dir();
    let names = hostile_names();
    write_model(&dir.path().join("evil/model.safetensors"), &names, Dtype::F32, 1);
    let ran = |args: &[&str], code| run(dir.path(), args).expect(code);
    assert_clean(&ran(&["save", "--model", "evil", "--name", "ours"], 0), 1, 0);
    assert_clean(&ran(&["verify", "ours", "--against", "evil"], 0), 1, 0);
    assert_clean(&ran(&["export", "ours", "--to", "ba\u{1b}[2Jck"], 0), 1, 0);
    let loaded = ran(&["load", "ours", "--gpus", "none", "--verify"], 0);
    assert_clean(&loaded, loaded.stdout.lines().count(), 0);

    let partition = dir.path().join("models/ours/tensor.data_0");
    let inspected = ran(&["inspect", "ours", "--json"], 0).json();
    for tensor in inspected["tensors"].as_array().unwrap() {
        flip_bit(&partition, tensor["file_offset"].as_u64().unwrap());
    }
    // The chunk, and each tensor.
    let verified = ran(&["verify", "ours"], 1);
    assert_clean(&verified, 1, 1 + names.len());
    assert!(verified.stderr.lines().all(|line| line.starts_with("error: ") && line.len() < 3000));
    let report = clean_json(&ran(&["verify", "ours", "--json"], 1), 0);
    let problems: Vec<&str> =
        report["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(names.iter().all(|name| problems.iter().any(|p| p.contains(name))), "{problems:?}");
    let loaded = ran(&["load", "ours", "--gpus", "none", "--verify"], 1);
    assert_clean(&loaded, loaded.stdout.lines().count(), names.len());
    let report = clean_json(&ran(&["load", "ours", "--gpus", "none", "--verify", "--json"], 1), 0);
    assert_eq!(report["mismatches"].as_array().unwrap().len(), names.len());
    assert_clean(&ran(&["export", "ours", "--to", "again"], 2), 0, 1);
    assert_clean(&ran(&["save", "--model", "models/ours", "--name", "again"], 2), 0, 1);
}

#[test]
fn comparison_keeps_hostile_names_off_the_terminal() {
    let dir = temp_dir();
    let names = hostile_names();
    write_model(&dir.path().join("a/model.safetensors"), &names, Dtype::F32, 1);
    for (other, dtype, value) in [("type\u{1b}[2J", Dtype::F64, 1), ("value\u{9b}2J", Dtype::F32, 2)] {
        write_model(&dir.path().join(other).join("model.safetensors"), &names, dtype, value);
        assert_clean(&run(dir.path(), &["verify", "a", "--against", other]).expect(1), 1, names.len());
    }
    let renamed: Vec<String> = names.iter().map(|name| format!("\u{1b}[32m{name}")).collect();
    write_model(&dir.path().join("renamed/model.safetensors"), &renamed, Dtype::F32, 1);
    let ran = run(dir.path(), &["verify", "a", "--against", "renamed"]).expect(1);
    // What either lacks, and what it comes from.
    assert_clean(&ran, 1, 2 * names.len() + 1);
    assert!(ran.stderr.contains("'' here, '\\u{1b}[32m' there"), "{}", ran.stderr);
}

#[test]
fn errors_are_one_clean_line_whatever_they_quote() {
    let dir = temp_dir();
    let entry = json!({ "dtype": "\u{1b}[31mF99\n\u{9b}", "shape": [1], "data_offsets": [0, 1] });
    let long = "b".repeat(5000);
    let headers = [
        ("dtype", json!({ "w\u{202e}": entry }).to_string()),
        ("entry", json!({ "\u{1b}[31mw\r\n": { "dtype": [] } }).to_string()),
        ("metadata", json!({ "__metadata__": { "a": { "\u{1b}[31m": 1 } } }).to_string()),
        (
            "twice",
            format!(
                "{{\"\\u001b[31mw\":{0},\"\\u001b[31mw\":{0}}}",
                json!({ "dtype": "U8", "shape": [0], "data_offsets": [0, 0] })
            ),
        ),
        ("long", json!({ long: { "dtype": "F99", "shape": [1], "data_offsets": [0, 1] } }).to_string()),
        ("raw", "\u{1b}[31m\u{7f}\u{9b}".to_string()),
    ];
    for (name, header) in &headers {
        write_text(&dir.path().join(name).join("mo\u{1b}[2Jdel.safetensors"), header);
        for command in ["inspect", "verify", "load", "export"] {
            let more: &[&str] = if command == "export" { &["--to", "x"] } else { &[] };
            let ran = run(dir.path(), &[&[command, name], more].concat()).expect(2);
            assert_clean(&ran, 0, 1);
            assert!(ran.stderr.len() < 2500, "{}", ran.stderr);
            assert_eq!(ran.stderr.contains("characters left out)"), *name == "long", "{}", ran.stderr);
            ran.one_error(&["mo\\u{1b}[2Jdel.safetensors"]);
        }
    }
    let index = json!({ "weight_map": { "w": "\u{1b}[31mshard\n.safetensors" } });
    fs::create_dir_all(dir.path().join("index")).unwrap();
    fs::write(dir.path().join("index/a.safetensors"), "").unwrap();
    fs::write(dir.path().join("index/model.safetensors.index.json"), index.to_string()).unwrap();
    for name in ["index", "no\u{1b}[2Jwhere\n"] {
        assert_clean(&run(dir.path(), &["inspect", name]).expect(2), 0, 1);
    }
    // What clap says of arguments goes another way.
    let ran = run(dir.path(), &["inspect", "x", "\u{1b}[31my\u{202e}"]).expect(2);
    assert_clean(&ran, 0, ran.stderr.lines().count());
    assert!(ran.stderr.contains("y\\u{202e}"), "{}", ran.stderr);
}
