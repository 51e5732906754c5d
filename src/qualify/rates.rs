//! Measured rates against their limits, a criterion each: what the limit is, whether the rounds tell on which side of it the
//! figure lies, and what else may be the cause.

use crate::qualify::causes;
use crate::qualify::criterion::Criterion;
use crate::qualify::digits::apart;
use crate::qualify::interval::{Comparison, Rate, compare};
use crate::qualify::judged::Judged;
use crate::qualify::measure::{Kind, Measured};
use crate::qualify::observations::Observations;
use crate::qualify::profile::Threshold;

/// A round that ends sooner is more of starting threads and asking the clock than of moving bytes.
const ROUND_MIN_S: f64 = 0.002;

/// The highest bound that can be told. `None` where the threshold does not apply: the warm load into host memory has no
/// part to be held against.
pub fn by_threshold(seen: &Observations, measured: &Measured, threshold: &Threshold) -> Option<Criterion> {
    let mut bounds: Vec<(Rate, String)> = Vec::new();
    let mut untold: Vec<String> = Vec::new();
    if let Some(floor) = threshold.floor_gb_per_s {
        bounds.push((Rate::exact(floor), "floor".into()));
    }
    if let Some(share) = threshold.share_of_links {
        match measured.allowed_gb_per_s {
            Some(allowed) => {
                let words = format!("{share:.2} of {allowed:.1}: {}", measured.links);
                bounds.push((Rate::exact(allowed).times(share), words));
            }
            None => untold.push(format!("what its links allow can't be told: {}", measured.links)),
        }
    }
    if let Some(share) = threshold.share_of_parts {
        match slowest_part(seen, measured) {
            Some((part, rate)) => bounds.push((rate.times(share), format!("{share:.2} of {part}"))),
            None if bounds.is_empty() && measured.kind == Kind::LoadWarm && seen.gpus.is_empty() => {
                return None;
            }
            None => untold.push("no part of its way was measured".into()),
        }
    }
    if let Some(why) = not_a_rate(measured) {
        return Some(unjudged(measured, why));
    }
    match bounds.into_iter().max_by(|a, b| a.0.gb_per_s.total_cmp(&b.0.gb_per_s)) {
        Some((limit, words)) => Some(rate_row(seen, measured, limit, &words)),
        None => {
            let why = format!("{}; a profile with a floor could judge it", untold.join("; "));
            Some(unjudged(measured, why))
        }
    }
}

/// Why a figure is none to be judged: it is not of what it should be, or says more of starting than of moving bytes.
fn not_a_rate(measured: &Measured) -> Option<String> {
    let too_short = || {
        let round_s = measured.round_s().filter(|seconds| *seconds < ROUND_MIN_S)?;
        Some(format!("a round took {:.1} ms, too short to tell a rate: take a larger size", round_s * 1e3))
    };
    let untold = || {
        let one = measured.rounds_gb_per_s.len() < 2;
        one.then(|| "one round does not tell how far it may be off".to_string())
    };
    measured.not_cold.clone().or_else(too_short).or_else(untold)
}

/// A figure that can't be held against a limit.
fn unjudged(measured: &Measured, why: String) -> Criterion {
    Criterion::new(measured.kind.name(), &measured.of, measured.kind.words(), Judged::Unknown)
        .saying(format!("{:.2} GB/s", measured.gb_per_s), "-")
        .because(why)
}

/// Of the parts on the way that were measured alone, the slowest: raw reads, or the copy to the GPU.
fn slowest_part(seen: &Observations, measured: &Measured) -> Option<(&'static str, Rate)> {
    let raw = || Some(("raw reads", seen.slowest(Kind::RawRead)?.rate()));
    let copy = || Some(("the copy to the GPU", seen.copy_to(&measured.of)?.rate()));
    let parts = match measured.kind {
        Kind::StorageGpu | Kind::StorageGpuAll | Kind::LoadCold => vec![raw(), copy()],
        Kind::LoadWarm => vec![copy()],
        _ => Vec::new(),
    };
    parts.into_iter().flatten().min_by(|a, b| a.1.gb_per_s.total_cmp(&b.1.gb_per_s))
}

/// Held to what an earlier node reached, less the tolerance.
pub fn by_earlier(seen: &Observations, then: &Measured, host: &str, tolerance: f64) -> Criterion {
    let (kind, of) = (then.kind, &then.of);
    let limit = then.rate().times(1.0 - tolerance);
    match seen.of(kind).find(|now| now.of == *of) {
        Some(now) => match not_a_rate(now) {
            Some(why) => unjudged(now, why),
            None => {
                let words = format!("{:.2} of {host}'s {:.2}", 1.0 - tolerance, then.gb_per_s);
                rate_row(seen, now, limit, &words)
            }
        },
        None => Criterion::new(kind.name(), of, kind.words(), Judged::Unknown)
            .saying("-", format!("≥ {:.2} GB/s", limit.gb_per_s))
            .because(format!("{host} has it, and here it was not measured")),
    }
}

fn rate_row(seen: &Observations, measured: &Measured, limit: Rate, words: &str) -> Criterion {
    let comparison = compare(measured.rate(), limit);
    let (rate_text, limit_text) = apart(measured.gb_per_s, limit.gb_per_s);
    let mut row =
        Criterion::new(measured.kind.name(), &measured.of, measured.kind.words(), comparison.judged)
            .saying(format!("{rate_text} GB/s"), format!("≥ {limit_text} ({words})"))
            .compared(comparison);
    (row.measured_gb_per_s, row.limit_gb_per_s) = (Some(measured.gb_per_s), Some(limit.gb_per_s));
    row.allowed_gb_per_s = measured.allowed_gb_per_s;
    row.causes = match comparison.judged {
        Judged::Passed => Vec::new(),
        Judged::Failed => causes::of(seen, measured, limit.gb_per_s),
        Judged::Unknown => vec![too_noisy(measured, comparison)],
    };
    row
}

fn too_noisy(measured: &Measured, comparison: Comparison) -> String {
    let (spread, margin) = apart(comparison.spread * 100.0, comparison.margin * 100.0);
    let rounds = measured.rounds_gb_per_s.iter().copied();
    let (least, most) = rounds.fold((f64::MAX, 0.0f64), |(a, b), round| (a.min(round), b.max(round)));
    format!(
        "not judged: too noisy: the spread of {spread} % (rounds of {least:.2} to {most:.2} GB/s) is wider than the margin \
         of {margin} % to the limit; give it more time, or less to do beside"
    )
}
