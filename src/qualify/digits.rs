//! Numbers with as many digits as it takes.

/// Both with two digits, or as many more as it takes for them to differ where they do.
pub fn apart(a: f64, b: f64) -> (String, String) {
    let mut digits = 2;
    loop {
        let texts = (format!("{a:.digits$}"), format!("{b:.digits$}"));
        // More than a double holds.
        if texts.0 != texts.1 || a == b || digits == 17 {
            return texts;
        }
        digits += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_looks_different() {
        let of = |a, b| {
            let (a, b) = apart(a, b);
            format!("{a} {b}")
        };
        assert_eq!(of(12.0, 10.8), "12.00 10.80");
        assert_eq!(of(0.9999, 1.0), "0.9999 1.0000");
        assert_eq!(of(10.7999, 10.8), "10.7999 10.8000");
        assert_eq!(of(1.0, 1.0), "1.00 1.00");
        assert_eq!(of(f64::NAN, f64::NAN).split(' ').next(), Some("NaN"));
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let a = rng.f64() + 0.5;
            let b = a + (rng.f64() - 0.5) * 10f64.powi(-rng.i32(0..12));
            let (text_a, text_b) = apart(a, b);
            assert!(a == b || text_a != text_b, "{a} {b}");
        }
    }
}
