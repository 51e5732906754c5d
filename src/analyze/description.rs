//! What is described of the machine of each run: `environment.json` as flat facts.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::analyze::file::bytes_of;
use crate::analyze::group_key::printable;
use crate::analyze::qualified;

/// A fact as read: field, value, and the number if it is one.
pub type Fact = (String, String, Option<f64>);

/// What is described of one run's machine.
pub struct DescribedRun {
    pub id: String,
    pub facts: Vec<Fact>,
}

impl DescribedRun {
    fn new(id: String, environment: &Value) -> DescribedRun {
        let mut facts = Vec::new();
        flatten("", environment, &mut facts);
        DescribedRun { id, facts }
    }

    pub fn of(record: &qualified::QualifyRecord) -> DescribedRun {
        let mut run = DescribedRun::new(record.run_id.clone(), &record.environment);
        if run.text("host").is_none() {
            run.facts.push(("host".into(), record.host.clone(), None));
        }
        run
    }

    /// By their UUIDs.
    pub fn gpus(&self) -> HashSet<String> {
        let is_uuid = |field: &str| field.starts_with("gpus.") && field.ends_with(".uuid");
        self.facts.iter().filter(|fact| is_uuid(&fact.0)).map(|fact| fact.1.clone()).collect()
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.facts
            .iter()
            .find(|fact| fact.0 == field)
            .map(|fact| fact.1.as_str())
            .filter(|text| !text.is_empty())
    }
}

/// Every run of an `environment.json`.
pub fn read_environment(path: &Path) -> Result<Vec<DescribedRun>> {
    let bytes = bytes_of(path)?;
    let all: Map<String, Value> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged, or not an object with one entry a run", path.display()))?;
    Ok(all.into_iter().map(|(id, environment)| DescribedRun::new(id, &environment)).collect())
}

/// `{"cpu": {"threads": 2}}` is `cpu.threads` = `2`. A list of plain values is one value; null says nothing.
fn flatten(path: &str, value: &Value, facts: &mut Vec<Fact>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(&below(&printable(name)), value, facts));
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| flatten(&below(&index.to_string()), item, facts));
        }
        Value::Array(items) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            if !words.is_empty() {
                facts.push((path.to_string(), words.join(" "), None));
            }
        }
        value => facts.push((path.to_string(), plain(value), value.as_f64())),
    }
}

fn plain(value: &Value) -> String {
    printable(&value.as_str().map_or_else(|| value.to_string(), str::to_string))
}
