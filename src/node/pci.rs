//! Places in the PCIe tree, and the links between them, as sysfs shows them.

use serde::Serialize;

use crate::node::source::Source;

/// The way from a host bridge down to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host bridge's sysfs path: `/sys/devices/pci0000:15`.
    pub host: String,
    /// PCI addresses, root port first, the device last.
    pub functions: Vec<String>,
}

impl Place {
    /// Reads a place from a canonical sysfs path; what lies below the device (`nvme/nvme0/nvme0n1`) is passed over.
    /// `None` where the path names no PCI device.
    pub fn of_path(path: &str) -> Option<Place> {
        let parts: Vec<&str> = path.split('/').collect();
        // The last host bridge: a VMD controller holds a second one below the first.
        let host = parts.iter().rposition(|part| is_host_bridge(part))?;
        let functions: Vec<String> = parts[host + 1..]
            .iter()
            .take_while(|part| is_address(part))
            .map(|part| part.to_string())
            .collect();
        (!functions.is_empty()).then(|| Place { host: parts[..=host].join("/"), functions })
    }

    /// The place of the device with this address.
    pub fn of_address(source: &Source, address: &str) -> Option<Place> {
        Place::of_path(&source.canonical(&device_path(address)).ok()?)
    }

    /// The device's own address.
    pub fn address(&self) -> &str {
        self.functions.last().map_or("", String::as_str)
    }

    /// The bridges that this place and another share, root port first.
    pub fn shared<'a>(&'a self, other: &Place) -> &'a [String] {
        if self.host != other.host {
            return &[];
        }
        let shared = self.functions.iter().zip(&other.functions).take_while(|(a, b)| a == b).count();
        &self.functions[..shared]
    }

    /// The links on the way, the device's own first. Functions stand in pairs: root port and device, or root port and
    /// a switch's upper port, its lower port and the device; inside a switch there is no link.
    pub fn links(&self, source: &Source) -> Vec<Link> {
        let ends = |pair: &[String]| match pair {
            [upper, lower] => Some(Link::read(source, upper, lower)),
            _ => None,
        };
        self.functions.rchunks(2).filter_map(ends).collect()
    }
}

/// One PCIe link: what it runs at and what its ends can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub upper: String,
    pub lower: String,
    pub now: Rate,
    pub upper_max: Rate,
    pub lower_max: Rate,
}

/// Generation and width; `None` where it is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    pub generation: Option<u32>,
    pub width: Option<u32>,
}

impl Rate {
    /// Of two ends, what both can do.
    pub fn least(self, other: Rate) -> Rate {
        let least = |a: Option<u32>, b: Option<u32>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Rate { generation: least(self.generation, other.generation), width: least(self.width, other.width) }
    }

    /// Whether the generation is known to be below another's.
    pub fn slower_than(self, other: Rate) -> bool {
        matches!((self.generation, other.generation), (Some(a), Some(b)) if a < b)
    }

    /// Whether the width is known to be below another's.
    pub fn narrower_than(self, other: Rate) -> bool {
        matches!((self.width, other.width), (Some(a), Some(b)) if a < b)
    }

    pub fn is_known(self) -> bool {
        self.generation.is_some() && self.width.is_some()
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.generation {
            Some(generation) => write!(f, "gen {generation} ")?,
            None => f.write_str("gen ? ")?,
        }
        match self.width {
            Some(width) => write!(f, "x{width}"),
            None => f.write_str("x?"),
        }
    }
}

impl Link {
    fn read(source: &Source, upper: &str, lower: &str) -> Link {
        Link {
            upper: upper.to_string(),
            lower: lower.to_string(),
            now: rate(source, lower, "current"),
            upper_max: rate(source, upper, "max"),
            lower_max: rate(source, lower, "max"),
        }
    }

    pub fn possible(&self) -> Rate {
        self.upper_max.least(self.lower_max)
    }
}

/// The node that a PCI device belongs to; `None` where the firmware does not say (-1).
pub fn numa_node(source: &Source, address: &str) -> Option<u32> {
    source.text(&format!("{}/numa_node", device_path(address))).ok()?.parse().ok()
}

pub fn device_path(address: &str) -> String {
    format!("/sys/bus/pci/devices/{address}")
}

fn rate(source: &Source, address: &str, which: &str) -> Rate {
    let text = |what: &str| source.text(&format!("{}/{which}_link_{what}", device_path(address))).ok();
    Rate {
        generation: text("speed").as_deref().and_then(generation),
        // 0 and 255 stand for a link that is down or not told.
        width: text("width").and_then(|t| t.parse().ok()).filter(|width| (1..=32).contains(width)),
    }
}

/// `16.0 GT/s PCIe` to 4.
fn generation(speed: &str) -> Option<u32> {
    match speed.split([' ', '.']).next()? {
        "2" => Some(1),
        "5" => Some(2),
        "8" => Some(3),
        "16" => Some(4),
        "32" => Some(5),
        "64" => Some(6),
        "128" => Some(7),
        _ => None,
    }
}

/// `pci0000:15`
fn is_host_bridge(part: &str) -> bool {
    let Some((domain, bus)) = part.strip_prefix("pci").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    domain.len() >= 4 && bus.len() == 2 && is_hex(domain) && is_hex(bus)
}

/// `0000:17:00.0`; domains may be longer than four digits.
pub fn is_address(part: &str) -> bool {
    let mut fields = part.split(':');
    let (Some(domain), Some(bus), Some(slot), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    let Some((device, function)) = slot.split_once('.') else { return false };
    domain.len() >= 4
        && [(bus, 2), (device, 2), (function, 1)].iter().all(|(text, n)| text.len() == *n && is_hex(text))
        && is_hex(domain)
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_paths() {
        let place = Place::of_path(
            "/sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:16:01.0/0000:18:00.0/nvme/nvme0/nvme0n1",
        )
        .unwrap();
        assert_eq!(place.host, "/sys/devices/pci0000:15");
        assert_eq!(place.functions, ["0000:15:01.0", "0000:16:00.0", "0000:16:01.0", "0000:18:00.0"]);
        assert_eq!(place.address(), "0000:18:00.0");
        let vmd = "/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0";
        assert_eq!(Place::of_path(vmd).unwrap().functions, ["10000:e0:06.0", "10000:e1:00.0"]);
        assert_eq!(Place::of_path("/sys/devices/virtual/block/zram0"), None);
        assert_eq!(Place::of_path("/sys/devices/pci0000:00"), None);
    }

    #[test]
    fn speeds() {
        assert_eq!(generation("2.5 GT/s PCIe"), Some(1));
        assert_eq!(generation("5.0 GT/s PCIe"), Some(2));
        assert_eq!(generation("8 GT/s"), Some(3));
        assert_eq!(generation("32.0 GT/s PCIe"), Some(5));
        assert_eq!(generation("Unknown"), None);
    }
}
