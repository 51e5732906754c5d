//! The normal distribution's quantiles, and their rounding to 16 bits.

/// The standard normal's quantile of `p` in (0, 1), to a relative error of 1.15e-9: P. J. Acklam's rational
/// approximation ("An algorithm for computing the inverse normal cumulative distribution function", 2003).
#[rustfmt::skip]
pub(super) fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [-3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02, 1.38357751867269e+02, -3.066479806614716e+01, 2.506628277459239e+00];
    const B: [f64; 6] = [-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02, 6.680131188771972e+01, -1.328068155288572e+01, 1.0];
    const C: [f64; 6] = [-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00, -2.549732539343734e+00, 4.374664141464968e+00, 2.938163982698783e+00];
    const D: [f64; 5] = [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00, 1.0];
    /// Below this, and above its complement, the tails have their own polynomial.
    const TAIL: f64 = 0.02425;

    let polynomial = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if p > 1.0 - TAIL {
        return -normal_quantile(1.0 - p);
    }
    if p < TAIL {
        let q = (-2.0 * p.ln()).sqrt();
        return polynomial(&C, q) / polynomial(&D, q);
    }
    let q = p - 0.5;
    q * polynomial(&A, q * q) / polynomial(&B, q * q)
}

/// The bits of the nearest value, ties to even, in a 16-bit type of this many mantissa bits and this exponent
/// bias; subnormals too. For values far below the type's largest, as all here are.
pub(super) fn round_to_half(value: f64, mantissa_bits: i32, bias: i32) -> u16 {
    let sign = if value.is_sign_negative() { 1u16 << 15 } else { 0 };
    let own_exponent = ((value.to_bits() >> 52) & 0x7FF) as i32 - 1023;
    let exponent = own_exponent.max(1 - bias);
    let steps = (value.abs() / 2f64.powi(exponent - mantissa_bits)).round_ties_even() as u16;
    // The steps of a normal value include its leading one, which adds 1 to the exponent's field; those of a
    // subnormal do not, and its field stays 0. Rounding up to the next power of two carries the same way.
    let exponent_field = (exponent + bias - 1) as u16;
    sign | ((exponent_field << mantissa_bits) + steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal() {
        // Tabulated values.
        for (p, expected) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.841_344_746_068_542_9, 1.0),
            (0.975, 1.959_963_984_540_054),
            (0.99, 2.326_347_874_040_841),
            (0.999, 3.090_232_306_167_813),
            (0.999_99, 4.264_890_793_922_825),
        ] {
            assert!((normal_quantile(p) - expected).abs() <= 1e-8, "{p}: {}", normal_quantile(p));
            assert!((normal_quantile(1.0 - p) + expected).abs() <= 1e-8, "1 - {p}");
        }
    }

    #[test]
    fn rounding_to_16_bits() {
        let smallest = 2f64.powi(-24);
        for (value, bits) in [
            (0.0, 0),
            (1.0, 0x3C00),
            (-1.0, 0xBC00),
            (0.02, 0x251F),
            (2f64.powi(-14), 0x0400),
            (2f64.powi(-14) - smallest / 4.0, 0x0400),
            (2f64.powi(-14) - smallest, 0x03FF),
            (smallest, 1),
            (smallest / 2.0, 0),
            (-smallest * 1.5, 0x8002),
            (1.0 + 2f64.powi(-11), 0x3C00),
            (1.0 + 3.0 * 2f64.powi(-11), 0x3C02),
            (2.0 - 2f64.powi(-11), 0x4000),
        ] {
            assert_eq!(round_to_half(value, 10, 15), bits, "{value:e}");
        }
        for i in 0..1 << 16 {
            let value = normal_quantile((f64::from(i) + 0.5) / 65536.0) as f32;
            let rounded = (value.to_bits() + 0x7FFF + ((value.to_bits() >> 16) & 1)) >> 16;
            assert_eq!(u32::from(round_to_half(value.into(), 7, 127)), rounded, "{value:e}");
        }
    }
}
