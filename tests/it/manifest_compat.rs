//! Every version of the manifest, of journals and of `job.json` that was ever written keeps loading.

use std::collections::BTreeMap;
use std::path::Path;

use glm_batch::internals::checkpoint::{
    CommittedWindow, Example, FileEntry, JobFingerprint, JobRecord, Journal, Manifest,
    OutputFolder, StoredJob, Totals, record_version,
};
use glm_batch::internals::fsio::FileDigest;
use glm_batch::internals::ids::{RowId, ShardId, WindowId};
use glm_batch::internals::input::EarlierJob;
use glm_batch::internals::job::{ColumnNames, GenerationSpec, Rules, ScoreSpec, Task, Unfinished};
use glm_batch::internals::outcome::{Cell, LeftOutRows, Measured, Outcome, RowResult, Sums};

use crate::windows::{answered, failed, record, span};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// What the fixtures of version 1 hold.
fn committed() -> CommittedWindow {
    let entry = |name: &str, bytes| FileEntry {
        name: name.to_owned(),
        digest: FileDigest {
            bytes,
            blake3: "ab".repeat(32),
        },
    };
    CommittedWindow {
        window: WindowId(1),
        first_row: 4,
        rows: 4,
        part: entry("parts/part-000001.parquet", 1234),
        failed: Some(entry("failed/window-000001.jsonl", 56)),
        totals: Totals {
            rows: 4,
            ok: 2,
            failed: 1,
            bad: 1,
            broken: 0,
            left_out: LeftOutRows::default(),
            truncated: 1,
            several_masks: 0,
            equal_choices: 0,
            passed_over: 0,
            shots_dropped: 0,
            prompt_tokens: 40,
            completion_tokens: 8,
            referenced: 2,
            exact: 1,
            sums: Sums::default(),
            groups: BTreeMap::new(),
        },
        examples: vec![Example {
            question: "首都？".to_owned(),
            completion: "北京".to_owned(),
            reference: "北京".to_owned(),
            rejected: None,
        }],
    }
}

/// A fixture's text; with `UPDATE_FIXTURES` set it is written from what this version writes.
fn fixture(name: &str, written_now: &Path) -> Vec<u8> {
    let path = Path::new(FIXTURES).join(name);
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::copy(written_now, &path).unwrap();
    }
    std::fs::read(path).unwrap()
}

/// A folder with a job of version 1, whose files do not name it, or of version 2.
fn job_of_version(version: u32, folder: &OutputFolder) -> JobFingerprint {
    let name = format!("checkpoint/job-v{version}.json");
    let text = std::fs::read(Path::new(FIXTURES).join(name)).unwrap();
    std::fs::write(folder.job_file(), text).unwrap();
    StoredJob::existing(folder).unwrap().fingerprint
}

#[test]
fn manifest_versions() {
    for version in [1, 2] {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        let job = job_of_version(version, &folder);
        let mut manifest = Manifest::new(&job, ShardId(1), 2);
        manifest.commit(&folder, committed()).unwrap();
        let path = folder.manifest(ShardId(1));
        let text = fixture(&format!("manifests/v{version}.json"), &path);
        assert_eq!(
            std::fs::read(&path).unwrap(),
            text,
            "beside a `job.json` of version {version}"
        );
        std::fs::write(&path, text).unwrap();
        let loaded = Manifest::load_or_new(&folder, &job, ShardId(1), 2).unwrap();
        assert_eq!(loaded.windows()[&WindowId(1)], committed());
    }
}

#[test]
fn journal_versions() {
    for version in [1, 2] {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        let job = job_of_version(version, &folder);
        let span = span(0, 0, 4);
        let (mut journal, ..) = Journal::open(&folder, &job, &span).unwrap();
        journal.append(RowId(2), &answered(&["北京"])).unwrap();
        journal.append(RowId(1), &failed("no room")).unwrap();
        journal.sync().unwrap();
        let path = folder.journal(WindowId(0));
        let text = fixture(&format!("checkpoint/journal-v{version}.jsonl"), &path);
        assert_eq!(
            std::fs::read(&path).unwrap(),
            text,
            "beside a `job.json` of version {version}"
        );
        std::fs::write(&path, text).unwrap();
        let (_, outcomes, cut) = Journal::open(&folder, &job, &span).unwrap();
        assert_eq!(cut, None);
        assert_eq!(outcomes.len(), 2);
    }
}

/// A journal that version 0.1.0 left when a job was stopped, with all that a row of answers can have: a prompt that was
/// cut, two samples, log-probabilities, a stop string. Each row is read, and written again as the same bytes.
#[test]
fn a_journal_of_an_earlier_program_is_written_as_it_was_read() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let fixtures = Path::new(FIXTURES).join("checkpoint/sampled");
    std::fs::copy(fixtures.join("job.json"), folder.job_file()).unwrap();
    let job = StoredJob::existing(&folder).unwrap().fingerprint;
    let text = std::fs::read_to_string(fixtures.join("journal.jsonl")).unwrap();
    std::fs::write(folder.journal(WindowId(0)), &text).unwrap();
    let (_, outcomes, cut) = Journal::open(&folder, &job, &span(0, 0, 12)).unwrap();
    assert_eq!(cut, None);
    assert_eq!(outcomes.len(), text.lines().count() - 1);

    let again = tempfile::tempdir().unwrap();
    let again = OutputFolder::open(again.path()).unwrap();
    let (mut journal, ..) = Journal::open(&again, &job, &span(0, 0, 12)).unwrap();
    for line in text.lines().skip(1) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let row = RowId(line["row"].as_u64().unwrap());
        journal.append(row, &outcomes[&row]).unwrap();
    }
    journal.sync().unwrap();
    let written = std::fs::read_to_string(again.journal(WindowId(0))).unwrap();
    assert_eq!(written, text);
}

#[test]
fn record_version_1() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let text = std::fs::read(Path::new(FIXTURES).join("checkpoint/job-v1.json")).unwrap();
    std::fs::write(folder.job_file(), text).unwrap();
    let expected = JobRecord {
        version: "1".to_owned(),
        rules: Rules::FIRST,
        ..record(Path::new("/out"), 2, &[4, 4, 1])
    };
    assert_eq!(JobRecord::load(&folder).unwrap(), Some(expected));
}

#[test]
fn record_version_2() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let expected = record(Path::new("/out"), 2, &[4, 4, 1]);
    assert!(expected.create(&folder).unwrap());
    let text = fixture("checkpoint/job-v2-rows-4.json", &folder.job_file());
    assert_eq!(
        std::fs::read(folder.job_file()).unwrap(),
        text,
        "the current version is version 2"
    );
    assert_eq!(JobRecord::load(&folder).unwrap(), Some(expected));
}

/// A job that reads another's results, and takes some of the rows.
#[test]
fn record_version_4() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let mut expected = record(Path::new("/out"), 2, &[4, 4, 1]);
    expected.spec.input.filter = Some("level > 2".to_owned());
    expected.spec.input.skip = 1;
    expected.spec.input.limit = Some(7);
    expected.spec.input.unfinished = Unfinished::Allow;
    expected.input.earlier = vec![EarlierJob {
        folder: "/answers".into(),
        job: Some("0123".to_owned()),
        results: vec!["row".to_owned(), "completion".to_owned()],
        carried: vec!["question".to_owned()],
    }];
    expected.input.files[0].earlier = Some(0);
    expected.version = record_version(Task::Generate, &expected.input).to_owned();
    assert!(expected.create(&folder).unwrap());
    let text = fixture("checkpoint/job-v4.json", &folder.job_file());
    assert_eq!(std::fs::read(folder.job_file()).unwrap(), text);
    assert_eq!(JobRecord::load(&folder).unwrap(), Some(expected));
}

/// Counts of rows that are left out.
#[test]
fn a_manifest_with_rows_that_are_left_out() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let job = job_of_version(2, &folder);
    let mut window = committed();
    window.totals.left_out = LeftOutRows {
        skip: 1,
        limit: 0,
        failed: 2,
        filter: 3,
    };
    let mut manifest = Manifest::new(&job, ShardId(1), 2);
    manifest.commit(&folder, window.clone()).unwrap();
    let path = folder.manifest(ShardId(1));
    let text = fixture("manifests/v2-left-out.json", &path);
    assert_eq!(std::fs::read(&path).unwrap(), text);
    let loaded = Manifest::load_or_new(&folder, &job, ShardId(1), 2).unwrap();
    assert_eq!(loaded.windows()[&WindowId(1)], window);
    assert_eq!(loaded.totals().left_out.total(), 6);
}

/// A job of another task than `generate`: its record, a row of its journal, and a window with sums.
#[test]
fn record_version_3() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let mut expected = record(Path::new("/out"), 2, &[4, 4, 1]);
    expected.version = record_version(Task::Score, &expected.input).to_owned();
    expected.spec.task = Task::Score;
    expected.spec.generation = GenerationSpec::default();
    expected.spec.score = Some(ScoreSpec {
        max_target_tokens: Some(100),
        ..ScoreSpec::default()
    });
    expected.spec.input.columns.target = Some(ColumnNames::One("answer".to_owned()));
    assert!(expected.create(&folder).unwrap());
    let text = fixture("checkpoint/job-v3.json", &folder.job_file());
    assert_eq!(std::fs::read(folder.job_file()).unwrap(), text);
    let stored = StoredJob::existing(&folder).unwrap();
    assert_eq!(stored.record, expected);

    let span = span(0, 0, 4);
    let (mut journal, ..) = Journal::open(&folder, &stored.fingerprint, &span).unwrap();
    let measured = Outcome::Ok(RowResult::Measured(Measured {
        prompt_tokens: 9,
        truncated: 2,
        row: vec![Cell::Text("a".to_owned()), Cell::Null],
        samples: vec![vec![
            Cell::Float(-0.1),
            Cell::Bool(false),
            Cell::Int(3),
            Cell::from([-0.05, f32::NEG_INFINITY].as_slice()),
        ]],
    }));
    journal.append(RowId(2), &measured).unwrap();
    journal.sync().unwrap();
    let path = folder.journal(WindowId(0));
    let text = fixture("checkpoint/journal-v2-measured.jsonl", &path);
    assert_eq!(std::fs::read(&path).unwrap(), text);
    let (_, outcomes, cut) = Journal::open(&folder, &stored.fingerprint, &span).unwrap();
    assert_eq!((outcomes.get(&RowId(2)), cut), (Some(&measured), None));

    let mut window = committed();
    window.totals.sums.add("logprob", -2.5);
    let mut manifest = Manifest::new(&stored.fingerprint, ShardId(1), 2);
    manifest.commit(&folder, window.clone()).unwrap();
    let path = folder.manifest(ShardId(1));
    let text = fixture("manifests/v2-sums.json", &path);
    assert_eq!(std::fs::read(&path).unwrap(), text);
    let loaded = Manifest::load_or_new(&folder, &stored.fingerprint, ShardId(1), 2).unwrap();
    assert_eq!(loaded.windows()[&WindowId(1)], window);
}

/// Before the task was part of the job, every job was of the one task; a list was no reference yet.
#[test]
fn records_of_earlier_rules() {
    for (name, rows) in [
        ("job-v2.json", 2),
        ("job-v2-task.json", 2),
        ("job-v2-rows-3.json", 3),
    ] {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        let stored = Path::new(FIXTURES).join("checkpoint").join(name);
        std::fs::copy(stored, folder.job_file()).unwrap();
        let rules = Rules {
            rows,
            ..Rules::CURRENT
        };
        let expected = JobRecord {
            rules,
            ..record(Path::new("/out"), 2, &[4, 4, 1])
        };
        assert_eq!(JobRecord::load(&folder).unwrap(), Some(expected), "{name}");
    }
}

#[test]
fn a_newer_version_is_refused_with_the_cure() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let text = r#"{
  "version": "99"
}
"#;
    let crc = crc32c::crc32c(text.as_bytes());
    let sealed = text.replace("\n}\n", &format!(",\n  \"crc\": \"{crc:08x}\"\n}}\n"));
    std::fs::write(folder.manifest(ShardId(0)), sealed).unwrap();
    let error = Manifest::load_or_new(&folder, &JobFingerprint::NONE, ShardId(0), 1)
        .unwrap_err()
        .to_string();
    let error = error.replace(&parent.path().display().to_string(), "OUT");
    insta::assert_snapshot!(error, @"
    `OUT/manifest/shard-0.json` was written by another version of glm-batch: it has version `99`, which this program does not know
    hint: run the version of glm-batch that wrote it, or a newer one
    ");
}

/// A later program may know more keys and tasks: its `job.json` is not damaged.
#[test]
fn a_record_of_another_version_is_no_damage() {
    let text =
        std::fs::read_to_string(Path::new(FIXTURES).join("checkpoint/job-v2-task.json")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record.as_object_mut().unwrap().remove("crc");
    let refusal = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut record = record.clone();
        change(&mut record);
        let text = serde_json::to_string_pretty(&record).unwrap() + "\n";
        let crc = crc32c::crc32c(text.as_bytes());
        let sealed = text.strip_suffix("\n}\n").unwrap().to_owned();
        let sealed = sealed + &format!(",\n  \"crc\": \"{crc:08x}\"\n}}\n");
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        std::fs::write(folder.job_file(), sealed).unwrap();
        let error = StoredJob::load(&folder).map(drop).err();
        error.map(|error| {
            error
                .to_string()
                .replace(&parent.path().display().to_string(), "OUT")
        })
    };
    assert_eq!(refusal(&|_| ()), None);
    let texts = [
        refusal(&|record| record["version"] = "99".into()),
        refusal(&|record| record["spec"]["task"] = "paint".into()),
        refusal(&|record| record["spec"]["prompt"]["many_shot"] = 3.into()),
    ];
    let texts: Vec<String> = texts.into_iter().map(Option::unwrap).collect();
    for text in &texts {
        assert!(
            text.contains("was written by another version of glm-batch"),
            "{text}"
        );
    }
    insta::assert_snapshot!(texts.join("\n"));
}
