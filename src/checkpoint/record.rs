//! `job.json`: what the first run decided, and whether a later run may go on from it.
//!
//! Invariant: created once, complete from its first instant, never changed. It has everything that alters a
//! result, so that a job that would give other results is refused with the difference.

use std::fmt::Write as _;
use std::path::Path;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::device::DeviceKind;
use crate::fsio;
use crate::input::{InputFile, InputIndex, Selection};
use crate::job::{JobSpec, Rules, Task};
use crate::numbers::counted;

use super::folder::PHASE_CURE;
use super::resolved::Resolved;
use super::{CheckpointError, OutputFolder, seal};

const CURE: &str = "start anew with `glm-batch run --restart`";

/// Version of `job.json` of jobs that generate.
pub const RECORD_VERSION: &str = "2";

/// Version of `job.json` of jobs of other tasks, which programs that only generate cannot go on with.
const TASK_VERSION: &str = "3";

/// Version of `job.json` of jobs that read the results of other jobs: a program that takes those for plain files would
/// go on with other rows and columns.
const CHAIN_VERSION: &str = "4";

/// The version whose jobs name no rules, and whose other files do not name their job.
const FIRST_VERSION: &str = "1";

/// Versions of `job.json` that can be read.
const KNOWN_VERSIONS: &[&str] = &[FIRST_VERSION, RECORD_VERSION, TASK_VERSION, CHAIN_VERSION];

/// The version of `job.json` that a job of this task has over this input.
pub fn record_version(task: Task, input: &InputIndex) -> &'static str {
    if !input.earlier.is_empty() {
        CHAIN_VERSION
    } else if task == Task::Generate {
        RECORD_VERSION
    } else {
        TASK_VERSION
    }
}

/// What the first run decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Version of this file: that of [`record_version`].
    pub version: String,
    /// Version of the program.
    pub program: String,
    /// Version of the results' layout.
    pub results_format: u32,
    /// Version of the order in which the arithmetic is done.
    pub arithmetic: String,
    /// The rules that all runs of the job go by.
    #[serde(default = "Rules::first")]
    pub rules: Rules,
    /// The job.
    pub spec: JobSpec,
    /// Rows of a trial; `None` for a job in earnest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Selection>,
    /// What `auto` and the model folder came to.
    pub resolved: Resolved,
    /// The file of examples that go before the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<InputFile>,
    /// What the folder of the reward model came to, where one ranks the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<Resolved>,
    /// The input as the first pass saw it.
    pub input: InputIndex,
}

/// What a later run has otherwise than the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Differences that alter results: the job may not go on.
    pub refused: Vec<Difference>,
    /// Differences that the user should know of.
    pub warnings: Vec<String>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Key of the job file, or what else it is about.
    pub key: String,
    /// Value of the first run.
    pub first: String,
    /// Value now.
    pub now: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` was `{}`, is now `{}`",
            self.key, self.first, self.now
        )
    }
}

/// `job.json` as it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredJob {
    /// What the first run decided.
    pub record: JobRecord,
    /// What the other files of the job name it by.
    pub fingerprint: JobFingerprint,
}

impl StoredJob {
    /// Reads `job.json`; `None` where the job has not been set up.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Damaged`]; [`CheckpointError::OtherRecord`], where it is another program's;
    /// [`CheckpointError::UnknownVersion`], [`CheckpointError::OtherVersion`]; [`CheckpointError::Fs`].
    pub fn load(folder: &OutputFolder) -> Result<Option<Self>, CheckpointError> {
        let path = folder.job_file();
        let Some(text) = seal::read_text(&path)? else {
            return Ok(None);
        };
        let cure = if folder.is_phase() { PHASE_CURE } else { CURE };
        let record: JobRecord = match seal::parse_file(&path, &text, KNOWN_VERSIONS, cure) {
            // What was sealed is whole: it is of a form that this program does not know.
            Err(CheckpointError::Damaged { reason, .. }) if seal::is_sound_file(&text) => {
                return Err(CheckpointError::OtherVersion { path, reason });
            }
            Err(CheckpointError::Damaged { .. }) if !is_of_a_job(folder)? => {
                return Err(CheckpointError::OtherRecord { path });
            }
            record => record?,
        };
        let fingerprint = JobFingerprint::of(&record.version, &text);
        Ok(Some(Self {
            record,
            fingerprint,
        }))
    }

    /// A record as it would be on disk.
    pub(super) fn of(record: JobRecord, folder: &OutputFolder) -> Result<Self, CheckpointError> {
        let text = record.sealed(folder)?;
        let fingerprint = JobFingerprint::of(&record.version, text.as_bytes());
        Ok(Self {
            record,
            fingerprint,
        })
    }

    /// Reads `job.json`, which must be there.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoJob`], or [`CheckpointError::Damaged`] for a phase; those of [`StoredJob::load`].
    pub fn existing(folder: &OutputFolder) -> Result<Self, CheckpointError> {
        Self::load(folder)?.ok_or_else(|| {
            if folder.is_phase() {
                return CheckpointError::Damaged {
                    path: folder.job_file(),
                    reason: "it is gone".to_owned(),
                    cure: PHASE_CURE,
                };
            }
            CheckpointError::NoJob {
                path: folder.root().to_path_buf(),
            }
        })
    }
}

/// Whether a folder was made by a job: its marks, its work or its record tell, of which any may be gone or damaged.
pub(super) fn is_of_a_job(folder: &OutputFolder) -> Result<bool, CheckpointError> {
    Ok(folder.is_marked() || folder.first_work()?.is_some() || is_there(folder)?)
}

/// Whether a folder has a `job.json` of ours, damaged or not, as far as it can be read.
pub(crate) fn has_record(folder: &OutputFolder) -> bool {
    is_there(folder).unwrap_or(false)
}

/// Whether the folder has a `job.json` of ours, damaged or not. Other programs have files of that name.
fn is_there(folder: &OutputFolder) -> Result<bool, CheckpointError> {
    let text = seal::read_text(&folder.job_file())?;
    Ok(text.is_some_and(|text| is_ours(&text)))
}

fn is_ours(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Keys {
        #[serde(rename = "version")]
        _version: IgnoredAny,
        #[serde(rename = "program")]
        _program: IgnoredAny,
        #[serde(rename = "spec")]
        _spec: IgnoredAny,
    }
    // Damage may leave no JSON at all, and rarely changes the first lines too.
    let mut lines = text.split(|&byte| byte == b'\n').skip(1);
    let mut is_next = |key: &str| {
        lines
            .next()
            .is_some_and(|line| line.starts_with(key.as_bytes()))
    };
    serde_json::from_slice::<Keys>(text).is_ok()
        || (is_next("  \"version\": ") && is_next("  \"program\": "))
}

/// What manifests, journals and reports name their job by: the blake3 of the bytes of its `job.json`. The
/// files of a job whose `job.json` has version 1 name none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFingerprint(Option<String>);

impl JobFingerprint {
    /// The fingerprint of jobs whose files name none.
    pub const NONE: Self = Self(None);

    fn of(version: &str, text: &[u8]) -> Self {
        let named = version != FIRST_VERSION;
        Self(named.then(|| blake3::hash(text).to_hex().to_string()))
    }

    /// The fingerprint in hex, where the files of the job name one.
    pub fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Refuses to go on where the folder is another job's by now.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Replaced`]; [`CheckpointError::Fs`].
    pub fn ensure_current(&self, folder: &OutputFolder) -> Result<(), CheckpointError> {
        let text = seal::read_text(&folder.job_file())?;
        let is_of_this_job = text.is_some_and(|text| match &self.0 {
            Some(own) => *own == blake3::hash(&text).to_hex().as_str(),
            None => seal::version(&text).is_ok_and(|version| version == FIRST_VERSION),
        });
        if is_of_this_job {
            return Ok(());
        }
        Err(CheckpointError::Replaced {
            folder: folder.root().to_path_buf(),
        })
    }

    /// Refuses a file that names another job.
    pub(super) fn check(&self, path: &Path, named: Option<&str>) -> Result<(), CheckpointError> {
        if self.as_deref() == named {
            return Ok(());
        }
        Err(CheckpointError::Stranger {
            path: path.to_path_buf(),
        })
    }
}

impl JobRecord {
    /// Reads `job.json`; `None` where the job has not been set up.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Damaged`], [`CheckpointError::UnknownVersion`], [`CheckpointError::Fs`].
    pub fn load(folder: &OutputFolder) -> Result<Option<Self>, CheckpointError> {
        Ok(StoredJob::load(folder)?.map(|stored| stored.record))
    }

    /// Writes `job.json` unless there is one: true where this call did.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Fs`], [`CheckpointError::DiskFull`].
    pub fn create(&self, folder: &OutputFolder) -> Result<bool, CheckpointError> {
        let path = folder.job_file();
        let text = self.sealed(folder)?;
        let created = match fsio::create_exclusive(&path, text.as_bytes()) {
            Ok(created) => created,
            // Another host was faster, and took this one's temporary file for a leftover.
            Err(_) if path.exists() => false,
            Err(error) => return Err(error.into()),
        };
        for leftover in folder.temporary_job_files() {
            fsio::remove_synced(&leftover)?;
        }
        Ok(created)
    }

    fn sealed(&self, folder: &OutputFolder) -> Result<String, CheckpointError> {
        let sealed = seal::seal_file(self);
        sealed.map_err(|error| CheckpointError::read(&folder.job_file(), error.into()))
    }

    /// Compares the first run's record with what a later run would do; the differences of the job file come
    /// from the caller as (key, first, now).
    #[must_use]
    pub fn compare(
        &self,
        now: &Self,
        spec_differences: Vec<(String, String, String)>,
    ) -> Comparison {
        let mut refused: Vec<Difference> = spec_differences
            .into_iter()
            .map(|(key, first, now)| Difference { key, first, now })
            .collect();
        let (a, b) = (&self.resolved, &now.resolved);
        for (key, first, now) in [
            ("model.dtype", a.dtype.name(), b.dtype.name()),
            (
                "model.cache_dtype",
                a.cache_dtype().name(),
                b.cache_dtype().name(),
            ),
            ("model.device", a.device.name(), b.device.name()),
            (
                "prompt.max_length",
                &a.max_length.to_string(),
                &b.max_length.to_string(),
            ),
            ("tokenizer", &a.tokenizer, &b.tokenizer),
            ("weights", &a.weights, &b.weights),
            (
                "version of the arithmetic",
                &self.arithmetic,
                &now.arithmetic,
            ),
            (
                "version of the results",
                &self.results_format.to_string(),
                &now.results_format.to_string(),
            ),
        ] {
            let is_known = refused.iter().any(|difference| difference.key == key);
            if first != now && !is_known {
                refused.push(difference(key, first, now));
            }
        }
        if let (Some(first), Some(now)) = (&self.few_shot, &now.few_shot)
            && first.fingerprint != now.fingerprint
        {
            let key = format!("file of examples {}", now.path.display());
            refused.push(difference(&key, &described(first), &described(now)));
        }
        if let (Some(a), Some(b)) = (&self.reward, &now.reward) {
            for (key, first, now) in [
                ("tokenizer of the reward model", &a.tokenizer, &b.tokenizer),
                ("weights of the reward model", &a.weights, &b.weights),
            ] {
                if first != now {
                    refused.push(difference(key, first, now));
                }
            }
        }
        refused.extend(input_differences(&self.input, &now.input));
        Comparison {
            refused,
            warnings: self.warnings(now),
        }
    }

    fn warnings(&self, now: &Self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.program != now.program {
            warnings.push(format!(
                "the job was started with glm-batch {}, this is {}",
                self.program, now.program
            ));
        }
        let (first, cpu) = (&self.resolved.cpu, &now.resolved.cpu);
        if first != cpu && now.resolved.device == DeviceKind::Cpu {
            warnings.push(format!(
                "the job was started on another kind of CPU (`{first}`, this is `{cpu}`): the last bits of new rows may differ"
            ));
        }
        warnings
    }
}

fn difference(key: &str, first: &str, now: &str) -> Difference {
    Difference {
        key: key.to_owned(),
        first: first.to_owned(),
        now: now.to_owned(),
    }
}

/// Files count by content and order: the same ones under another path are the same input.
fn input_differences(first: &InputIndex, now: &InputIndex) -> Vec<Difference> {
    if first.files.len() != now.files.len() {
        let count = |index: &InputIndex| counted(index.files.len() as u64, "file");
        return vec![difference("input.path", &count(first), &count(now))];
    }
    let changed = first
        .files
        .iter()
        .zip(&now.files)
        .filter(|(a, b)| a.fingerprint != b.fingerprint || a.partition != b.partition);
    let is_of_another_job = |file: &crate::input::InputFile| {
        let of = |index: &InputIndex| {
            let job = index.earlier.get(file.earlier? as usize)?;
            job.job.clone()
        };
        of(first) != of(now)
    };
    let mut differences: Vec<Difference> = changed
        .map(|(a, b)| {
            let describe = |file: &InputFile| {
                let mut text = described(file);
                for one in &file.partition {
                    let value = one.value.as_deref().unwrap_or("null");
                    let _ = write!(text, ", {} = {value}", one.name);
                }
                text
            };
            let mut now = describe(b);
            if is_of_another_job(b) {
                now.push_str(", since the earlier job was begun anew");
            }
            difference(
                &format!("input file {}", b.path.display()),
                &describe(a),
                &now,
            )
        })
        .collect();
    if differences.is_empty() && first.windows != now.windows {
        let windows = |index: &InputIndex| counted(index.windows.len() as u64, "window");
        differences.push(difference(
            "the input's division",
            &windows(first),
            &windows(now),
        ));
    }
    if differences.is_empty() && first.format != now.format {
        let format = |index: &InputIndex| format!("{:?}", index.format).to_lowercase();
        differences.push(difference("input format", &format(first), &format(now)));
    }
    differences
}

/// The content of a file, in words.
fn described(file: &InputFile) -> String {
    let fingerprint = short(&file.fingerprint);
    format!("{} bytes, fingerprint {fingerprint}", file.bytes)
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}
