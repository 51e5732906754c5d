//! How far a measured figure may be off, and on which side of a limit it is for certain.
//!
//! The figure is the median of rounds. Its interval is that of order statistics, which hold for noise of any shape: the
//! median lies below the k-th lowest round with a chance that only k and the number of rounds decide. Whoever is judged
//! passes where the whole interval is above the limit, and fails where it is wholly below; between them nobody can say.

use crate::qualify::judged::Judged;

/// The chance, on either side, that the true median lies beyond the interval.
const ODDS: f64 = 0.001;
/// Two runs on one quiet machine differ by as much, whatever the rounds within each say.
const DRIFT: f64 = 0.02;
/// Of fewer than ten rounds even the extremes say too little. By so many times their range they are moved apart, from two
/// rounds on: simulated, so that normal noise is beyond them as seldom as [`ODDS`] says.
const MOVED: [f64; 8] = [162.0, 6.3, 1.82, 0.84, 0.45, 0.25, 0.14, 0.06];

/// In which a rate lies for almost certain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    /// Of rounds; `None` of fewer than two, which tell no spread.
    pub fn of(rounds: &[f64]) -> Option<Interval> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let moved = match sorted.len() {
            0 | 1 => return None,
            rounds => MOVED.get(rounds - 2),
        };
        if let Some(times) = moved {
            // By factors: a rate is never negative.
            let apart = (most / least).powf(*times);
            return Some(Interval { low: least / apart, high: most * apart });
        }
        let outer = rounds_beyond(sorted.len());
        Some(Interval { low: sorted[outer], high: sorted[sorted.len() - 1 - outer] })
    }
}

/// How many of so many rounds can be left out at either end.
fn rounds_beyond(rounds: usize) -> usize {
    let mut chance = 0.5f64.powi(rounds as i32);
    let mut sum = chance;
    let mut beyond = 0;
    loop {
        // That the median has at most `beyond` + 1 rounds below it, where each is below it with a chance of a half.
        chance *= (rounds - beyond) as f64 / (beyond + 1) as f64;
        sum += chance;
        if sum > ODDS || beyond + 1 >= rounds / 2 {
            return beyond;
        }
        beyond += 1;
    }
}

/// A rate, and in what interval it lies; without one, it is exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub gb_per_s: f64,
    pub interval: Option<Interval>,
}

impl Rate {
    pub fn exact(gb_per_s: f64) -> Rate {
        Rate { gb_per_s, interval: None }
    }

    /// A share of it.
    pub fn times(self, share: f64) -> Rate {
        let interval = self.interval.map(|i| Interval { low: i.low * share, high: i.high * share });
        Rate { gb_per_s: self.gb_per_s * share, interval }
    }

    /// How far it may be below and above what it says, as logarithms of factors.
    fn spreads(self) -> (f64, f64) {
        match self.interval {
            Some(i) => ((self.gb_per_s / i.low).ln().max(0.0), (i.high / self.gb_per_s).ln().max(0.0)),
            None => (0.0, 0.0),
        }
    }
}

/// How a rate stands to its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// `Unknown`: the margin is within the spread.
    pub judged: Judged,
    /// How far the rate is from the limit, as a share of it.
    pub margin: f64,
    /// How far both may be off towards each other, as a share.
    pub spread: f64,
}

/// Both may be off: what a part reached alone, of which the limit is a share, was measured, too.
pub fn compare(rate: Rate, limit: Rate) -> Comparison {
    let (rate_below, rate_above) = rate.spreads();
    let (limit_below, limit_above) = limit.spreads();
    let is_above = rate.gb_per_s >= limit.gb_per_s;
    let spread = if is_above { rate_below.hypot(limit_above) } else { rate_above.hypot(limit_below) };
    let spread = spread.max(DRIFT.ln_1p());
    let margin = (rate.gb_per_s / limit.gb_per_s).ln().abs();
    let judged = match (margin > spread, is_above) {
        (false, _) => Judged::Unknown,
        (true, true) => Judged::Passed,
        (true, false) => Judged::Failed,
    };
    // A share of the limit: what is a third below it is not as far from it as what is a third above.
    let share = |log: f64| if is_above { log.exp_m1() } else { -(-log).exp_m1() };
    Comparison { judged, margin: share(margin), spread: share(spread) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::median::median;

    /// Normal noise of mean 0 and deviation 1, by Box and Muller.
    fn normal(rng: &mut fastrand::Rng) -> f64 {
        let (a, b) = (1.0 - rng.f64(), rng.f64());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn rate(rounds: &[f64]) -> Rate {
        Rate { gb_per_s: median(rounds).unwrap(), interval: Interval::of(rounds) }
    }

    /// Rounds of a machine whose median is `middle`: noise of that deviation, and, of twenty rounds, one at half speed.
    fn machine(rng: &mut fastrand::Rng, middle: f64, noise: f64, count: usize) -> Vec<f64> {
        let round = |_| {
            let slow = if rng.usize(..20) == 0 { 0.5 } else { 1.0 };
            middle * (noise * normal(rng)).exp() * slow
        };
        (0..count).map(round).collect()
    }

    /// Of a thousand runs, how many came out so.
    fn of_thousand(middle: f64, noise: f64, count: usize, wanted: Judged) -> usize {
        let mut rng = fastrand::Rng::with_seed(7);
        let limit = Rate::exact(10.0);
        let judged = |rng: &mut _| compare(rate(&machine(rng, middle, noise, count)), limit).judged;
        (0..1000).filter(|_| judged(&mut rng) == wanted).count()
    }

    #[test]
    fn a_healthy_machine_never_fails_whatever_its_noise() {
        for noise in [0.01, 0.05, 0.1, 0.3] {
            for count in [5, 7, 10, 14, 40, 200] {
                let failed = of_thousand(11.0, noise, count, Judged::Failed);
                assert_eq!(failed, 0, "noise {noise}, {count} rounds");
            }
        }
    }

    #[test]
    fn a_truly_slow_one_does() {
        for noise in [0.01, 0.05, 0.1] {
            for count in [5, 7, 10, 14, 40, 200] {
                let failed = of_thousand(3.0, noise, count, Judged::Failed);
                let passed = of_thousand(3.0, noise, count, Judged::Passed);
                assert!(failed > 990 && passed == 0, "noise {noise}, {count} rounds: {failed} failed");
            }
        }
        assert_eq!(of_thousand(8.0, 0.03, 14, Judged::Failed), 1000);
    }

    #[test]
    fn a_fast_one_passes_although_single_rounds_are_slow() {
        for (count, least) in [(20, 900), (40, 999), (200, 1000)] {
            let passed = of_thousand(14.0, 0.03, count, Judged::Passed);
            assert!(passed >= least, "{count} rounds: {passed} passed");
        }
    }

    /// At the limit itself as many pass by luck as fail by bad luck: next to none.
    #[test]
    fn at_the_limit_nobody_can_say() {
        for count in [3, 5, 9, 10, 20, 100] {
            let mut rng = fastrand::Rng::with_seed(3);
            let mut by_luck = 0;
            for _ in 0..1000 {
                let rounds: Vec<f64> = (0..count).map(|_| 10.0 * (0.2 * normal(&mut rng)).exp()).collect();
                by_luck += usize::from(compare(rate(&rounds), Rate::exact(10.0)).judged != Judged::Unknown);
            }
            assert!(by_luck <= 8, "{by_luck} of 1000 with {count} rounds");
        }
    }

    #[test]
    fn ranks_are_those_of_the_binomial_distribution() {
        let known = [(10, 0), (13, 0), (14, 1), (18, 2), (30, 6)];
        assert_eq!(known.map(|(rounds, _)| (rounds, rounds_beyond(rounds))), known);
        assert_eq!(Interval::of(&[1.0]), None);
        let same = Interval::of(&[2.0; 5]).unwrap();
        assert_eq!((same.low, same.high), (2.0, 2.0));
        let few = Interval::of(&[1.0, 2.0, 4.0]).unwrap();
        assert!(few.low < 0.001 && few.low > 0.0 && few.high > 4000.0, "{few:?}");
    }

    #[test]
    fn what_drifts_between_runs_is_never_told_apart() {
        let same = |gb_per_s: f64| Rate { gb_per_s, interval: Interval::of(&[gb_per_s; 200]) };
        for (gb_per_s, judged) in
            [(9.7, Judged::Failed), (9.9, Judged::Unknown), (10.1, Judged::Unknown), (10.3, Judged::Passed)]
        {
            assert_eq!(compare(same(gb_per_s), Rate::exact(10.0)).judged, judged, "{gb_per_s}");
        }
        let near = compare(same(10.1), Rate::exact(10.0));
        assert!((near.margin - 0.01).abs() < 1e-9 && (near.spread - 0.02).abs() < 1e-9, "{near:?}");
    }

    #[test]
    fn a_limit_that_was_measured_may_be_off_too() {
        let noisy =
            |middle: f64| rate(&[0.8, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 1.2].map(|f| f * middle));
        let steady = rate(&[9.0; 10]);
        assert_eq!(compare(steady, Rate::exact(7.7)).judged, Judged::Passed);
        assert_eq!(compare(steady, noisy(7.7)).judged, Judged::Unknown);
        assert_eq!(compare(steady, noisy(11.0).times(0.7)).judged, Judged::Unknown);
        assert_eq!(compare(steady, noisy(10.0).times(0.7)).judged, Judged::Passed);
    }
}
