//! `qualify` and the facts of the links between GPUs, with one GPU and with two.

use serde_json::Value;
use sllm_gds::gpu::link_facts;
use sllm_gds::gpu::peers::{Reach, reach};
use sllm_gds::node::nvml;
use sllm_gds::node::source::Source;

use crate::cli::run;
use crate::rig::{both, scratch, session};

/// What was measured of a kind, by what it is of.
fn measured(report: &Value, kind: &str) -> Vec<(String, f64)> {
    let all = report["measured"].as_array().unwrap().iter().filter(|m| m["kind"] == kind);
    all.map(|m| (m["of"].as_str().unwrap().to_string(), m["gb_per_s"].as_f64().unwrap())).collect()
}

/// Whatever the verdict: a machine for tests is seldom quiet.
fn qualify(gpus: &str) -> (Value, String) {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("nvme")).unwrap();
    let args = ["--path", "nvme", "--gpus", gpus, "--size", "256MB", "--duration", "20s"];
    let ran = run(dir.path(), &[&["qualify"], &args[..]].concat());
    assert!(ran.code().is_some_and(|code| code <= 2), "{ran:?}");
    let text = std::fs::read_to_string(dir.path().join("results/qualify.json")).unwrap();
    (serde_json::from_str(&text).unwrap(), ran.stdout().to_string())
}

#[test]
fn one_gpu_has_no_links_to_others() {
    let Some(_session) = session() else { return };
    let (report, _) = qualify("0");
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    assert_eq!(measured(&report, "gpu-copy").len(), 1);
    for kind in ["peer-copy", "gpu-copy-all", "gpu-copy-shared"] {
        assert!(measured(&report, kind).is_empty(), "{report}");
    }
    assert!(report["gpu_links"].is_null() && report["at_once"].is_null(), "{report}");
}

#[test]
fn two_gpus_have_a_rate_in_each_direction_and_one_at_once() {
    let Some(session) = session() else { return };
    if both(&session).is_none() {
        return;
    }
    let (report, page) = qualify("0,1");
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    let peers = measured(&report, "peer-copy");
    assert_eq!(peers.len(), 2, "{report}");
    let alone: f64 = measured(&report, "gpu-copy").iter().map(|(_, rate)| rate).sum();
    let at_once = &report["at_once"][0];
    assert!((at_once["alone_gb_per_s"].as_f64().unwrap() - alone).abs() < 1e-6, "{at_once}");
    assert_eq!(at_once["together_gb_per_s"].as_f64().unwrap(), measured(&report, "gpu-copy-all")[0].1);
    assert!(page.contains("all GPUs at once: ") && page.contains("GPU to GPU (GPU 0 to GPU 1)"), "{page}");
    let pairs = report["gpu_links"]["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 2);
    for (pair, (of, rate)) in pairs.iter().zip(&peers) {
        let by_nvlink = pair["nvlinks"].as_u64().is_some_and(|links| links > 0);
        // Several NVLinks are faster than any link to the host.
        assert!(*rate > 1.0 && (!by_nvlink || *rate > alone / 2.0), "{of}: {rate} of {pair}");
    }
}

/// The facts of the machine agree with what the loader asks of two opened GPUs.
#[test]
fn facts_of_links_agree_with_the_drivers_answers() {
    let Some(session) = session() else { return };
    let source = Source::live(false);
    let facts = nvml::gpus(&source).unwrap();
    let links = link_facts::links(&source, &facts);
    assert_eq!(links.gpus.len(), facts.len());
    let Some([first, second]) = both(&session) else { return };
    let index = |uuid: &str| facts.iter().find(|gpu| gpu.uuid == uuid).unwrap().index;
    for (from, to) in [(&first, &second), (&second, &first)] {
        let pair = links.pair(index(&from.uuid), index(&to.uuid)).unwrap();
        let reach = reach(from, to).unwrap();
        assert_eq!(pair.peer_access, Some(reach != Reach::None), "{pair:?}");
        assert_eq!(pair.is_by_nvlink(), reach == Reach::NvLink, "{pair:?}");
    }
}
