//! One screen: the verdict, then the worst first. Or everything, or JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::doctor::check::{Check, Status};
use crate::doctor::finding::Finding;
use crate::doctor::gpu_map;
use crate::load::gds::ways::{Assessment, Need, Way, Ways, surely_shut};
use crate::node::gpu_links::GpuLinks;

const COLUMNS: usize = 100;
/// With the verdict and what is read of each path, a screen.
const LINES_MAX: usize = 24;
/// Of them, for the lists of names and the counts.
const LINES_KEPT: usize = 6;
/// As wide as a status and a blank.
const INDENT: &str = "        ";

/// What a path came to.
#[derive(Debug, Serialize)]
pub struct PathReport {
    pub path: String,
    /// `xfs on md0 (raid0) on nvme0n1, nvme1n1`
    pub storage: String,
    pub gds: Answer,
    /// The way that is open.
    pub by: Option<Way>,
    /// Why each way is shut; empty where it is open.
    pub nvidia_fs: Vec<String>,
    pub p2pdma: Vec<String>,
    /// The way with the fewest obstacles.
    #[serde(skip)]
    nearest: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Yes,
    No,
    /// Nothing is known to stand in the way, but not all that it takes can be read.
    Unknown,
}

impl PathReport {
    pub fn new(path: &str, storage: String, assessments: &[&Assessment]) -> PathReport {
        let ways = Ways::of(assessments);
        let gds = match ways.open() {
            Some(_) => Answer::Yes,
            None if surely_shut(assessments) => Answer::No,
            None => Answer::Unknown,
        };
        let in_words = |way| -> Vec<String> {
            ways.get(way).as_ref().err().into_iter().flatten().map(|reason| reason.to_string()).collect()
        };
        let (nvidia_fs, p2pdma) = (in_words(Way::NvidiaFs), in_words(Way::P2pdma));
        let (by, nearest) = (ways.open(), ways.nearest());
        PathReport { path: path.into(), storage, gds, by, nvidia_fs, p2pdma, nearest }
    }

    /// `GDS: no: nvidia-fs is not loaded; loads will use the pinned ring`. Where it is not known whether there is a
    /// GPU, it does not say what loads will do instead.
    pub fn verdict(&self, has_gpu: Option<bool>) -> String {
        let reasons = if self.nearest == Way::P2pdma { &self.p2pdma } else { &self.nvidia_fs };
        let first = reasons.first().map_or("", |reason| reason.split(": ").next().unwrap_or(reason));
        let instead = match has_gpu {
            Some(true) => "; loads will use the pinned ring",
            Some(false) => "; loads will go to host memory",
            None => "",
        };
        match (self.gds, self.by) {
            (Answer::Yes, Some(way)) => format!("GDS: yes, by {}", way.name()),
            (Answer::No, _) => format!("GDS: no: {first}{instead}"),
            _ => format!("GDS: not proven: {first}{instead}"),
        }
    }
}

/// All that doctor found.
#[derive(Debug)]
pub struct Report {
    /// None: NVIDIA's driver can't be told.
    pub has_gpu: Option<bool>,
    pub paths: Vec<PathReport>,
    pub findings: Vec<Finding>,
    /// Where there are several GPUs.
    pub gpu_links: Option<GpuLinks>,
}

#[derive(Serialize)]
struct Json<'a> {
    verdict: String,
    gds: Answer,
    paths: &'a [PathReport],
    checks: Vec<&'a Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_links: Option<&'a GpuLinks>,
}

impl Report {
    /// The worst of the paths.
    pub fn gds(&self) -> Answer {
        let any = |answer| self.paths.iter().any(|p| p.gds == answer);
        match (any(Answer::No), any(Answer::Unknown)) {
            (true, _) => Answer::No,
            (_, true) => Answer::Unknown,
            _ => Answer::Yes,
        }
    }

    /// A line for each path; with several, each says which.
    fn verdicts(&self) -> Vec<String> {
        let line = |path: &PathReport| match self.paths.len() {
            1 => path.verdict(self.has_gpu),
            _ => path.verdict(self.has_gpu).replacen("GDS:", &format!("GDS for {}:", path.path), 1),
        };
        self.paths.iter().map(line).collect()
    }

    pub fn json(&self) -> serde_json::Result<String> {
        let checks = self.sorted().into_iter().map(|f| &f.check).collect();
        let (verdict, gpu_links) = (self.verdicts().join("\n"), self.gpu_links.as_ref());
        let json = Json { verdict, gds: self.gds(), paths: &self.paths, checks, gpu_links };
        serde_json::to_string_pretty(&json)
    }

    /// The worst first; among equals, what GDS needs; else as found.
    fn sorted(&self) -> Vec<&Finding> {
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        let nearest = self.paths.first().map(|p| p.nearest);
        let rank = |need: Need| match need {
            Need::Both => 0,
            Need::Only(way) if Some(way) == nearest => 1,
            Need::Only(_) => 2,
            Need::Neither => 3,
        };
        findings.sort_by_key(|f| (std::cmp::Reverse(f.check.status), rank(f.need())));
        findings
    }

    pub fn text(&self, all: bool) -> String {
        let mut text = String::new();
        for verdict in self.verdicts() {
            wrap(&mut text, "", &verdict);
        }
        for path in &self.paths {
            wrap(&mut text, "", &format!("{}: {}", path.path, path.storage));
        }
        let sorted = self.sorted();
        let map = self.gpu_links.as_ref().map(gpu_map::table).unwrap_or_default();
        if all {
            text.push('\n');
            sorted.iter().for_each(|f| text.push_str(&full_block(&f.check)));
        } else {
            self.one_screen(&mut text, &sorted, map.lines().count());
        }
        text.push_str(&map);
        let count = |status| sorted.iter().filter(|f| f.check.status == status).count();
        let counts = [Status::Fail, Status::Warn, Status::Unknown, Status::Pass].map(count);
        let [fail, warn, unknown, pass] = counts;
        let more = if all { "" } else { " (--all lists everything)" };
        let _ = writeln!(text, "{fail} fail, {warn} warn, {unknown} unknown, {pass} pass{more}");
        text
    }

    /// What does not pass, alike ones together, until the screen is full but for the lines that are to follow; the rest by
    /// name.
    fn one_screen(&self, text: &mut String, sorted: &[&Finding], follow: usize) {
        let groups = groups(sorted);
        let of = |status| groups.iter().filter(move |g| g[0].check.status == status);
        let (other_way, fails): (Vec<_>, Vec<_>) =
            of(Status::Fail).partition(|g| self.is_other_way(g[0].need()));
        let mut left = Vec::new();
        let mut show = |text: &mut String, group: &[&Finding]| {
            let block = short_block(group);
            let full = text.lines().count() + block.lines().count() + LINES_KEPT + follow > LINES_MAX;
            match full || !left.is_empty() {
                true => left.push(group[0].check.id.name()),
                false => text.push_str(&block),
            }
        };
        fails.into_iter().for_each(|group| show(text, group));
        let way =
            if self.paths.iter().any(|p| p.nearest == Way::P2pdma) { Way::NvidiaFs } else { Way::P2pdma };
        let also = format!("fail    {}, the other way, wants too:", way.name());
        list(text, &also, other_way.iter().map(|g| g[0].check.id.name()));
        of(Status::Warn).for_each(|group| show(text, group));
        list(text, "and", left.into_iter());
        list(text, "unknown", of(Status::Unknown).map(|g| g[0].check.id.name()));
    }

    /// Whether all paths are nearer to the other way than to the one that needs this.
    fn is_other_way(&self, need: Need) -> bool {
        matches!(need, Need::Only(way) if self.paths.iter().all(|p| p.nearest != way))
    }
}

/// Checks that say the same of several subjects, together. Passes are left out.
fn groups<'a>(sorted: &[&'a Finding]) -> Vec<Vec<&'a Finding>> {
    let mut groups: Vec<Vec<&Finding>> = Vec::new();
    for finding in sorted.iter().filter(|f| f.check.status != Status::Pass) {
        let key = |f: &Finding| (f.check.id, f.check.status, f.check.value.clone(), f.check.why.clone());
        match groups.iter_mut().find(|group| key(group[0]) == key(finding)) {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups
}

/// Names in a line, each once.
fn list(text: &mut String, what: &str, ids: impl Iterator<Item = &'static str>) {
    let mut ids: Vec<&str> = ids.collect();
    ids.dedup();
    if !ids.is_empty() {
        wrap(text, INDENT, &format!("{what:<7} {}", ids.join(", ")));
    }
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Unknown => "unknown",
        Status::Warn => "warn",
        Status::Fail => "fail",
    }
}

/// What GDS needs has a sentence that says it all; of the rest, whose value it is.
fn short_block(group: &[&Finding]) -> String {
    let first = group[0];
    let check = &first.check;
    let subjects: Vec<&str> = group.iter().map(|f| f.check.subject.as_str()).collect();
    let mut what = match (&check.why, first.need()) {
        (Some(why), Need::Both | Need::Only(_)) => why.clone(),
        (Some(why), Need::Neither) => format!("{}: {}: {why}", subjects.join(", "), check.value),
        (None, _) => format!("{}: {} {}", subjects.join(", "), check.id.name(), check.value),
    };
    let alike = if group.len() > 1 { " (and the others alike)" } else { "" };
    what = format!("{:<7} {what} [{}]", name(check.status), check.source);
    let mut text = String::new();
    wrap(&mut text, INDENT, &what);
    if let Some(remedy) = &check.remedy {
        wrap(&mut text, INDENT, &format!("{INDENT}→ {remedy}{alike}"));
    }
    text
}

fn full_block(check: &Check) -> String {
    let mut text = String::new();
    let (status, subject) = (name(check.status), &check.subject);
    wrap(
        &mut text,
        INDENT,
        &format!("{status:<7} {}, {subject}: {} [{}]", check.id.name(), check.value, check.source),
    );
    if let Some(why) = &check.why {
        wrap(&mut text, INDENT, &format!("{INDENT}{why}"));
    }
    if let Some(remedy) = &check.remedy {
        wrap(&mut text, INDENT, &format!("{INDENT}→ {remedy}"));
    }
    text
}

/// Adds a paragraph in lines of at most `COLUMNS`; those after the first are indented. Words are not cut.
fn wrap(text: &mut String, indent: &str, paragraph: &str) {
    let first_indent = paragraph.len() - paragraph.trim_start().len();
    let mut line = " ".repeat(first_indent);
    let mut empty = true;
    for word in paragraph.trim_start().split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(text, "{}", line.trim_end());
            line = indent.to_string();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{}", line.trim_end());
}
