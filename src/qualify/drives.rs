//! Which drives served the reads: `/sys/class/block/*/stat` before and after.

use serde::Serialize;

use crate::node::block::Drive;
use crate::node::nvme::controller_of;
use crate::node::pci::Link;
use crate::node::source::Source;
use crate::node::virtualization::is_virtual;

/// The kernel counts in sectors of this size, whatever the drive's own.
const SECTOR_BYTES: u64 = 512;

/// A drive's links, its own first, or why they are not told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DriveWay {
    pub drive: String,
    pub links: Result<Vec<Link>, String>,
}

/// The way of each drive, as it runs now.
pub fn ways(source: &Source, drives: &[Drive]) -> Vec<DriveWay> {
    let way = |drive: &Drive| DriveWay { drive: drive.name.clone(), links: links(source, drive) };
    drives.iter().map(way).collect()
}

/// The links of one drive; never empty, and each end's rate is known.
pub fn links(source: &Source, drive: &Drive) -> Result<Vec<Link>, String> {
    let name = &drive.name;
    let Some((_, place)) = controller_of(source, drive) else {
        return Err(format!("{name} is no NVMe drive on PCIe: it has no link of its own"));
    };
    if is_virtual(source) {
        return Err(format!("the links of {name} are a virtual machine's: made up"));
    }
    let links = place.links(source);
    let is_known = |link: &Link| link.now.is_known() && link.possible().is_known();
    match !links.is_empty() && links.iter().all(is_known) {
        true => Ok(links),
        false => Err(format!("the kernel does not tell the links of {name}")),
    }
}

/// What one drive read while something was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Served {
    pub drive: String,
    pub bytes: u64,
    /// Of what all drives read.
    pub share: f64,
}

/// Bytes that each drive has read since boot; `None` where the kernel does not tell.
pub fn read_bytes(source: &Source, drives: &[Drive]) -> Vec<Option<u64>> {
    drives.iter().map(|drive| sectors_read(source, &drive.name)?.checked_mul(SECTOR_BYTES)).collect()
}

/// The third field of the device's `stat`.
fn sectors_read(source: &Source, name: &str) -> Option<u64> {
    let stat = source.text(&format!("/sys/class/block/{name}/stat")).ok()?;
    stat.split_whitespace().nth(2)?.parse().ok()
}

/// What each drive read between two moments. Empty where it is not told of every drive, or nothing was read.
pub fn served(drives: &[Drive], before: &[Option<u64>], after: &[Option<u64>]) -> Vec<Served> {
    let grown = |(before, after): (&Option<u64>, &Option<u64>)| Some((*after)?.saturating_sub((*before)?));
    let Some(bytes) = before.iter().zip(after).map(grown).collect::<Option<Vec<u64>>>() else {
        return Vec::new();
    };
    let total: u64 = bytes.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let served = |(drive, bytes): (&Drive, &u64)| Served {
        drive: drive.name.clone(),
        bytes: *bytes,
        share: *bytes as f64 / total as f64,
    };
    drives.iter().zip(&bytes).map(served).collect()
}

/// The least share of an even spread that any drive had: 1 when all served alike, 0 when one stood still.
pub fn balance(served: &[Served]) -> Option<f64> {
    let least = served.iter().map(|s| s.share).min_by(f64::total_cmp)?;
    Some(least * served.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    fn drives() -> Vec<Drive> {
        ["nvme0n1", "nvme1n1"].map(|name| Drive { name: name.into(), device: String::new() }).to_vec()
    }

    #[test]
    fn what_grew_is_shared_out() {
        let tree = tree_of(
            "=== /sys/class/block/nvme0n1/stat\n    10 0 2048 5 0 0 0 0 0 0 0\n\
             === /sys/class/block/nvme1n1/stat\n1 0 8 5 0 0 0 0 0 0 0\n",
        );
        let now = read_bytes(&tree.source, &drives());
        assert_eq!(now, [Some(1 << 20), Some(4096)]);
        let shares = served(&drives(), &[Some(0), Some(4096)], &now);
        assert_eq!((shares[0].bytes, shares[0].share, shares[1].share), (1 << 20, 1.0, 0.0));
        assert_eq!(balance(&shares), Some(0.0));
        let even = served(&drives(), &[Some(0), Some(0)], &[Some(7), Some(7)]);
        assert_eq!(balance(&even), Some(1.0));
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        let none = tree_of("+++ /sys\n");
        assert_eq!(read_bytes(&none.source, &drives()), [None, None]);
        assert!(served(&drives(), &[None, Some(1)], &[None, Some(2)]).is_empty());
        assert!(served(&drives(), &[Some(1), Some(1)], &[Some(1), Some(1)]).is_empty(), "nothing was read");
        assert_eq!(balance(&[]), None);
    }
}
