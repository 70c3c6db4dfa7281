//! Says how likely each of several answers is after its question.
//!
//! `cargo run --release --example score`
#![allow(clippy::disallowed_methods, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use glm_batch::{
    OutputFolder, RunOptions, Silent, StopFlag, committed_windows, parse_job, read_part, run,
};

const JOB: &str = r#"
version = 1
task = "score"
model = { path = "examples/demo/model" }
prompt.max_length = 96

[input]
path = "examples/demo/choose/questions.jsonl"
columns = { prompt = "question", prefix = "prefix", target = "choices" }
"#;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let set = [format!("output.path={}", folder.path().display())];
    // Relative paths of the job start at this folder.
    let base = env!("CARGO_MANIFEST_DIR").as_ref();
    let job = parse_job(JOB, "score.toml", base, &set)?;
    let (options, stop) = (RunOptions::default(), StopFlag::default());
    run(&job, &options, &stop, &mut Silent)?;
    for window in committed_windows(&OutputFolder::at(folder.path()))? {
        for row in read_part(&folder.path().join(window.part.name))? {
            let row = row?;
            println!("{} {} {}", row["question"], row["sample"], row["logprob"]);
        }
    }
    Ok(())
}
