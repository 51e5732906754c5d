//! What checkpoint a size gets: a made-up model of published workload, whole, with fewer layers, or cut to fit.

use anyhow::{Context, Result, bail};

use crate::checkpoint::TensorSpec;
use crate::checkpoint::reader::TensorSource;
use crate::origin::input;
use crate::origin::input::Input;
use crate::origin::synthetic;
use crate::os::cancel::Cancel;
use crate::os::progress::Progress;

/// Models to make up, small to large.
const MODELS: [&str; 4] =
    ["facebook/opt-125m", "facebook/opt-6.7b", "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-70B"];
/// A model of whole layers is taken as it is where it has this share of what was asked for.
const ENOUGH: f64 = 0.9;
/// A cut one is full where less than this share is left: else norms and biases of all other layers would come, too.
const LEFT: f64 = 0.01;

/// The checkpoint for a size.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// As [`synthetic::model`] takes it.
    id: String,
    pub bytes: u64,
    /// Of a cut one, which tensors of the model stay.
    kept: Option<Vec<usize>>,
}

/// The largest shapes of up to `bytes`: a model's share of whole layers where that comes near, else as many tensors of
/// a model as fit. Between the small model and one layer of the next lie 0.6 GB, and each further layer has 0.4.
pub fn of(bytes: u64) -> Result<Workload> {
    let whole = whole_layers()?.into_iter().filter(|workload| workload.bytes <= bytes);
    let Some(whole) = whole.max_by_key(|workload| workload.bytes) else {
        bail!("no checkpoint to measure with is as small as {bytes} bytes");
    };
    if whole.bytes as f64 >= bytes as f64 * ENOUGH {
        return Ok(whole);
    }
    let cuts = MODELS.iter().map(|id| cut(id, bytes)).collect::<Result<Vec<_>>>()?;
    let best = cuts.into_iter().max_by_key(|workload| workload.bytes);
    Ok(best.filter(|cut| cut.bytes > whole.bytes).unwrap_or(whole))
}

/// What the smallest takes, in MiB.
pub fn least_mib() -> Result<u64> {
    Ok(whole_layers()?.iter().map(|workload| workload.bytes.div_ceil(1 << 20)).min().unwrap_or(0))
}

/// Every model, with each share of its layers.
fn whole_layers() -> Result<Vec<Workload>> {
    let mut all = Vec::new();
    for id in MODELS {
        for percent in 1..=100 {
            let model = synthetic::model(&format!("{id}@{}", f64::from(percent) / 100.0))?;
            let bytes = model.tensors.iter().filter_map(TensorSpec::bytes).sum();
            all.push(Workload { id: model.id, bytes, kept: None });
        }
    }
    Ok(all)
}

/// Of a whole model, each tensor that still fits, in its order.
fn cut(id: &str, bytes: u64) -> Result<Workload> {
    let model = synthetic::model(id)?;
    let full = bytes - (bytes as f64 * LEFT) as u64;
    let mut workload = Workload { id: model.id, bytes: 0, kept: None };
    let mut kept = Vec::new();
    for (i, tensor) in model.tensors.iter().enumerate() {
        let fits = |size: &u64| workload.bytes.checked_add(*size).is_some_and(|sum| sum <= bytes);
        if let Some(size) = tensor.bytes().filter(fits) {
            workload.bytes += size;
            kept.push(i);
        }
        if workload.bytes >= full {
            break;
        }
    }
    workload.kept = Some(kept);
    Ok(workload)
}

impl Workload {
    /// The tensors of these shapes, with seeded values. A cut model's name tells its size.
    pub fn input(&self, cancel: &Cancel) -> Result<Input> {
        let mut input =
            input::open(&format!("{}{}", synthetic::PREFIX, self.id), 0, None, cancel, &Progress::silent())?;
        if let Some(kept) = &self.kept {
            let mut i = 0;
            input.tensors.retain(|_| {
                i += 1;
                kept.binary_search(&(i - 1)).is_ok()
            });
            input.source = Box::new(Cut { whole: input.source, kept: kept.clone() });
            input.default_name = format!("{}@{:.3}GB", input.default_name, self.bytes as f64 / 1e9);
            input.made_from = format!("{}, cut to {} bytes", input.made_from, self.bytes);
        }
        Ok(input)
    }
}

/// Some tensors of a model, numbered anew.
struct Cut {
    whole: Box<dyn TensorSource>,
    kept: Vec<usize>,
}

impl TensorSource for Cut {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let of_whole =
            self.kept.get(tensor).with_context(|| format!("the cut model has no tensor {tensor}"))?;
        self.whole.fill(*of_whole, offset, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_from_the_least_on_is_used_to_nine_tenths() {
        let least = least_mib().unwrap() << 20;
        let mut bytes = least;
        while bytes < 130 << 30 {
            let workload = of(bytes).unwrap();
            assert!(workload.bytes <= bytes, "{workload:?} of {bytes}");
            assert!(
                workload.bytes as f64 >= 0.9 * bytes as f64,
                "{} of {bytes}: {}",
                workload.bytes,
                workload.id
            );
            bytes += bytes / 9;
        }
        assert!(of(1 << 20).is_err());
    }

    #[test]
    fn large_sizes_get_whole_layers() {
        for (bytes, starts) in [
            (8 << 30, "facebook/opt-6.7b@"),
            (16_070_000_000, "meta-llama/Meta-Llama-3-8B"),
            (64 << 30, "meta-llama/Meta-Llama-3-70B@"),
        ] {
            let workload = of(bytes).unwrap();
            assert!(workload.id.starts_with(starts) && workload.kept.is_none(), "{workload:?}");
        }
    }

    #[test]
    fn a_cut_model_has_the_values_of_the_whole_one() {
        let workload = of(400_000_000).unwrap();
        let cut = workload.input(&Cancel::default()).unwrap();
        assert_eq!(cut.tensors.iter().map(|tensor| tensor.bytes).sum::<u64>(), workload.bytes);
        assert_eq!(
            cut.default_name,
            format!("synthetic/{}@{:.3}GB", workload.id, workload.bytes as f64 / 1e9)
        );
        let whole = input::open(
            &format!("synthetic:{}", workload.id),
            0,
            None,
            &Cancel::default(),
            &Progress::silent(),
        )
        .unwrap();
        let last = cut.tensors.len() - 1;
        let same = whole.tensors.iter().position(|tensor| tensor.name == cut.tensors[last].name).unwrap();
        assert_ne!(same, last, "the embedding does not fit, and numbers shift");
        let (mut a, mut b) = ([0; 64], [0; 64]);
        cut.source.fill(last, 4096, &mut a).unwrap();
        whole.source.fill(same, 4096, &mut b).unwrap();
        assert_eq!(a, b);
        assert!(cut.source.fill(last + 1, 0, &mut a).is_err());
    }
}
