//! Numbers as reports write them.

/// `80.00 GiB`
pub fn binary_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_takes_over_at_1024_of_the_one_below() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1500, "1.46 KiB"),
            (64 << 10, "64.00 KiB"),
            (80 << 30, "80.00 GiB"),
            (1_500_000_000_000, "1.36 TiB"),
            (u64::MAX, "16.00 EiB"),
        ];
        for (bytes, words) in cases {
            assert_eq!(binary_bytes(bytes), words);
        }
    }
}
