//! The C ABI as C programs hold it: the header against the source, and programs built by `cc` against the library.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A header's declarations and constants, without comments, guards and spaces that mean nothing.
fn declarations(header: &str) -> BTreeSet<String> {
    let mut text = String::new();
    let mut rest = header;
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let (lines, code): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.trim_start().starts_with('#'));
    let constants = lines
        .into_iter()
        .filter(|line| line.starts_with("#define SLLM_GDS_") && line.split(' ').count() == 3);
    let mut found: BTreeSet<String> = constants.map(|line| line.trim().to_string()).collect();
    let code =
        code.join("\n").replace("extern \"C\" {", "").replace("struct DLManagedTensor", "DLManagedTensor");
    // With the word or without it, in C they name the same type.
    let code = code.replace("struct sllm_gds_", "sllm_gds_");
    let (mut depth, mut one) = (0, String::new());
    for letter in code.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth < 0 {
            (depth, one) = (0, String::new());
            continue;
        }
        one.push(letter);
        if letter == ';' && depth == 0 {
            let plain = one.split_whitespace().collect::<Vec<_>>().join(" ");
            let plain = [" *", "* ", "( ", " )", "{ ", " }"]
                .iter()
                .fold(plain, |plain, spaced| plain.replace(spaced, spaced.trim()));
            found.insert(plain);
            one.clear();
        }
    }
    found.remove("DLManagedTensor;");
    found
}

#[test]
fn the_header_declares_what_the_source_defines() {
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        style: cbindgen::Style::Both,
        documentation: false,
        usize_is_size_t: true,
        no_includes: true,
        ..cbindgen::Config::default()
    };
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in ["status", "strings", "checkpoint", "loader", "request", "model"] {
        builder = builder.with_src(root().join(format!("src/capi/{name}.rs")));
    }
    let mut generated = Vec::new();
    builder.generate().unwrap().write(&mut generated);
    let defined = declarations(&String::from_utf8(generated).unwrap());
    let declared = declarations(&fs::read_to_string(root().join("ffi/sllm_gds.h")).unwrap());
    let only = |of: &BTreeSet<String>, than: &BTreeSet<String>| -> Vec<String> {
        of.difference(than).cloned().collect()
    };
    assert!(defined.len() > 50, "{defined:?}");
    assert_eq!((only(&declared, &defined), only(&defined, &declared)), (Vec::new(), Vec::new()));
}

/// The folder with the library and the archive, built as the header's users build them.
fn library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["rustc", "--offline", "--locked", "--lib", "--crate-type", "cdylib,staticlib"]);
    cargo.args(["--no-default-features", "--features", "capi", "--target-dir"]).arg(&target);
    cargo.args(["--", "-C", "link-arg=-Wl,-soname,libsllm_gds.so.1"]);
    succeeds(cargo.current_dir(root()).env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").output().unwrap());
    // Programs look for the library by its version, as an installed one would be found.
    let named = target.join("debug/libsllm_gds.so.1");
    let _ = fs::remove_file(&named);
    std::os::unix::fs::symlink("libsllm_gds.so", named).unwrap();
    target.join("debug")
}

#[track_caller]
fn succeeds(output: Output) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
    out.into_owned()
}

/// One safetensors file: `w`, two by three floats of 16 bits, and `b`, four floats of 8.
fn checkpoint(dir: &Path) -> PathBuf {
    let header = br#"{"b":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[12,16]},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let data: Vec<u8> = (1..=16).collect();
    let path = dir.join("model.safetensors");
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &data].concat()).unwrap();
    path
}

fn compile(source: &Path, program: &Path, arguments: &[&str]) {
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-I"]).arg(root().join("ffi"));
    cc.arg(source).arg("-o").arg(program).args(arguments);
    succeeds(cc.output().unwrap());
}

#[test]
fn c_programs_load_and_leave_nothing_behind() {
    let library = library();
    let dir = tempfile::tempdir().unwrap();
    let file = checkpoint(dir.path());
    let shared = format!("-L{}", library.display());
    let run_path = format!("-Wl,-rpath,{}", library.display());
    let load = dir.path().join("load");
    compile(&root().join("examples/load.c"), &load, &[&shared, "-lsllm_gds", &run_path]);
    let said = succeeds(Command::new(&load).arg(&file).output().unwrap());
    assert!(said.starts_with("2 tensors: {") && said.ends_with("w: BF16 [2, 3] on device -1\n"), "{said}");
    if sllm_gds::gpu::count().is_ok() {
        let said = succeeds(Command::new(&load).arg(&file).arg("0").output().unwrap());
        assert!(said.ends_with("w: BF16 [2, 3] on device 0\n"), "{said}");
    }
    let nowhere = Command::new(&load).arg(dir.path().join("none")).output().unwrap();
    let error = String::from_utf8_lossy(&nowhere.stderr);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(error.contains("NOT_FOUND") && error.contains("none"), "{error}");

    // The archive, with the address sanitizer around its caller: what leaks or is freed twice ends the program.
    let uses = dir.path().join("uses");
    let archive = library.join("libsllm_gds.a").display().to_string();
    let sanitized = ["-fsanitize=address", &archive, "-lpthread", "-ldl", "-lm", "-lrt", "-lutil", "-lgcc_s"];
    compile(&root().join("tests/capi/uses.c"), &uses, &sanitized);
    let said = succeeds(Command::new(&uses).arg(&file).output().unwrap());
    assert_eq!(said, "all as it should be\n");

    let soname =
        succeeds(Command::new("readelf").arg("-d").arg(library.join("libsllm_gds.so")).output().unwrap());
    assert!(soname.contains("[libsllm_gds.so.1]"), "{soname}");
}
