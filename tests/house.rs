//! The house and its rules: every arrow points down, no two files know each other, and only the edge knows the edge's
//! libraries. Paths are resolved through imports and re-exports, in macros too; what only tests use does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use resolve::Crate;
use source::Segments;

#[path = "house/resolve.rs"]
mod resolve;
#[path = "house/source.rs"]
mod source;

/// From below. Rooms of one line do not know each other, but for those of the second: `gpu` knows `cufile`.
const ROOMS: [&[&str]; 16] = [
    &["os"],
    &["node"],
    &["cufile"],
    &["gpu"],
    &["checkpoint"],
    &["load"],
    &["write"],
    &["origin"],
    &["doctor"],
    &["record"],
    &["page"],
    &["bench", "analyze"],
    &["qualify"],
    &["capi", "wire"],
    &["client", "serve"],
    &["cli"],
];

/// What only the edge may use.
const EDGE_LIBRARIES: [&str; 5] = ["clap", "clap_complete", "clap_mangen", "ctrlc", "indicatif"];

fn house() -> Crate {
    Crate::new(source::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")))
}

fn floor(room: &str) -> usize {
    ROOMS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("'{room}' is no room: add it to ROOMS"))
}

fn text(module: &Segments) -> String {
    module.join("::")
}

/// There are no exceptions.
fn check(found: &BTreeSet<String>) {
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert!(found.is_empty(), "against the rules of the house:\n{}", found.join("\n"));
}

#[test]
fn every_arrow_points_down() {
    let house = house();
    let mut up = BTreeSet::new();
    for file in house.files().filter(|file| !file.module.is_empty()) {
        for known in house.known_by(file).into_iter().filter(|known| !known.is_empty()) {
            let (from, to) = (&file.module[0], &known[0]);
            if from != to && floor(from) <= floor(to) {
                up.insert(format!("{} -> {}", text(&file.module), text(known)));
            }
        }
    }
    check(&up);
}

#[test]
fn no_two_files_know_each_other() {
    let house = house();
    let arrows: BTreeMap<&Segments, BTreeSet<&Segments>> =
        house.files().map(|file| (&file.module, house.known_by(file))).collect();
    let reached = |from: &Segments| {
        let mut seen: BTreeSet<&Segments> = BTreeSet::new();
        let mut left: Vec<&Segments> = arrows[from].iter().copied().collect();
        while let Some(next) = left.pop() {
            if seen.insert(next) {
                left.extend(arrows.get(next).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&Segments, BTreeSet<&Segments>> =
        arrows.keys().map(|from| (*from, reached(from))).collect();
    let mut rings = BTreeSet::new();
    for (from, to) in arrows.iter().flat_map(|(from, tos)| tos.iter().map(move |to| (*from, *to))) {
        if all.get(to).is_some_and(|back| back.contains(from)) {
            rings.insert(format!("{} -> {}", text(from), text(to)));
        }
    }
    check(&rings);
}

#[test]
fn only_the_edge_knows_its_libraries() {
    let house = house();
    let mut found = BTreeSet::new();
    for file in house.files().filter(|file| file.module.first().is_some_and(|room| room != "cli")) {
        let foreign = house.foreign(file);
        for library in EDGE_LIBRARIES.iter().filter(|library| foreign.contains(**library)) {
            found.insert(format!("{} uses {library}", text(&file.module)));
        }
    }
    check(&found);
}

#[test]
fn a_folders_file_declares_and_re_exports_and_no_more() {
    let house = house();
    let parents = house.files().filter(|file| !file.module.is_empty() && house.has_children(&file.module));
    check(&parents.filter(|file| file.items > 0).map(|file| text(&file.module)).collect());
}

/// cudarc's owners keep an error of their drop in the context, where somebody else's next call fails with it.
#[test]
fn what_gpu_holds_drops_in_silence() {
    let owners = ["CudaStream", "CudaEvent", "CudaSlice", "CudaModule", "record_err"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu");
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let used = owners.into_iter().filter(|owner| text.contains(owner));
        found.extend(used.map(|owner| format!("{} uses cudarc's {owner}", path.display())));
    }
    check(&found);
}
