//! Modules of a model, and cuts between them: one GPU gets whole layers.

use anyhow::{Result, bail};

/// The module of a tensor: everything up to its first number (`model.layers.3`), or, where there is
/// none, everything before its last dot (`model.norm`).
pub fn module_of(name: &str) -> &str {
    let mut end = 0usize;
    for part in name.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return &name[..end];
        }
        end += 1;
    }
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

/// An order in which modules stay whole and layers count up (`layers.2` before `layers.10`), and which
/// else keeps the order given. Returns indices into `names`.
pub fn order(names: &[&str]) -> Vec<usize> {
    let mut first_of_stem: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    let keys: Vec<(usize, u64)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let module = module_of(name);
            let (stem, number) = match module.rsplit_once('.') {
                Some((stem, number)) if number.bytes().all(|b| b.is_ascii_digit()) => (stem, number),
                _ => (module, ""),
            };
            let first = *first_of_stem.entry(stem).or_insert(i);
            (first, number.parse().unwrap_or(0))
        })
        .collect();
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|i| keys[*i]);
    order
}

/// Cuts a sequence of tensors (module, bytes) into `groups` runs of nearly equal bytes, at module
/// boundaries: the largest run is as small as it can be. Returns where each run ends.
pub fn cut(tensors: &[(&str, u64)], groups: usize) -> Result<Vec<usize>> {
    // Runs of one module: where each ends, and its bytes.
    let mut runs: Vec<(usize, u64)> = Vec::new();
    for (i, (module, bytes)) in tensors.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if tensors[i - 1].0 == *module => *run = (i + 1, run.1 + bytes),
            _ => runs.push((i + 1, *bytes)),
        }
    }
    if runs.len() < groups {
        bail!(
            "{groups} groups were asked for, and this checkpoint has {} modules to share out: ask for at most that many",
            runs.len()
        );
    }
    let (mut low, mut high) =
        (runs.iter().map(|r| r.1).max().unwrap_or(0), runs.iter().map(|r| r.1).sum::<u64>());
    while low < high {
        let middle = low + (high - low) / 2;
        if fill(&runs, middle, groups).len() <= groups { high = middle } else { low = middle + 1 }
    }
    Ok(fill(&runs, low, groups))
}

/// Fills groups up to `limit` bytes each, leaving at least one run for every group that follows.
fn fill(runs: &[(usize, u64)], limit: u64, groups: usize) -> Vec<usize> {
    let mut ends: Vec<usize> = Vec::new();
    let mut bytes = 0u64;
    for (i, (_, run_bytes)) in runs.iter().enumerate() {
        let full = bytes + run_bytes > limit;
        let needed = runs.len() - i <= groups.saturating_sub(ends.len() + 1);
        if i > 0 && (full || needed) {
            ends.push(runs[i - 1].0);
            bytes = 0;
        }
        bytes += run_bytes;
    }
    ends.extend(runs.last().map(|run| run.0));
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modules() {
        assert_eq!(module_of("model.layers.12.mlp.experts.3.w1.weight"), "model.layers.12");
        assert_eq!(module_of("model.norm.weight"), "model.norm");
        assert_eq!(module_of("flag"), "flag");
        assert_eq!(module_of("h.0"), "h.0");
        assert_eq!(module_of(""), "");
        assert_eq!(module_of("..3."), "..3");
    }

    #[test]
    fn layers_count_up_and_modules_stay_whole() {
        let names = [
            "lm_head.weight",
            "m.layers.0.a",
            "m.layers.10.a",
            "m.layers.2.a",
            "m.norm.weight",
            "m.layers.0.b",
        ];
        let sorted: Vec<&str> = order(&names).into_iter().map(|i| names[i]).collect();
        assert_eq!(
            sorted,
            [
                "lm_head.weight",
                "m.layers.0.a",
                "m.layers.0.b",
                "m.layers.2.a",
                "m.layers.10.a",
                "m.norm.weight"
            ]
        );
    }

    proptest! {
        #[test]
        fn cuts_are_whole_and_even(sizes in prop::collection::vec(0u64..1000, 1..40), groups in 1usize..9) {
            let names: Vec<String> = (0..sizes.len()).map(|i| format!("l.{}", i / 2)).collect();
            let tensors: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(sizes.iter().copied()).collect();
            let modules = sizes.len().div_ceil(2);
            let ends = match cut(&tensors, groups) {
                Ok(ends) => ends,
                Err(_) => { prop_assert!(modules < groups); return Ok(()); }
            };
            prop_assert_eq!(ends.len(), groups);
            prop_assert_eq!(*ends.last().unwrap(), sizes.len());
            prop_assert!(ends.windows(2).all(|w| w[0] < w[1]), "no group is empty");
            for end in &ends[..groups - 1] {
                prop_assert_ne!(tensors[*end - 1].0, tensors[*end].0);
            }
            let mut start = 0;
            let mut largest = 0;
            for end in &ends { largest = largest.max(sizes[start..*end].iter().sum::<u64>()); start = *end; }
            let total: u64 = sizes.iter().sum();
            let widest = sizes.chunks(2).map(|c| c.iter().sum::<u64>()).max().unwrap();
            prop_assert!(largest <= total / groups as u64 + widest + 1);
        }
    }
}
