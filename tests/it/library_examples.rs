//! The programs of `examples/` that show each task: they run on the demonstration model, and stay short.

#[path = "../../examples/choose.rs"]
mod choose;
#[path = "../../examples/generate.rs"]
mod generate;
#[path = "../../examples/infill.rs"]
mod infill;
#[path = "../../examples/preference.rs"]
mod preference;
#[path = "../../examples/reward.rs"]
mod reward;
#[path = "../../examples/score.rs"]
mod score;

#[test]
fn each_task_runs_through_the_library() {
    choose::main().unwrap();
    generate::main().unwrap();
    infill::main().unwrap();
    preference::main().unwrap();
    reward::main().unwrap();
    score::main().unwrap();
}

#[test]
fn each_task_has_a_program_under_forty_lines() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for task in glm_batch::Task::ALL {
        let path = folder.join(format!("{}.rs", task.name()));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().count();
        assert!(
            (1..40).contains(&lines),
            "{}: {lines} lines",
            path.display()
        );
    }
}
