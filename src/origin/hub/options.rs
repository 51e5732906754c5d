//! What the environment says: where hub and cache are, the token, and how patient to be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::os::cancel::Cancel;
use crate::os::progress::Progress;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A secret: neither Debug nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(super) String);

impl Token {
    /// `None` for blank text; an error for what cannot stand in a header.
    pub fn new(text: &str) -> Result<Option<Token>> {
        let text = text.trim();
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            bail!(
                "the hub token holds spaces or characters that no token has; set HF_TOKEN anew, or give another"
            );
        }
        Ok((!text.is_empty()).then(|| Token(text.to_string())))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where the hub and the cache are, and how patient to be.
#[derive(Clone)]
pub struct Options {
    pub token: Option<Token>,
    /// `https://huggingface.co`, without a slash at its end.
    pub endpoint: String,
    /// The directory of `models--org--name`.
    pub cache: PathBuf,
    /// Look into the cache only.
    pub offline: bool,
    /// The wait before a second try; each further one waits twice as long.
    pub back_off: Duration,
    pub cancel: Cancel,
    /// Bytes that arrive, and notes for the user.
    pub progress: Progress,
}

impl Options {
    /// As the Python client reads its environment: HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE, and for the
    /// token what is given here, HF_TOKEN, HF_TOKEN_PATH, or the file `token` in HF_HOME.
    pub fn from_env(token: Option<&str>) -> Result<Options> {
        Options::from_vars(token, |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn from_vars(token: Option<&str>, var: impl Fn(&str) -> Option<String>) -> Result<Options> {
        let path = |name: &str| var(name).map(|value| expand_home(&value, var("HOME").as_deref()));
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
            .or_else(|| path("HOME").map(|dir| dir.join(".cache/huggingface")))
            .context(
                "no place for the hub's cache: neither HF_HOME nor HOME is set; set HF_HOME to a directory",
            )?;
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        let token = match token.map(str::to_string).or_else(|| var("HF_TOKEN")) {
            Some(text) => Token::new(&text)?,
            None => read_token(&path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")))?,
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_string());
        let yes = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_uppercase().as_str());
        Ok(Options {
            token,
            endpoint: endpoint.trim().trim_end_matches('/').to_string(),
            cache,
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
            back_off: Duration::from_millis(500),
            cancel: Cancel::new(),
            progress: Progress::silent(),
        })
    }
}

fn expand_home(path: &str, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// The token that `hf auth login` left; no such file is no token.
fn read_token(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Token::new(&text).with_context(|| format!("read the hub token in {}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read the hub token in {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string())
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let plain = Options::from_vars(None, vars(&[("HOME", "/home/u")])).unwrap();
        assert_eq!(plain.cache, Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(plain.endpoint, DEFAULT_ENDPOINT);
        assert!(!plain.offline && plain.token.is_none());

        let set = [
            ("HOME", "/home/u"),
            ("HF_HOME", "~/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "true"),
        ];
        let set: &'static [_] = Box::leak(Box::new(set));
        let options = Options::from_vars(Some(" abc\n"), vars(set)).unwrap();
        assert_eq!(options.cache, Path::new("/home/u/hf/hub"));
        assert_eq!(options.endpoint, "http://mirror");
        assert!(options.offline);
        assert_eq!(options.token, Some(Token("abc".into())));

        let cache =
            Options::from_vars(None, vars(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")])).unwrap().cache;
        assert_eq!(cache, Path::new("/c"));
        assert!(Options::from_vars(None, vars(&[])).is_err());
    }

    #[test]
    fn a_token_file_is_found_and_no_token_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap().to_string();
        std::fs::write(dir.path().join("token"), "hf_secret\n").unwrap();
        let var = |name: &str| (name == "HF_HOME").then(|| home.clone());
        let options = Options::from_vars(None, var).unwrap();
        assert_eq!(options.token, Some(Token("hf_secret".into())));
        assert!(!format!("{:?}", options.token).contains("secret"));
        let error = Token::new("hf_sec ret").unwrap_err();
        assert!(!format!("{error:?}").contains("ret "), "{error:?}");
        assert_eq!(Token::new("  ").unwrap(), None);
    }
}
