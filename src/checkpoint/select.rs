//! Which files of a listing are the model: one rule for a directory and for the hub.
//!
//! An index decides where there is one. Without it, files whose names begin with `model` go before `consolidated`
//! (another form of the same weights), these before any other, and adapters come last; sets such as
//! `model-00001-of-00002` must be whole. What a download under way or a folder beside may still hold of the model is
//! refused, unless the choice is whole by itself.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::checkpoint::families::{FAMILIES, is_of, is_of_variant};
use crate::checkpoint::names::{MAIN_INDEX, index_stem, is_weights, variant_of};
use crate::checkpoint::shard_index::Index;
use crate::checkpoint::shard_sets::numbered;
use crate::checkpoint::{count_up, families, shard_index, shard_sets, wholeness};

/// The weights of a model.
#[derive(Debug, Default)]
pub struct Weights {
    /// Safetensors files, sorted; `/` between the parts of a path. Empty where there is none.
    pub files: Vec<String>,
    pub index: Option<Index>,
    /// Safetensors files at the top that are no part of the model, sorted.
    pub left_out: Vec<String>,
    /// Safetensors files in folders that are no part of the model, sorted.
    pub below: Vec<String>,
}

impl Weights {
    /// The names of the weights and of their index.
    pub fn names(&self) -> Vec<String> {
        self.files.iter().chain(self.index.iter().map(|index| &index.file)).cloned().collect()
    }

    /// The only file, where its name says that it may be one of several.
    pub fn may_be_part(&self) -> Option<String> {
        match (self.files.as_slice(), &self.index) {
            ([one], None) if numbered(one).is_none() => count_up::may_be_rest(one).then(|| one.clone()),
            _ => None,
        }
    }

    /// The files, where there are several and neither an index nor a total in their names says that they are one model.
    pub fn taken_together(&self) -> Vec<String> {
        if self.files.len() > 1 && !self.is_surely_whole() { self.files.clone() } else { Vec::new() }
    }

    /// Whether the names alone tell that nothing is missing: an index, a whole set, or transformers' single file.
    pub fn is_surely_whole(&self) -> bool {
        let is_set = !self.files.is_empty() && self.files.iter().all(|file| numbered(file).is_some());
        self.index.is_some() || is_set || self.files == ["model.safetensors"]
    }
}

/// Chooses among the paths of a listing. `has` says whether a file is there that an index names, `read` gives the text
/// of an index or of another small file.
pub fn weights(
    names: &[String],
    has: &dyn Fn(&str) -> bool,
    read: &dyn Fn(&str) -> Result<String>,
) -> Result<Weights> {
    let at_top = |is: &dyn Fn(&str) -> bool| -> Vec<&str> {
        let top = names.iter().map(String::as_str).filter(|n| !n.contains('/') && !n.starts_with('.'));
        top.filter(|n| is(n)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let top = at_top(&is_weights);
    let decided = match pick_index(&at_top(&|name| index_stem(name).is_some()), &top)? {
        Some(file) => by_index(file, &read(file)?, has, &top)?,
        None => None,
    };
    let mut chosen = match decided {
        Some(chosen) => chosen,
        None => Weights { files: families::choose(&top)?, ..Weights::default() },
    };
    let not_chosen = |name: &&str| !chosen.files.iter().any(|file| file == name);
    // Some programs name safetensors files `.sft`; the model itself may be there in another form.
    const OTHER_FORMS: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".distcp"];
    let may_be_other = !chosen.files.is_empty() && !chosen.is_surely_whole();
    let more = at_top(&|name: &str| {
        let lower = name.to_ascii_lowercase();
        lower.ends_with(".sft") || (may_be_other && OTHER_FORMS.iter().any(|end| lower.ends_with(end)))
    });
    let left_out = top.iter().chain(&more).copied().filter(not_chosen).map(str::to_string).collect();
    let is_below = |name: &&str| name.contains('/') && is_weights(name) && !is_hidden(name);
    let below: BTreeSet<&str> =
        names.iter().map(String::as_str).filter(is_below).filter(not_chosen).collect();
    (chosen.left_out, chosen.below) = (left_out, below.into_iter().map(str::to_string).collect());
    if !chosen.files.is_empty() {
        let choice = wholeness::Choice {
            own: chosen.names(),
            files: &chosen.files,
            below: &chosen.below,
            is_surely_whole: chosen.is_surely_whole(),
        };
        wholeness::check(&choice, names, read)?;
    }
    Ok(chosen)
}

fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.'))
}

/// The index that decides: transformers' own, else the only one that is of no variant, or of one that stands alone.
fn pick_index<'a>(found: &[&'a str], top: &[&str]) -> Result<Option<&'a str>> {
    if let Some(main) = found.iter().find(|name| **name == MAIN_INDEX) {
        return Ok(Some(*main));
    }
    // The stem without its variant, and whether it has one.
    let plain_stem = |name: &'a str| match index_stem(name).unwrap_or((name, None)) {
        (stem, Some(_)) => (stem, true),
        (stem, None) => variant_of(stem).map_or((stem, false), |plain| (plain, true)),
    };
    let (variants, plain): (Vec<&str>, Vec<&str>) =
        found.iter().copied().partition(|name| plain_stem(name).1);
    let candidates = if plain.is_empty() { variants } else { plain };
    match candidates.as_slice() {
        [] => Ok(None),
        [one] => {
            let (stem, is_variant) = plain_stem(one);
            let of_stem = |name: &&&str| is_of(name, stem) && !is_of_variant(name);
            // The plain files are the model, and this says nothing of them.
            Ok((!is_variant || !top.iter().any(|name| of_stem(&name))).then_some(*one))
        }
        [first, second, ..] => {
            bail!("there are two indices, {first} and {second}: keep the one you mean")
        }
    }
}

/// Whether an index that is not transformers' own is of the model, whose own files begin with `model`. An adapter's
/// index, a variant's or that of consolidated files says nothing of those.
fn is_of_model_files(file: &str, named: &BTreeSet<&str>, top: &[&str]) -> Result<bool> {
    let of_model = || top.iter().copied().filter(|name| is_of(name, FAMILIES[0]));
    let has_plain = of_model().any(|name| !is_of_variant(name));
    let own = of_model().filter(|name| !has_plain || !is_of_variant(name));
    let (known, others): (Vec<&str>, Vec<&str>) = own.partition(|name| named.contains(name));
    match (known.first(), others.first()) {
        _ if file == MAIN_INDEX => Ok(true),
        (None, Some(_)) => Ok(false),
        (Some(known), Some(other)) => bail!(
            "{file} names {known} and does not name {other}, and nobody can tell whether that is part of the model: name \
             the index {MAIN_INDEX} if it is the model's, or remove the index or the file that is not"
        ),
        (_, None) => Ok(true),
    }
}

/// The shards that an index names; `None` where it is of other files than the model's.
fn by_index(file: &str, text: &str, has: &dyn Fn(&str) -> bool, top: &[&str]) -> Result<Option<Weights>> {
    let (pairs, metadata) = shard_index::parse(file, text)?;
    let named: BTreeSet<&str> = pairs.iter().map(|(_, shard)| shard.as_str()).collect();
    if !is_of_model_files(file, &named, top)? {
        return Ok(None);
    }
    for shard in &named {
        check_path(shard).map_err(|why| anyhow::anyhow!("{file}: names the shard {shard:?}, {why}"))?;
        if !is_weights(shard) {
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
    let unnamed = shard_sets::unnamed(named.iter().copied(), top);
    let files = named.into_iter().map(str::to_string).collect();
    let index = Index {
        file: file.into(),
        text: text.into(),
        weight_map: pairs.into_iter().collect(),
        total_bytes: metadata["total_size"].as_u64(),
        unnamed,
    };
    Ok(Some(Weights { files, index: Some(index), ..Weights::default() }))
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
    use crate::checkpoint::names::SUFFIX;

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
        let unnamed = |named: &[&str]| shard_sets::unnamed(named.iter().copied(), &[]).surely;
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
