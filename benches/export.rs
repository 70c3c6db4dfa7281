//! Exporting 100,000 and 1,000,000 rows: rows a second, and the most memory that it takes.
//!
//! `cargo bench --bench export` measures the program itself, each export as a process of its own. `EXPORT_ROWS` is the
//! most rows: fewer, or more for a third folder.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod folder;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rows of the two folders.
const ROWS: [u64; 2] = [100_000, 1_000_000];

/// Time between two looks at the memory of the process.
const LOOK: Duration = Duration::from_millis(10);

fn main() {
    // Without `--bench` it is asked only whether it works.
    let usual = if std::env::args().any(|arg| arg == "--bench") {
        u64::MAX
    } else {
        1_000
    };
    let asked = std::env::var("EXPORT_ROWS").ok();
    let most: u64 = asked.map_or(usual, |rows| rows.parse().unwrap());
    println!("| export | parts | rows | rows/s | peak MiB |\n| --- | --- | ---: | ---: | ---: |");
    for (parts, keys) in [("jsonl", "format = \"jsonl\"\n"), ("parquet", "")] {
        let mut sizes = ROWS.map(|rows| rows.min(most)).to_vec();
        sizes.extend(Some(most).filter(|&most| most < u64::MAX));
        sizes.dedup();
        for rows in sizes {
            let folder = tempfile::tempdir().unwrap();
            folder::finished(folder.path(), rows, keys);
            for args in [
                &["--to", "jsonl", "--output", "a.jsonl"][..],
                &["--to", "parquet", "--output", "a.parquet"],
                &["--to", "csv", "--output", "a.csv"],
                &["--to", "messages", "--output", "b.jsonl"],
                &["--to", "messages", "--output", "b.parquet"],
                &["--to", "messages", "--dedup", "--output", "c.jsonl"],
            ] {
                let (time, peak) = measure(folder.path(), args);
                let per_second = rows as f64 / time.as_secs_f64();
                let name = format!("{} {}", args[1], args[2..].join(" "));
                println!("| {name} | {parts} | {rows} | {per_second:.0} | {peak:.0} |");
            }
        }
    }
}

/// The time of an export, and the most memory that it had, MiB.
fn measure(folder: &Path, args: &[&str]) -> (Duration, f64) {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_glm-batch"))
        .current_dir(folder)
        .args(["export", "out"])
        .args(args)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0.0;
    let status = loop {
        peak = peak_of(&child).unwrap_or(peak);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(LOOK),
        }
    };
    assert!(status.success());
    (start.elapsed(), peak)
}

fn peak_of(child: &Child) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
