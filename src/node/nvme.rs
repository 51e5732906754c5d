//! NVMe controllers: which there are, where they stand on PCIe, and what the kernel shows of them.

use crate::node::block::Drive;
use crate::node::pci::Place;
use crate::node::source::{Source, Unread};

pub fn class_path(controller: &str) -> String {
    format!("/sys/class/nvme/{controller}")
}

/// The NVMe controllers on PCIe, by name (`nvme0`), with their places.
pub fn controllers(source: &Source) -> Vec<(String, Place)> {
    let names = source.list("/sys/class/nvme").unwrap_or_default();
    let place = |name: String| {
        let path = source.canonical(&format!("/sys/class/nvme/{name}")).ok()?;
        Some((name, Place::of_path(&path)?))
    };
    names.into_iter().filter_map(place).collect()
}

/// The controller of a drive (`nvme0`) and its place. With NVMe multipath the drive stands below a subsystem, and
/// its controllers are links there: the first is taken.
pub fn controller_of(source: &Source, drive: &Drive) -> Option<(String, Place)> {
    if let Some(place) = Place::of_path(&drive.device) {
        let controller = drive.device.split('/').find(|part| is_controller(part))?;
        return Some((controller.to_string(), place));
    }
    let subsystem = match drive.device.rsplit_once('/') {
        Some((parent, name)) if is_namespace(name) => parent,
        _ => drive.device.as_str(),
    };
    let controller = source.list(subsystem).ok()?.into_iter().find(|name| is_controller(name))?;
    let place = Place::of_path(&source.canonical(&format!("{subsystem}/{controller}")).ok()?)?;
    Some((controller, place))
}

/// `nvme12`
fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `nvme12n1`
fn is_namespace(name: &str) -> bool {
    name.rsplit_once('n').is_some_and(|(controller, n)| {
        is_controller(controller) && !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Degrees Celsius now, and at which the drive warns. The kernel shows them without any right.
pub fn temperature_c(source: &Source, controller: &str) -> Result<(i64, Option<i64>), Unread> {
    let path = class_path(controller);
    // Old kernels hang the sensor on the PCI device.
    let sensor_in = |place: String| {
        let names = source.list(&place).ok()?;
        let is_sensor = |name: &&String| name.strip_prefix("hwmon").is_some_and(|n| !n.is_empty());
        names.iter().find(is_sensor).map(|name| format!("{place}/{name}"))
    };
    let sensor = sensor_in(path.clone())
        .or_else(|| sensor_in(format!("{path}/device/hwmon")))
        .ok_or(Unread::Missing)?;
    let milli = |name: &str| -> Result<i64, Unread> {
        let text = source.text(&format!("{sensor}/{name}"))?;
        text.parse::<i64>().map(|n| n / 1000).map_err(|_| Unread::Other(format!("{name} holds '{text}'")))
    };
    Ok((milli("temp1_input")?, milli("temp1_max").ok()))
}

/// Whether the kernel still has a drive and its controller. A controller that it gave up stays a while, as `dead`; what
/// can't be told counts as there.
pub fn is_there(source: &Source, drive: &Drive, controller: &str) -> bool {
    let class = class_path(controller);
    let is_given_up = |state: String| state == "dead" || state.starts_with("deleting");
    [&drive.device, &class].iter().all(|path| source.is_there(path) != Ok(false))
        && !source.text(&format!("{class}/state")).is_ok_and(is_given_up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    #[test]
    fn a_multipath_drive_is_found_through_its_subsystem() {
        let tree = tree_of(
            "+++ /sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1\n\
             -> /sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme3 ../../../pci0000:00/0000:00:06.0/0000:01:00.0/nvme/nvme3\n\
             +++ /sys/devices/pci0000:00/0000:00:06.0/0000:01:00.0/nvme/nvme3\n",
        );
        let device = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0";
        for device in [device.to_string(), format!("{device}/nvme0n1")] {
            let drive = Drive { name: "nvme0n1".into(), device };
            let (controller, place) = controller_of(&tree.source, &drive).unwrap();
            assert_eq!((controller.as_str(), place.address()), ("nvme3", "0000:01:00.0"));
        }
    }

    #[test]
    fn both_places_of_the_sensor() {
        let old = tree_of("=== /sys/class/nvme/nvme0/device/hwmon/hwmon3/temp1_input\n38850\n");
        assert_eq!(temperature_c(&old.source, "nvme0"), Ok((38, None)));
        let new = tree_of(
            "=== /sys/class/nvme/nvme0/hwmon1/temp1_input\n-4000\n=== /sys/class/nvme/nvme0/hwmon1/temp1_max\n84850\n",
        );
        assert_eq!(temperature_c(&new.source, "nvme0"), Ok((-4, Some(84))));
        assert_eq!(temperature_c(&new.source, "nvme1"), Err(Unread::Missing));
    }
}
