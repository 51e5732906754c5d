//! The small languages of the command line: sizes, shares, times, GPU lists.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::load::Links;

/// Which GPUs to load to, as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    None,
    All,
    /// Indices or UUIDs; one may stand twice, as two destinations.
    List(Vec<String>),
}

/// Of less than this, a number without a unit is a mistake.
const LEAST_BARE_BYTES: u64 = 1024;

/// Reads "16MB". K, M, G, T count by 1024 with or without the i, as ServerlessLLM's own options do.
pub fn parse_size(text: &str) -> Result<u64> {
    let bytes = parse_size::Config::new().with_binary().parse_size(text).map_err(|e| {
        anyhow!("'{text}' is not a size ({e}); write for example 16MB or 10GiB (both count by 1024)")
    })?;
    if bytes == 0 {
        bail!("a size of 0 makes no sense here; write for example 16MB");
    }
    if bytes < LEAST_BARE_BYTES && text.trim().bytes().all(|byte| byte.is_ascii_digit()) {
        bail!(
            "'{text}' would be {bytes} bytes; write for example {bytes}MB, or {bytes}B if so few are meant"
        );
    }
    Ok(bytes)
}

/// Reads "10%" or "0.1" as 0.1.
pub fn parse_percent(text: &str) -> Result<f64> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let value: f64 =
        number.trim().parse().map_err(|_| anyhow!("'{text}' is not a share; write 10% or 0.1"))?;
    if !value.is_finite() || value < 0.0 {
        bail!("'{text}' is not a share; write 10% or 0.1");
    }
    Ok(value / scale)
}

/// As [`parse_percent`], but a bare number from 1 on is refused: `10` would be 1000 %, which nobody means.
#[cfg(feature = "analyze")]
pub fn parse_growth(text: &str) -> Result<f64> {
    match parse_percent(text)? {
        share if share >= 1.0 && !text.contains('%') => {
            bail!("'{text}' would be {:.0} %; write {text}% or {}", share * 100.0, share / 100.0)
        }
        share => Ok(share),
    }
}

/// As [`parse_percent`], below 100 %: what may be lost of something.
pub fn parse_tolerance(text: &str) -> Result<f64> {
    match parse_percent(text)? {
        share if share < 1.0 => Ok(share),
        _ => bail!("'{text}' would let anything pass; write less than 100%"),
    }
}

/// Reads "60s", "2m", "1m 30s", up to a day.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let duration = humantime::parse_duration(text)
        .map_err(|e| anyhow!("'{text}' is not a time ({e}); write 60s or 2m"))?;
    if duration.is_zero() {
        bail!("no time is too short to measure anything; write 60s or 2m");
    }
    if duration > Duration::from_secs(86_400) {
        bail!("'{text}' is more than a day; write 60s or 2m");
    }
    Ok(duration)
}

/// Reads "none", "all", "0,1" or UUIDs.
pub fn parse_gpus(text: &str) -> Result<Gpus> {
    match text {
        "none" => Ok(Gpus::None),
        "all" => Ok(Gpus::All),
        list => {
            let names: Vec<String> = list.split(',').map(|n| n.trim().to_string()).collect();
            for name in &names {
                if name.parse::<u32>().is_err() && !name.starts_with("GPU-") && !name.starts_with("MIG-") {
                    bail!("'{name}' is not a GPU; write none, all, indices (0,1) or UUIDs (GPU-…)");
                }
            }
            Ok(Gpus::List(names))
        }
    }
}

/// `auto`, `own`, `all`, or GPUs as [`parse_gpus`] takes them.
pub fn parse_links(text: &str) -> Result<Links> {
    match text {
        "auto" => Ok(Links::Auto),
        "own" => Ok(Links::Own),
        "all" => Ok(Links::All),
        list => match parse_gpus(list) {
            Ok(Gpus::List(labels)) => Ok(Links::Gpus(labels)),
            _ => bail!(
                "'{list}' names no links; write auto, own, all, or the GPUs whose links these are (0,1 or UUIDs)"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_by_1024() {
        assert_eq!(parse_size("16MB").unwrap(), 16 << 20);
        assert_eq!(parse_size("10GiB").unwrap(), 10 << 30);
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert_eq!(parse_size("16B").unwrap(), 16);
        for bad in ["", "0", "x", "-1", "16XB", "16", " 64 "] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages() {
        assert!((parse_percent("10%").unwrap() - 0.1).abs() < 1e-12);
        assert!((parse_percent("0.1").unwrap() - 0.1).abs() < 1e-12);
        for bad in ["", "%", "-1%", "nan", "inf"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
        assert!(parse_tolerance("99%").is_ok() && parse_tolerance("100%").is_err());
    }

    #[cfg(feature = "analyze")]
    #[test]
    fn growth_past_all_reason_is_a_mistake() {
        assert!((parse_growth("10%").unwrap() - 0.1).abs() < 1e-12 && parse_growth("0.1").is_ok());
        assert!((parse_growth("150%").unwrap() - 1.5).abs() < 1e-12, "said plainly");
        assert!(parse_growth("10").unwrap_err().to_string().contains("write 10% or 0.1"));
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("60s").unwrap(), Duration::from_secs(60));
        assert_eq!(parse_duration("1m 30s").unwrap(), Duration::from_secs(90));
        for bad in ["", "60", "0s", "-1s", "soon", "2days", "500000000000years"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn gpu_lists() {
        assert_eq!(parse_gpus("none").unwrap(), Gpus::None);
        assert_eq!(parse_gpus("0,0").unwrap(), Gpus::List(vec!["0".into(), "0".into()]));
        assert!(parse_gpus("0,,1").is_err());
        assert!(parse_gpus("gpu0").is_err());
    }

    #[test]
    fn links_are_words_or_gpus() {
        assert_eq!(parse_links("own").unwrap(), Links::Own);
        assert_eq!(parse_links("0,1").unwrap(), Links::Gpus(vec!["0".into(), "1".into()]));
        let why = parse_links("none").unwrap_err().to_string();
        assert!(why.contains("'none'") && why.contains("auto, own, all"), "{why}");
    }
}
