//! What the safetensors library reads is read here, and what it refuses is refused: over its own tests' situations and
//! thousands of damaged headers. Where we differ on purpose, it stands below.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sllm_gds::checkpoint::Checkpoint;

const ENTRY: &str = r#""w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}"#;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file, what it is, and whether we refuse it on purpose though the library reads it.
fn situations() -> Vec<(Vec<u8>, &'static str, bool)> {
    let of = |header: &str, bytes: usize| file(header, &vec![7; bytes]);
    let entry = |dtype: &str, shape: &str, bytes: usize| {
        of(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{bytes}]}}}}"#), bytes)
    };
    let mut all = vec![
        (of(&format!("{{{ENTRY}}}"), 4), "plain", false),
        (of(&format!("{{{ENTRY}}}     "), 4), "padded with spaces", false),
        (of(&format!("  {{{ENTRY}}}"), 4), "spaces before the brace", false),
        (of(&format!("{{{ENTRY}}}\n\t "), 4), "white space of other kinds", false),
        (of(&format!("{{{ENTRY}}}x"), 4), "something behind the brace", false),
        (of(&format!("{{{ENTRY}}}"), 5), "data longer than the tensors", false),
        (of(&format!("{{{ENTRY}}}"), 3), "data shorter than the tensors", false),
        (of("{}", 0), "no tensors", false),
        (of(r#"{"__metadata__":{}}"#, 0), "metadata alone", false),
        (of(&format!(r#"{{"__metadata__":null,{ENTRY}}}"#), 4), "metadata null", false),
        (of(&format!(r#"{{"__metadata__":{{"a":"b"}},{ENTRY}}}"#), 4), "metadata", false),
        (of(&format!(r#"{{"__metadata__":{{"a":1}},{ENTRY}}}"#), 4), "a number in the metadata", false),
        (of(&format!(r#"{{"__metadata__":[],{ENTRY}}}"#), 4), "metadata a list", false),
        (
            of(&format!(r#"{{{ENTRY},"x":{{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}}}"#), 4),
            "an empty tensor",
            false,
        ),
        (
            of(&format!(r#"{{"x":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},{ENTRY}}}"#), 4),
            "an empty one first",
            false,
        ),
        (
            of(&format!(r#"{{{ENTRY},"x":{{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}}}"#), 6),
            "a hole",
            false,
        ),
        (
            of(&format!(r#"{{{ENTRY},"x":{{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}}}"#), 5),
            "an overlap",
            false,
        ),
        (
            of(&format!(r#"{{"x":{{"dtype":"U8","shape":[1],"data_offsets":[4,5]}},{ENTRY}}}"#), 5),
            "not in order",
            false,
        ),
        (of(r#"{"w":{"dtype":"F16","shape":[2],"data_offsets":[4,0]}}"#, 4), "ends before it begins", false),
        (
            of(r#"{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4],"more":{"a":[1]}}}"#, 4),
            "an unknown key",
            false,
        ),
        (of(r#"{"w":{"dtype":"F16","shape":[2]}}"#, 4), "no offsets", false),
        (of(r#"{"w":["F16",[2],[0,4]]}"#, 4), "an entry as a list", false),
        (of(r#"{"w":{"dtype":"F16","shape":[-2],"data_offsets":[0,4]}}"#, 4), "a negative extent", false),
        (of(r#"{"w":{"dtype":"F16","shape":[2.0],"data_offsets":[0,4]}}"#, 4), "a fraction", false),
        (
            of(r#"{"w":{"dtype":"F16","shape":[9223372036854775807,4],"data_offsets":[0,4]}}"#, 4),
            "an overflow",
            false,
        ),
        (of(r#"{"w":{"dtype":"f16","shape":[2],"data_offsets":[0,4]}}"#, 4), "an unknown dtype", false),
        (of("[]", 0), "a list", false),
        (of("", 0), "no header", false),
        (of("null", 0), "null", false),
        (of(&format!("{{{ENTRY},{ENTRY}}}"), 4), "the same name twice, which the last one wins there", true),
        (file("\u{feff}{}", &[]), "a byte order mark", false),
        ([&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), "no UTF-8", false),
        ([&(100_000_001u64).to_le_bytes()[..], &[b' '; 64]].concat(), "a header of 100 MB claimed", false),
        ([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "a header of 2^64 bytes claimed", false),
        (vec![0; 7], "seven bytes", false),
        (Vec::new(), "nothing", false),
        (vec![0; 8], "eight zeros", false),
    ];
    for (dtype, bits) in [
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("BOOL", 8),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("I16", 16),
        ("U16", 16),
        ("I32", 32),
        ("U32", 32),
        ("I64", 64),
        ("U64", 64),
        ("F16", 16),
        ("BF16", 16),
        ("F32", 32),
        ("F64", 64),
        ("C64", 64),
        ("F128", 128),
    ] {
        all.push((entry(dtype, "[2,4]", bits), "a dtype", false));
        all.push((entry(dtype, "[]", bits / 8), "a scalar", false));
        all.push((entry(dtype, "[3]", 3 * bits / 8), "three of a dtype", false));
    }
    all
}

/// Holds both answers against each other; true where the library reads it.
fn compare(path: &Path, bytes: &[u8], what: &str, refused_on_purpose: bool) -> bool {
    fs::write(path, bytes).unwrap();
    let (theirs, ours) = (SafeTensors::deserialize(bytes), Checkpoint::open(path));
    let header = String::from_utf8_lossy(bytes);
    match (&theirs, &ours) {
        (Ok(theirs), Ok(ours)) => {
            assert_eq!(ours.tensors.len(), theirs.len(), "{what}: {header}");
            for t in ours.tensors.iter() {
                let view = theirs.tensor(&t.name).unwrap();
                assert_eq!(t.dtype.safetensors_name(), view.dtype().to_string(), "{what}: {header}");
                assert!(
                    t.shape.iter().map(|e| *e as usize).eq(view.shape().iter().copied()),
                    "{what}: {header}"
                );
                assert_eq!(&bytes[t.offset as usize..t.end() as usize], view.data(), "{what}: {header}");
            }
        }
        (Err(_), Err(_)) => {}
        (Ok(_), Err(e)) => {
            assert!(refused_on_purpose, "{what}: refused, and the library reads it: {e:#}\n{header}")
        }
        (Err(e), Ok(_)) => panic!("{what}: read, and the library refuses it: {e}\n{header}"),
    }
    theirs.is_ok()
}

#[test]
fn the_librarys_own_situations() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let all = situations();
    let read = all.iter().filter(|(bytes, what, purpose)| compare(&path, bytes, what, *purpose)).count();
    assert!(read > all.len() / 3 && read < all.len(), "{read} of {} are read", all.len());
}

#[test]
fn damaged_headers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let seed = 20261125;
    let mut rng = fastrand::Rng::with_seed(seed);
    let all = situations();
    let mut read = 0;
    for case in 0..4000 {
        let (bytes, what, _) = all[rng.usize(..all.len())].clone();
        let end = bytes.iter().rposition(|byte| *byte == b'}').map_or(bytes.len(), |at| at + 1);
        let (mut header, data) =
            (bytes.get(8..end).unwrap_or_default().to_vec(), &bytes[end.min(bytes.len())..]);
        for _ in 0..rng.usize(1..3) {
            let at = rng.usize(..=header.len());
            match rng.u32(0..5) {
                0 if at < header.len() => header[at] ^= 1 << rng.u32(0..8),
                1 if at < header.len() => drop(header.remove(at)),
                2 => header.insert(at, *rng.choice(b"{}[]\",:0123456789 etru\\").unwrap()),
                3 => header.insert(at, b' '),
                _ => {}
            }
        }
        // Most with the true length, or few would be looked at further.
        let length = header.len() as u64 + u64::from(rng.u32(0..5) == 0);
        let bytes = [&length.to_le_bytes(), &header[..], data].concat();
        // Damage may make two names of one, or one where two were: those we refuse on purpose.
        read += u32::from(compare(
            &path,
            &bytes,
            &format!("case {case} of seed {seed}, from {what}"),
            twice(&bytes),
        ));
    }
    assert!(read > 100, "{read} of 4000 are read");
}

/// Whether a key stands twice: there the library takes the last.
fn twice(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    ["\"w\"", "\"x\"", "\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"a\""]
        .iter()
        .any(|key| text.matches(key).count() > 1)
}
