//! How a model on the hub is named.

pub(super) const DEFAULT_REVISION: &str = "main";

/// A model on the hub: `org/name`, or `name` for the oldest ones, at a branch, tag, `refs/pr/N` or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(super) id: String,
    pub(super) revision: String,
}

impl Model {
    /// `None` when the text is not shaped like an id. No part can leave the directory or the URL it is put into.
    pub(super) fn parse(text: &str) -> Option<Model> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good_name = |part: &str| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|b| word(*b))
                && bytes.last().is_some_and(|b| word(*b))
                && bytes.iter().all(|b| word(*b) || *b == b'-' || *b == b'.')
                && !part.contains("--")
                && !part.contains("..")
        };
        let good_step = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| word(b) || [b'-', b'.', b'+'].contains(&b))
        };
        let good = id.len() <= 96
            && id.split('/').count() <= 2
            && id.split('/').all(good_name)
            && revision.len() <= 200
            && revision.split('/').all(good_step);
        good.then(|| Model { id: id.to_string(), revision: revision.to_string() })
    }

    pub(super) fn at(&self, revision: &str) -> Model {
        Model { id: self.id.clone(), revision: revision.to_string() }
    }
}

/// Is this text shaped like a hub id (`org/name` or `name`, and perhaps `@revision`)?
pub fn is_id(text: &str) -> bool {
    Model::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["gpt2", "facebook/opt-125m", "a/b@main", "org/name.v1_x@refs/pr/3", "a/b@v1.0"] {
            assert!(is_id(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "./models",
            "../x",
            "a/..",
            "a b",
            "synthetic:gpt2",
            "a/b@",
            "a/b@../x",
            "a/b@/x",
            "a/b@x//y",
            "a/b@x/../y",
            "-a/b",
            "a--b/c",
            "a/b?c",
            "a/b@x@y",
            "ä/b",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
        assert_eq!(Model::parse("a/b@refs/pr/3").unwrap().revision, "refs/pr/3");
        assert_eq!(Model::parse("a/b").unwrap().revision, "main");
    }
}
