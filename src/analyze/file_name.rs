//! What a result file's name says of its loads.

use std::path::Path;

/// What `{model}_{format}_{count}_{mode}.json` says, for records that do not say it themselves.
#[derive(Debug, Default, PartialEq)]
pub struct FileName {
    pub model: String,
    pub format: String,
    pub mode: String,
}

impl FileName {
    /// From the right, since a model's name may hold underscores and the other parts do not.
    pub fn parse(path: &Path) -> Option<FileName> {
        let stem = path.file_stem()?.to_string_lossy().into_owned();
        let mut parts = stem.rsplitn(4, '_');
        let (mode, count, format, model) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        count.parse::<u64>().ok()?;
        Some(FileName { model: model.into(), format: format.into(), mode: mode.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_parsed_from_the_right() {
        let parsed = FileName::parse(Path::new("a_b_5_c_safetensors-direct_30_random.json")).unwrap();
        let expected =
            FileName { model: "a_b_5_c".into(), format: "safetensors-direct".into(), mode: "random".into() };
        assert_eq!(parsed, expected);
        for bad in ["x.json", "a_sllm_five_cached.json", "sllm_5_cached.json", ""] {
            assert_eq!(FileName::parse(Path::new(bad)), None, "{bad}");
        }
    }
}
