//! What a text that should be a JSON array of objects falls into: as much as can be told apart where it is no such
//! array. Objects may follow one another without an array around them, as in JSON lines.

use std::borrow::Cow;

/// Fills the text that stands for a number which JSON does not have.
const MASK: u8 = b'~';

/// A file's text: without a byte order mark, and with NaN, Infinity and numbers too large for 64 bits as text, each
/// as long as before, so that places in it are the file's.
pub struct Text<'a> {
    bytes: Cow<'a, [u8]>,
    start: usize,
}

/// The parts of a text, each with the place where it begins.
#[derive(Debug, Default, PartialEq)]
pub struct Items<'a> {
    pub whole: Vec<(usize, &'a [u8])>,
    /// Where a part begins that has no end, or the text ends within its array.
    pub broken: Option<usize>,
}

/// Whether this text stood for a number that is not finite.
pub fn is_mask(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte == MASK)
}

impl<'a> Text<'a> {
    pub fn new(bytes: &'a [u8]) -> Text<'a> {
        let start = if bytes.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
        let mut masked = Cow::Borrowed(bytes);
        let mut at = start;
        while let Some(byte) = bytes.get(at) {
            let end = match byte {
                b'"' => string_end(bytes, at),
                byte if is_word(*byte) => run_end(bytes, at, is_word),
                _ => at + 1,
            };
            let word = bytes.get(at..end).unwrap_or_default();
            let is_number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
            if is_number.is_some_and(|number| !number.is_finite())
                && let Some([first, inner @ .., last]) = masked.to_mut().get_mut(at..end)
            {
                (*first, *last) = (b'"', b'"');
                inner.fill(MASK);
            }
            at = end;
        }
        Text { bytes: masked, start }
    }

    /// What parsers are given.
    pub fn json(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Line and column, counted from 1.
    pub fn place(&self, at: usize) -> String {
        let before = self.bytes.get(..at).unwrap_or_default();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} column {}", at - line_start + 1)
    }

    /// The elements of all arrays at the top, and the objects beside them.
    pub fn items(&self) -> Items<'_> {
        items(&self.bytes, self.start)
    }

    /// The elements of each array that an object holds directly.
    pub fn arrays_in(&self, (start, object): (usize, &[u8])) -> Vec<Items<'_>> {
        let mut arrays = Vec::new();
        let mut at = start + 1;
        while at < start + object.len() {
            at = match self.bytes.get(at) {
                Some(b'"') => string_end(&self.bytes, at),
                Some(b'{' | b'[') => {
                    let end = nest_end(&self.bytes, at).unwrap_or(self.bytes.len());
                    if self.bytes.get(at) == Some(&b'[') {
                        arrays.push(items(self.bytes.get(..end).unwrap_or_default(), at));
                    }
                    end
                }
                _ => at + 1,
            };
        }
        arrays
    }
}

fn items(bytes: &[u8], start: usize) -> Items<'_> {
    let mut found = Items::default();
    let mut in_array = false;
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        let end = match byte {
            b'[' if !in_array => {
                in_array = true;
                at += 1;
                continue;
            }
            b']' => {
                in_array = false;
                at += 1;
                continue;
            }
            b',' | b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'{' | b'[' => nest_end(bytes, at),
            b'"' => Some(string_end(bytes, at)),
            _ => Some(run_end(bytes, at, |byte| !b",[]{}\" \t\r\n".contains(&byte)).max(at + 1)),
        };
        let Some(end) = end else {
            found.broken = Some(at);
            return found;
        };
        found.whole.push((at, bytes.get(at..end).unwrap_or_default()));
        at = end;
    }
    found.broken = in_array.then_some(at);
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

fn run_end(bytes: &[u8], start: usize, is_of_it: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    start + rest.iter().position(|byte| !is_of_it(*byte)).unwrap_or(rest.len())
}

/// Behind the quote that closes a string. One that is not closed ends with its line, since none goes over two.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            b'\n' => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Behind the bracket that closes the one at `start`. An object that was cut in its line ends with it, where the next
/// line begins another.
fn nest_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return Some(at + 1),
            b'}' | b']' => depth -= 1,
            b'\n' if bytes.get(at + 1) == Some(&b'{') && !goes_on(bytes.get(..at).unwrap_or_default()) => {
                return Some(at);
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Whether JSON must go on behind this line.
fn goes_on(line: &[u8]) -> bool {
    line.trim_ascii_end().last().is_some_and(|byte| b",:[{".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (Vec<String>, Option<usize>) {
        let text = Text::new(text.as_bytes());
        let items = text.items();
        let words = items.whole.iter().map(|(_, item)| String::from_utf8_lossy(item).into_owned());
        (words.collect(), items.broken)
    }

    #[track_caller]
    fn falls_into(text: &str, whole: &[&str], broken: Option<usize>) {
        assert_eq!(split(text), (whole.iter().map(|item| item.to_string()).collect(), broken), "{text}");
    }

    #[test]
    fn arrays_lines_and_single_objects_fall_into_their_objects() {
        falls_into(
            r#"[{"a": [1, {"b": 2}]}, 7, "x,y", [3]]"#,
            &[r#"{"a": [1, {"b": 2}]}"#, "7", "\"x,y\"", "[3]"],
            None,
        );
        falls_into("{\"a\": 1}\n\n{\"b\": \"}\\\"{\"}\n", &["{\"a\": 1}", "{\"b\": \"}\\\"{\"}"], None);
        falls_into("\u{feff} {\"a\": 1}", &["{\"a\": 1}"], None);
        falls_into("[{}][{}]", &["{}", "{}"], None);
        falls_into("", &[], None);
        falls_into("]]}", &["}"], None);
    }

    #[test]
    fn what_is_cut_keeps_what_stands_before() {
        falls_into(r#"[{"a": 1}, {"b": "x"#, &[r#"{"a": 1}"#], Some(11));
        falls_into(r#"[{"a": 1}"#, &[r#"{"a": 1}"#], Some(9));
        falls_into(r#"[{"a": 1}, "#, &[r#"{"a": 1}"#], Some(11));
        falls_into(&"[".repeat(10_000), &[], Some(1));
        // A line that was cut in the middle of a file takes no other with it.
        falls_into("{\"a\": 1}\n{\"b\n{\"c\": 3}\n", &["{\"a\": 1}", "{\"b", "{\"c\": 3}"], None);
        falls_into("[{\"a\": [\n{\"b\": 1},\n{\"c\": 1}]}]", &["{\"a\": [\n{\"b\": 1},\n{\"c\": 1}]}"], None);
    }

    #[test]
    fn numbers_that_json_lacks_become_text_of_the_same_length() {
        let text = "[NaN, -Infinity, 1e999, \"NaN\", 1e99, null, Nano]";
        let masked = Text::new(text.as_bytes());
        let expected = "[\"~\", \"~~~~~~~\", \"~~~\", \"NaN\", 1e99, null, Nano]";
        assert_eq!(std::str::from_utf8(masked.json()).unwrap(), expected);
        assert!(is_mask("~~~") && !is_mask("NaN") && !is_mask(""));
        assert_eq!(Text::new(b"a\nbc\nd").place(3), "line 2 column 2");
    }

    #[test]
    fn an_object_gives_the_arrays_that_it_holds_itself() {
        let bytes = br#"{"n": {"deep": [1]}, "x": [{"a": "]"}, 2], "y": []}"#;
        let text = Text::new(bytes);
        let items = text.items();
        let arrays = text.arrays_in(items.whole[0]);
        let counts: Vec<usize> = arrays.iter().map(|array| array.whole.len()).collect();
        assert_eq!(counts, [2, 0]);
        assert_eq!(arrays[0].whole[0].1, br#"{"a": "]"}"#);
    }
}
