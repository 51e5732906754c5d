//! Figures in words, with as many digits as say something.

use crate::analyze::figures::group::{Shown, Speedup};
use crate::analyze::figures::resample::Estimate;

/// `9.95× [9.34, 10.51]`, and what is to be known of it.
pub fn speedup_in_words(speedup: &Speedup) -> String {
    let paired = if speedup.is_paired { "" } else { ", not paired" };
    let shown = if speedup.shown() == Shown::NoDifference { ", no difference shown" } else { "" };
    format!("{}{shown}{paired}", times(speedup.ratio))
}

/// Seconds without the unit: three decimals, more for less than 0.1 s, fewer where they would say nothing.
pub fn seconds(value_s: f64) -> String {
    seconds_beside(value_s, value_s)
}

/// Seconds with as many decimals as `scale_s` has, so that the figures of one group line up.
pub fn seconds_beside(value_s: f64, scale_s: f64) -> String {
    match scale_s.abs() {
        0.0 => "0".into(),
        s if !(1e-6..1e7).contains(&s) => format!("{value_s:.2e}"),
        s if s < 0.001 => format!("{value_s:.6}"),
        s if s < 0.01 => format!("{value_s:.5}"),
        s if s < 0.1 => format!("{value_s:.4}"),
        s if s < 100.0 => format!("{value_s:.3}"),
        s if s < 1000.0 => format!("{value_s:.1}"),
        _ => format!("{value_s:.0}"),
    }
}

/// GB/s without the unit, to three figures.
pub fn rate(gb_per_s: f64) -> String {
    match gb_per_s.abs() {
        r if !(1e-3..1e7).contains(&r) => format!("{gb_per_s:.1e}"),
        r if r < 1.0 => format!("{gb_per_s:.3}"),
        r if r < 10.0 => format!("{gb_per_s:.2}"),
        r if r < 100.0 => format!("{gb_per_s:.1}"),
        _ => format!("{gb_per_s:.0}"),
    }
}

/// `9.95× [9.34, 10.51]`.
fn times(speedup: Estimate) -> String {
    let number = |x: f64| if (0.01..1000.0).contains(&x) { format!("{x:.2}") } else { format!("{x:.3e}") };
    match speedup.interval {
        Some((low, high)) => format!("{}× [{}, {}]", number(speedup.value), number(low), number(high)),
        None => format!("{}×", number(speedup.value)),
    }
}

/// `+20.0 %`.
pub fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_or_more_figures() {
        let pairs = [
            (0.0, "0"),
            (1e-9, "1.00e-9"),
            (0.000_25, "0.000250"),
            (0.0025, "0.00250"),
            (0.025, "0.0250"),
            (1.25349, "1.253"),
            (12.466, "12.466"),
            (123.456, "123.5"),
            (f64::MAX, "1.80e308"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in pairs {
            assert_eq!(seconds(value), expected);
        }
        assert_eq!([rate(0.5), rate(8.431), rate(53.04), rate(120.4)], ["0.500", "8.43", "53.0", "120"]);
        assert_eq!(times(Estimate { value: 9.95, interval: Some((9.3, 10.5)) }), "9.95× [9.30, 10.50]");
    }
}
