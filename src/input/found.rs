//! A file of the input, and what is known of it beside its content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::InputError;
use super::types::{EarlierJob, Partition};

/// Tells the folders that hold results of jobs from others.
pub(crate) trait ResultFolders {
    /// Whether a folder is one.
    fn is_one(&self, folder: &Path) -> bool;

    /// The committed parts of one, in their order.
    ///
    /// # Errors
    ///
    /// Why they cannot be an input.
    fn open(&self, folder: &Path) -> Result<Vec<FoundFile>, InputError>;
}

/// No folder is looked at so.
pub(super) struct NoResults;

impl ResultFolders for NoResults {
    fn is_one(&self, _folder: &Path) -> bool {
        false
    }

    fn open(&self, _folder: &Path) -> Result<Vec<FoundFile>, InputError> {
        Ok(Vec::new())
    }
}

/// What a file is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartOf {
    /// The job that wrote it.
    pub job: Arc<EarlierJob>,
    /// blake3 of its content, in hex, as that job knows it.
    pub blake3: Option<String>,
}

/// One file, and what the folders that it is in say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// The file.
    pub path: PathBuf,
    /// Columns that folders named `column=value` give to its rows.
    pub partition: Vec<Partition>,
    /// Set where the file holds results of an earlier job.
    pub results: Option<PartOf>,
}

impl From<PathBuf> for FoundFile {
    fn from(path: PathBuf) -> Self {
        Self {
            path,
            partition: Vec::new(),
            results: None,
        }
    }
}
