//! Templates and expressions that never end, grow without bound or nest too deeply.

use std::time::{Duration, Instant};

use crate::support::{Job, both, some_questions, stderr};

const MORE: &str =
    "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 4\n";
const ENDLESS: &str =
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}x";

fn job(rows: usize) -> (tempfile::TempDir, Job) {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(folder.path(), rows), MORE);
    (folder, job)
}

fn template(text: &str) -> String {
    format!("prompt.template={text}")
}

#[test]
fn a_template_without_end_fails_its_rows() {
    for text in [
        ENDLESS,
        "{{ 'x' * 10000000000 }}",
        "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% macro f(x) %}{{ f([[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]) }}{% endmacro %}{{ f(1) }}",
        "{{ range(100000) | map('string') | join('x' * 1000000) }}",
    ] {
        let (_folder, job) = job(2);
        let output = job.run(&["--set", &template(text)]);
        assert_eq!(output.status.code(), Some(3), "{text}: {}", both(&output));
        let rows = job.rows();
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!(row["status"], "failed", "{text}: {row}");
            let error = row["error"].as_str().unwrap();
            assert!(error.len() < 400, "{error}");
        }
    }
}

/// Values may nest as deep as the steps of a row allow: they are taken down, and printed, without harm.
#[test]
fn deep_values_are_filled_in() {
    let brackets = ("[".repeat(60), "]".repeat(60));
    let grow = |rounds: usize| {
        let set = format!("{{% set n.x = {}n.x{} %}}", brackets.0, brackets.1);
        format!(
            "{{% set n = namespace(x=1) %}}{{% for i in range({rounds}) %}}{set}{{% endfor %}}x"
        )
    };
    let long = "{% set y = [y] %}".repeat(6_000);
    for (text, print) in [
        (grow(5_000), "{{ n.x }}"),
        (grow(2_000), "{{ n.x }}"),
        (format!("{long}x"), "{{ y }}"),
    ] {
        let (_folder, job) = job(2);
        let output = job.run(&["--set", &template(&text)]);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        // Printing may take more steps than a row has; it must not take the process down.
        let output = job.run(&["--restart", "--set", &template(&format!("{text}{print}"))]);
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{}",
            both(&output)
        );
    }
}

#[test]
fn nesting_is_refused_before_it_is_parsed() {
    let (_folder, job) = job(2);
    let deep = format!("{{{{ {}1 }}}}", "-".repeat(20_000));
    let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(5_000));
    for text in [
        deep,
        branches,
        format!("{{{{ a{} }}}}", "|upper".repeat(10_000)),
    ] {
        for command in ["run", "plan"] {
            let args = [command, "job.toml", "--set", &template(&text)];
            let output = job.command(&args).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            assert!(
                stderr(&output).contains("`prompt.template` does not parse"),
                "{}",
                both(&output)
            );
        }
    }
    job.run_ok(&[]);
    let shown = job
        .command(&[
            "show",
            "out",
            "--where",
            &format!("{}1", "not ".repeat(20_000)),
        ])
        .output()
        .unwrap();
    assert_eq!(shown.status.code(), Some(2), "{}", both(&shown));
}

#[cfg(unix)]
#[test]
fn a_signal_is_looked_at_between_rows() {
    let (_folder, job) = job(8_000);
    let mut child = job
        .command(&[
            "run",
            "job.toml",
            "--grace",
            "1",
            "--set",
            &template(ENDLESS),
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Its rows take minutes: what it is doing is reading the first window.
    let begun = Instant::now();
    while !job.path("out/journal").exists() || begun.elapsed() < Duration::from_millis(500) {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
    let killed = std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let asked = Instant::now();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(75));
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "{:?}",
        asked.elapsed()
    );
}
