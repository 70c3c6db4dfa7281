//! Samples answers to each question, judges them, and shows pairs of a better and a worse one.
//!
//! `cargo run --release --example preference`
#![allow(clippy::disallowed_methods, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use glm_batch::{
    OutputFolder, RunOptions, Silent, StopFlag, committed_windows, load_job, read_part, run,
};

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let set = [
        format!("output.path={}", folder.path().display()),
        "input.limit=40".to_owned(),
    ];
    let home: &std::path::Path = env!("CARGO_MANIFEST_DIR").as_ref();
    let job = load_job(&home.join("jobs/demo-preference.toml"), &set)?;
    let (options, stop) = (RunOptions::default(), StopFlag::default());
    run(&job, &options, &stop, &mut Silent)?;
    for window in committed_windows(&OutputFolder::at(folder.path()))? {
        for row in read_part(&folder.path().join(window.part.name))? {
            let row = row?;
            if row["no_pair"].is_null() {
                println!("{} rather than {}", row["chosen"], row["rejected"]);
            }
        }
    }
    Ok(())
}
