//! `summary.txt` and `summary.json`, laid out as ServerlessLLM's own suite lays them out, so that what reads
//! those reads ours. Its layout has one model and one mode; several follow one another in the text, and make
//! the JSON an array. Formats that it does not know stand beside its two. The text of a large fleet has no block for
//! each host, but one over all of them; the JSON has each host. Its speedup is the ratio of the means that stand above it,
//! as theirs is, where the loads are of one run; else the headline's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::analyze::figures::fleet::{Fleet, NodeGroup};
use crate::analyze::figures::group::{Figures, Group, sections};
use crate::analyze::key::GroupKey;
use crate::record::names::SUMMARY_FILE;
use crate::record::result::write_json;

const WIDTH: usize = 60;

/// Writes both files into `dir`, which is made if it is not there. `large`: the fleet that the text is to be over.
pub fn write(groups: &[Group], large: Option<&Fleet>, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join("summary.txt");
    let text = large.map_or_else(|| text(groups), fleet_text);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    write_json(&dir.join(SUMMARY_FILE), &json(groups))
}

/// One format of a section. Formats without a load that succeeded have no figures, and are left out.
struct Line<'a> {
    group: &'a Group,
    figures: &'a Figures,
}

fn lines(section: &[Group]) -> Vec<Line<'_>> {
    let line = |group| Some(Line { group, figures: group.figures.as_ref()? });
    let mut lines: Vec<Line> = section.iter().filter_map(line).collect();
    // Theirs first and in their order.
    lines.sort_by_key(|line| match line.group.key.format.as_str() {
        "sllm" => 0,
        "safetensors" => 1,
        _ => 2,
    });
    lines
}

/// Loads of a format, failed ones too: what the name of its file counts.
fn replicas(section: &[Group]) -> usize {
    section.iter().map(|group| group.samples_s.len() + group.errors).max().unwrap_or(0)
}

fn sllm_speedup(section: &[Group]) -> Option<f64> {
    let sllm = section.iter().find(|group| group.key.format == "sllm")?;
    let speedup = sllm.speedup.as_ref()?;
    Some(speedup.of_means.unwrap_or(speedup.ratio.value))
}

fn text(groups: &[Group]) -> String {
    let blocks = sections(groups).filter_map(|section| block(section, replicas(section), ""));
    blocks.collect::<Vec<_>>().join("\n")
}

/// A block for what loads have in common, over all hosts.
fn fleet_text(fleet: &Fleet) -> String {
    let sections = fleet.groups.chunk_by(|a, b| a.key().section() == b.key().section());
    let blocks = sections.filter_map(|section| {
        let most = |count: fn(&NodeGroup) -> usize| section.iter().map(count).max().unwrap_or(0);
        let over = format!(
            "Hosts: {} of {}, each counted once, by its median load time\n",
            most(NodeGroup::nodes),
            fleet.nodes
        );
        let groups: Vec<Group> = section.iter().map(|group| group.over_nodes.clone()).collect();
        block(&groups, most(|group| group.loads), &over)
    });
    blocks.collect::<Vec<_>>().join("\n")
}

/// `over`: a line on the hosts, or nothing.
fn block(section: &[Group], replicas: usize, over: &str) -> Option<String> {
    let key = &section.first()?.key;
    let (double, single) = ("=".repeat(WIDTH), "-".repeat(WIDTH));
    let mut text = format!(
        "{double}\nServerlessLLM Benchmark Results\n{double}\nModel: {}\nReplicas: {}\nBenchmark Type: {}\n{}{over}\n",
        key.model,
        replicas,
        key.mode,
        conditions(key)
    );
    let header = ["Avg (s)", "Min (s)", "Max (s)"].map(|name| format!("{name:<12} ")).concat();
    let lines = lines(section);
    // Theirs is 15 columns, which longer names would push out of line.
    let columns = lines.iter().map(|line| line.group.name.chars().count()).fold(15, usize::max);
    text.push_str(&format!(
        "Loading Time Comparison:\n{single}\n{:<columns$} {header}{:<10}\n{single}\n",
        "Format", "Std Dev",
    ));
    for Line { group, figures } in &lines {
        let name = shown(&group.name);
        let (mean_s, min_s, max_s, std_s) = (figures.mean.value, figures.min_s, figures.max_s, figures.std_s);
        text.push_str(&format!(
            "{name:<columns$} {mean_s:<12.3} {min_s:<12.3} {max_s:<12.3} {std_s:<10.3}\n"
        ));
    }
    text.push_str(&format!("{single}\n"));
    if let Some(speedup) = sllm_speedup(section) {
        let (times, word) = if speedup < 1.0 { (1.0 / speedup, "slower") } else { (speedup, "faster") };
        text.push_str(&format!("SLLM Speedup: {times:.2}x {word} than SafeTensors\n\n"));
    }
    text.push_str(&inference(&lines));
    Some(text + &double)
}

/// Tokens a second, where records have them.
fn inference(lines: &[Line]) -> String {
    let of = |line: &Line| {
        let tokens_per_s = line.group.tokens_per_s.filter(|rate| *rate > 0.0)?;
        Some(format!("{} Avg Throughput: {tokens_per_s:.2} tokens/s\n", shown(&line.group.name)))
    };
    match lines.iter().filter_map(of).collect::<String>() {
        rates if rates.is_empty() => rates,
        rates => format!("Inference Performance:\n{}\n{rates}\n", "-".repeat(WIDTH)),
    }
}

/// The two formats that they know have names of their own.
fn shown(name: &str) -> &str {
    match name {
        "sllm" => "SLLM",
        "safetensors" => "SafeTensors",
        other => other,
    }
}

/// What their layout does not have: a line of its own where it is known, as part of the block's head.
fn conditions(key: &GroupKey) -> String {
    let title = key.section_title();
    let known = title.strip_prefix(&format!("{}, {}", key.model, key.mode)).unwrap_or_default();
    match known.trim_start_matches(", ") {
        "" => String::new(),
        known => format!("Conditions: {known}\n"),
    }
}

fn json(groups: &[Group]) -> Value {
    let mut objects: Vec<Value> = sections(groups).filter_map(object).collect();
    if objects.len() == 1 { objects.remove(0) } else { Value::Array(objects) }
}

fn object(section: &[Group]) -> Option<Value> {
    let key = &section.first()?.key;
    let mut statistics = Map::new();
    for Line { group, figures } in lines(section) {
        let mut statistic = json!({
            "count": group.samples_s.len(),
            "avg_loading_time": figures.mean.value,
            "min_loading_time": figures.min_s,
            "max_loading_time": figures.max_s,
            "std_loading_time": figures.std_s,
        });
        // Tokens a second, where anything was generated.
        if let Some(tokens_per_s) = group.tokens_per_s.filter(|rate| *rate > 0.0) {
            statistic["avg_throughput"] = json!(tokens_per_s);
        }
        statistics.insert(group.name.clone(), statistic);
    }
    let mut object = json!({
        "model_name": key.model,
        "num_replicas": replicas(section),
        "benchmark_type": key.mode,
        "statistics": statistics,
    });
    if let Some(speedup) = sllm_speedup(section) {
        object["speedup"] = json!(speedup);
    }
    let more = [("destination", &key.destination), ("cache_state", &key.cache_state), ("host", &key.host)];
    for (name, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        object[name] = json!(value);
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::figures::groups;
    use crate::analyze::frame::test_loads::{Load, frame};

    fn groups(of: &[(&'static str, &'static str, &[Option<f64>])]) -> Vec<Group> {
        let load = |(model, format, times): &(&'static str, &'static str, &[Option<f64>])| {
            let key = [*model, "cached", "", "", "", *format, ""];
            times
                .iter()
                .map(|time_s| Load { key, run: "", iteration: None, time_s: *time_s })
                .collect::<Vec<_>>()
        };
        groups::group(&frame(&of.iter().flat_map(load).collect::<Vec<_>>())).unwrap()
    }

    #[test]
    fn one_model_looks_as_theirs() {
        let groups = groups(&[
            ("org/m", "sllm", &[Some(1.0), Some(3.0)]),
            ("org/m", "safetensors", &[Some(5.0), Some(5.0)]),
        ]);
        let (double, single) = ("=".repeat(60), "-".repeat(60));
        let lines = [
            double.as_str(),
            "ServerlessLLM Benchmark Results",
            &double,
            "Model: org/m",
            "Replicas: 2",
            "Benchmark Type: cached",
            "",
            "Loading Time Comparison:",
            &single,
            "Format          Avg (s)      Min (s)      Max (s)      Std Dev   ",
            &single,
            "SLLM            2.000        1.000        3.000        1.000     ",
            "SafeTensors     5.000        5.000        5.000        0.000     ",
            &single,
            "SLLM Speedup: 2.50x faster than SafeTensors",
            "",
            &double,
        ];
        assert_eq!(text(&groups), lines.join("\n"));
        let json = json(&groups);
        assert_eq!(
            (&json["model_name"], &json["num_replicas"], &json["speedup"]),
            (&"org/m".into(), &2.into(), &2.5.into())
        );
        let statistics = &json["statistics"]["sllm"];
        assert_eq!((&statistics["count"], &statistics["std_loading_time"]), (&2.into(), &1.0.into()));
        assert_eq!(statistics.get("avg_throughput"), None, "nothing was generated");
    }

    #[test]
    fn what_is_slower_is_not_called_faster() {
        let groups =
            groups(&[("m", "sllm", &[Some(1.1), Some(1.1)]), ("m", "safetensors", &[Some(1.0), Some(1.0)])]);
        let text = text(&groups);
        assert!(text.contains("SLLM Speedup: 1.10x slower than SafeTensors"), "{text}");
    }

    #[test]
    fn several_models_and_longer_names_keep_their_columns() {
        let groups = groups(&[
            ("a", "safetensors-direct", &[Some(1.0)]),
            ("a", "safetensors", &[None]),
            ("b", "sllm", &[Some(1.0), None]),
        ]);
        let text = text(&groups);
        assert!(
            text.contains("\nFormat             Avg (s)") && text.contains("\nsafetensors-direct 1.000"),
            "{text}"
        );
        assert!(!text.contains("Speedup") && !text.contains("SafeTensors "), "{text}");
        let json = json(&groups);
        assert_eq!((&json[0]["model_name"], &json[1]["num_replicas"]), (&"a".into(), &2.into()));
        assert!(json[0]["statistics"]["safetensors"].is_null() && json[1]["speedup"].is_null());
    }
}
