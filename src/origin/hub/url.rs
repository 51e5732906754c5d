//! URLs: who owns one, where a redirect leads, and what of one may be shown.

use std::fmt;

use anyhow::{Context, Result, bail};
use ureq::http::Uri;

/// Scheme, host and port: what must be the same for a token to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub scheme: String,
    pub host: String,
    port: u16,
}

impl Origin {
    pub fn of(url: &str) -> Result<Origin> {
        if url.split('/').nth(2).is_some_and(|authority| authority.contains('@')) {
            bail!("a URL with a user name or password in it is not taken");
        }
        let uri: Uri = url.parse().with_context(|| format!("{:?} is no URL", shown(url)))?;
        let (scheme, default_port) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") => ("http", 80),
            _ => bail!("{:?} is neither an http nor an https URL", shown(url)),
        };
        let host =
            uri.host().with_context(|| format!("{:?} names no host", shown(url)))?.to_ascii_lowercase();
        Ok(Origin { scheme: scheme.to_string(), host, port: uri.port_u16().unwrap_or(default_port) })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// A URL without its query, which may hold a signature.
pub(super) fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

pub(super) fn redirected(from: &str, location: &str) -> Result<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Ok(location.to_string());
    }
    let (scheme, rest) = from.split_once("://").with_context(|| format!("{:?} is no URL", shown(from)))?;
    if location.starts_with("//") {
        return Ok(format!("{scheme}:{location}"));
    }
    let host = rest.split('/').next().unwrap_or_default();
    if location.starts_with('/') {
        return Ok(format!("{scheme}://{host}{location}"));
    }
    bail!("{} redirects to {:?}, which is no place", shown(from), shown(location))
}

pub(super) fn percent_encode(text: &str, keep_slashes: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slashes && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |url: &str| Origin::of(url).unwrap();
        assert_eq!(origin("https://Hub.co/a"), origin("https://hub.co:443/b?c"));
        for other in ["http://hub.co/", "https://hub.co:444/", "https://evil.com/hub.co"] {
            assert_ne!(origin("https://hub.co/"), origin(other), "{other}");
        }
        for bad in ["", "https://hub.co@evil.com/", "hub.co", "ftp://hub.co", "https://", "/path"] {
            assert!(Origin::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_are_resolved() {
        let from = "https://hub.co/a/b?x=1";
        assert_eq!(redirected(from, "https://cdn.co/z").unwrap(), "https://cdn.co/z");
        assert_eq!(redirected(from, "/z?y").unwrap(), "https://hub.co/z?y");
        assert_eq!(redirected(from, "//cdn.co/z").unwrap(), "https://cdn.co/z");
        assert!(redirected(from, "file:///etc/passwd").is_err());
    }

    #[test]
    fn names_are_encoded_for_urls() {
        assert_eq!(percent_encode("refs/pr/3", false), "refs%2Fpr%2F3");
        assert_eq!(percent_encode("a/b c?.json", true), "a/b%20c%3F.json");
        assert_eq!(shown("https://cdn.co/z?signature=s"), "https://cdn.co/z");
    }
}
