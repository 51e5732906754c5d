//! From a path as it is written to the file that defines what it names.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{File, Segments};

pub struct Crate {
    files: BTreeMap<Segments, File>,
}

/// Re-exports of re-exports are followed this far.
const STEPS: usize = 16;

impl Crate {
    pub fn new(files: Vec<File>) -> Crate {
        Crate { files: files.into_iter().map(|file| (file.module.clone(), file)).collect() }
    }

    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.values()
    }

    pub fn has_children(&self, module: &[String]) -> bool {
        self.files.keys().any(|other| other.len() == module.len() + 1 && other.starts_with(module))
    }

    /// The files that a file knows.
    pub fn known_by(&self, file: &File) -> BTreeSet<&Segments> {
        let paths = file.paths.iter().chain(&file.globs);
        let known = paths.filter_map(|path| self.defining(&self.absolute(file, path)?, STEPS));
        known.filter(|module| **module != file.module).collect()
    }

    /// Names of other crates that a file uses.
    pub fn foreign(&self, file: &File) -> BTreeSet<String> {
        let heads = file.paths.iter().chain(&file.globs).filter(|path| self.absolute(file, path).is_none());
        heads.filter_map(|path| path.first().cloned()).collect()
    }

    /// From the crate's root; `None` for what is of another crate or a name of its own.
    fn absolute(&self, file: &File, path: &[String]) -> Option<Segments> {
        let (head, rest) = path.split_first()?;
        let join = |base: &[String], rest: &[String]| Some([base, rest].concat());
        match head.as_str() {
            "crate" => join(&[], rest),
            "self" => join(&file.module, rest),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let base = &file.module[..file.module.len().checked_sub(ups)?];
                join(base, &path[ups..])
            }
            _ => {
                let child = [file.module.as_slice(), std::slice::from_ref(head)].concat();
                if self.files.contains_key(&child) {
                    return join(&child, rest);
                }
                let import = file.imports.get(head).filter(|import| import.as_slice() != path)?;
                if import.first() == Some(head) {
                    return None;
                }
                join(&self.absolute(file, import)?, rest)
            }
        }
    }

    /// The module whose file defines what an absolute path names.
    fn defining(&self, path: &[String], steps: usize) -> Option<&Segments> {
        let (mut module, mut file) = self.files.get_key_value(&Segments::new())?;
        for (at, segment) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(segment)].concat();
            if let Some(found) = self.files.get_key_value(&child) {
                (module, file) = found;
                continue;
            }
            let steps = steps.checked_sub(1)?;
            if let Some(import) = file.imports.get(segment) {
                let target = [self.absolute(file, import)?.as_slice(), &path[at + 1..]].concat();
                return self.defining(&target, steps);
            }
            let by_glob = file.globs.iter().find_map(|glob| {
                let from = self.absolute(file, glob)?;
                let target = [from.as_slice(), &path[at..]].concat();
                self.defining(&target, steps).filter(|found| self.defines(found, segment))
            });
            return by_glob.or(Some(module));
        }
        // A folder's file only declares: who names it without an item knows none of its files yet.
        (!self.has_children(module)).then_some(module)
    }

    fn defines(&self, module: &Segments, name: &str) -> bool {
        self.files.get(module).is_some_and(|file| file.names.contains(name))
    }
}
