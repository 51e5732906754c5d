//! Files that count up without saying to what: `layer_1`, `consolidated.00`, `model-rank-0-part-0`, `model0-mp8`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::checkpoint::names::weights_stem;

/// Longer runs of digits are no numbers of files.
pub const MAX_DIGITS: usize = 18;

/// A name's texts and the numbers between them, as they are written: one text more than numbers.
fn pieces(name: &str) -> (Vec<&str>, Vec<&str>) {
    let stem = weights_stem(name).unwrap_or(name);
    let (mut texts, mut numbers, mut start, mut at) = (Vec::new(), Vec::new(), 0, 0);
    while let Some(first) = stem[at..].find(|c: char| c.is_ascii_digit()).map(|found| at + found) {
        let digits = stem[first..].bytes().take_while(u8::is_ascii_digit).count();
        at = first + digits;
        if digits <= MAX_DIGITS {
            texts.push(&stem[start..first]);
            numbers.push(&stem[first..at]);
            start = at;
        }
    }
    texts.push(&stem[start..]);
    (texts, numbers)
}

/// Higher numbers are of steps of a training.
const MOST_FILES: u64 = 499;

/// Files of one kind, by their numbers.
type Kind<'a> = BTreeMap<Vec<u64>, &'a str>;

/// Refuses files that count up without saying to what, such as `layer_1` and `layer_3`, where one is missing, and the rest
/// of such files. They are of one kind when only numbers in their names differ.
pub fn check_gapless(names: &[&str]) -> Result<()> {
    let mut kinds: BTreeMap<Vec<&str>, Kind> = BTreeMap::new();
    for name in names {
        let (texts, digits) = pieces(name);
        let numbers = digits.iter().filter_map(|digits| digits.parse().ok()).collect();
        if let Some(other) = kinds.entry(texts).or_default().insert(numbers, name) {
            bail!("{other} and {name} have the same number: keep the one you mean");
        }
    }
    kinds.iter().try_for_each(|(texts, files)| check_kind(texts, files))
}

fn check_kind(texts: &[&str], files: &Kind) -> Result<()> {
    let column =
        |place: usize| (place, files.keys().map(|numbers| numbers[place]).collect::<BTreeSet<u64>>());
    // Those in which the names differ.
    let columns: Vec<(usize, BTreeSet<u64>)> =
        (0..texts.len() - 1).map(column).filter(|(_, column)| column.len() > 1).collect();
    let mut of_files = files.values().copied();
    let Some(first) = of_files.next() else { return Ok(()) };
    if let Some(place) = total_place(texts) {
        return check_parallel(files, place);
    }
    // What stands behind the number that counts may be a total.
    let unchanged = columns.first().map_or(texts.len() - 1, |(place, _)| *place);
    if (files.len() == 1 && is_surely_rest(first)) || (files.len() > 1 && is_rest_before(first, unchanged)) {
        bail!(
            "{first} says by its name that it is one of several, and others are missing: fetch them, put an index beside \
             that says which files are the model, or name the file itself if you mean just that"
        );
    }
    let Some(second) = of_files.next() else { return Ok(()) };
    let lowest = if counts_from_0(texts) { 0 } else { 1 };
    if let [(place, column)] = columns.as_slice() {
        let low = column.first().copied().unwrap_or(0);
        let gap = column.iter().zip(column.iter().skip(1)).find(|(low, high)| *high - *low > 1);
        let remedy = "fetch it, put an index beside that says which files are the model, or name one file";
        if let Some((before, _)) = gap {
            let around = files.iter().skip_while(|(numbers, _)| numbers[*place] != *before);
            let [one, two] = [0, 1].map(|i| around.clone().nth(i).map_or("", |(_, name)| name));
            bail!("{one} and {two} count up, and number {} is missing between them: {remedy}", before + 1);
        }
        if low > lowest {
            bail!("{first} and {second} count up, and number {} is missing before them: {remedy}", low - 1);
        }
        return Ok(());
    }
    let is_run = |(_, column): &(usize, BTreeSet<u64>)| {
        let (low, high) = (column.first().copied().unwrap_or(0), column.last().copied().unwrap_or(0));
        low <= lowest && high - low + 1 == column.len() as u64
    };
    let is_grid = columns.iter().all(is_run)
        && columns.iter().map(|(_, column)| column.len() as u128).product::<u128>() == files.len() as u128;
    if !is_grid && !are_ranges(texts, files) {
        bail!(
            "{first} and {second} differ in more than one number, so nobody can tell whether files are missing between \
             them: put an index beside that says which files are the model, or name one file"
        );
    }
    Ok(())
}

/// `layers-0-3`, `layers-4-7`: each begins where the one before ends.
fn are_ranges(texts: &[&str], files: &Kind) -> bool {
    let between = texts.iter().rev().nth(1).map_or("", |text| text.trim_matches(is_between));
    let ends = |numbers: &Vec<u64>| Some((*numbers.iter().rev().nth(1)?, *numbers.last()?));
    let ranges: Option<Vec<(u64, u64)>> = files.keys().map(ends).collect();
    ["", "to"].contains(&between)
        && ranges.is_some_and(|ranges| {
            let starts_low = ranges.first().is_some_and(|(first, _)| *first <= 1);
            starts_low && ranges.windows(2).all(|pair| pair[1].0 == pair[0].1 + 1)
        })
}

fn is_between(c: char) -> bool {
    ['-', '_', '.', ' '].contains(&c)
}

/// Meta's files count from `consolidated.00` on, and so do ranks; any other may count from 1.
fn counts_from_0(texts: &[&str]) -> bool {
    texts[0] == "consolidated." || texts.iter().any(|text| text.to_ascii_lowercase().contains("rank"))
}

/// Where the number stands in `model0-mp8`, behind which is how many there are.
fn total_place(texts: &[&str]) -> Option<usize> {
    let is_mp = |text: &&str| text.trim_matches(is_between).eq_ignore_ascii_case("mp");
    // Between two numbers.
    let between = texts.get(1..texts.len() - 1)?;
    between.iter().position(is_mp)
}

/// Refuses `model0-mp8` and its like that are not numbered from 0 to one less than they say.
fn check_parallel(files: &Kind, place: usize) -> Result<()> {
    let mut sets: BTreeMap<Vec<u64>, (&str, BTreeSet<u64>)> = BTreeMap::new();
    for (numbers, name) in files {
        let others = [&numbers[..place], &numbers[place + 1..]].concat();
        sets.entry(others).or_insert((name, BTreeSet::new())).1.insert(numbers[place]);
    }
    let mut firsts = Vec::new();
    for (others, (first, numbers)) in &sets {
        let total = others[place];
        let missing = (0..total).find(|number| !numbers.contains(number));
        match missing {
            Some(number) => bail!(
                "of the {total} files that {first} is one of, number {number} is missing: fetch the rest, or name the file \
                 itself if you mean just that"
            ),
            None if numbers.len() as u64 != total => {
                bail!(
                    "{first} says that there are {total} files, and {} are there: remove what is left from others",
                    numbers.len()
                )
            }
            None => firsts.push(*first),
        }
    }
    match firsts.as_slice() {
        [one, other, ..] => bail!("{one} and {other} begin two sets of files: keep the one you mean"),
        _ => Ok(()),
    }
}

/// Whether a name alone tells that the file is one of several, and not the first: the number of a rank's part, or a padded
/// one behind a word for files. A padded number behind any other word, as in `style-000010`, may be that of an epoch.
pub fn is_surely_rest(name: &str) -> bool {
    let (texts, digits) = pieces(name);
    let has_open_total = texts.iter().skip(1).any(|text| is_open_total(text));
    let is_sure = |place: usize| {
        let word = word_before(texts[place]);
        let of_files = texts[place].is_empty() || FILES.contains(&word.as_str());
        let is_mp = texts[place].trim_end_matches(is_between).to_ascii_lowercase().replace(is_between, "")
            == "mprank";
        let of_rank = word == "rank" && (is_mp || word_before(texts[place + 1]) == "part");
        let is_high = digits[place].parse().is_ok_and(|number: u64| number > MOST_FILES);
        is_later(&texts, &digits, place) && !is_high && (of_files || of_rank)
    };
    has_open_total || (0..digits.len()).any(is_sure)
}

/// Whether a name may be that of one of several files: it has a number that counts them, or may do so.
pub fn may_be_rest(name: &str) -> bool {
    const COUNTED: [&str; 4] = ["tp", "pp", "fsdp", "rank"];
    let (texts, digits) = pieces(name);
    let lower = name.to_ascii_lowercase();
    let may = |place: usize| {
        let word = word_before(texts[place]);
        let number: u64 = digits[place].parse().unwrap_or(0);
        let counts_files = FILES[2..].contains(&word.as_str()) || COUNTED.contains(&word.as_str());
        let is_of_adapter = word == "rank" && lower.contains("lora");
        number > 0
            && !is_of_adapter
            && ((counts_files && number <= MOST_FILES)
                || (is_padded(digits[place]) && is_apart(&texts, &digits, place)))
    };
    (0..digits.len()).any(may)
}

/// `-of-XXXXX`, as a saver begins its files before it knows how many they will be.
fn is_open_total(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let rest = lower.trim_start_matches(is_between).strip_prefix("of").unwrap_or_default();
    let rest = rest.trim_start_matches(is_between);
    let after = rest.trim_start_matches('x');
    after.len() < rest.len() && (after.is_empty() || after.starts_with(is_between))
}

/// Whether one of a name's first `count` numbers counts files, and others come before.
fn is_rest_before(name: &str, count: usize) -> bool {
    let (texts, digits) = pieces(name);
    (0..count).any(|place| is_later(&texts, &digits, place))
}

const VERSIONS: [&str; 13] =
    ["v", "ver", "version", "rev", "e", "ep", "epoch", "step", "steps", "iter", "checkpoint", "ckpt", "seed"];
const FILES: [&str; 12] = [
    "model",
    "consolidated",
    "part",
    "shard",
    "split",
    "piece",
    "chunk",
    "file",
    "layer",
    "block",
    "stage",
    "mp",
];

/// Whether a number counts files, and others come before: a rank's is always such, any other where it is padded with
/// zeros. Those of versions, of steps of a training, of dates and behind a decimal point count no files.
fn is_later(texts: &[&str], digits: &[&str], place: usize) -> bool {
    let (before, number) = (texts[place], digits[place]);
    let lowest = if counts_from_0(texts) { 0 } else { 1 };
    if number.parse().is_ok_and(|number: u64| number <= lowest) {
        return false;
    }
    let word = word_before(before);
    // Of `rank-0-part-1` either.
    if word == "rank" || (word == "part" && counts_from_0(texts)) {
        return true;
    }
    is_padded(number) && is_apart(texts, digits, place)
}

fn is_padded(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0')
}

/// Whether a number stands for itself, and is none of a version, of a step of a training, of a date, or behind a point.
fn is_apart(texts: &[&str], digits: &[&str], place: usize) -> bool {
    let (before, after, number) = (texts[place], texts[place + 1], digits[place]);
    let word = word_before(before);
    let is_apart = before.is_empty() || before.ends_with(is_between) || FILES.contains(&word.as_str());
    let is_year = |number: &&str| number.len() == 4 && (number.starts_with("19") || number.starts_with("20"));
    let is_of_date = number.len() == 2 && digits.iter().any(is_year);
    let is_decimal = place > 0 && before == ".";
    is_apart
        && (after.is_empty() || after.starts_with(is_between))
        && !VERSIONS.contains(&word.as_str())
        && !is_of_date
        && !is_decimal
}

/// The word that stands before a number, in lower case.
fn word_before(text: &str) -> String {
    let plain = text.trim_end_matches(is_between).to_ascii_lowercase();
    plain[plain.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len()..].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stems: &[&str]) -> Result<(), String> {
        let names: Vec<String> = stems.iter().map(|stem| format!("{stem}.safetensors")).collect();
        check_gapless(&names.iter().map(String::as_str).collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    #[test]
    fn one_file_of_several_is_told_by_its_number() {
        for stem in [
            "consolidated.01",
            "consolidated.07",
            "model-00003",
            "model_02",
            "model-00002-of-XXXXX",
            "model-00001-of-XXXXX",
            "model-rank-3-part-0",
            "model-rank-0-part-1",
            "mp_rank_02_model_states",
            "mp_rank_01",
            "model3-mp8",
            "model0-mp2",
            "layer07",
            "00002",
        ] {
            let why = check(&[stem]).expect_err(stem);
            assert!(why.contains("missing") && why.contains("name the file itself"), "{stem}: {why}");
        }
        for stem in [
            "consolidated.00",
            "model-00000",
            "model-00001",
            "model-rank-0-part-0",
            "mp_rank_00",
            "model0-mp1",
            "model-2",
            "v2",
            "lora-v02",
            "lora_epoch-000010",
            "step000500",
            "qwen2.5-7b-instruct",
            "sd_xl_base_1.0",
            "lr-0.05",
            "model-2024-05-01",
            "05-12-2025",
            "20240501",
            "4f03a9",
            "abc07",
            "text_encoder_2",
            "part_b",
            "comp3-x8",
            "model-3-of-fox",
            "style-000010",
            "lora_rank_16",
            "model_rank_64_lora",
            "DeepSeek-R1-0528",
            "best-0012",
            "model_0999",
            "v2-00003",
            "ema_0.9999_010000",
            "speaker_rank_1",
        ] {
            assert_eq!(check(&[stem]), Ok(()), "{stem}");
        }
    }

    #[test]
    fn a_number_that_may_count_files_is_said() {
        for stem in [
            "weights.01",
            "pytorch_model.01",
            "consolidated-01",
            "part-00001",
            "part_2",
            "model.part2",
            "model_shard_2",
            "shard2",
            "pytorch_model_fsdp_1",
            "pp1_tp0",
            "style-000010",
            "rank_1",
            "model-00001",
        ] {
            assert!(may_be_rest(&format!("{stem}.safetensors")), "{stem}");
        }
        for stem in [
            "model",
            "consolidated.00",
            "qwen2.5-7b-v2",
            "sd_xl_base_1.0",
            "lora_rank_16",
            "text_encoder_2",
            "model-2024-05-01",
            "lora_epoch-000010",
            "step000500",
            "llama-3-8b",
            "model-2",
        ] {
            assert!(!may_be_rest(&format!("{stem}.safetensors")), "{stem}");
        }
    }

    #[test]
    fn sets_of_ranks_and_parts_must_be_whole() {
        for (stems, words) in [
            (&["m-rank-0-part-0", "m-rank-1-part-1"][..], "more than one number"),
            (&["m-rank-1-part-0", "m-rank-1-part-1"], "one of several"),
            (&["m-00002-part-0", "m-00002-part-1"], "one of several"),
            (&["mp_rank_01", "mp_rank_02"], "number 0 is missing"),
            (&["m0-mp8", "m1-mp8", "m2-mp8"], "number 3 is missing"),
            (&["m0-mp1", "m1-mp1"], "there are 1 files"),
            (&["m0-mp1", "m0-mp2", "m1-mp2"], "two sets"),
        ] {
            let why = check(stems).expect_err(stems[0]);
            assert!(why.contains(words), "{stems:?}: {why}");
        }
        for stems in [
            &["m-rank-0-part-0", "m-rank-0-part-1", "m-rank-1-part-0", "m-rank-1-part-1"][..],
            &["m-rank-0-part-0", "m-rank-0-part-1"],
            &["m0-mp2", "m1-mp2"],
            &["consolidated.00", "consolidated.01"],
            &["m_1_00003", "m_2_00003", "m_3_00003"],
            &["layers-00-03", "layers-04-07"],
            &["layers-0to3", "layers-4to7"],
            &["v02-1", "v02-2"],
        ] {
            assert_eq!(check(stems), Ok(()), "{stems:?}");
        }
    }
}
