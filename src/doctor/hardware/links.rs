//! PCIe links, judged.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::node::pci::{Link, device_path};

/// A link judged. `rests` says that its device may save power by a lower generation while nothing moves.
pub fn link_check(id: CheckId, subject: &str, link: &Link, rests: bool, virtual_machine: bool) -> Check {
    let possible = link.possible();
    let value = format!("{} to {}: {} of {possible}", link.upper, link.lower, link.now);
    let at = format!("{}/current_link_{{speed,width}}, max_link_* of both ends", device_path(&link.lower));
    let check = |status| Check::new(id, subject, status, &value, &at);
    if !link.now.is_known() || !possible.is_known() {
        return check(Status::Unknown).why("the kernel does not tell this link's rate");
    }
    let slower = link.now.slower_than(possible);
    let narrower = link.now.narrower_than(possible);
    match (slower, narrower) {
        (false, false) if virtual_machine => check(Status::Pass),
        (false, false) => with_slot_limit(check(Status::Pass), link),
        _ if virtual_machine => check(Status::Unknown)
            .why("a virtual machine's bridges are made up; only the host can tell")
            .remedy("run doctor on the host"),
        (true, false) if rests => check(Status::Unknown).why("it may rest at a lower generation to save power"),
        _ => check(Status::Warn)
            .why(match narrower {
                true => "lanes are lost: this link is narrower than both its ends",
                false => "this link is slower than both its ends",
            })
            .remedy("reseat the card, riser or cable; look at `dmesg` for AER errors and at the slot's firmware setting"),
    }
}

/// A link as good as its ends allow may still hold a better device back.
fn with_slot_limit(check: Check, link: &Link) -> Check {
    if !link.upper_max.slower_than(link.lower_max) && !link.upper_max.narrower_than(link.lower_max) {
        return check;
    }
    let why = format!("the slot above gives {}, the device could do {}", link.upper_max, link.lower_max);
    Check { status: Status::Warn, ..check }
        .why(why)
        .remedy("move it to a slot that matches, or raise the slot's setting in the firmware")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pci::Rate;

    fn rate_of(generation: u32, width: u32) -> Rate {
        Rate { generation: Some(generation), width: Some(width) }
    }

    fn link(now: Rate, upper_max: Rate, lower_max: Rate) -> Link {
        Link { upper: "0000:00:01.0".into(), lower: "0000:01:00.0".into(), now, upper_max, lower_max }
    }

    #[test]
    fn links_are_judged_by_what_both_ends_can_do() {
        let (slow, good, wide) = (rate_of(1, 16), rate_of(4, 8), rate_of(4, 16));
        let judge = |link: &Link, rests, vm| link_check(CheckId::DriveLink, "y", link, rests, vm).status;
        assert_eq!(judge(&link(wide, wide, wide), false, false), Status::Pass);
        assert_eq!(judge(&link(good, wide, wide), true, false), Status::Warn, "lanes lost, even at rest");
        assert_eq!(judge(&link(slow, wide, wide), false, false), Status::Warn);
        assert_eq!(judge(&link(slow, wide, wide), true, false), Status::Unknown, "it may rest");
        assert_eq!(judge(&link(slow, wide, wide), false, true), Status::Unknown, "a made-up bridge");
        assert_eq!(judge(&link(good, good, wide), false, false), Status::Warn, "the slot holds it back");
        assert_eq!(
            judge(&link(good, wide, good), false, false),
            Status::Pass,
            "the device is the lesser end"
        );
        let short = link(rate_of(4, 8), rate_of(5, 8), wide);
        assert_eq!(judge(&short, false, false), Status::Warn, "a newer slot may still be narrower");
        assert_eq!(
            judge(&link(good, good, wide), false, true),
            Status::Pass,
            "a made-up slot holds nothing back"
        );
        let unknown = Rate { generation: None, width: None };
        assert_eq!(judge(&link(unknown, wide, wide), false, false), Status::Unknown);
    }
}
