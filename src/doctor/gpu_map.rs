//! The links between GPUs as a table.

use std::fmt::Write;

use crate::node::gpu_links::{GpuLinks, LEGEND};

/// One row a GPU: how it reaches each other one, and its root port. Empty with fewer than two.
pub fn table(links: &GpuLinks) -> String {
    if links.gpus.len() < 2 {
        return String::new();
    }
    let name = |index: u32| format!("GPU {index}");
    let mut head = vec!["from, to".to_string()];
    head.extend(links.gpus.iter().map(|gpu| name(gpu.index)));
    head.push("root port".into());
    let mut rows = vec![head];
    for from in &links.gpus {
        let mut row = vec![name(from.index)];
        let cell = |to: u32| links.pair(from.index, to).map_or("-".to_string(), |pair| pair.short());
        row.extend(links.gpus.iter().map(|to| cell(to.index)));
        row.push(from.root_port.clone().unwrap_or("not told".into()));
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    let _ = writeln!(text, "{LEGEND}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::gpu_links::sample::{machine, nvlinks, peers};

    #[test]
    fn two_gpus_make_a_table_and_one_makes_none() {
        let (tree, gpus) = machine();
        let told = nvlinks(&gpus, [&["0000:c1:00.0"; 18], &["0000:c1:00.0"; 18]]);
        let links = GpuLinks::new(&tree.source, &gpus, Some(&told), &peers(&gpus, true, true));
        let text = table(&links);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], "from, to  GPU 0  GPU 1  root port");
        let port = |i: usize| links.gpus[i].root_port.as_deref().unwrap();
        assert_eq!(lines[1], format!("GPU 0     -      NV18   {}", port(0)));
        assert_eq!(lines[2], format!("GPU 1     NV18   -      {}", port(1)));
        assert_eq!(table(&GpuLinks::new(&tree.source, &gpus[..1], None, &[])), "");
    }
}
