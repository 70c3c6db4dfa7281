//! Fills the mask that the template writes into each text.
//!
//! `cargo run --release --example infill`
#![allow(clippy::disallowed_methods, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use glm_batch::{
    OutputFolder, RunOptions, Silent, StopFlag, committed_windows, parse_job, read_part, run,
};

const JOB: &str = r#"
version = 1
task = "infill"
model = { path = "examples/demo/model" }
prompt = { template = "{{ question }}答案：[MASK]", max_length = 96 }
infill.max_new_tokens = 24

[input]
path = "examples/demo/choose/questions.jsonl"
"#;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let set = [format!("output.path={}", folder.path().display())];
    // Relative paths of the job start at this folder.
    let base = env!("CARGO_MANIFEST_DIR").as_ref();
    let job = parse_job(JOB, "infill.toml", base, &set)?;
    let (options, stop) = (RunOptions::default(), StopFlag::default());
    run(&job, &options, &stop, &mut Silent)?;
    for window in committed_windows(&OutputFolder::at(folder.path()))? {
        for row in read_part(&folder.path().join(window.part.name))? {
            let row = row?;
            println!("{} {}", row["completion"], row["spans"]);
        }
    }
    Ok(())
}
