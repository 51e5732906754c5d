//! Which files of a listing are the model: one rule for a directory and for the hub.
//!
//! An index decides where there is one. Without it, files whose names begin with `model` go before `consolidated`
//! (another form of the same weights), and these before any other; sets such as `model-00001-of-00002` must be whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail};
use serde::Deserialize;

use super::json::UniquePairs;

pub const SUFFIX: &str = ".safetensors";
pub const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The index that transformers writes; it goes before any other.
const MAIN_INDEX: &str = "model.safetensors.index.json";

/// Whose files go before others, where no index decides.
const FAMILIES: [&str; 2] = ["model", "consolidated"];

/// `model.fp16.safetensors` is `model.safetensors` in another type; the plain one is the model.
const VARIANTS: [&str; 9] = ["fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4", "ema", "non_ema"];

/// The weights of a model.
#[derive(Debug, Default)]
pub struct Weights {
    /// Safetensors files, sorted; `/` between the parts of a path. Empty where there is none.
    pub files: Vec<String>,
    pub index: Option<Index>,
    /// Safetensors files at the top that are no part of the model, sorted.
    pub left_out: Vec<String>,
}

/// A `*.safetensors.index.json`.
#[derive(Debug)]
pub struct Index {
    pub file: String,
    pub text: String,
    /// The file of each tensor that it names.
    pub weight_map: HashMap<String, String>,
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
        weight_map: UniquePairs<String>,
    }
    // Some editors begin a text with a byte order mark.
    let ShardIndex { weight_map: UniquePairs(pairs) } =
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
    let files = named.into_iter().map(str::to_string).collect();
    let index = Index { file: file.into(), text: text.into(), weight_map: pairs.into_iter().collect() };
    Ok(Some(Weights { files, index: Some(index), left_out: Vec::new() }))
}

fn without_index(top: &[&str]) -> Result<Vec<String>> {
    for family in FAMILIES {
        let members: Vec<&str> = top.iter().copied().filter(|name| is_of(name, family)).collect();
        if !members.is_empty() {
            return pick(&members, Some(family));
        }
    }
    pick(top, None)
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

/// What the names of one set of shards share: `model`, `00002` and `` of `model-00001-of-00002.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Set {
    stem: String,
    total: String,
    /// Between the total and `.safetensors`: empty, or a variant such as `.fp16`.
    tail: String,
}

impl Set {
    /// `model` of `model.fp16-1-of-2` and of `model-1-of-2.fp16`; `None` where it is no variant.
    fn plain_stem(&self) -> Option<&str> {
        let by_tail = self.tail.strip_prefix('.').is_some_and(|v| VARIANTS.contains(&v));
        if by_tail { Some(&self.stem) } else { variant_of(&self.stem) }
    }

    fn is_variant_of(&self, plain: &Set) -> bool {
        plain.tail.is_empty() && self.plain_stem() == Some(plain.stem.as_str())
    }
}

/// The set and the number of a shard, whatever its base and digits.
fn numbered(name: &str) -> Option<(Set, u64)> {
    let stem = name.strip_suffix(SUFFIX)?;
    // As people write it by hand, too: `_of_`, `-OF-`. Lower case has as many bytes here.
    let lower = stem.to_ascii_lowercase();
    let at = ["-of-", "_of_", ".of."].iter().filter_map(|of| lower.rfind(of)).max()?;
    let (head, rest) = (&stem[..at], &stem[at + "-of-".len()..]);
    let (stem, number) = head.rsplit_once(['-', '.', '_'])?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (total, tail) = rest.split_at(digits);
    let all_digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let good = all_digits(number) && all_digits(total) && (tail.is_empty() || tail.starts_with('.'));
    if !good {
        return None;
    }
    Some((Set { stem: stem.into(), total: total.into(), tail: tail.into() }, number.parse().ok()?))
}

/// Whether a name says that the file is one of several.
pub fn is_numbered(name: &str) -> bool {
    numbered(name).is_some_and(|(set, _)| set.total.parse() != Ok(1))
}

/// Refuses files that count up without saying to what, such as `layer_1` and `layer_3`, where a number is missing.
fn check_gapless(names: &[&str]) -> Result<()> {
    let mut runs: BTreeMap<&str, BTreeMap<u64, &str>> = BTreeMap::new();
    for name in names {
        let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
        let head = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        if let Ok(number) = stem[head.len()..].parse() {
            runs.entry(head).or_default().insert(number, name);
        }
    }
    for run in runs.values() {
        for ((low, first), (high, second)) in run.iter().zip(run.iter().skip(1)) {
            if high - low > 1 {
                bail!(
                    "{first} and {second} count up, and number {} is missing between them: fetch it, or put an index \
                     beside that says which files are the model",
                    low + 1
                );
            }
        }
    }
    Ok(())
}

/// The name of a shard that stands alone: `model-00001.safetensors`, which nobody takes for a whole model.
pub fn without_total(name: &str) -> String {
    numbered(name).map_or(name.to_string(), |(set, number)| format!("{}-{number:05}{SUFFIX}", set.stem))
}

/// A set is whole when its numbers run from 1 to its total, or, as gpt-oss counts, from 0 to its total. From 0 to one
/// less may be whole, or may lack the last: without an index nobody can tell, so it is refused.
fn check_whole(set: &Set, files: &BTreeMap<u64, &str>) -> Result<()> {
    let total: u64 = set.total.parse().unwrap_or(0);
    let (low, high) = (*files.keys().next().unwrap_or(&0), *files.keys().last().unwrap_or(&0));
    let gapless = high - low + 1 == files.len() as u64;
    if gapless && low <= 1 && high == total {
        return Ok(());
    }
    let first = files.values().next().copied().unwrap_or_default();
    if gapless && low == 0 && high + 1 == total {
        bail!(
            "the numbers of the set of {first} run from 0 to {high}, so number {total} may be missing, and no index tells: \
             fetch the model's index"
        );
    }
    match (low.min(1)..=total).find(|number| !files.contains_key(number)) {
        Some(number) => bail!(
            "of the set of {first} {} of {total} files are there, and number {number} is missing: fetch the rest",
            files.len()
        ),
        None => bail!("the set of {first} has {} files, and their names say {total}", files.len()),
    }
}

/// `model.fp16.safetensors`, `model-00001-of-00002.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`.
fn is_of_variant(name: &str) -> bool {
    let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
    variant_of(stem).is_some() || numbered(name).is_some_and(|(set, _)| variant_of(&set.stem).is_some())
}

/// `model` where this is `model.fp16`.
fn variant_of(stem: &str) -> Option<&str> {
    let (plain, variant) = stem.rsplit_once('.')?;
    VARIANTS.contains(&variant).then_some(plain)
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
