//! `index` killed, and failing, at every call: the model's own files are never touched, and an index is whole, old, or none
//! that a server takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use sllm_gds::checkpoint::served::served;
use tempfile::TempDir;

use crate::common::{names_in, run, safetensors_in, served_tensors, temp_dir, tree, write_odd_model};
use crate::rig::{Tree, shimmed};

const OURS: [&str; 4] =
    ["no_split_modules.json", "sllm_gds.json", "tensor_index.json", "tied_no_split_modules.json"];

/// A model to be indexed over and over.
struct Case {
    root: TempDir,
    args: &'static [&'static str],
    /// The directory of the index.
    place: &'static str,
    /// What a file system lacks, as the shim names it.
    lacks: &'static str,
    /// The model's own files.
    own: Tree,
    tensors: BTreeMap<String, Vec<u8>>,
}

impl Case {
    fn new(args: &'static [&'static str], place: &'static str, lacks: &'static str) -> Case {
        let root = temp_dir();
        let model = root.path().join("kept");
        write_odd_model(&model);
        let tensors = safetensors_in(&model).into_iter().map(|(name, tensor)| (name, tensor.2)).collect();
        Case { own: tree(&model), root, args, place, lacks, tensors }
    }

    /// A new copy of the model, with an older index where one is to be replaced.
    fn begin(&self, replaces: bool) {
        for name in ["m", "other", "log"].map(|name| self.root.path().join(name)) {
            let _ = fs::remove_dir_all(&name).or_else(|_| fs::remove_file(&name));
        }
        fs::create_dir(self.at("m")).unwrap();
        for name in names_in(&self.at("kept")) {
            fs::copy(self.at("kept").join(&name), self.at("m").join(&name)).unwrap();
        }
        if replaces {
            run(self.root.path(), self.args).expect(0);
        }
    }

    /// With digests where an index is replaced, so that the new one is another.
    fn run(&self, replaces: bool, settings: &[(&str, &str)]) -> Option<crate::common::Ran> {
        let mut args = self.args.to_vec();
        args.extend(replaces.then_some("--digests"));
        let log = self.at("log");
        let own = [("SHIM_LOG", log.to_str().unwrap()), ("SHIM_WITHOUT", self.lacks)];
        shimmed(self.root.path(), &args, &[&own[..], settings].concat())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The calls that an undisturbed run makes, as lines of the shim's log; `None` without a C compiler.
    fn calls(&self, replaces: bool) -> Option<Vec<String>> {
        self.begin(replaces);
        self.run(replaces, &[])?.expect(0);
        self.assert_whole("undisturbed");
        Some(fs::read_to_string(self.at("log")).unwrap().lines().map(str::to_string).collect())
    }

    #[track_caller]
    fn assert_whole(&self, at: &str) {
        assert!(served_tensors(&self.at(self.place)) == self.tensors, "{at}");
        for dir in [&self.at("m"), self.root.path()] {
            assert_eq!(names_in(dir).iter().find(|name| name.starts_with('.')), None, "{at}: remains");
        }
        self.assert_untouched(at);
    }

    #[track_caller]
    fn assert_untouched(&self, at: &str) {
        let mut left = tree(&self.at("m"));
        left.retain(|name, _| !OURS.contains(&name.as_str()) && !name.starts_with(".sllm-gds-partial-"));
        assert!(left == self.own, "{at}: the model's own files");
    }
}

const AMONG: (&[&str], &str) = (&["index", "./m"], "m");
const BESIDE: (&[&str], &str) = (&["index", "./m", "--to", "./other"], "other");

#[test]
fn killed_anywhere_it_is_whole_or_refused_and_the_next_one_makes_it_whole() {
    for ((args, place), lacks) in [(AMONG, ""), (AMONG, "rename-flags"), (BESIDE, "")] {
        let case = Case::new(args, place, lacks);
        for replaces in [false, true] {
            let Some(calls) = case.calls(replaces) else { return };
            let (mut whole, mut refused) = (0, 0);
            for point in 1..=calls.len() {
                let at = format!("{args:?} {lacks} {replaces} killed at call {point} of {}", calls.len());
                case.begin(replaces);
                case.run(replaces, &[("SHIM_KILL_AT", &point.to_string())]);
                case.assert_untouched(&at);
                let dir = case.at(place);
                match served(&dir, None) {
                    Ok(_) => {
                        assert!(served_tensors(&dir) == case.tensors, "{at}");
                        whole += 1;
                    }
                    Err(_) => refused += 1,
                }
                run(case.root.path(), &["inspect", "./m"]).expect(0);
                case.run(replaces, &[]).unwrap().expect(0);
                case.assert_whole(&at);
            }
            eprintln!("{args:?} {lacks} {replaces}: {whole} whole, {refused} refused");
            assert!(whole > 0 && (refused > 0 || replaces), "{whole} whole, {refused} refused");
        }
    }
}

#[test]
fn failing_anywhere_it_leaves_what_was_before() {
    for ((args, place), lacks) in [(AMONG, ""), (AMONG, "rename-flags"), (BESIDE, "")] {
        let case = Case::new(args, place, lacks);
        for replaces in [false, true] {
            let Some(calls) = case.calls(replaces) else { return };
            let failable = calls.iter().filter(|call| call.split('\t').nth(1) == Some("1")).count();
            assert!(failable > 5, "{calls:?}");
            for point in 1..=failable {
                let at = format!("{args:?} {lacks} {replaces} failed at call {point} of {failable}");
                case.begin(replaces);
                let before = [tree(&case.at("m")), tree(&case.at("other"))];
                let settings = [("SHIM_FAIL_AT", point.to_string()), ("SHIM_ERRNO", libc::EIO.to_string())];
                let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
                let ran = case.run(replaces, &settings).unwrap();
                assert_eq!(ran.code, Some(2), "{at}: {ran:?}");
                ran.one_error(&["Input/output error"]);
                assert!([tree(&case.at("m")), tree(&case.at("other"))] == before, "{at}");
            }
        }
    }
}
