//! The balloon: the device by which the host of a virtual machine takes memory back.

use serde::Serialize;

use crate::node::source::{Source, Unread};

pub const DEVICES: &str = "/sys/bus/virtio/devices";
pub const ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";

/// `VIRTIO_ID_BALLOON` of `linux/virtio_ids.h`.
const BALLOON: u64 = 5;
/// `VIRTIO_BALLOON_F_REPORTING` of `linux/virtio_balloon.h`: the number of its bit.
const FREE_PAGE_REPORTING: usize = 5;

/// A virtio balloon, as its driver and the host agreed on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balloon {
    /// The kernel tells the host which memory lies free, and the host takes that back within seconds: the next touch of it
    /// waits until the host has brought it in anew.
    pub free_page_reporting: bool,
    /// Blocks of two to the power of this many pages, and larger ones, are told of; absent where the kernel does not say, or
    /// nothing is told.
    pub page_reporting_order: Option<u64>,
}

/// `None` where there is no such device. Of several the one that reports counts.
pub fn balloon(source: &Source) -> Result<Option<Balloon>, Unread> {
    let names = match source.list(DEVICES) {
        Err(Unread::Missing) => return Ok(None),
        listed => listed?,
    };
    let mut found = None;
    for name in names {
        let at = |file: &str| format!("{DEVICES}/{name}/{file}");
        if source.number(&at("device"))? != BALLOON {
            continue;
        }
        // One character a bit, the lowest first; a device without a driver has none set.
        let free_page_reporting =
            source.text(&at("features"))?.as_bytes().get(FREE_PAGE_REPORTING) == Some(&b'1');
        let page_reporting_order = free_page_reporting.then(|| source.number(ORDER).ok()).flatten();
        if free_page_reporting || found.is_none() {
            found = Some(Balloon { free_page_reporting, page_reporting_order });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    fn device(number: u32, id: &str, features: &str) -> String {
        format!(
            "=== /sys/devices/pci0/virtio{number}/device\n{id}\n=== /sys/devices/pci0/virtio{number}/features\n{features}\n\
             -> {DEVICES}/virtio{number} ../../../devices/pci0/virtio{number}\n"
        )
    }

    #[test]
    fn a_balloon_is_told_by_its_number_and_reporting_by_its_bit() {
        let order = format!("=== {ORDER}\n9\n");
        let of = |text: String| balloon(&tree_of(&text).source).unwrap();
        assert_eq!(of("+++ /sys\n".into()), None);
        let disk = device(1, "0x0002", "0000010000");
        assert_eq!(of(disk.clone()), None);
        let quiet = device(0, "0x0005", "0110000000");
        let none = Balloon { free_page_reporting: false, page_reporting_order: None };
        assert_eq!(of(format!("{quiet}{disk}{order}")), Some(none));
        let reporting = device(2, "0x0005", "0110010000");
        let reports =
            |page_reporting_order| Some(Balloon { free_page_reporting: true, page_reporting_order });
        assert_eq!(of(format!("{quiet}{reporting}{order}")), reports(Some(9)));
        assert_eq!(of(reporting), reports(None));
        let number = device(0, "balloon", "");
        assert!(balloon(&tree_of(&number).source).is_err());
    }
}
