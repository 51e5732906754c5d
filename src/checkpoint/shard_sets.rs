//! Files of one set, by their names: `model-00001-of-00002.safetensors` and its like, and files that count up.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::checkpoint::names::{SUFFIX, VARIANTS, variant_of};

/// What the names of one set of shards share: `model`, `00002` and `` of `model-00001-of-00002.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    pub stem: String,
    pub total: String,
    /// Between the total and `.safetensors`: empty, or a variant such as `.fp16`.
    tail: String,
}

impl Set {
    /// `model` of `model.fp16-1-of-2` and of `model-1-of-2.fp16`; `None` where it is no variant.
    pub fn plain_stem(&self) -> Option<&str> {
        let by_tail = self.tail.strip_prefix('.').is_some_and(|v| VARIANTS.contains(&v));
        if by_tail { Some(&self.stem) } else { variant_of(&self.stem) }
    }

    pub fn is_variant_of(&self, plain: &Set) -> bool {
        plain.tail.is_empty() && self.plain_stem() == Some(plain.stem.as_str())
    }
}

/// The set and the number of a shard, whatever its base and digits.
pub fn numbered(name: &str) -> Option<(Set, u64)> {
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

/// The name of a shard that stands alone: `model-00001.safetensors`, which nobody takes for a whole model.
pub fn without_total(name: &str) -> String {
    numbered(name).map_or(name.to_string(), |(set, number)| format!("{}-{number:05}{SUFFIX}", set.stem))
}

/// A set is whole when its numbers run from 1 to its total, or, as gpt-oss counts, from 0 to its total. From 0 to one
/// less may be whole, or may lack the last: without an index nobody can tell, so it is refused.
pub fn check_whole(set: &Set, files: &BTreeMap<u64, &str>) -> Result<()> {
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

/// What an index leaves out of the sets of which it names a part: such as "numbers 3 and 4 of the set of
/// model-00001-of-00004.safetensors". Empty where it names whole sets. From 0 to one less than the total is whole here.
pub fn unnamed<'a>(named: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut sets: BTreeMap<Set, (&str, BTreeSet<u64>)> = BTreeMap::new();
    for (name, (set, number)) in named.filter_map(|name| Some((name, numbered(name)?))) {
        sets.entry(set).or_insert((name, BTreeSet::new())).1.insert(number);
    }
    sets.iter().find_map(|(set, (first, numbers))| {
        let total: u64 = set.total.parse().unwrap_or(0);
        let wanted = if numbers.contains(&0) { 0..total } else { 1..total + 1 };
        let number = wanted.clone().find(|number| !numbers.contains(number))?;
        let count = wanted.filter(|number| !numbers.contains(number)).count();
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        Some(format!("number {number}{more} of the set of {first}"))
    })
}

/// Refuses files that count up without saying to what, such as `layer_1` and `layer_3`, where a number is missing.
pub fn check_gapless(names: &[&str]) -> Result<()> {
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
