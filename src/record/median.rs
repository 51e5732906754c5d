//! The median.

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    median_of(&mut values.to_vec())
}

/// As [`median`], without a copy: the values come out in another order.
pub fn median_of(values: &mut [f64]) -> Option<f64> {
    let (count, half) = (values.len(), values.len() / 2);
    if count == 0 {
        return None;
    }
    let (below, at, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let high = *at;
    if !count.is_multiple_of(2) {
        return Some(high);
    }
    let low = below.iter().copied().max_by(f64::total_cmp)?;
    Some(low + (high - low) / 2.0)
}
