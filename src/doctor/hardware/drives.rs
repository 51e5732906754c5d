//! What NVMe drives tell of themselves, judged.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::hardware::links::link_check;
use crate::node::block::Drive;
use crate::node::nvme::{class_path, controller_of, temperature_c};
use crate::node::pci;
use crate::node::pci::Place;
use crate::node::smart;
use crate::node::source::Source;
use crate::node::virtualization;

pub fn checks(source: &Source, drive: &Drive) -> Vec<Check> {
    let Some((controller, place)) = controller_of(source, drive) else {
        return vec![
            Check::new(CheckId::DriveLink, &drive.name, Status::Unknown, "no place on PCIe", &drive.device).why(
                "not an NVMe drive on PCIe: SATA, virtual and remote devices have no PCIe link of their own",
            ),
        ];
    };
    let mut checks = links(source, drive, &place);
    checks.extend([
        model(source, drive, &controller),
        temperature(source, drive, &controller),
        smart(source, drive, &controller),
    ]);
    checks
}

fn links(source: &Source, drive: &Drive, place: &Place) -> Vec<Check> {
    let vm = virtualization::is_virtual(source);
    let links = place.links(source);
    if links.is_empty() {
        let at = pci::device_path(place.address());
        let check = Check::new(CheckId::DriveLink, &drive.name, Status::Unknown, "no bridge above", at);
        return vec![
            check.why("a device of the root complex itself, as virtual machines have them: no link to judge"),
        ];
    }
    let id = |n: usize| if n == 0 { CheckId::DriveLink } else { CheckId::DrivePath };
    links.iter().enumerate().map(|(n, link)| link_check(id(n), &drive.name, link, false, vm)).collect()
}

fn model(source: &Source, drive: &Drive, controller: &str) -> Check {
    let path = class_path(controller);
    let at = format!("{path}/{{model,firmware_rev,state}}");
    let text = |name: &str| source.text(&format!("{path}/{name}"));
    let check = |status, value: String| Check::new(CheckId::DriveModel, &drive.name, status, value, &at);
    let model = match text("model") {
        Ok(model) => model,
        Err(why) => return check(Status::Unknown, why.to_string()),
    };
    let value = format!("{model}, firmware {}", text("firmware_rev").unwrap_or("?".into()));
    match text("state").as_deref() {
        Ok("live") | Err(_) => check(Status::Pass, value),
        Ok(state) => check(Status::Fail, format!("{value}, {state}"))
            .why("the controller does not serve requests")
            .remedy("look at `dmesg`; nvme reset brings some back"),
    }
}

fn temperature(source: &Source, drive: &Drive, controller: &str) -> Check {
    let at = format!("{}/hwmon*/temp1_{{input,max}}", class_path(controller));
    let check =
        |status, value: String| Check::new(CheckId::DriveTemperature, &drive.name, status, value, &at);
    match temperature_c(source, controller) {
        Err(why) => check(Status::Unknown, why.to_string()).why("the kernel shows no sensor of this drive"),
        Ok((now, Some(max))) if now >= max => check(Status::Warn, format!("{now} °C of {max} °C"))
            .why("the drive slows down to cool")
            .remedy("look at its airflow and heat sink"),
        Ok((now, Some(max))) => check(Status::Pass, format!("{now} °C of {max} °C")),
        Ok((now, None)) => check(Status::Pass, format!("{now} °C")),
    }
}

fn smart(source: &Source, drive: &Drive, controller: &str) -> Check {
    let at = format!("SMART log of /dev/{controller}");
    let check = |status, value: String| Check::new(CheckId::DriveSmart, &drive.name, status, value, &at);
    let facts = match smart::read(source, controller) {
        Ok(facts) => facts,
        Err(why) => {
            return check(Status::Unknown, why.to_string())
                .remedy(format!("run as root (CAP_SYS_ADMIN, and /dev/{controller} in a container)"));
        }
    };
    let value = format!(
        "{} % of its life used, {} % spare, {} media errors",
        facts.percentage_used, facts.available_spare, facts.media_errors
    );
    let warnings = facts.warnings();
    if facts.critical_warning != 0 {
        let words = if warnings.is_empty() { "an unknown warning".to_string() } else { warnings.join("; ") };
        return check(Status::Fail, format!("{words}; {value}"))
            .why("the drive itself warns")
            .remedy("copy what matters off it and replace it");
    }
    match (facts.media_errors, facts.percentage_used) {
        (1.., _) => check(Status::Warn, value).why("it lost data that its own codes could not mend"),
        (_, 100..) => check(Status::Warn, value).why("it is past the writes that its maker rates it for"),
        _ => check(Status::Pass, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{nvme_drives, tree, tree_of, tree_with};

    fn status(checks: &[Check], id: &str) -> Status {
        checks.iter().find(|check| check.id.name() == id).unwrap().status
    }

    #[test]
    fn good_drives_pass_throughout() {
        let tree = tree("bare-metal-gds");
        let drives = nvme_drives(&tree.source);
        assert_eq!(drives.len(), 4);
        for drive in &drives {
            let checks = checks(&tree.source, drive);
            assert!(checks.iter().all(|check| check.status == Status::Pass), "{checks:#?}");
            assert_eq!(
                checks.iter().filter(|check| check.id.name() == "drive.path").count(),
                1,
                "the switch's way up"
            );
        }
    }

    #[test]
    fn lost_lanes_show_and_smart_wants_a_right() {
        let tree = tree("raid0-no-p2pdma");
        let drives = nvme_drives(&tree.source);
        let narrow: Vec<&Drive> = drives
            .iter()
            .filter(|d| status(&checks(&tree.source, d), "drive.link") == Status::Warn)
            .collect();
        assert_eq!(narrow.len(), 1);
        let checks = checks(&tree.source, narrow[0]);
        assert!(checks[0].value.contains("x2 of gen 4 x4"), "{}", checks[0].value);
        let smart = checks.iter().find(|check| check.id.name() == "drive.smart").unwrap();
        assert_eq!(smart.status, Status::Unknown);
        assert!(smart.remedy.as_ref().unwrap().contains("root"));
    }

    #[test]
    fn warnings_of_the_drive_itself_are_failures() {
        let mut facts = serde_json::json!({
            "critical_warning": 4, "temperature_k": 310, "available_spare": 90, "available_spare_threshold": 10,
            "percentage_used": 5, "data_units_read": 1, "media_errors": 0, "error_log_entries": 0,
            "warning_temperature_min": 0, "critical_temperature_min": 0, "thermal_light_count": 0,
            "thermal_heavy_count": 0, "thermal_light_s": 0, "thermal_heavy_s": 0
        });
        let smart_of = |facts: &serde_json::Value| {
            let tree = tree_with("p2pdma", &format!("=== /sllm-gds/smart-nvme0.json\n{facts}\n"));
            let drive = nvme_drives(&tree.source).remove(0);
            smart(&tree.source, &drive, "nvme0").status
        };
        assert_eq!(smart_of(&facts), Status::Fail);
        facts["critical_warning"] = 0.into();
        assert_eq!(smart_of(&facts), Status::Pass);
        facts["media_errors"] = 2.into();
        assert_eq!(smart_of(&facts), Status::Warn);
    }

    #[test]
    fn what_is_not_on_pcie_says_so() {
        let tree = tree_of("+++ /sys/devices/virtual/block/zram0\n");
        let drive = Drive { name: "zram0".into(), device: "/sys/devices/virtual/block/zram0".into() };
        let checks = checks(&tree.source, &drive);
        assert_eq!((checks.len(), checks[0].status), (1, Status::Unknown));
    }
}
