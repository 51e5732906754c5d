//! The same as a page for a browser: self-contained, readable on a phone, printable. Everything from outside is escaped.

use std::fmt::Write;

use crate::doctor::check::Check;
use crate::node::gpu_links::{LEGEND, LinkedGpu};
use crate::page::document::{document, list};
use crate::page::escape::escape;
use crate::qualify::health;
use crate::qualify::judged::Judged;
use crate::qualify::report::Report;

const STYLE: &str = "\
:root{color-scheme:light dark;--good:#1a7f37;--bad:#b3261e;--open:#8a5a00;--line:#8884}\
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:1rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}\
.passed,.ok,.pass{color:var(--good)}.failed,.fail{color:var(--bad)}\
.open,.warn,.unknown{color:var(--open)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line)}\
th,td.w{white-space:nowrap}th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
td.t{min-width:13rem}tr.told td{border-bottom:0}\
.why{position:sticky;left:.6rem;max-width:calc(100vw - 4rem)}\
@media screen and (max-width:600px){table,tbody,tr{display:block}tr.head{display:none}\
tr{padding:.4rem 0;border-bottom:1px solid var(--line)}tr.told{padding-bottom:0;border:0}\
td,td.n,td.w{display:grid;grid-template-columns:6.5rem 1fr;gap:.5rem;border:0;padding:.1rem 0;\
min-width:0;text-align:left;white-space:normal;overflow-wrap:anywhere}\
td::before{content:attr(data-label);opacity:.7}td:empty{display:none}\
td.all{display:block}td.all::before{content:none}td:first-child{font-weight:600}td.all{font-weight:400}\
.why{position:static;max-width:none}}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}li{overflow-wrap:anywhere}\
@media print{body{max-width:none;font-size:11px}details{display:block}.scroll{overflow:visible}}";

/// The whole page.
pub fn page(report: &Report<'_>) -> String {
    let mut html = String::new();
    let class = class(report.judged);
    let _ = writeln!(html, "<h1 class=\"{class}\">{}</h1>", escape(&report.verdict.to_uppercase()));
    paragraph(&mut html, &report.why);
    paragraph(&mut html, &format!("{} on {}: {}", report.path, report.host, report.storage));
    paragraph(&mut html, &format!("Held to {}. {}.", report.rule, report.gds));
    paragraph(&mut html, &format!("Measured with {}.", report.sizes()));
    criteria(&mut html, report);
    measured(&mut html, report);
    loads(&mut html, report);
    checks(&mut html, "Health over the run", &report.seen.health);
    for line in health::in_words(report.seen) {
        paragraph(&mut html, &line);
    }
    if !report.seen.notes.is_empty() {
        titled_list(&mut html, "Notes", &report.seen.notes);
    }
    checks(&mut html, "Checks", &report.seen.checks);
    let environment = serde_json::to_string_pretty(&report.environment).unwrap_or_default();
    let _ = writeln!(html, "<h2>Environment</h2>\n<pre>{}</pre>", escape(&environment));
    document(&format!("{}: {} on {}", report.verdict, report.path, report.host), STYLE, &html)
}

fn criteria(html: &mut String, report: &Report<'_>) {
    let columns = ["criterion", "verdict", "of", "measured >", "limit", "share >"];
    heading(html, "Criteria", &columns);
    for criterion in &report.criteria {
        let share = criterion.share_in_words();
        let told = if criterion.causes.is_empty() { "" } else { " class=\"told\"" };
        let judged = format!("w {}", class(criterion.judged));
        let cells = [
            ("", criterion.what),
            (judged.as_str(), criterion.word()),
            ("w", &criterion.of),
            ("n", &criterion.measured),
            ("t", &criterion.limit),
            ("n", &share),
        ];
        row(html, told, &columns, &cells);
        if !criterion.causes.is_empty() {
            let causes: Vec<String> = criterion.causes.iter().map(|cause| escape(cause)).collect();
            let _ = writeln!(
                html,
                "<tr><td class=\"all\" colspan=\"6\"><div class=\"why\">→ {}</div></td></tr>",
                causes.join("<br>→ ")
            );
        }
    }
    html.push_str("</table></div>\n");
}

fn measured(html: &mut String, report: &Report<'_>) {
    let columns = ["what", "of", "median GB/s >", "rounds >", "lowest >", "highest >", "links allow", "how"];
    heading(html, "Measured", &columns);
    for figure in &report.seen.measured {
        let of_rounds = |pick: fn(f64, f64) -> f64| figure.rounds_gb_per_s.iter().copied().reduce(pick);
        let number = |value: Option<f64>| value.map_or("?".to_string(), |value| format!("{value:.2}"));
        let cells = [
            ("", figure.kind.words()),
            ("w", &figure.of),
            ("n", &format!("{:.2}", figure.gb_per_s)),
            ("n", &figure.rounds_gb_per_s.len().to_string()),
            ("n", &number(of_rounds(f64::min))),
            ("n", &number(of_rounds(f64::max))),
            ("t", &format!("{} ({})", number(figure.allowed_gb_per_s), figure.links)),
            ("t", &figure.how),
        ];
        row(html, "", &columns, &cells);
    }
    html.push_str("</table></div>\n");
    let drive = |s: &crate::qualify::drives::Served| {
        format!("{}: {:.1} GB, {:.0} %", s.drive, s.bytes as f64 / 1e9, s.share * 100.0)
    };
    let served: Vec<String> = report.seen.served.iter().map(drive).collect();
    if !served.is_empty() {
        titled_list(html, "Which drives served the raw reads", &served);
    }
    gpu_links(html, report);
}

/// What lies between the GPUs, and what they reach at once.
fn gpu_links(html: &mut String, report: &Report<'_>) {
    let Some(links) = &report.seen.gpu_links else { return };
    let columns = ["from", "to", "link", "peer access", "NVLinks >"];
    heading(html, "Between GPUs", &columns);
    let told = |access: Option<bool>| access.map_or("not told", |access| if access { "yes" } else { "no" });
    for pair in &links.pairs {
        let nvlinks = pair.nvlinks.map_or("not told".to_string(), |links| links.to_string());
        let (from, to) = (format!("GPU {}", pair.from), format!("GPU {}", pair.to));
        let cells = [
            ("w", from.as_str()),
            ("w", &to),
            ("w", &pair.short()),
            ("w", told(pair.peer_access)),
            ("n", &nvlinks),
        ];
        row(html, "", &columns, &cells);
    }
    html.push_str("</table></div>\n");
    let mut lines = vec![LEGEND.to_string()];
    let root_port = |gpu: &LinkedGpu| {
        format!("GPU {}: root port {}", gpu.index, gpu.root_port.as_deref().unwrap_or("not told"))
    };
    lines.extend(links.gpus.iter().map(root_port));
    lines.extend(report.seen.at_once.iter().map(|at_once| at_once.in_words()));
    html.push_str(&list(&lines));
}

fn loads(html: &mut String, report: &Report<'_>) {
    let title = format!("Loads of {}", report.model);
    let columns = ["page cache", "s >", "GB/s >", "path", "verified"];
    heading(html, &title, &columns);
    for load in report.loads.cold.iter().chain(report.loads.warm) {
        let seconds = load.loading_time.map_or("-".to_string(), |s| format!("{s:.3}"));
        let rate = load.loading_time.filter(|s| *s > 0.0).map(|s| load.bytes as f64 / s / 1e9);
        let verified = match (&load.error, load.verified) {
            (Some(error), _) => error.as_str(),
            (None, Some(true)) => "yes",
            _ => "no",
        };
        let rate = rate.map_or("-".to_string(), |rate| format!("{rate:.2}"));
        let cells = [
            ("", load.cache_state.as_str()),
            ("n", &seconds),
            ("n", &rate),
            ("", load.path.as_str()),
            ("", verified),
        ];
        row(html, "", &columns, &cells);
    }
    html.push_str("</table></div>\n");
}

fn checks(html: &mut String, title: &str, checks: &[Check]) {
    let columns = ["", "check", "of", "value", "what it means, what to do"];
    heading(html, title, &columns);
    let mut sorted: Vec<&Check> = checks.iter().collect();
    sorted.sort_by_key(|check| std::cmp::Reverse(check.status));
    for check in sorted {
        let status = format!("{:?}", check.status).to_lowercase();
        let words: Vec<&str> =
            [&check.why, &check.remedy].into_iter().flatten().map(String::as_str).collect();
        let class = format!("w {status}");
        let words = words.join("; ");
        let cells = [
            (class.as_str(), status.as_str()),
            ("w", check.id.name()),
            ("w", &check.subject),
            ("", &check.value),
            ("t", &words),
        ];
        row(html, "", &columns, &cells);
    }
    html.push_str("</table></div>\n");
}

/// A table's start. A column whose name ends in ` >` holds numbers: it is flush right.
fn heading(html: &mut String, title: &str, columns: &[&str]) {
    let head = |column: &&str| match column.strip_suffix(" >") {
        Some(number) => format!("<th class=\"n\">{number}</th>"),
        None => format!("<th>{column}</th>"),
    };
    let columns: Vec<String> = columns.iter().map(head).collect();
    let _ = writeln!(
        html,
        "<h2>{}</h2>\n<div class=\"scroll\"><table>\n<tr class=\"head\">{}</tr>",
        escape(title),
        columns.concat()
    );
}

/// A table's row, of classes and texts. Each cell knows its column's name, which a narrow page shows before it.
fn row(html: &mut String, class: &str, columns: &[&str], cells: &[(&str, &str)]) {
    let _ = write!(html, "<tr{class}>");
    for (column, (class, text)) in columns.iter().zip(cells) {
        let label = column.strip_suffix(" >").unwrap_or(column);
        let _ = write!(html, "<td class=\"{class}\" data-label=\"{label}\">{}</td>", escape(text));
    }
    html.push_str("</tr>\n");
}

fn titled_list(html: &mut String, title: &str, lines: &[String]) {
    let _ = writeln!(html, "<h2>{}</h2>\n{}", escape(title), list(lines));
}

fn paragraph(html: &mut String, text: &str) {
    let _ = writeln!(html, "<p>{}</p>", escape(text));
}

fn class(judged: Judged) -> &'static str {
    match judged {
        Judged::Passed => "passed",
        Judged::Failed => "failed",
        Judged::Unknown => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check_id::CheckId;
    use crate::qualify::criterion::Criterion;
    use crate::qualify::observations::{Observations, sample};
    use crate::qualify::report;

    #[test]
    fn a_page_of_its_own_and_nothing_runs_in_it() {
        let mut seen = sample::good();
        seen.notes = vec!["a <note>".into()];
        seen.warm[0].error = Some("<img src=x onerror=alert(1)>".into());
        seen.checks = vec![sample::check(CheckId::DriveModel, "nvme0n1", "<model>")];
        let rows = vec![rate_row(&seen)];
        let page = page(&report::sample(&seen, rows));
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<model>"), "{page}");
        for outside in ["http:", "https:", "src=", "url("] {
            let shown = page.replace("&lt;img src=x", "");
            assert!(!shown.contains(outside), "{outside}");
        }
        for part in
            ["&lt;host&gt;", "&lt;model&gt;", "a &lt;note&gt;", "viewport", "12.00", "FAILED", "too slow"]
        {
            assert!(page.contains(part), "{part}");
        }
        for column in ["criterion", "verdict", "of", "measured", "limit", "share"] {
            assert!(page.contains(&format!("data-label=\"{column}\">")), "{column}");
        }
        assert_eq!(page.matches("<table").count(), page.matches("</table>").count());
        assert_eq!(page.matches("<tr").count(), page.matches("</tr>").count());
    }

    fn rate_row(seen: &Observations) -> Criterion {
        Criterion::new("raw-read", &seen.measured[0].of, "raw reads", Judged::Failed).because("too slow")
    }

    #[test]
    fn what_comes_from_outside_stays_text() {
        assert_eq!(
            escape("<b a=\"x\" c='y'>&</b>"),
            "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;&lt;/b&gt;"
        );
    }
}
