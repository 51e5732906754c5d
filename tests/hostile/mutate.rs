//! JSON texts taken apart and put together wrong.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::Index;

pub const NUMBERS: [&str; 17] = [
    "0",
    "-1",
    "1",
    "8",
    "4096",
    "1.5",
    "1e308",
    "1e999",
    "2147483648",
    "4294967296",
    "9007199254740992",
    "4611686018427387904",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551608",
    "18446744073709551615",
    "18446744073709551616",
];

/// Values that no reader may take in whole, nor stumble over.
pub fn monsters() -> Vec<String> {
    let deep = 100_000;
    vec![
        "[".repeat(deep),
        format!("{}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("{}1{}", r#"{"a":"#.repeat(deep), "}".repeat(deep)),
        format!("[{}1]", "1,".repeat(200_000)),
        format!("[{}[]]", "[],".repeat(200_000)),
        format!("\"{}\"", "a".repeat(1 << 20)),
        format!("1{}", "0".repeat(100_000)),
    ]
}

const STRINGS: [&str; 8] = [
    r#""""#,
    r#""\u0000""#,
    r#""../x""#,
    r#""/""#,
    r#"".""#,
    r#""torch.float64""#,
    r#""F64""#,
    r#""\ud800""#,
];

/// The tokens of a JSON text: strings, words and numbers, single marks.
pub fn tokens(text: &[u8]) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let start = at;
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
            }
            b if is_word(b) => at += text[at..].iter().take_while(|b| is_word(**b)).count(),
            _ => at += 1,
        }
        tokens.push(start..at);
    }
    tokens
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// The numbers of a text.
pub fn numbers(text: &[u8]) -> Vec<Range<usize>> {
    let is_number = |t: &Range<usize>| text[t.start].is_ascii_digit() || text[t.start] == b'-';
    tokens(text).into_iter().filter(is_number).collect()
}

/// A `"key":value` of an object at any depth.
pub struct Entry {
    pub key: String,
    pub whole: Range<usize>,
    pub value: Range<usize>,
}

pub fn entries(text: &[u8]) -> Vec<Entry> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (i, pair) in tokens.windows(2).enumerate().filter(|(_, pair)| text[pair[1].start] == b':') {
        let mut depth = 0i32;
        let after = tokens[i + 2..].iter().take_while(|t| {
            let ends = depth == 0 && b",}]".contains(&text[t.start]);
            depth += match text[t.start] {
                b'{' | b'[' => 1,
                b'}' | b']' => -1,
                _ => 0,
            };
            !ends
        });
        let value = pair[1].end..after.last().map_or(pair[1].end, |t| t.end);
        let key = String::from_utf8_lossy(&text[pair[0].clone()]).trim_matches('"').to_string();
        found.push(Entry { key, whole: pair[0].start..value.end, value });
    }
    found
}

/// The text with a range replaced.
pub fn replaced(text: &[u8], range: Range<usize>, new: &[u8]) -> Vec<u8> {
    [&text[..range.start], new, &text[range.end..]].concat()
}

/// One thing to do to a text; the indices pick where.
#[derive(Debug, Clone)]
pub struct Mutation {
    kind: u8,
    at: Index,
    other: Index,
    byte: u8,
}

pub fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = (0u8..12, any::<Index>(), any::<Index>(), any::<u8>());
    let one = one.prop_map(|(kind, at, other, byte)| Mutation { kind, at, other, byte });
    prop::collection::vec(one, 1..4)
}

impl Mutation {
    /// The text after it; the text as it is where it does not apply.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        let (numbers, tokens, entries) = (numbers(text), tokens(text), entries(text));
        let strings: Vec<_> = tokens.iter().filter(|t| text[t.start] == b'"').cloned().collect();
        if numbers.is_empty() || strings.is_empty() || entries.is_empty() {
            return text.to_vec();
        }
        let number = numbers[self.at.index(numbers.len())].clone();
        let string = strings[self.at.index(strings.len())].clone();
        let entry = &entries[self.at.index(entries.len())];
        let other = &entries[self.other.index(entries.len())];
        let place = self.at.index(text.len());
        match self.kind {
            0 => replaced(text, number, NUMBERS[self.other.index(NUMBERS.len())].as_bytes()),
            1 => replaced(text, number, &text[numbers[self.other.index(numbers.len())].clone()]),
            2 => {
                let old: i128 = String::from_utf8_lossy(&text[number.clone()]).parse().unwrap_or(0);
                let step = [1, -1, 8, -8, 4096, -4096][self.other.index(6)];
                replaced(text, number, (old + step).to_string().as_bytes())
            }
            3 => replaced(text, string, &text[strings[self.other.index(strings.len())].clone()]),
            4 => replaced(text, string, STRINGS[self.other.index(STRINGS.len())].as_bytes()),
            5 => replaced(text, entry.value.clone(), &text[other.value.clone()]),
            6 => {
                let twice = [&text[entry.whole.clone()], b",", &text[entry.whole.clone()]].concat();
                replaced(text, entry.whole.clone(), &twice)
            }
            7 => replaced(text, entry.whole.clone(), b""),
            8 => replaced(text, place..place + 1, &[self.byte]),
            9 => replaced(text, place..place, &[self.byte]),
            10 => replaced(text, tokens[self.at.index(tokens.len())].clone(), b""),
            _ => text[..place].to_vec(),
        }
    }
}
