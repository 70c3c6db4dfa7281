//! Journals cut and damaged at every byte, commits stopped after each step, verify and repair, resume,
//! restart, and what the messages say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glm_batch::StopFlag;
use glm_batch::internals::checkpoint::{
    CheckpointError, Commit, JobFingerprint, JobRecord, Journal, LockOptions, Manifest,
    OutputFolder, ShardLock, Soundness, StoredJob, Totals, check_sizes, clean_leftovers,
    commit_window, discard, repair, restart, status, verify, verify_shards,
};
use glm_batch::internals::ids::{RowId, ShardId, WindowId};
use glm_batch::internals::input::InputWindow;
use glm_batch::internals::job::{GenerationSpec, OutputFormat};
use glm_batch::internals::outcome::{
    BadRow, Completion, FinishReason, Outcome, Outcomes, RowResult, Sample, Stage,
};
use glm_batch::internals::precision::Precision;
use glm_batch::internals::sink::{ResultSink, SinkError, new_sink};
use glm_batch::internals::tasks;
use proptest::prelude::*;

use crate::support::spec_of;
use crate::windows::{
    answered, failed, index, input_file, json_window, outcomes, output, record, span,
};

const LINES: [&str; 4] = [r#"{"n": 1}"#, r#"{"n": "#, r#"{"n": 3}"#, r#"{"n": 4}"#];

/// A job of two windows of four rows, its folder and its shard's lock.
struct Job {
    /// Removes the folder when dropped.
    parent: tempfile::TempDir,
    folder: OutputFolder,
    lock: ShardLock,
    manifest: Manifest,
    sink: Box<dyn ResultSink>,
}

impl Job {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("out");
        let folder = OutputFolder::open(&root).unwrap();
        // The same job in every folder, so that the same files name it.
        let job = record(Path::new("/out"), 1, &[4, 4]);
        assert!(job.create(&folder).unwrap());
        let lock = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
        let columns = index(&[("n", glm_batch::internals::input::ColumnKind::Int64)]);
        let sink = new_sink(
            &tasks::form(&spec_of(
                &output(OutputFormat::Jsonl),
                &GenerationSpec::default(),
            )),
            &columns,
            None,
            None,
        );
        let manifest = Manifest::new(&job_of(&folder), ShardId(0), 1);
        Self {
            parent,
            folder,
            lock,
            manifest,
            sink: sink.unwrap(),
        }
    }

    /// Both windows committed.
    fn finished() -> Self {
        let mut job = Self::new();
        job.commit(0).unwrap();
        job.commit(1).unwrap();
        job
    }

    fn window(id: u32) -> (InputWindow, BTreeMap<RowId, Outcome>) {
        let window = json_window(id, u64::from(id) * 4, &LINES);
        let mut rows = outcomes(&window);
        rows.insert(RowId(u64::from(id) * 4 + 2), failed("no room"));
        (window, rows)
    }

    fn commit(&mut self, id: u32) -> Result<(), CheckpointError> {
        let (window, rows) = Self::window(id);
        let (mut journal, found, cut) = Journal::open(
            &self.folder,
            &job_of(&self.folder),
            &span(id, u64::from(id) * 4, 4),
        )
        .unwrap();
        assert_eq!(cut, None);
        for (row, outcome) in rows.iter().filter(|(row, _)| !found.contains_key(*row)) {
            journal.append(*row, outcome).unwrap();
        }
        journal.sync().unwrap();
        let commit = Commit {
            window: &window,
            first_row: RowId(u64::from(id) * 4),
            rows: 4,
            outcomes: &rows,
            sink: self.sink.as_ref(),
            files: &[input_file()],
            totals: &Totals {
                rows: 4,
                ok: 2,
                failed: 1,
                bad: 1,
                ..Totals::default()
            },
            examples: &[],
        };
        commit_window(&self.folder, &self.lock, &mut self.manifest, &commit)
    }

    /// The files that a job leaves, by name.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in ["parts", "failed", "manifest", "journal"] {
            for entry in std::fs::read_dir(self.folder.root().join(folder)).unwrap() {
                let path = entry.unwrap().path();
                files.insert(
                    path.strip_prefix(self.folder.root()).unwrap().into(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
        files
    }

    fn message(&self, error: &dyn std::fmt::Display) -> String {
        error
            .to_string()
            .replace(&self.folder.root().display().to_string(), "OUT")
    }
}

/// What the files of the job in a folder name it by.
fn job_of(folder: &OutputFolder) -> JobFingerprint {
    StoredJob::existing(folder).unwrap().fingerprint
}

#[test]
fn a_finished_job_is_sound() {
    let job = Job::finished();
    let report = verify(&job.folder).unwrap();
    assert_eq!(report.soundness(), Soundness::Finished);
    assert_eq!((report.sound_windows, report.rows), (2, 8));
    check_sizes(&job.folder, &job.manifest).unwrap();
    let names: Vec<_> = job
        .files()
        .into_keys()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "failed/window-000000.jsonl",
            "failed/window-000001.jsonl",
            "manifest/shard-0.json",
            "parts/part-000000.jsonl",
            "parts/part-000001.jsonl"
        ]
    );
}

#[test]
fn a_journal_cut_at_every_byte_gives_its_complete_lines() {
    let job = Job::new();
    let (_, rows) = Job::window(0);
    let span = span(0, 0, 4);
    let (mut journal, ..) = Journal::open(&job.folder, &job_of(&job.folder), &span).unwrap();
    for (row, outcome) in &rows {
        journal.append(*row, outcome).unwrap();
    }
    assert!(journal.is_dirty());
    journal.sync().unwrap();
    drop(journal);
    let path = job.folder.journal(WindowId(0));
    let whole = std::fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (_, found, cut) = Journal::open(&job.folder, &job_of(&job.folder), &span).unwrap();
        let lines = whole[..length].split(|&byte| byte == b'\n').count() - 1;
        // The first one names the job.
        let lines = rows.iter().take(lines.saturating_sub(1));
        assert!(found.iter().eq(lines), "cut at {length}");
        let sound = whole[..length]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        assert_eq!(cut.is_some(), sound < length);
        assert!(cut.is_none_or(|cut| cut.is_tail && cut.bytes == (length - sound) as u64));
        assert_eq!(std::fs::read(&path).unwrap(), &whole[..sound]);
    }
}

#[test]
fn a_row_enters_a_journal_once() {
    let job = Job::new();
    let span = span(0, 0, 4);
    let (mut journal, ..) = Journal::open(&job.folder, &job_of(&job.folder), &span).unwrap();
    journal.append(RowId(1), &answered(&["a"])).unwrap();
    let error = journal.append(RowId(1), &answered(&["b"])).unwrap_err();
    assert_eq!(
        job.message(&error),
        "row 1 is in the journal `OUT/journal/window-000000.jsonl` already"
    );
    journal.sync().unwrap();
    let path = job.folder.journal(WindowId(0));
    let whole = std::fs::read_to_string(&path).unwrap();
    let (_, line) = whole.split_once('\n').unwrap();
    std::fs::write(&path, [&whole, line].concat()).unwrap();
    let (_, found, cut) = Journal::open(&job.folder, &job_of(&job.folder), &span).unwrap();
    assert_eq!(found.len(), 1);
    insta::assert_snapshot!(job.message(&cut.unwrap()), @"journal `OUT/journal/window-000000.jsonl`: line 3 is wrong (row 1 stands above already); 159 bytes from there on are cut and their rows computed again");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);

    let (_, found, cut) = Journal::open(
        &job.folder,
        &job_of(&job.folder),
        &crate::windows::span(0, 5, 4),
    )
    .unwrap();
    assert!(found.is_empty());
    assert_eq!(cut.unwrap().reason, "row 1 is not in window 0");
}

#[test]
fn the_journal_reads_like_the_results() {
    let job = Job::new();
    let (mut journal, ..) =
        Journal::open(&job.folder, &job_of(&job.folder), &span(0, 0, 4)).unwrap();
    journal.append(RowId(0), &answered(&["北京"])).unwrap();
    journal.append(RowId(1), &failed("no room")).unwrap();
    journal.sync().unwrap();
    let text = std::fs::read_to_string(job.folder.journal(WindowId(0))).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let header: serde_json::Value = serde_json::from_str(header).unwrap();
    assert_eq!(header["job"].as_str(), job_of(&job.folder).as_deref());
    insta::assert_snapshot!(rows, @r#"
    {"row":0,"status":"ok","prompt_tokens":9,"samples":[{"text":"北京","finish_reason":"stop","token_ids":[7,50007],"token_logprobs":[-0.5,-0.25]}],"crc":"f19c0d6d"}
    {"row":1,"status":"failed","stage":"generate","reason":"no room","crc":"a7eb164b"}
    "#);
}

fn outcome_strategy() -> impl Strategy<Value = Outcome> {
    let reasons = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::StopString)
    ];
    let floats = proptest::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..4);
    let sample = (
        any::<String>(),
        reasons,
        proptest::collection::vec(any::<u32>(), 0..4),
        floats,
        proptest::option::of(any::<f32>()),
    )
        .prop_map(
            |(text, finish_reason, token_ids, token_logprobs, score)| Sample {
                text,
                finish_reason,
                token_ids,
                token_logprobs,
                score,
                spans: Vec::new(),
            },
        );
    let samples = proptest::collection::vec(sample, 0..3);
    let ok =
        (any::<u32>(), any::<u32>(), samples).prop_map(|(prompt_tokens, truncated, samples)| {
            Outcome::Ok(RowResult::Generated(Completion {
                prompt_tokens,
                truncated,
                samples,
            }))
        });
    let stage = prop_oneof![
        Just(Stage::Input),
        Just(Stage::Template),
        Just(Stage::Generate)
    ];
    let failed = (stage, any::<String>())
        .prop_map(|(stage, reason)| Outcome::Failed(BadRow { stage, reason }));
    prop_oneof![ok, failed]
}

/// Log-probabilities as bits, since not-a-number equals nothing.
fn bits(outcome: &Outcome) -> (Outcome, Vec<u32>) {
    let (mut rest, mut bits) = (outcome.clone(), Vec::new());
    if let Outcome::Ok(RowResult::Generated(completion)) = &mut rest {
        for sample in &mut completion.samples {
            let floats = std::mem::take(&mut sample.token_logprobs);
            bits.extend(floats.iter().map(|float| {
                if float.is_nan() {
                    u32::MAX
                } else {
                    float.to_bits()
                }
            }));
        }
    }
    (rest, bits)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn what_enters_a_journal_comes_out(outcomes in proptest::collection::vec(outcome_strategy(), 1..6)) {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        let span = span(0, 10, 6);
        let (mut journal, ..) = Journal::open(&folder, &JobFingerprint::NONE, &span).unwrap();
        for (row, outcome) in (10..).zip(&outcomes) {
            journal.append(RowId(row), outcome).unwrap();
            if row % 2 == 0 {
                journal.sync().unwrap();
            }
        }
        // Some rows are in the file, and the last one may not be.
        for (row, outcome) in (10..).zip(&outcomes) {
            let again = journal.outcome(RowId(row)).unwrap().unwrap();
            prop_assert_eq!(bits(&again), bits(outcome));
        }
        prop_assert_eq!(journal.outcome(RowId(9)).unwrap(), None);
        journal.sync().unwrap();
        let (journal, found, cut) = Journal::open(&folder, &JobFingerprint::NONE, &span).unwrap();
        prop_assert_eq!(cut, None);
        prop_assert_eq!(found.len(), outcomes.len());
        for ((row, found), outcome) in found.iter().zip(&outcomes) {
            prop_assert_eq!(bits(found), bits(outcome));
            prop_assert_eq!(bits(&journal.outcome(*row).unwrap().unwrap()), bits(outcome));
        }
    }
}

#[test]
fn a_journal_that_changed_while_it_was_open_gives_no_row() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    let span = span(0, 0, 2);
    let (mut journal, ..) = Journal::open(&folder, &JobFingerprint::NONE, &span).unwrap();
    for row in [0, 1] {
        journal.append(RowId(row), &answered(&["a"])).unwrap();
    }
    journal.sync().unwrap();
    let path = parent.path().join("journal/window-000000.jsonl");
    let bytes = std::fs::read(&path).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for (changed, reason) in [
        (Vec::new(), "failed to fill whole buffer"),
        ([second, first].concat(), "another row is in its place"),
        (
            vec![b'x'; bytes.len()],
            "its checksum does not fit its content",
        ),
    ] {
        std::fs::write(&path, changed).unwrap();
        let error = journal.outcome(RowId(0)).unwrap_err().to_string();
        assert!(error.contains("row 0 cannot be read again"), "{error}");
        assert!(error.ends_with(reason), "{error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(journal.outcome(RowId(0)).unwrap(), Some(answered(&["a"])));
}

#[test]
fn a_commit_stopped_after_any_step_is_redone_to_the_same_files() {
    let expected = Job::finished().files();
    let mut before = Job::new();
    before.commit(0).unwrap();
    let first_manifest = before
        .files()
        .remove(Path::new("manifest/shard-0.json"))
        .unwrap();
    let part = Path::new("parts/part-000001.jsonl");
    let failed = Path::new("failed/window-000001.jsonl");
    // What each stop leaves of the second commit, from a half-written part to the committed window with its
    // journal; the journal itself always stands.
    for steps in 0..6 {
        let mut job = Job::new();
        job.commit(0).unwrap();
        let (mut journal, ..) =
            Journal::open(&job.folder, &job_of(&job.folder), &span(1, 4, 4)).unwrap();
        for (row, outcome) in Job::window(1).1 {
            journal.append(row, &outcome).unwrap();
        }
        journal.sync().unwrap();
        let root = job.folder.root().to_path_buf();
        let half = |name: &str, bytes: &[u8]| {
            std::fs::write(root.join(name), &bytes[..bytes.len() / 2]).unwrap();
        };
        if steps == 1 {
            half("parts/.part-000001.jsonl.77.tmp", &expected[part]);
        }
        if steps >= 2 {
            std::fs::write(root.join(part), &expected[part]).unwrap();
            half("failed/.window-000001.jsonl.77.tmp", &expected[failed]);
        }
        if steps >= 3 {
            std::fs::write(root.join(failed), &expected[failed]).unwrap();
            half("manifest/.shard-0.json.77.tmp", &first_manifest);
        }
        if steps >= 4 {
            let manifest = &expected[Path::new("manifest/shard-0.json")];
            std::fs::write(root.join("manifest/shard-0.json"), manifest).unwrap();
        }
        job.manifest =
            Manifest::load_or_new(&job.folder, &job_of(&job.folder), ShardId(0), 1).unwrap();
        clean_leftovers(&job.folder, &job.manifest).unwrap();
        assert_eq!(job.manifest.contains(WindowId(1)), steps >= 4);
        if !job.manifest.contains(WindowId(1)) {
            job.commit(1).unwrap();
        }
        assert_eq!(job.files(), expected, "stopped after step {steps}");
        assert_eq!(
            verify(&job.folder).unwrap().soundness(),
            Soundness::Finished
        );
    }
}

#[test]
fn a_second_commit_of_a_window_is_refused() {
    let mut job = Job::finished();
    let before = job.files();
    let error = job.commit(1).unwrap_err();
    assert!(matches!(error, CheckpointError::Overlap { .. }), "{error}");
    std::fs::remove_file(job.folder.journal(WindowId(1))).unwrap();
    assert_eq!(job.files(), before);
}

#[test]
fn a_writer_that_was_taken_over_commits_nothing() {
    let mut job = Job::new();
    let owner = r#"{"host":"elsewhere","pid":3,"started_ms":1,"heartbeat_ms":1,"beats":0}"#;
    std::fs::write(job.folder.owner(ShardId(0)), owner).unwrap();
    let error = job.commit(0).unwrap_err();
    insta::assert_snapshot!(job.message(&error), @"
    shard 0 has been taken over by process 3 on `elsewhere`
    hint: this process stops here, what it committed stays valid
    ");
    assert!(!job.folder.part(WindowId(0), "jsonl").exists());
}

/// Flips every byte of a file in turn; verify must name the file each time.
fn assert_every_flip_is_found(job: &Job, path: &Path, may_be_note: impl Fn(usize) -> bool) {
    let whole = std::fs::read(path).unwrap();
    assert!(!whole.is_empty());
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(path, flipped).unwrap();
        let report = verify(&job.folder).unwrap();
        let is_named = report.problems.iter().any(|problem| problem.path == path);
        let is_noted = report
            .notes
            .iter()
            .any(|note| note.contains(&path.display().to_string()));
        assert!(
            is_named || (may_be_note(at) && is_noted),
            "byte {at} of {}",
            path.display()
        );
    }
    std::fs::write(path, whole).unwrap();
    assert!(verify(&job.folder).unwrap().problems.is_empty());
}

#[test]
fn an_interrupted_check_says_so() {
    let mut job = Job::new();
    job.commit(0).unwrap();
    let stop = StopFlag::default();
    stop.request();
    let checked = verify_shards(&job.folder, None, &stop);
    assert!(matches!(checked, Err(CheckpointError::Interrupted)));
}

#[test]
fn verify_finds_every_flipped_byte() {
    let mut job = Job::new();
    job.commit(0).unwrap();
    let (mut journal, ..) =
        Journal::open(&job.folder, &job_of(&job.folder), &span(1, 4, 4)).unwrap();
    for (row, outcome) in Job::window(1).1 {
        journal.append(row, &outcome).unwrap();
    }
    journal.sync().unwrap();
    let report = verify(&job.folder).unwrap();
    assert_eq!(
        (report.soundness(), report.journalled_rows),
        (Soundness::SoFar, 3)
    );
    for path in [
        job.folder.job_file(),
        job.folder.manifest(ShardId(0)),
        job.folder.part(WindowId(0), "jsonl"),
        job.folder.failed(WindowId(0)),
    ] {
        assert_every_flip_is_found(&job, &path, |_| false);
    }
    // A last line without its end is what a kill leaves, so it is said but is no damage.
    let path = job.folder.journal(WindowId(1));
    let last = std::fs::metadata(&path).unwrap().len() as usize - 1;
    assert_every_flip_is_found(&job, &path, |at| at == last);
}

#[test]
fn repair_takes_damage_out_and_the_next_run_makes_it_again() {
    let mut job = Job::new();
    job.commit(0).unwrap();
    job.commit(1).unwrap();
    let expected = job.files();
    let part = job.folder.part(WindowId(1), "jsonl");
    let mut text = std::fs::read(&part).unwrap();
    text[3] = b'\n';
    std::fs::write(&part, text).unwrap();
    std::fs::remove_file(job.folder.failed(WindowId(0))).unwrap();
    let report = verify(&job.folder).unwrap();
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| job.message(problem))
        .collect();
    insta::assert_snapshot!(problems.join("\n"), @"
    `OUT/failed/window-000000.jsonl`: is gone
    `OUT/parts/part-000001.jsonl`: does not hold what was written (line 1)
    ");
    let error = repair(&job.folder, &LockOptions::default()).unwrap_err();
    assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");

    let Job {
        parent,
        folder,
        lock,
        sink,
        ..
    } = job;
    drop(lock);
    let repaired = repair(&folder, &LockOptions::default()).unwrap();
    assert_eq!(repaired.windows, [WindowId(0), WindowId(1)]);
    assert_eq!(
        repaired.moved,
        [(part, folder.damaged().join("parts-part-000001.jsonl.1"))]
    );
    assert_eq!(verify(&folder).unwrap().soundness(), Soundness::SoFar);

    let manifest = Manifest::load_or_new(&folder, &job_of(&folder), ShardId(0), 1).unwrap();
    let lock = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
    let mut job = Job {
        parent,
        folder,
        lock,
        manifest,
        sink,
    };
    job.commit(0).unwrap();
    job.commit(1).unwrap();
    assert_eq!(job.files(), expected);
}

#[test]
fn repair_keeps_the_sound_lines_of_a_journal_and_moves_a_manifest() {
    let mut job = Job::new();
    job.commit(0).unwrap();
    let (mut journal, ..) =
        Journal::open(&job.folder, &job_of(&job.folder), &span(1, 4, 4)).unwrap();
    for (row, outcome) in Job::window(1).1 {
        journal.append(row, &outcome).unwrap();
    }
    journal.sync().unwrap();
    let path = job.folder.journal(WindowId(1));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("no room", "No room", 1)).unwrap();
    let manifest = job.folder.manifest(ShardId(0));
    std::fs::write(&manifest, "{}").unwrap();
    let report = verify(&job.folder).unwrap();
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| job.message(problem))
        .collect();
    insta::assert_snapshot!(problems.join("\n"), @"
    `OUT/manifest/shard-0.json`: its checksum does not fit its content
    `OUT/journal/window-000001.jsonl`: line 3 is wrong: its checksum does not fit its content
    ");
    let Job {
        parent: _parent,
        folder,
        lock,
        ..
    } = job;
    drop(lock);
    let repaired = repair(&folder, &LockOptions::default()).unwrap();
    assert_eq!(repaired.windows, [WindowId(0), WindowId(1)]);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        text.split_inclusive('\n').take(2).collect::<String>()
    );
    assert!(!manifest.exists());
    assert_eq!(std::fs::read_dir(folder.damaged()).unwrap().count(), 2);
    assert_eq!(verify(&folder).unwrap().soundness(), Soundness::SoFar);
}

#[test]
fn a_committed_file_of_another_size_is_named() {
    let job = Job::finished();
    let part = job.folder.part(WindowId(0), "jsonl");
    let bytes = std::fs::read(&part).unwrap();
    std::fs::write(&part, &bytes[1..]).unwrap();
    let changed = check_sizes(&job.folder, &job.manifest).unwrap_err();
    std::fs::remove_file(&part).unwrap();
    let gone = check_sizes(&job.folder, &job.manifest).unwrap_err();
    insta::assert_snapshot!(job.message(&format!("{changed}\n{gone}")), @"
    the committed file `OUT/parts/part-000000.jsonl` has 466 bytes, it was written with 467 bytes
    hint: `glm-batch verify --repair` takes it out, the next run makes it again
    the committed file `OUT/parts/part-000000.jsonl` is gone, it was written with 467 bytes
    hint: `glm-batch verify --repair` takes it out, the next run makes it again
    ");
}

/// Writes a few bytes, then the disk is full.
struct FullDisk;

impl ResultSink for FullDisk {
    fn extension(&self) -> &'static str {
        "jsonl"
    }

    fn write_part(
        &self,
        _window: &InputWindow,
        _outcomes: &dyn Outcomes,
        out: &mut (dyn std::io::Write + Send),
    ) -> Result<(), SinkError> {
        out.write_all(b"half")?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into())
    }
}

#[test]
fn a_full_disk_is_recognised_and_changes_nothing() {
    let mut job = Job::new();
    job.commit(0).unwrap();
    let before = job.files();
    job.sink = Box::new(FullDisk);
    let error = job.commit(1).unwrap_err();
    assert!(matches!(error, CheckpointError::DiskFull(_)));
    insta::assert_snapshot!(job.message(&error), @"
    cannot write `OUT/parts/part-000001.jsonl`: no storage space
    hint: free some space there, then run the same command again
    ");
    let mut after = job.files();
    assert!(
        after
            .remove(Path::new("journal/window-000001.jsonl"))
            .is_some()
    );
    assert_eq!(after, before);
}

/// Cannot make a part of any window.
struct Broken;

impl ResultSink for Broken {
    fn extension(&self) -> &'static str {
        "parquet"
    }

    fn write_part(
        &self,
        _window: &InputWindow,
        _outcomes: &dyn Outcomes,
        _out: &mut (dyn std::io::Write + Send),
    ) -> Result<(), SinkError> {
        Err(parquet::errors::ParquetError::General("no such codec".to_owned()).into())
    }
}

#[test]
fn a_part_that_cannot_be_made_is_named() {
    let mut job = Job::new();
    job.sink = Box::new(Broken);
    let error = job.commit(0).unwrap_err();
    insta::assert_snapshot!(
        job.message(&error),
        @"`OUT/parts/part-000000.parquet`: cannot write the part: Parquet error: no such codec"
    );
}

#[test]
fn a_real_full_device_is_recognised() {
    let Ok(mut full) = std::fs::OpenOptions::new().append(true).open("/dev/full") else {
        eprintln!("skipped: no /dev/full");
        return;
    };
    let error =
        glm_batch::internals::fsio::append_synced(&mut full, Path::new("/dev/full"), 0, b"x")
            .unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(matches!(
        CheckpointError::from(error),
        CheckpointError::DiskFull(_)
    ));
}

#[test]
fn status_counts_what_the_files_say() {
    let mut job = Job::new();
    job.commit(0).unwrap();
    let (mut journal, ..) =
        Journal::open(&job.folder, &job_of(&job.folder), &span(1, 4, 4)).unwrap();
    journal.append(RowId(5), &answered(&["a"])).unwrap();
    journal.sync().unwrap();
    let found = status(&job.folder).unwrap();
    assert_eq!(
        (found.windows, found.rows, found.journalled_rows),
        (2, 8, 1)
    );
    assert!(!found.is_finished);
    let shard = &found.shards[0];
    assert_eq!(
        (shard.windows_done, shard.totals.rows, shard.totals.failed),
        (1, 4, 1)
    );
    assert_eq!(shard.owner.as_ref().unwrap().pid, std::process::id());
    job.commit(1).unwrap();
    assert!(status(&job.folder).unwrap().is_finished);
    let error = status(&OutputFolder::at(Path::new("/nowhere"))).unwrap_err();
    insta::assert_snapshot!(error, @"
    `/nowhere` is not the output folder of a job: it has no `job.json`
    hint: give the folder that `output.path` names; the first run makes it, and `run --limit` writes to one that ends in `.trial`
    ");
}

#[test]
fn restart_moves_the_folder_unless_somebody_writes() {
    let Job {
        parent: _parent,
        folder,
        lock,
        ..
    } = Job::finished();
    let root = folder.root().to_path_buf();
    let error = restart(&root, &LockOptions::default()).unwrap_err();
    assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
    drop(lock);
    let old = root.with_file_name("out.old-1");
    assert_eq!(
        restart(&root, &LockOptions::default()).unwrap(),
        Some(old.clone())
    );
    assert!(!root.exists());
    assert_eq!(
        verify(&OutputFolder::at(&old)).unwrap().soundness(),
        Soundness::Finished
    );
    assert_eq!(restart(&root, &LockOptions::default()).unwrap(), None);
    OutputFolder::open(&root).unwrap();
    let moved = restart(&root, &LockOptions::default()).unwrap();
    assert_eq!(moved, Some(root.with_file_name("out.old-2")));
}

#[test]
fn only_the_folder_of_a_trial_is_discarded() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("out.trial");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("thesis.txt"), "mine").unwrap();
    for _ in 0..2 {
        let refused = discard(&root, &LockOptions::default());
        assert!(
            matches!(refused, Err(CheckpointError::NoTrial { .. })),
            "{refused:?}"
        );
        assert!(root.join("thesis.txt").exists());
        OutputFolder::open(&root).unwrap();
    }
    std::fs::remove_file(root.join("thesis.txt")).unwrap();
    // A trial that was killed while it wrote its record.
    std::fs::write(root.join(".job.json.7.tmp"), "{").unwrap();
    discard(&root, &LockOptions::default()).unwrap();
    assert!(!root.exists());
}

#[test]
fn the_record_is_created_once_and_compared() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(parent.path()).unwrap();
    assert_eq!(JobRecord::load(&folder).unwrap(), None);
    let first = record(parent.path(), 1, &[4]);
    assert!(first.create(&folder).unwrap());
    let mut now = record(parent.path(), 1, &[4, 4]);
    assert!(!now.create(&folder).unwrap());
    let loaded = JobRecord::load(&folder).unwrap().unwrap();
    assert_eq!(loaded, first);
    assert_eq!(
        loaded.compare(&first, Vec::new()),
        glm_batch::internals::checkpoint::Comparison::default()
    );

    now.program = "0.2.0".to_owned();
    now.resolved.cpu = "avx2".to_owned();
    now.resolved.dtype = Precision::Bf16;
    now.resolved.weights = "w2".to_owned();
    now.arithmetic = "2".to_owned();
    now.input.files[0].fingerprint = "fedcba9876543210".to_owned();
    let differences = vec![(
        "generation.top_p".to_owned(),
        "0.9".to_owned(),
        "0.8".to_owned(),
    )];
    let comparison = loaded.compare(&now, differences);
    let refused: Vec<_> = comparison.refused.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(refused.join("\n"), @"
    `generation.top_p` was `0.9`, is now `0.8`
    `model.dtype` was `f32`, is now `bf16`
    `weights` was `w1`, is now `w2`
    `version of the arithmetic` was `1`, is now `2`
    `input file /data/questions.jsonl` was `100 bytes, fingerprint 0123456789ab`, is now `100 bytes, fingerprint fedcba987654`
    ");
    insta::assert_snapshot!(comparison.warnings.join("\n"), @"
    the job was started with glm-batch 0.1.0, this is 0.2.0
    the job was started on another kind of CPU (`avx512`, this is `avx2`): the last bits of new rows may differ
    ");

    let mut moved = first.clone();
    moved.input.files[0].path = PathBuf::from("/elsewhere/questions.jsonl");
    assert!(loaded.compare(&moved, Vec::new()).refused.is_empty());
    moved.input.files.push(input_file());
    assert_eq!(
        loaded.compare(&moved, Vec::new()).refused[0].to_string(),
        "`input.path` was `1 file`, is now `2 files`"
    );
}
