//! The frame of a page that needs nothing else: no script, no font, no file beside it.

use crate::page::escape::escape;

/// A whole page. The title is text; style and body are CSS and HTML. Should anything hostile stand in the body, the
/// policy keeps it from running or loading anything.
pub fn document(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title)
    )
}

/// Lines of text, one below the other; nothing of none.
pub fn list(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("<ul>{}</ul>", lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let page = document("a</title><script>", "", &list(&["<b>".into()]));
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(page.contains("<title>a&lt;/title&gt;&lt;script&gt;</title>"), "{page}");
        assert!(page.contains("<ul><li>&lt;b&gt;</li></ul></body>"), "{page}");
        assert_eq!(list(&[]), "");
    }
}
