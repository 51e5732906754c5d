//! Files of one set, by their names: `model-00001-of-00002.safetensors` and all that says "number of total" in whatever
//! spelling.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::checkpoint::count_up::{MAX_DIGITS, is_surely_rest};
use crate::checkpoint::names::{SUFFIX, variant_of, weights_stem};

/// What the names of one set of shards share: `model`, `00002` and `` of `model-00001-of-00002.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    pub stem: String,
    pub total: String,
    /// Between the total and `.safetensors`: empty, or what tells a variant or a copy, such as `.fp16` and ` (1)`.
    tail: String,
}

impl Set {
    /// `model` of `model.fp16-1-of-2` and of `model-1-of-2.fp16`; `None` where it is no variant.
    pub fn plain_stem(&self) -> Option<&str> {
        if self.tail.is_empty() { variant_of(&self.stem) } else { Some(&self.stem) }
    }

    pub fn is_variant_of(&self, plain: &Set) -> bool {
        plain.tail.is_empty() && self.plain_stem() == Some(plain.stem.as_str())
    }

    /// Ranks count from 0, so that `rank2_of_3` is the last.
    fn counts_from_0(&self) -> bool {
        self.stem.to_ascii_lowercase().ends_with("rank")
    }
}

/// The set and the number of a shard, whatever its base, digits and spelling: `-00001-of-00002`, `1of2`, `_1_OF_2`.
pub fn numbered(name: &str) -> Option<(Set, u64)> {
    let stem = weights_stem(name)?;
    // Lower case has as many bytes here.
    stem.to_ascii_lowercase().rmatch_indices("of").find_map(|(at, of)| {
        let is_between = |c: char| ['-', '_', '.', ' '].contains(&c);
        let head = stem[..at].trim_end_matches(is_between);
        let rest = stem[at + of.len()..].trim_start_matches(is_between);
        let (set, number) = head.split_at(head.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        let (total, tail) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let is_number = |text: &str| (1..=MAX_DIGITS).contains(&text.len());
        let good = is_number(number) && is_number(total);
        let set = set.trim_end_matches(is_between);
        let set = good.then(|| Set { stem: set.into(), total: total.into(), tail: tail.into() })?;
        Some((set, number.parse().ok()?))
    })
}

/// Whether a name says that the file is one of several.
pub fn is_numbered(name: &str) -> bool {
    numbered(name).is_some_and(|(set, _)| set.total.parse() != Ok(1))
}

/// The name of a shard that stands alone: `model-2.safetensors`, which nobody misses others of.
pub fn alone(name: &str) -> String {
    if !is_numbered(name) {
        // As one that was named itself may be called, too: `model.sft`, or a blob's hash.
        let is_refused = is_surely_rest(name) || weights_stem(name).is_none() || name.starts_with('.');
        return if is_refused { format!("model{SUFFIX}") } else { name.to_string() };
    }
    numbered(name).map_or(name.to_string(), |(set, number)| {
        let named = |stem: &str| format!("{stem}-{number}{SUFFIX}");
        let own = Some(named(&set.stem)).filter(|name| !set.stem.is_empty() && !is_surely_rest(name));
        own.unwrap_or_else(|| named("shard"))
    })
}

/// A set is whole when its numbers run from 1 to its total, or, as gpt-oss counts, from 0 to its total. From 0 to one
/// less may be whole, or may lack the last: without an index nobody can tell, so it is refused.
pub fn check_whole(set: &Set, files: &BTreeMap<u64, &str>) -> Result<()> {
    let total: u64 = set.total.parse().unwrap_or(0);
    let (low, high) = (*files.keys().next().unwrap_or(&0), *files.keys().last().unwrap_or(&0));
    let gapless = high - low + 1 == files.len() as u64;
    let last = if set.counts_from_0() { total.saturating_sub(1) } else { total };
    if gapless && low <= 1 && high == last && (low == 0 || last == total) {
        return Ok(());
    }
    let first = files.values().next().copied().unwrap_or_default();
    if gapless && low == 0 && high + 1 == total {
        bail!(
            "the numbers of the set of {first} run from 0 to {high}, so number {total} may be missing, and no index tells: \
             fetch the model's index"
        );
    }
    let lowest = if set.counts_from_0() { 0 } else { low.min(1) };
    match (lowest..=last).find(|number| !files.contains_key(number)) {
        Some(number) => bail!(
            "of the set of {first} {} of {total} files are there, and number {number} is missing: fetch the rest",
            files.len()
        ),
        None => bail!("the set of {first} has {} files, and their names say {total}", files.len()),
    }
}

/// What an index leaves out of the numbered sets of which it names a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// Such as "numbers 3 and 4 of the set of model-00001-of-00004.safetensors".
    pub surely: Option<String>,
    /// A set from 0 to one less than its total may be whole, or may lack the last.
    pub perhaps: Option<String>,
}

/// Looks what an index leaves out; `there` are the files that stand beside it.
pub fn unnamed<'a>(named: impl Iterator<Item = &'a str>, there: &[&str]) -> Unnamed {
    let mut sets: BTreeMap<Set, (&str, BTreeSet<u64>)> = BTreeMap::new();
    for (name, (set, number)) in named.filter_map(|name| Some((name, numbered(name)?))) {
        sets.entry(set).or_insert((name, BTreeSet::new())).1.insert(number);
    }
    let beside = there.iter().find_map(|name| {
        let (set, number) = numbered(name)?;
        let (first, numbers) = sets.get(&set)?;
        (!numbers.contains(&number)).then(|| format!("{name}, which stands beside {first} and is of its set"))
    });
    let of = |number: u64, first: &str, more: &str| format!("number {number}{more} of the set of {first}");
    let gap = sets.iter().find_map(|(set, (first, numbers))| {
        let total: u64 = set.total.parse().unwrap_or(0);
        let wanted = if numbers.contains(&0) { 0..total } else { 1..total + 1 };
        let number = wanted.clone().find(|number| !numbers.contains(number))?;
        let count = wanted.filter(|number| !numbers.contains(number)).count();
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        Some(of(number, first, &more))
    });
    let perhaps = sets.iter().find_map(|(set, (first, numbers))| {
        let total: u64 = set.total.parse().unwrap_or(0);
        let may_lack = numbers.contains(&0) && !numbers.contains(&total) && !set.counts_from_0();
        may_lack.then(|| of(total, first, ""))
    });
    Unnamed { surely: gap.or(beside), perhaps }
}
