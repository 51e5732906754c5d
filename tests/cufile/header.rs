//! Our header against NVIDIA's, and the bindings against our header.

use std::fs;
use std::path::Path;
use std::process::Command;

use sllm_gds::cufile::CODES;

use crate::wheel::{Wheel, wheels};

const BINDINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/cufile.rs"));
const CHECKED_IN: &str = include_str!("../../ffi/bindings.rs");
const HEADER: &str = include_str!("../../ffi/cufile.h");

#[test]
fn the_bindings_checked_in_are_what_bindgen_makes() {
    if env!("SLLM_GDS_CUFILE_BINDINGS") != "bindgen" {
        eprintln!("skipped: build.rs found no libclang");
        return;
    }
    assert!(BINDINGS == CHECKED_IN, "ffi/bindings.rs is stale: copy {}/cufile.rs there", env!("OUT_DIR"));
}

/// What stands in for cuda.h: the two types that NVIDIA's header takes from it.
const CUDA_H: &str = "typedef enum { CUDA_SUCCESS } CUresult; typedef struct CUstream_st *CUstream;\n";

/// Types that NVIDIA's header has by other names, or without one.
const ALIASES: [(&str, &str); 2] = [
    ("CUfileDescr_t__bindgen_ty_1", "__typeof__(((CUfileDescr_t *)0)->handle)"),
    ("CUfileDrvProps_t__bindgen_ty_1", "__typeof__(((CUfileDrvProps_t *)0)->nvfs)"),
];

#[test]
fn sizes_offsets_constants_and_prototypes_are_nvidias() {
    for wheel in wheels() {
        let theirs = fs::read_to_string(&wheel.header).unwrap();
        let (program, checks) = comparison(&theirs, HEADER);
        println!("{}: {checks} checks", wheel.header.display());
        assert!(checks > 60, "only {checks} checks:\n{program}");
        if let Err(message) = compile(&wheel, &program) {
            panic!("{}:\n{message}", wheel.header.display());
        }
    }
}

/// The comparison must be able to fail.
#[test]
fn a_wrong_prototype_size_or_constant_is_found() {
    for wheel in wheels() {
        let theirs = fs::read_to_string(&wheel.header).unwrap();
        let (right, _) = comparison(&theirs, HEADER);
        let wrongs = [
            comparison(&theirs, &HEADER.replace("size_t length, int flags", "int length, int flags")).0,
            comparison(&theirs, &HEADER.replace("void cuFileHandleDereg", "int cuFileHandleDereg")).0,
            right.replace("sizeof(CUfileDescr_t) == 24", "sizeof(CUfileDescr_t) == 32"),
            right.replace("CU_FILE_HANDLE_NOT_REGISTERED == 5027", "CU_FILE_HANDLE_NOT_REGISTERED == 5028"),
        ];
        for wrong in wrongs {
            assert_ne!(wrong, right);
            compile(&wheel, &wrong).unwrap_err();
        }
    }
}

/// A C file that compiles only if what we say of their types is so, and if our prototypes repeat theirs. What
/// their version does not have is left out.
fn comparison(theirs: &str, ours: &str) -> (String, usize) {
    let has = |name: &str| words(theirs).any(|word| word == name);
    let mut program = String::from("#include <stddef.h>\n#include <stdint.h>\n#include \"cufile.h\"\n");
    for (name, meaning) in ALIASES {
        program += &format!("typedef {meaning} {name};\n");
    }
    // The longer counters have the same name in the versions that have them.
    let grown = has("readv_ops");
    let stats = ["CUfileStatsLevel3_t", "CUfileStatsLevel3_v1190_t"];
    let mut checks = Vec::new();
    for assertion in layout(BINDINGS) {
        let skip = if grown { stats[0] } else { stats[1] };
        let subject = assertion.subject.as_str();
        let known = ALIASES.iter().any(|(name, _)| *name == subject) || has(subject);
        match subject {
            _ if subject == skip => {}
            "CUfileStatsLevel3_v1190_t" => checks.push(assertion.in_c("CUfileStatsLevel3_t")),
            _ if known => checks.push(assertion.in_c(subject)),
            _ => {}
        }
    }
    let codes = CODES.iter().map(|code| (code.name.to_string(), code.number.to_string()));
    for (name, value) in constants(BINDINGS).chain(codes).filter(|(name, _)| has(name)) {
        checks.push(format!("{name} == {value}"));
    }
    program.extend(checks.iter().map(|check| format!("_Static_assert({check}, \"\");\n")));
    let prototypes: Vec<&str> = prototypes(ours)
        .into_iter()
        .filter(|prototype| words(prototype).any(|word| is_call(word) && has(word)))
        .collect();
    program.extend(prototypes.iter().map(|prototype| format!("{prototype};\n")));
    (program, checks.len() + prototypes.len())
}

fn compile(wheel: &Wheel, program: &str) -> Result<(), String> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(directory.path().join("cuda.h"), CUDA_H).unwrap();
    fs::write(directory.path().join("check.c"), program).unwrap();
    let includes = wheel.header.parent().unwrap_or(Path::new("."));
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-fsyntax-only", "-I"]).arg(directory.path()).arg("-isystem").arg(includes);
    let output = cc.arg(directory.path().join("check.c")).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// One of bindgen's layout assertions.
struct Assertion {
    subject: String,
    field: Option<String>,
    what: &'static str,
    value: String,
}

impl Assertion {
    fn in_c(&self, subject: &str) -> String {
        match &self.field {
            Some(field) => format!("{}({subject}, {field}) == {}", self.what, self.value),
            None => format!("{}({subject}) == {}", self.what, self.value),
        }
    }
}

/// `["Size of X"][… - 8usize]`, `["Alignment of X"]…` and `["Offset of field: X::f"]…`.
fn layout(bindings: &str) -> Vec<Assertion> {
    let kinds = [("Size of ", "sizeof"), ("Alignment of ", "_Alignof"), ("Offset of field: ", "offsetof")];
    let quoted = bindings.split('"').zip(bindings.split('"').skip(1)).skip(1).step_by(2);
    let assertion = |(text, rest): (&str, &str)| {
        let (what, subject) =
            kinds.iter().find_map(|(start, what)| Some((*what, text.strip_prefix(start)?)))?;
        let (subject, field) = subject.split_once("::").map_or((subject, None), |(s, f)| (s, Some(f)));
        let (value, _) = rest.split_once("usize]")?;
        let value = value.rsplit(' ').next()?;
        // bindgen renames what is a keyword in Rust.
        let field = field.map(|field| field.trim_end_matches('_').to_string());
        Some(Assertion { subject: subject.into(), field, what, value: value.into() })
    };
    quoted.filter_map(assertion).collect()
}

/// `pub const NAME: type = value;`
fn constants(bindings: &str) -> impl Iterator<Item = (String, String)> {
    bindings.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
        let (_, value) = rest.trim_end_matches(';').split_once(" = ")?;
        Some((name.to_string(), value.to_string()))
    })
}

/// Our function declarations, which come after the types.
fn prototypes(header: &str) -> Vec<&str> {
    let (_, functions) = header.rsplit_once("#endif").unwrap();
    functions.split(';').filter(|text| words(text).any(is_call)).map(after_comments).collect()
}

fn after_comments(text: &str) -> &str {
    text.rsplit_once("*/").map_or(text, |(_, rest)| rest).trim()
}

fn is_call(word: &str) -> bool {
    word.starts_with("cuFile")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}
