//! Metrics of a job's answers: in the summary, the card and `report`, by group, and for windows that have none.

use serde_json::Value;

use crate::preference::{DRAW, judge, of_input};
use crate::support::{Job, both, demo_model, demo_questions, some_questions, stderr};

const COLUMNS: &str =
    "columns = { prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";

/// A job over every tenth question of the demonstration, so that it has rows of each category.
fn job(columns: &str, more: &str) -> Job {
    let job = Job::of_model(&demo_model(), "q.jsonl".as_ref(), columns, more);
    let questions = std::fs::read_to_string(demo_questions()).unwrap();
    let lines = questions
        .lines()
        .step_by(10)
        .map(|line| format!("{line}\n"));
    std::fs::write(job.path("q.jsonl"), lines.collect::<String>()).unwrap();
    job
}

const ROWS: u64 = 40;

fn text(job: &Job, args: &[&str]) -> String {
    let output = job
        .command(&[&["report", "out", "--metrics"], args].concat())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn report(job: &Job, args: &[&str]) -> Value {
    let output = job
        .command(&[&["report", "out", "--metrics", "--json"], args].concat())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn groups_of_the_job_and_groups_asked_for_later_are_the_same() {
    let windows = "[batch]\nwindow_rows = 15\n";
    // Without the prefix that the model has learned, some answers are wrong.
    let columns = "columns = { prompt = \"question\", reference = \"answer\" }";
    let named = job(columns, &format!("{windows}[report]\nby = \"category\"\n"));
    let later = job(columns, windows);
    for job in [&named, &later] {
        // A row that fails has a reference all the same.
        let failing = r#"{"question": null, "answer": "巴黎", "category": "capital"}"#;
        let text = std::fs::read_to_string(job.path("q.jsonl")).unwrap();
        std::fs::write(job.path("q.jsonl"), format!("{text}{failing}\n")).unwrap();
        job.run_ok(&[]);
    }
    let lines = text(&named, &[]);
    assert_eq!(lines, text(&later, &["--by", "category"]));
    assert!(lines.trim_start().starts_with("category"), "{lines}");
    let found = report(&named, &[]);
    let groups = found["groups"].as_array().unwrap();
    let sum = |key: &str| groups.iter().map(|g| g[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("rows"), groups.len()), (ROWS + 1, 12));
    assert_eq!((sum("referenced"), sum("ok")), (ROWS + 1, ROWS));
    assert_eq!(found["all"]["metrics"]["rows"], ROWS);
    assert_eq!(found["all"]["exact"], sum("exact"));
    assert!((1..ROWS).contains(&sum("exact")), "{found}");
    let share = found["all"]["metrics"]["normalised_match"]
        .as_f64()
        .unwrap();
    assert!(
        (share - sum("exact") as f64 / ROWS as f64).abs() < 1e-9,
        "{found}"
    );
    assert!(report(&later, &[]).get("groups").is_none());
}

#[test]
fn a_reference_that_is_named_later_gives_the_same_metrics() {
    let more = "[batch]\nwindow_rows = 15\n[report]\nby = \"category\"\n";
    let plain = "columns = { prompt = \"question\" }";
    let (named, later) = (
        job(&plain.replace(" }", ", reference = \"answer\" }"), more),
        job(plain, more),
    );
    for job in [&named, &later] {
        job.run_ok(&[]);
    }
    let asked = ["--reference", "answer"];
    let found = report(&named, &[]);
    assert!(found["all"]["exact"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(report(&later, &asked), found);
    assert_eq!(text(&later, &asked), text(&named, &[]));
    let page = |job: &Job, args: &[&str]| {
        let output = job.command(&[&["report", "out"], args].concat()).output();
        assert_eq!(output.unwrap().status.code(), Some(0));
        let page = std::fs::read_to_string(job.path("out/report.html")).unwrap();
        let (_, rest) = page.split_once("exact match").unwrap();
        rest.split_once("</table>").unwrap().0.to_owned()
    };
    assert_eq!(page(&later, &asked), page(&named, &[]));

    let refused = |job: &Job, column: &str| {
        let args = ["report", "out", "--metrics", "--reference", column];
        let output = job.command(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        stderr(&output)
    };
    let said = refused(&named, "answer");
    assert!(said.contains("with the column `answer` already"), "{said}");
    let said = refused(&later, "answr");
    let words =
        "no row has the column `answr` that `--reference` names\nhint: did you mean `answer`?";
    assert!(said.contains(words), "{said}");

    // Rows without a text there are not compared, and that is said.
    let text = std::fs::read_to_string(later.path("q.jsonl")).unwrap();
    let mixed = text.replace("\"answer\"", "\"number\": 7, \"answer\"");
    let mixed = mixed.replacen("\"巴黎\"", "[7]", 1);
    let other = job(plain, more);
    std::fs::write(other.path("q.jsonl"), mixed).unwrap();
    other.run_ok(&[]);
    let said = refused(&other, "number");
    let words = "of 40 rows none has an answer and a reference in `number`";
    assert!(said.contains(words), "{said}");
    let output = other
        .command(&["report", "out", "--metrics", "--reference", "answer"])
        .output()
        .unwrap();
    let note = "note: 39 of 40 rows have a reference in `answer`";
    assert!(stderr(&output).contains(note), "{}", both(&output));
}

#[test]
fn the_summary_and_the_card_say_them() {
    let job = job(COLUMNS, "[report]\nby = \"category\"\n");
    let said = String::from_utf8(job.run_ok(&[]).stdout).unwrap();
    let line =
        "\n  metrics      normalised match 100.0%, character F1 100.0%, ROUGE-L 100.0%, BLEU-4 ";
    assert!(said.contains(line), "{said}");
    assert!(said.contains("\n  groups       12 groups: "), "{said}");
    let card = std::fs::read_to_string(job.path("out/README.md")).unwrap();
    assert!(card.contains("\n| normalised match | 100.0% |\n"), "{card}");
    let head = "\n## By `category`\n\n| category | rows | exact match |";
    assert!(card.contains(head), "{card}");
    assert!(card.contains("\n| capital | "), "{card}");
    let json: Value = serde_json::from_slice(&job.run_ok(&["--json"]).stdout).unwrap();
    assert_eq!(json["metrics"]["rows"], ROWS);
    assert_eq!(json["groups"].as_array().unwrap().len(), 12);
}

#[test]
fn several_samples_vote() {
    let more = "samples = \"nested\"\n[generation]\ndo_sample = true\ntemperature = 4.0\nnum_return_sequences = 4\nseed = 3\nmax_new_tokens = 8\n";
    let nested = job(COLUMNS, more);
    let flat = job(COLUMNS, &more.replace("nested", "flat"));
    for job in [&nested, &flat] {
        job.run_ok(&[]);
    }
    let metrics = report(&nested, &[])["all"]["metrics"].clone();
    let passes = metrics["pass_at"].as_object().unwrap();
    assert_eq!(passes.keys().collect::<Vec<_>>(), ["1", "2", "4"]);
    let pass = |k: &str| passes[k].as_f64().unwrap();
    assert!(pass("1") < pass("2") && pass("2") < pass("4"), "{metrics}");
    // The parts say the same in both layouts, and so do the manifests.
    let by = |job: &Job| text(job, &["--by", "category"]);
    assert_eq!(by(&nested), by(&flat));
    assert_eq!(text(&nested, &[]), text(&flat, &[]));
}

#[test]
fn every_reference_of_a_list_is_right_and_only_the_best_of_ranked_ones() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("q.jsonl");
    let line = |reference: &str| {
        format!(
            "{{\"question\": \"法国的首都是哪座城市？\", \"prefix\": \"答案：\", \"answer\": {reference}}}\n"
        )
    };
    let ranked = r#"[{"answer": "伦敦", "score": 2}, {"answer": "巴黎", "score": 1}]"#;
    let text = [line(r#"["伦敦", "巴黎"]"#), line(ranked), line("null")].concat();
    std::fs::write(&input, text).unwrap();
    let job = Job::of_model(&demo_model(), &input, COLUMNS, "");
    let said = String::from_utf8(job.run_ok(&[]).stdout).unwrap();
    assert!(
        said.contains("1 of 2 answers match the reference (50.0%)"),
        "{said}"
    );
    assert_eq!(report(&job, &[])["all"]["metrics"]["normalised_match"], 0.5);
}

/// The parts of a job of phases hold the pairs; its answers are in the parts of its first phase.
#[test]
fn groups_of_pairs_are_measured_by_their_answers() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("q.jsonl");
    let questions = std::fs::read_to_string(demo_questions()).unwrap();
    let mut lines: Vec<&str> = questions.lines().step_by(10).collect();
    let failing = r#"{"question": null, "answer": "巴黎", "category": "capital"}"#;
    lines.push(failing);
    std::fs::write(&input, lines.join("\n")).unwrap();
    for (format, judge) in [
        ("jsonl", judge()),
        ("parquet", "[preference]\nrank = \"logprob\"\n".to_owned()),
    ] {
        let more = format!("format = \"{format}\"\n{DRAW}{judge}[batch]\nwindow_rows = 15\n");
        let named = of_input(&input, &format!("{more}[report]\nby = \"category\"\n"));
        let later = of_input(&input, &more);
        named.run_ok(&["-q"]);
        later.run_ok(&["-q"]);
        let by = ["--by", "category"];
        assert_eq!(report(&later, &by), report(&named, &[]), "{format}");
        let said = text(&later, &by);
        assert_eq!(said, text(&named, &[]));
        for words in ["exact match", "pass@4", "capital"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        // Of what the phase has lost nothing is measured.
        let part = later.path(&format!("out/phases/samples/parts/part-000001.{format}"));
        let mut bytes = std::fs::read(&part).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&part, bytes).unwrap();
        let args = [&["report", "out", "--metrics"][..], &by].concat();
        let refused = || {
            let output = later.command(&args).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            assert!(stderr(&output).contains("--repair"), "{}", both(&output));
        };
        refused();
        std::fs::remove_dir_all(later.path("out/phases/samples")).unwrap();
        refused();
    }
}

#[test]
fn what_cannot_be_measured_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let without = Job::new(&some_questions(folder.path(), 2), "");
    without.run_ok(&[]);
    let of = |args: &[&str]| {
        let output = without.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        stderr(&output)
    };
    let said = of(&["report", "out", "--metrics"]);
    assert!(
        said.contains("hint: metrics need a reference: `--reference COLUMN`"),
        "{said}"
    );
    let said = of(&["report", "out", "--metrics", "--by", "category"]);
    assert!(said.contains("hint: metrics need a reference"), "{said}");
    let said = of(&["report", "out", "--metrics", "--by", "categori"]);
    assert!(
        said.contains("no row has the column `categori` that `--by` names"),
        "{said}"
    );
    let said = of(&["report", "nowhere", "--metrics"]);
    assert!(said.contains("nowhere"), "{said}");
    let said = stderr(&job(COLUMNS, "[report]\nby = \"categori\"\n").run(&[]));
    assert!(said.contains("report.by"), "{said}");
    assert!(said.contains("did you mean `category`?"), "{said}");
}

/// A manifest with the checksum that a changed one needs.
fn sealed(mut manifest: Value) -> String {
    manifest.as_object_mut().unwrap().shift_remove("crc");
    let text = format!("{manifest:#}\n");
    let crc = crc32c::crc32c(text.as_bytes());
    let open = text.strip_suffix("\n}\n").unwrap();
    format!("{open},\n  \"crc\": \"{crc:08x}\"\n}}\n")
}

#[test]
fn windows_of_an_earlier_version_are_measured_again() {
    let job = job(
        COLUMNS,
        "[batch]\nwindow_rows = 15\n[report]\nby = \"category\"\n",
    );
    job.run_ok(&[]);
    let whole = text(&job, &[]);
    let path = job.path("out/manifest/shard-0.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for window in &mut manifest["windows"].as_array_mut().unwrap()[1..] {
        let totals = window["totals"].as_object_mut().unwrap();
        assert!(totals.remove("sums").is_some() && totals.remove("groups").is_some());
    }
    std::fs::write(&path, sealed(manifest)).unwrap();
    assert_eq!(text(&job, &[]), whole);
    let said = String::from_utf8(job.run_ok(&[]).stdout).unwrap();
    assert!(
        said.contains("of 15 rows alone; `glm-batch report --metrics`"),
        "{said}"
    );
    // They come from the part and the input, which must be there.
    std::fs::rename(job.path("q.jsonl"), job.path("other.jsonl")).unwrap();
    let output = job
        .command(&["report", "out", "--metrics"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(stderr(&output).contains("q.jsonl"), "{}", both(&output));
}

#[test]
fn rows_that_are_left_out_are_in_no_group() {
    let columns = "columns = { prompt = \"question\", reference = \"answer\" }\nskip = 10";
    let windows = "[batch]\nwindow_rows = 15\n";
    let named = job(columns, &format!("{windows}[report]\nby = \"category\"\n"));
    let later = job(columns, windows);
    for job in [&named, &later] {
        job.run_ok(&[]);
    }
    assert_eq!(text(&named, &[]), text(&later, &["--by", "category"]));
    let found = report(&later, &["--by", "category"]);
    let groups = found["groups"].as_array().unwrap();
    let rows: u64 = groups.iter().map(|g| g["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, ROWS - 10);
    let page = later.command(&["report", "out"]).output().unwrap();
    assert_eq!(page.status.code(), Some(0), "{}", both(&page));
    let page = std::fs::read_to_string(later.path("out/report.html")).unwrap();
    assert!(
        page.contains("10 by `input.skip`"),
        "the page does not say it"
    );
}

/// `--by` measures every task by any column, from the parts alone: also for a folder whose job names no groups.
#[test]
fn other_tasks_are_grouped_later_too() {
    let choose = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/demo/choose/questions.jsonl");
    let questions = std::fs::read_to_string(choose).unwrap();
    // Labels that are wrong in every third row.
    let rows: Vec<Value> = (0..)
        .zip(questions.lines().take(12))
        .map(|(at, line)| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["kind"] = ["a", "b"][at % 2].into();
            if at % 3 == 2 {
                row["answer"] = Value::Null;
            }
            row
        })
        .collect();
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\", choices = \"choices\", label = \"answer\" }";
    let infill = [
        ("a", "法国的首都是[MASK]。", "巴黎"),
        ("b", "德国的首都是[MASK]。", "柏林"),
        ("a", "英国的首都是[MASK]。", "没有"),
    ];
    let infill: Vec<Value> = infill
        .into_iter()
        .map(|(kind, question, answer)| {
            serde_json::json!({"kind": kind, "question": question, "answer": answer})
        })
        .collect();
    let with_reference = "columns = { prompt = \"question\", reference = \"answer\" }";
    for (task, columns, rows) in [
        ("choose", columns, rows),
        ("infill", with_reference, infill),
    ] {
        for layout in ["flat", "nested"] {
            let made = |more: &str| {
                let more = format!(
                    "samples = \"{layout}\"\n[prompt]\nmax_length = 96\n[batch]\nwindow_rows = 5\n{more}"
                );
                let job = Job::of_model(&demo_model(), "q.jsonl".as_ref(), columns, &more);
                let path = job.path("job.toml");
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.replacen("name =", &format!("task = \"{task}\"\nname ="), 1);
                std::fs::write(&path, text).unwrap();
                let lines = rows.iter().map(|row| format!("{row}\n"));
                std::fs::write(job.path("q.jsonl"), lines.collect::<String>()).unwrap();
                job.run_ok(&["-q"]);
                job
            };
            let (named, later) = (made("[report]\nby = \"kind\"\n"), made(""));
            let (found, asked) = (report(&named, &[]), report(&later, &["--by", "kind"]));
            assert_eq!(asked["groups"].as_array().unwrap().len(), 2, "{asked}");
            assert_eq!(asked["all"], found["all"], "{task}, {layout}");
            assert_eq!(asked["groups"], found["groups"], "{task}, {layout}");
            let facts = asked["groups"][0]["facts"].to_string();
            assert_eq!(facts.contains("by characters"), task == "choose", "{facts}");
            let text = text(&later, &["--by", "kind"]);
            let head = if task == "choose" {
                "accuracy"
            } else {
                "exact match"
            };
            assert!(text.lines().next().unwrap().contains(head), "{text}");
        }
    }
}
