//! Folders of `input.path` that hold the results of earlier jobs, to the parts that are read and what their columns are.
//!
//! The input knows nothing of jobs and their folders; here it is told which parts are committed, in their order, with
//! their checksums, and which of their columns are results.

use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, CheckpointError, CommittedWindow, OutputFolder, StoredJob};
use crate::input::{
    self, EarlierJob, FoundFile, InputError, InputFile, InputFiles, InputIndex, PartOf,
    ResultFolders,
};
use crate::job::{InputSpec, Rules, Unfinished};
use crate::numbers::counted;
use crate::sink;
use crate::tasks;

/// The files of a job's input, where folders of results give their committed parts.
///
/// # Errors
///
/// As [`input::resolve_files`]; [`InputError::Results`].
pub(crate) fn input_files(
    spec: &InputSpec,
    output: &Path,
    rules: Rules,
) -> Result<InputFiles, InputError> {
    let results = Results {
        unfinished: spec.unfinished,
    };
    let found = input::resolve_with(spec, output, rules, &results)?;
    check_columns(&found.files, spec)?;
    Ok(found)
}

/// Finds folders of results.
struct Results {
    unfinished: Unfinished,
}

impl ResultFolders for Results {
    fn is_one(&self, folder: &Path) -> bool {
        checkpoint::has_record(&OutputFolder::at(folder))
    }

    fn open(&self, path: &Path) -> Result<Vec<FoundFile>, InputError> {
        let folder = OutputFolder::at(path);
        let wrong = |error: CheckpointError| damaged(path, &error.to_string());
        let StoredJob {
            record,
            fingerprint,
        } = StoredJob::existing(&folder).map_err(wrong)?;
        let windows = checkpoint::committed_windows(&folder).map_err(wrong)?;
        let (done, all) = (windows.len(), record.input.windows.len());
        if done < all && self.unfinished == Unfinished::Refuse {
            return Err(InputError::Results {
                folder: path.to_owned(),
                reason: format!("its job is not finished: {done} of {} committed", counted(all as u64, "window")),
                cure: "let that job end first, or take what is committed with `input.unfinished = \"allow\"`".to_owned(),
            });
        }
        if windows.is_empty() {
            return Err(InputError::Results {
                folder: path.to_owned(),
                reason: "its job has committed nothing yet".to_owned(),
                cure: "wait until its first window is complete".to_owned(),
            });
        }
        let columns = sink::result_roles(
            &tasks::form(&record.spec),
            &record.input,
            input::id_column(&record.spec.input.columns, &record.input).as_deref(),
        );
        let columns = columns.map_err(|error| damaged(path, &error.to_string()))?;
        let job = Arc::new(EarlierJob {
            folder: path.to_owned(),
            job: fingerprint.as_deref().map(str::to_owned),
            results: columns.results,
            carried: columns.carried,
        });
        windows
            .iter()
            .map(|window| part(&folder, window, &job))
            .collect()
    }
}

/// A committed part. Its content is compared with its checksum when it is read.
fn part(
    folder: &OutputFolder,
    window: &CommittedWindow,
    job: &Arc<EarlierJob>,
) -> Result<FoundFile, InputError> {
    let path = folder.entry(&window.part.name);
    let expected = &window.part.digest;
    let found = std::fs::metadata(&path).ok().filter(Metadata::is_file);
    let problem = match found.map(|found| found.len()) {
        Some(bytes) if bytes == expected.bytes => None,
        Some(bytes) => Some(format!(
            "has {bytes} bytes, was written with {}",
            expected.bytes
        )),
        None => Some("is gone".to_owned()),
    };
    if let Some(problem) = problem {
        let reason = format!("`{}` {problem}", window.part.name);
        return Err(damaged(folder.root(), &reason));
    }
    Ok(FoundFile {
        path,
        partition: Vec::new(),
        results: Some(PartOf {
            job: Arc::clone(job),
            blake3: Some(expected.blake3.clone()),
        }),
    })
}

fn damaged(folder: &Path, reason: &str) -> InputError {
    InputError::damaged_results(folder, reason.lines().next().unwrap_or_default())
}

/// Refuses a column that is a result in one folder and a column of the rows elsewhere: it could neither be carried nor
/// left out.
fn check_columns(files: &[FoundFile], spec: &InputSpec) -> Result<(), InputError> {
    let mut jobs: Vec<&Arc<EarlierJob>> = Vec::new();
    for part in files.iter().filter_map(|file| file.results.as_ref()) {
        if !jobs.contains(&&part.job) {
            jobs.push(&part.job);
        }
    }
    if jobs.is_empty() {
        return Ok(());
    }
    let plain: Vec<FoundFile> = files
        .iter()
        .filter(|file| file.results.is_none())
        .cloned()
        .collect();
    let head = input::head_columns(&plain, spec.max_row_bytes)?;
    for job in &jobs {
        for name in &job.results {
            let other = jobs.iter().find(|other| other.carried.contains(name));
            let other = other.map(|other| other.folder.clone());
            let in_plain = || plain.first().filter(|_| head.has(name));
            if let Some(other) = other.or_else(|| in_plain().map(|file| file.path.clone())) {
                return Err(InputError::ResultAndColumn {
                    column: name.clone(),
                    folder: job.folder.clone(),
                    other,
                });
            }
        }
    }
    Ok(())
}

/// The files of the first run, with the jobs that some of them are results of, as those jobs are now.
pub(super) fn of_first_run(index: &InputIndex) -> Vec<FoundFile> {
    let jobs: Vec<Arc<EarlierJob>> = index.earlier.iter().map(as_it_is_now).collect();
    let found = |file: &InputFile| FoundFile {
        path: file.path.clone(),
        partition: file.partition.clone(),
        results: file.earlier.and_then(|job| {
            Some(PartOf {
                job: Arc::clone(jobs.get(job as usize)?),
                // This run's content is compared with that of the first run.
                blake3: None,
            })
        }),
    };
    index.files.iter().map(found).collect()
}

fn as_it_is_now(job: &EarlierJob) -> Arc<EarlierJob> {
    let now = StoredJob::load(&OutputFolder::at(&job.folder));
    let now = now.ok().flatten();
    Arc::new(EarlierJob {
        job: match now {
            Some(now) => now.fingerprint.as_deref().map(str::to_owned),
            None => job.job.clone(),
        },
        ..job.clone()
    })
}

/// Refuses to go on where parts that the first run read are gone because their job was begun anew.
pub(super) fn refuse_restarted(index: &InputIndex) -> Result<(), InputError> {
    for (number, job) in (0..).zip(&index.earlier) {
        let mut parts = index
            .files
            .iter()
            .filter(|file| file.earlier == Some(number));
        let is_gone = parts.any(|file| !file.path.exists());
        if is_gone && as_it_is_now(job).job != job.job {
            return Err(restarted(&job.folder));
        }
    }
    Ok(())
}

fn restarted(folder: &Path) -> InputError {
    InputError::Results {
        folder: folder.to_owned(),
        reason: "its job was begun anew since the first run of this one, and the parts that were read are gone".to_owned(),
        cure: "begin this job anew too, with `--restart`, or put the old results back, which are kept beside as `.old-N`".to_owned(),
    }
}
