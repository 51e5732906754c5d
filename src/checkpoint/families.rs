//! Which weight files are the model where no index decides: `model…` before `consolidated…`, these before others.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::checkpoint::count_up::check_gapless;
use crate::checkpoint::names::{SUFFIX, variant_of, weights_stem};
use crate::checkpoint::shard_sets;
use crate::checkpoint::shard_sets::{Set, check_whole, numbered};

/// Whose files go before others, where no index decides.
pub const FAMILIES: [&str; 2] = ["model", "consolidated"];

/// The model's files among these, by their names.
pub fn choose(top: &[&str]) -> Result<Vec<String>> {
    // What is added to a model's weights is no part of them.
    let is_adapter = |name: &str| is_of(name, "adapter_model");
    for family in FAMILIES {
        let members: Vec<&str> = top.iter().copied().filter(|name| is_of(name, family)).collect();
        if members.is_empty() {
            continue;
        }
        let chosen = pick(&members, Some(family))?;
        let is_whole = chosen.iter().all(|name| {
            weights_stem(name) == Some(family) || numbered(name).is_some_and(|(set, _)| set.stem == family)
        });
        let is_other = |name: &&&str| {
            !is_adapter(name) && !FAMILIES.iter().any(|f| is_of(name, f)) && shard_sets::is_numbered(name)
        };
        if let Some(other) = top.iter().find(is_other).filter(|_| !is_whole) {
            bail!(
                "{} and {other} may both be of the model, and no index says so: keep the ones you mean",
                chosen[0]
            );
        }
        return Ok(chosen);
    }
    // What MLX saves while it trains an adapter goes beside the finished one.
    let is_interim =
        |name: &str| name.ends_with("_adapters.safetensors") && top.contains(&"adapters.safetensors");
    let is_model = |name: &&str| !is_adapter(name) && !is_interim(name);
    let others: Vec<&str> = top.iter().copied().filter(is_model).collect();
    if others.is_empty() { pick(top, None) } else { pick(&others, None) }
}

/// `model.safetensors`, `model-00001-of-00002.safetensors`, `model_x.safetensors`; not `modelspec.safetensors`.
pub fn is_of(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.starts_with(['.', '-', '_', ' ']))
}

/// The files of each set by their numbers.
type Sets<'a> = BTreeMap<Set, BTreeMap<u64, &'a str>>;

/// The sets among these names, and what is of none. A variant of a plain set or file is no set of its own.
fn sets_of<'a>(names: &[&'a str]) -> Result<(Sets<'a>, Vec<&'a str>)> {
    let mut sets = Sets::new();
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
    let has_single = |stem: &str| singles.iter().any(|name| weights_stem(name) == Some(stem));
    sets.retain(|set, _| {
        let of_single = set.plain_stem().is_some_and(has_single);
        !of_single && !all.iter().any(|plain| set.is_variant_of(plain))
    });
    Ok((sets, singles))
}

/// The files of one family, or of all that there are: a whole set, else the file named as the family, else all.
fn pick(names: &[&str], family: Option<&str>) -> Result<Vec<String>> {
    let (sets, singles) = sets_of(names)?;
    let mut before: Option<(&Set, &str)> = None;
    for (set, files) in &sets {
        let first = files.values().next().copied().unwrap_or_default();
        if let Some((_, other)) = before.filter(|(other, _)| family.is_some() || other.stem == set.stem) {
            bail!(
                "{other} and {first} begin two sets of shards, and no index says which is the model: keep the one you \
                 mean"
            );
        }
        let single = singles.iter().find(|name| weights_stem(name) == Some(&set.stem));
        if let Some(single) = single.filter(|_| family.is_none()) {
            bail!("{single} and the set of {first} are two forms of one model: keep the one you mean");
        }
        check_whole(set, files)?;
        before = Some((set, first));
    }
    let whole: Vec<&str> = sets.values().flat_map(|files| files.values().copied()).collect();
    let own = singles.iter().copied().find(|name| family.is_some() && weights_stem(name) == family);
    let chosen: Vec<&str> = match own {
        _ if family.is_some() && !whole.is_empty() => whole,
        Some(own) => vec![own],
        None => {
            let is_plain = |name: &&str| {
                let stem = weights_stem(name).unwrap_or(name);
                !variant_of(stem).is_some_and(|plain| names.contains(&format!("{plain}{SUFFIX}").as_str()))
            };
            let singles: Vec<&str> = singles.into_iter().filter(is_plain).collect();
            check_gapless(&singles)?;
            whole.into_iter().chain(singles).collect()
        }
    };
    let sorted: BTreeSet<&str> = chosen.into_iter().collect();
    Ok(sorted.into_iter().map(str::to_string).collect())
}

/// `model.fp16.safetensors`, `model-00001-of-00002.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`.
pub fn is_of_variant(name: &str) -> bool {
    let stem = weights_stem(name).unwrap_or(name);
    variant_of(stem).is_some() || numbered(name).is_some_and(|(set, _)| variant_of(&set.stem).is_some())
}
