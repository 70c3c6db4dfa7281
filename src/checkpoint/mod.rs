//! Durable progress of a job: what is recorded, journalled, committed, locked, checked and mended.
//!
//! Invariant: whatever stops the program, at whatever instant, the output folder holds every row that
//! was journalled exactly once, and going on gives the same files as an unbroken run. A window counts as
//! done when, and only when, its shard's manifest names its part.
//!
//! `record` is `job.json`, `journal` an open window's rows, `manifest` what is committed, `commit` the step
//! from one to the other, `lock` keeps second writers out; `verify`, `repair`, `status` and `restart`
//! work from the files alone. `sink/` writes the parts' content, `fsio` makes it durable.

mod commit;
mod committed;
mod error;
mod folder;
mod fresh;
mod journal;
mod line;
mod lock;
mod manifest;
mod owner;
mod record;
mod repair;
mod resolved;
mod restart;
mod seal;
mod status;
mod steps;
mod strays;
mod totals;
mod verify;

pub use commit::{Commit, check_sizes, clean_leftovers, commit_window};
pub(crate) use commit::{check_journals, clean_finished, clean_job_leftovers};
pub(crate) use committed::unchanged;
pub use error::CheckpointError;
pub use folder::OutputFolder;
pub(crate) use fresh::Fresh;
pub use journal::Journal;
pub(crate) use journal::{Cut, journalled_rows};
pub(crate) use lock::JobLock;
pub use lock::{LockOptions, LockTiming, ShardLock};
pub use manifest::{CommittedWindow, FileEntry, Manifest, committed_windows};
pub use owner::{Owner, Work};
pub(crate) use record::has_record;
pub use record::{
    Comparison, JobFingerprint, JobRecord, RECORD_VERSION, StoredJob, record_version,
};
pub use repair::{RepairReport, repair};
pub(crate) use resolved::ModelFile;
pub use resolved::Resolved;
pub use restart::{discard, restart};
pub use status::{JobState, OwnerState, OwnerStatus, Pace, ShardStatus, Status, status};
pub(crate) use steps::{check_phases, load_again};
pub(crate) use strays::{check_manifests, strays};
pub use totals::{Example, GroupTotals, Totals};
pub use verify::{Problem, ProblemKind, Soundness, VerifyReport, verify, verify_shards};
