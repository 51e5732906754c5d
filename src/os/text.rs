//! Text for the terminal. Names, paths, headers and a hub's answers are others' text: escapes in them could repaint
//! the terminal or forge lines, so that everything printed is cleaned here.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest line printed: long paths fit, a header in an error message does not.
const LINE_CHARS: usize = 2000;

/// Findings that a terminal shows; `--json` has all.
pub const SHOWN_FINDINGS: usize = 20;

/// What a terminal may act on, what reorders or ends lines, and what nobody can see.
pub fn is_harmful(c: char) -> bool {
    // Nearly all text is ASCII, and a table may have 40 MB of it.
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// On one line, with everything harmful spelled out: `\n`, `\u{1b}`.
pub fn clean(text: &str) -> Cow<'_, str> {
    spelled(text, is_harmful, |c, out| out.extend(c.escape_default()))
}

/// Of a text that was shortened, what says so: two ellipses, a number and some words.
const MARK_CHARS: usize = 32;

/// Cleaned, and at most `max_chars` long: beyond them the middle is left out, and how much that was is said.
pub fn shortened(text: &str, max_chars: usize) -> Cow<'_, str> {
    let clean = clean(text);
    // Few texts are long: their bytes tell without a count.
    if clean.len() <= max_chars || clean.chars().count() <= max_chars {
        return clean;
    }
    let chars: Vec<char> = clean.chars().collect();
    let kept = max_chars.saturating_sub(MARK_CHARS);
    let tail = kept / 4;
    let (head, rest) = chars.split_at(kept - tail);
    let (cut, tail) = rest.split_at(rest.len() - tail);
    let [head, tail] = [head, tail].map(|part| part.iter().collect::<String>());
    format!("{head}…({} characters left out)…{tail}", cut.len()).into()
}

/// Cleaned, and at most as long as a line may be.
pub fn line(text: &str) -> Cow<'_, str> {
    shortened(text, LINE_CHARS)
}

/// The first of many findings in one sentence, and how many more there are.
pub fn in_short(findings: &[String]) -> String {
    let mut text = findings.iter().take(SHOWN_FINDINGS).cloned().collect::<Vec<_>>().join("; ");
    if findings.len() > SHOWN_FINDINGS {
        let _ = write!(text, "; … and {} more", findings.len() - SHOWN_FINDINGS);
    }
    text
}

/// Cleaned but for its line ends.
pub fn clean_page(page: &str) -> Cow<'_, str> {
    spelled(page, |c| c != '\n' && is_harmful(c), |c, out| out.extend(c.escape_default()))
}

/// Harmful characters stand only within JSON's strings, where an escape means the same.
pub fn clean_json(json: &str) -> Cow<'_, str> {
    let escape = |c: char, out: &mut String| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    };
    spelled(json, |c| c != '\n' && is_harmful(c), escape)
}

fn spelled(text: &str, harmful: impl Fn(char) -> bool, spell: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&harmful) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { spell(c, &mut out) } else { out.push(c) }
    }
    out.into()
}

/// Bytes in people's units, by 1000 as rates are.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let exponent = (bytes.max(1).ilog10() / 3).min(4);
    match exponent {
        0 => format!("{bytes} bytes"),
        _ => format!("{:.1} {}", bytes as f64 / 1000f64.powi(exponent as i32), UNITS[exponent as usize]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_peoples_units() {
        let said: Vec<String> = [0, 999, 1000, 65_341_726_720, 2 << 50].map(size).into();
        assert_eq!(said, ["0 bytes", "999 bytes", "1.0 kB", "65.3 GB", "2251.8 TB"]);
    }

    #[test]
    fn what_harms_is_spelled_out_and_the_rest_stays() {
        assert_eq!(clean("\u{1b}[31mred\u{9b}0m\n\0\u{7f}"), "\\u{1b}[31mred\\u{9b}0m\\n\\u{0}\\u{7f}");
        assert_eq!(
            clean("a\u{202e}b\u{2066}c\u{2028}d\u{200b}e"),
            "a\\u{202e}b\\u{2066}c\\u{2028}d\\u{200b}e"
        );
        let fine = "größe 日本語.重み 😀 e\u{301} \"'\\ …";
        assert!(matches!(clean(fine), Cow::Borrowed(text) if text == fine));
        assert_eq!(clean_page("a\tb\nc\r\n"), "a\\tb\nc\\r\n");
    }

    #[test]
    fn long_text_loses_its_middle_and_says_how_much() {
        assert_eq!(shortened(&"é".repeat(100), 100), "é".repeat(100));
        let long = format!("begin{}end", "x".repeat(5000));
        assert_eq!(shortened(&long, 44), "beginxxxx…(4996 characters left out)…end");
        for text in [long, "\u{1b}".repeat(5000), "é".repeat(101)] {
            assert!(shortened(&text, 100).chars().count() <= 100, "counted as it is printed");
        }
    }

    #[test]
    fn json_means_the_same_after_cleaning() {
        let names = ["\u{1b}[31m\n\t\u{7f}\u{9b}", "\u{202e}\u{e0041}\\u", "日本"];
        let text = serde_json::to_string_pretty(&names).unwrap();
        let cleaned = clean_json(&text);
        assert!(!cleaned.chars().any(|c| c != '\n' && is_harmful(c)), "{cleaned}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&cleaned).unwrap(), names);
    }

    #[test]
    fn many_findings_are_counted() {
        let findings: Vec<String> = (0..23).map(|i| i.to_string()).collect();
        assert!(in_short(&findings).ends_with("; 19; … and 3 more"));
        assert_eq!(in_short(&findings[..2]), "0; 1");
    }
}
