//! Which files of a listing are the model: one rule for a directory and for the hub.
//!
//! An index decides where there is one. Without it, files whose names begin with `model` go before `consolidated`
//! (another form of the same weights), these before any other, and adapters come last; sets such as
//! `model-00001-of-00002` must be whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::checkpoint::json::UniquePairs;
use crate::checkpoint::names::{INDEX_SUFFIX, MAIN_INDEX, SUFFIX, variant_of};
use crate::checkpoint::shard_sets;
use crate::checkpoint::shard_sets::{Set, check_gapless, check_whole, numbered};

/// Whose files go before others, where no index decides.
const FAMILIES: [&str; 2] = ["model", "consolidated"];

/// The weights of a model.
#[derive(Debug, Default)]
pub struct Weights {
    /// Safetensors files, sorted; `/` between the parts of a path. Empty where there is none.
    pub files: Vec<String>,
    pub index: Option<Index>,
    /// Safetensors files at the top that are no part of the model, sorted.
    pub left_out: Vec<String>,
}

impl Weights {
    /// The names of the weights and of their index.
    pub fn names(&self) -> Vec<String> {
        self.files.iter().chain(self.index.iter().map(|index| &index.file)).cloned().collect()
    }
}

/// A `*.safetensors.index.json`.
#[derive(Debug)]
pub struct Index {
    pub file: String,
    pub text: String,
    /// The file of each tensor that it names.
    pub weight_map: HashMap<String, String>,
    /// `metadata.total_size`: bytes of all tensors.
    pub total_bytes: Option<u64>,
    /// What it leaves out of a numbered set that it names a part of.
    pub unnamed: Option<String>,
}

impl Index {
    /// Refuses an index that was cut: it names a part of a set, and its tensors, of `bytes`, don't come to its total.
    pub fn check_whole(&self, bytes: u64) -> Result<(), String> {
        match &self.unnamed {
            Some(unnamed) if self.total_bytes != Some(bytes) => Err(format!(
                "does not name {unnamed}, so the model may be cut: fetch the index and all files anew; if nothing is \
                 missing, let the metadata of the index say so with \"total_size\": {bytes}, the bytes of the tensors \
                 that it names"
            )),
            _ => Ok(()),
        }
    }
}

/// Chooses among the names of a listing, of which only those at its top count. `has` says whether a file is there that
/// an index names, `read` gives an index's text.
pub fn weights(
    names: &[String],
    has: &dyn Fn(&str) -> bool,
    read: &dyn Fn(&str) -> Result<String>,
) -> Result<Weights> {
    let at_top = |end: &str| -> Vec<&str> {
        let top = names.iter().map(String::as_str).filter(|n| !n.contains('/') && !n.starts_with('.'));
        top.filter(|n| n.ends_with(end)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let top = at_top(SUFFIX);
    let decided = match pick_index(&at_top(INDEX_SUFFIX))? {
        Some(file) => by_index(file, &read(file)?, has, &top)?,
        None => None,
    };
    let mut chosen = match decided {
        Some(chosen) => chosen,
        None => Weights { files: without_index(&top)?, ..Weights::default() },
    };
    let left_out = top.iter().filter(|name| !chosen.files.iter().any(|file| file == *name));
    chosen.left_out = left_out.map(|name| name.to_string()).collect();
    Ok(chosen)
}

/// The index that decides: transformers' own, else the only one that is of no variant.
fn pick_index<'a>(found: &[&'a str]) -> Result<Option<&'a str>> {
    if let Some(main) = found.iter().find(|name| **name == MAIN_INDEX) {
        return Ok(Some(*main));
    }
    let stem = |name: &'a str| name.strip_suffix(INDEX_SUFFIX).unwrap_or(name);
    let plain: Vec<&str> = found.iter().copied().filter(|name| variant_of(stem(name)).is_none()).collect();
    match (plain.as_slice(), found) {
        ([], []) => Ok(None),
        ([one], _) | ([], [one]) => Ok(Some(*one)),
        ([first, second, ..], _) | ([], [first, second, ..]) => {
            bail!("there are two indices, {first} and {second}: keep the one you mean")
        }
    }
}

/// The shards that an index names; `None` where it is of other files than the model's.
fn by_index(file: &str, text: &str, has: &dyn Fn(&str) -> bool, top: &[&str]) -> Result<Option<Weights>> {
    #[derive(Deserialize)]
    struct ShardIndex {
        #[serde(default)]
        metadata: serde_json::Value,
        weight_map: UniquePairs<String>,
    }
    // Some editors begin a text with a byte order mark.
    let ShardIndex { metadata, weight_map: UniquePairs(pairs) } =
        match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
            Ok(index) => index,
            Err(e) => bail!("{file}: not the JSON that belongs here: {e}"),
        };
    if pairs.is_empty() {
        bail!("{file}: its weight_map names no tensor, so it says nothing of the weights; fetch it anew");
    }
    let named: BTreeSet<&str> = pairs.iter().map(|(_, shard)| shard.as_str()).collect();
    // An adapter's index, a variant's or that of consolidated files says nothing of the model's own.
    let of_model = || top.iter().filter(|name| is_of(name, FAMILIES[0]));
    let has_plain = of_model().any(|name| !is_of_variant(name));
    let mut own = of_model().filter(|name| !has_plain || !is_of_variant(name)).peekable();
    if file != MAIN_INDEX && own.peek().is_some() && !own.any(|name| named.contains(name)) {
        return Ok(None);
    }
    for shard in &named {
        check_path(shard).map_err(|why| anyhow::anyhow!("{file}: names the shard {shard:?}, {why}"))?;
        if !shard.ends_with(SUFFIX) {
            bail!("{file}: names the shard '{shard}', which is no safetensors file");
        }
    }
    let missing: Vec<&str> = named.iter().copied().filter(|shard| !has(shard)).collect();
    if missing.len() == named.len() && top.contains(&"model.safetensors") {
        // An index that was left from other files: transformers, too, take the single file then.
        return Ok(None);
    }
    if let Some(first) = missing.first() {
        bail!(
            "{file}: names the shard '{first}', which is not there ({} of {} shards are missing): fetch the rest, or \
             mend the index",
            missing.len(),
            named.len()
        );
    }
    let unnamed = shard_sets::unnamed(named.iter().copied());
    let files = named.into_iter().map(str::to_string).collect();
    let index = Index {
        file: file.into(),
        text: text.into(),
        weight_map: pairs.into_iter().collect(),
        total_bytes: metadata["total_size"].as_u64(),
        unnamed,
    };
    Ok(Some(Weights { files, index: Some(index), left_out: Vec::new() }))
}

fn without_index(top: &[&str]) -> Result<Vec<String>> {
    for family in FAMILIES {
        let members: Vec<&str> = top.iter().copied().filter(|name| is_of(name, family)).collect();
        if !members.is_empty() {
            return pick(&members, Some(family));
        }
    }
    // What is added to a model's weights is no part of them.
    let others: Vec<&str> = top.iter().copied().filter(|name| !is_of(name, "adapter_model")).collect();
    if others.is_empty() { pick(top, None) } else { pick(&others, None) }
}

/// `model.safetensors`, `model-00001-of-00002.safetensors`, `model_x.safetensors`; not `modelspec.safetensors`.
fn is_of(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.starts_with(['.', '-', '_']))
}

/// The files of one family, or of all that there are: a whole set, else the file named as the family, else all.
fn pick(names: &[&str], family: Option<&str>) -> Result<Vec<String>> {
    let mut sets: BTreeMap<Set, BTreeMap<u64, &str>> = BTreeMap::new();
    let mut singles: Vec<&str> = Vec::new();
    for name in names {
        match numbered(name) {
            None => singles.push(name),
            Some((set, number)) => {
                if let Some(other) = sets.entry(set).or_default().insert(number, name) {
                    bail!("{other} and {name} have the same number: keep the one you mean");
                }
            }
        }
    }
    let all: BTreeSet<Set> = sets.keys().cloned().collect();
    let has_single = |stem: &str| singles.contains(&format!("{stem}{SUFFIX}").as_str());
    sets.retain(|set, _| {
        let of_single = set.plain_stem().is_some_and(has_single);
        !of_single && !all.iter().any(|plain| set.is_variant_of(plain))
    });
    let mut before: Option<(&Set, &str)> = None;
    for (set, files) in &sets {
        let first = files.values().next().copied().unwrap_or_default();
        if let Some((_, other)) = before.filter(|(other, _)| other.stem == set.stem) {
            bail!(
                "{other} and {first} begin two sets of shards, and no index says which is the model: keep the one you \
                 mean"
            );
        }
        check_whole(set, files)?;
        before = Some((set, first));
    }
    check_gapless(&singles)?;
    let whole: Vec<&str> = sets.values().flat_map(|files| files.values().copied()).collect();
    let plain = |name: &&str| {
        let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
        !variant_of(stem).is_some_and(|plain| names.contains(&format!("{plain}{SUFFIX}").as_str()))
    };
    let own_file = family.map(|family| format!("{family}{SUFFIX}"));
    let chosen: Vec<&str> = match own_file {
        Some(_) if !whole.is_empty() => whole,
        Some(own) if singles.contains(&own.as_str()) => return Ok(vec![own]),
        _ => whole.into_iter().chain(singles.into_iter().filter(plain)).collect(),
    };
    let sorted: BTreeSet<&str> = chosen.into_iter().collect();
    Ok(sorted.into_iter().map(str::to_string).collect())
}

/// `model.fp16.safetensors`, `model-00001-of-00002.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`.
fn is_of_variant(name: &str) -> bool {
    let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
    variant_of(stem).is_some() || numbered(name).is_some_and(|(set, _)| variant_of(&set.stem).is_some())
}

/// Refuses a path that could leave the directory that it is put into, in words that follow its name.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    let good_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.len() > 1000 || path.chars().any(|c| c.is_control() || c == '\\') {
        return Err("which can't be a file's name here: refused");
    }
    if !path.split('/').all(good_part) {
        return Err("which is no plain path below the model's directory: refused");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str], index: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let has = |name: &str| names.iter().any(|n| n == name);
        let chosen = weights(&names, &has, &|_| Ok(index.to_string())).map_err(|e| e.to_string())?;
        Ok((chosen.files, chosen.left_out))
    }

    fn map(files: &[&str]) -> String {
        let pairs: Vec<String> = files.iter().enumerate().map(|(i, f)| format!("\"t{i}\":\"{f}\"")).collect();
        format!("{{\"weight_map\":{{{}}}}}", pairs.join(","))
    }

    /// What is chosen of these, as one text.
    fn files(names: &[&str]) -> Result<String, String> {
        choose(names, "").map(|(files, _)| files.join(" ").replace(SUFFIX, ""))
    }

    #[test]
    fn the_index_decides() {
        let names = [
            "model-1-of-2.safetensors",
            "model-2-of-2.safetensors",
            "mtp.safetensors",
            "stray.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors.index.json",
            "model.layers.0/layer.safetensors",
            "original/model.safetensors",
            "._model-1-of-2.safetensors",
        ];
        let wanted = &names[..3];
        let (chosen, left_out) = choose(&names, &map(wanted)).unwrap();
        assert_eq!(chosen, wanted);
        assert_eq!(left_out, ["stray.safetensors"]);
        let (chosen, _) = choose(&names, &map(&[names[6], names[2]])).unwrap();
        assert_eq!(chosen, [names[6], names[2]], "subfolders are followed");
    }

    #[test]
    fn an_index_that_cannot_be_followed_is_refused() {
        let names = ["model-1-of-2.safetensors", "model.safetensors.index.json"];
        for (shard, words) in [
            ("../x.safetensors", "no plain path"),
            ("/x.safetensors", "no plain path"),
            ("a//x.safetensors", "no plain path"),
            ("a\\\\x.safetensors", "can't be"),
            ("pytorch_model.bin", "no safetensors"),
            ("model-2-of-2.safetensors", "1 of 2 shards are missing"),
        ] {
            let error = choose(&names, &map(&[names[0], shard])).unwrap_err();
            assert!(error.contains(words) && error.contains(names[1]), "{shard}: {error}");
        }
        assert!(choose(&names, "{\"weight_map\":{}}").unwrap_err().contains("names no tensor"));
        assert!(choose(&names, "[").unwrap_err().contains("JSON"));
        let two = ["a.safetensors.index.json", "b.safetensors.index.json"];
        assert!(choose(&two, "").unwrap_err().contains("two indices"));
    }

    #[test]
    fn an_index_of_other_files_does_not_decide() {
        for (index, named) in [
            ("adapter_model.safetensors.index.json", "adapter_model-1-of-1.safetensors"),
            ("model.fp16.safetensors.index.json", "model.fp16-1-of-1.safetensors"),
            ("consolidated.safetensors.index.json", "consolidated.safetensors"),
        ] {
            let names = ["model.safetensors", index, named];
            assert_eq!(choose(&names, &map(&[named])).unwrap().0, ["model.safetensors"]);
            assert_eq!(choose(&names[1..], &map(&[named])).unwrap().0, [named], "it does where it is alone");
        }
        let names = ["model-1-of-1.safetensors", "x.safetensors.index.json"];
        assert_eq!(choose(&names, &map(&names[..1])).unwrap().0, names[..1]);
    }

    #[test]
    fn an_index_that_names_a_part_of_a_set_must_say_that_nothing_is_missing() {
        let unnamed = |named: &[&str]| shard_sets::unnamed(named.iter().copied());
        let of_3 = |number: u32| format!("model-0000{number}-of-00003.safetensors");
        let [zero, one, two, three] = [0, 1, 2, 3].map(of_3);
        assert_eq!(unnamed(&[&one, &two, &three, "mtp.safetensors"]), None);
        assert_eq!(unnamed(&[&zero, &one, &two]), None, "counted from 0");
        assert_eq!(unnamed(&[&one, &two]).unwrap(), format!("number 3 of the set of {one}"));
        assert_eq!(unnamed(&[&two]).unwrap(), format!("number 1 and 1 more of the set of {two}"));
        assert_eq!(unnamed(&[&zero, &two]).unwrap(), format!("number 1 of the set of {zero}"));

        let names = [one, two, "model.safetensors.index.json".to_string()];
        let text = |size: &str| {
            let map = map(&[&names[0], &names[1]]);
            format!("{{\"metadata\":{{{size}}},{}", &map[1..])
        };
        let open = |text: String| {
            let chosen = weights(&names, &|name| names.iter().any(|n| n == name), &|_| Ok(text.clone()));
            chosen.unwrap().index.unwrap().check_whole(8)
        };
        assert_eq!(open(text("\"total_size\":8")), Ok(()));
        for cut in [text(""), text("\"total_size\":12"), map(&[&names[0], &names[1]])] {
            let why = open(cut).unwrap_err();
            assert!(why.contains("number 3") && why.contains("\"total_size\": 8"), "{why}");
        }
    }

    #[test]
    fn an_index_left_from_other_files_gives_way_to_the_single_file() {
        let names = ["model.safetensors", "model.safetensors.index.json"];
        assert_eq!(choose(&names, &map(&["model-1-of-1.safetensors"])).unwrap().0, ["model.safetensors"]);
        assert_eq!(choose(&names, &map(&["model.safetensors"])).unwrap().0, ["model.safetensors"]);
    }

    #[test]
    fn sets_are_whole_whatever_their_base_and_digits() {
        let set = |numbers: &[&str], total: &str| -> Result<String, String> {
            let names: Vec<String> =
                numbers.iter().map(|n| format!("model-{n}-of-{total}.safetensors")).collect();
            files(&names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        for (numbers, total) in [
            (&["00001", "00002"][..], "00002"),
            (&["000001", "000002", "000003"], "000003"),
            (&["1", "2"], "2"),
            (&["00000", "00001", "00002"], "00002"),
            (&["00001"], "00001"),
        ] {
            let wanted: Vec<String> = numbers.iter().map(|n| format!("model-{n}-of-{total}")).collect();
            assert_eq!(set(numbers, total).unwrap(), wanted.join(" "));
        }
        assert!(set(&["00001", "00003"], "00003").unwrap_err().contains("number 2 is missing"));
        assert!(set(&["00002", "00003"], "00003").unwrap_err().contains("number 1 is missing"));
        assert!(set(&["00000"], "00003").unwrap_err().contains("number 1 is missing"));
        assert!(set(&["00000", "00001"], "00002").unwrap_err().contains("number 2 may be missing"));
        assert!(set(&["00001", "00002", "00003"], "00002").unwrap_err().contains("3 files"));
        assert!(set(&["1", "01"], "2").unwrap_err().contains("same number"));
    }

    #[test]
    fn one_form_of_the_weights() {
        let m = |names: &[&str]| {
            files(
                &names
                    .iter()
                    .map(|n| format!("{n}{SUFFIX}"))
                    .collect::<Vec<_>>()
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(m(&["model", "consolidated"]).unwrap(), "model");
        assert_eq!(
            m(&["model-1-of-2", "model-2-of-2", "consolidated.00"]).unwrap(),
            "model-1-of-2 model-2-of-2"
        );
        assert_eq!(m(&["model", "model.fp16", "mtp"]).unwrap(), "model");
        assert_eq!(m(&["model.fp16"]).unwrap(), "model.fp16");
        assert_eq!(m(&["model-1-of-1", "model-1-of-1.fp16"]).unwrap(), "model-1-of-1");
        assert_eq!(m(&["model-1-of-1", "model.fp16-1-of-2"]).unwrap(), "model-1-of-1");
        assert_eq!(m(&["model.layers.0", "model.norm", "lm"]).unwrap(), "model.layers.0 model.norm");
        assert_eq!(
            m(&["consolidated.00", "consolidated.01", "x"]).unwrap(),
            "consolidated.00 consolidated.01"
        );
        assert_eq!(m(&["diffusion", "diffusion.fp16"]).unwrap(), "diffusion");
        assert_eq!(m(&["pytorch_model", "adapter_model"]).unwrap(), "pytorch_model");
        assert_eq!(m(&["adapter_model-1-of-2", "adapter_model-2-of-2", "a"]).unwrap(), "a");
        assert_eq!(m(&["a", "b", "modelspec"]).unwrap(), "a b modelspec");
        assert!(m(&["model-1-of-2", "model-2-of-2", "model-1-of-1"]).unwrap_err().contains("two sets"));
        assert!(m(&["x-1-of-2", "y"]).unwrap_err().contains("number 2 is missing"));
        for gap in
            [["consolidated.00", "consolidated.02"], ["layer_1", "layer_3"], ["model-00001", "model-00003"]]
        {
            assert!(m(&gap).unwrap_err().contains("missing between them"), "{gap:?}");
        }
        for part in [["x_00001_of_00003", "x_00003_of_00003"], ["x-1-OF-3", "x-3-OF-3"]] {
            assert!(m(&part).unwrap_err().contains("number 2 is missing"), "{part:?}");
        }
        assert_eq!(m(&[]).unwrap(), "");
    }
}
