//! What the summary says, and what it leaves out.

use super::*;

#[test]
fn a_job_without_references_says_nothing_of_them() {
    let report = RunReport {
        job: "x".into(),
        finished: true,
        ..RunReport::default()
    };
    let text = report.to_string();
    assert!(text.starts_with("x: finished\n"), "{text}");
    assert!(!text.contains("reference"), "{text}");
}

#[test]
fn the_end_of_a_run_says_what_a_user_needs_and_no_more() {
    let failure = |rows, reason: &str| FailureReason {
        rows,
        stage: "input".into(),
        reason: reason.into(),
    };
    let call = |library: &str| Loading {
        library: library.into(),
        modules: library.into(),
        call: format!("{library}.load()"),
    };
    let report = RunReport {
        job: "x".into(),
        finished: true,
        folder: "/data/my out".into(),
        results: "/data/my out/parts (parquet)".into(),
        job_rows: 12_345,
        totals: Totals {
            rows: 12_345,
            bad: 6,
            ..Totals::default()
        },
        failures: vec![
            failure(3, "a"),
            failure(1, "b"),
            failure(1, "c"),
            failure(1, "d"),
        ],
        loading: vec![call("datasets"), call("polars"), call("pandas")],
        card: Some("/data/my out/README.md".into()),
        ..RunReport::default()
    };
    assert_eq!(
        report.to_string(),
        "x: finished\n  rows         12,345 of 12,345 done, 6 failed\n    failed     3 at input: a\n    \
         failed     1 at input: b\n    failed     1 at input: c\n               and 1 more reason\n    \
         see them   glm-batch show '/data/my out' --failed\n  results      /data/my out/parts (parquet)\n  \
         load         import datasets; rows = datasets.load()\n               polars, pandas: see /data/my out/README.md\n"
    );
    assert!(
        format!("{report:#}").contains("\n  pandas       import pandas; rows = pandas.load()\n")
    );
    let without_card = RunReport {
        card: None,
        trial: Some("a trial: of three rows".into()),
        ..report
    };
    let text = without_card.to_string();
    assert!(
        text.contains("               polars, pandas: `run --verbose` prints their calls\n"),
        "{text}"
    );
    assert!(
        text.contains("6 failed\n               a trial: "),
        "{text}"
    );
}

#[test]
fn what_was_checked_is_said() {
    let said = |content| CheckedFiles { files: 2, content }.to_string();
    assert_eq!(
        said(false),
        "2 committed files: names and sizes (`run --verify` reads the content too)"
    );
    assert_eq!(said(true), "2 committed files: names, sizes and content");
}

#[test]
fn failures_are_counted_in_words() {
    let totals = Totals {
        rows: 1_200,
        failed: 1,
        bad: 2,
        truncated: 1,
        ..Totals::default()
    };
    let report = RunReport {
        job_rows: 1_300,
        totals,
        ..RunReport::default()
    };
    assert_eq!(
        report.rows_text(),
        "1,200 of 1,300 done, 3 failed, 1 with a prompt cut to fit"
    );
}
