//! The names of all failpoints, and the stop where a test asks for one.

use std::path::Path;

use super::error::FsError;

/// Names of all failpoints: the state of the disk just before and just after each durable step.
///
/// The action `return` gives an [`FsError`], `panic` stops there. A name is hit once a file, so a test
/// reaches the n-th with `n*off->return`.
pub const FAILPOINTS: [&str; 16] = [
    WRITE_BEFORE_CREATE,
    WRITE_BEFORE_SYNC,
    WRITE_BEFORE_RENAME,
    WRITE_BEFORE_FOLDER_SYNC,
    WRITE_AFTER,
    CREATE_BEFORE_LINK,
    CREATE_AFTER_LINK,
    APPEND_BEFORE_WRITE,
    APPEND_BEFORE_SYNC,
    APPEND_AFTER,
    TRUNCATE_BEFORE,
    TRUNCATE_AFTER,
    REMOVE_BEFORE,
    REMOVE_AFTER,
    RENAME_BEFORE,
    RENAME_AFTER,
];

pub(super) const WRITE_BEFORE_CREATE: &str = "write-before-create";
pub(super) const WRITE_BEFORE_SYNC: &str = "write-before-sync";
pub(super) const WRITE_BEFORE_RENAME: &str = "write-before-rename";
pub(super) const WRITE_BEFORE_FOLDER_SYNC: &str = "write-before-folder-sync";
pub(super) const WRITE_AFTER: &str = "write-after";
pub(super) const CREATE_BEFORE_LINK: &str = "create-before-link";
pub(super) const CREATE_AFTER_LINK: &str = "create-after-link";
pub(super) const APPEND_BEFORE_WRITE: &str = "append-before-write";
pub(super) const APPEND_BEFORE_SYNC: &str = "append-before-sync";
pub(super) const APPEND_AFTER: &str = "append-after";
pub(super) const TRUNCATE_BEFORE: &str = "truncate-before";
pub(super) const TRUNCATE_AFTER: &str = "truncate-after";
pub(super) const REMOVE_BEFORE: &str = "remove-before";
pub(super) const REMOVE_AFTER: &str = "remove-after";
pub(super) const RENAME_BEFORE: &str = "rename-before";
pub(super) const RENAME_AFTER: &str = "rename-after";

/// Stops here when a test asks for it.
#[cfg_attr(
    not(feature = "failpoints"),
    expect(
        clippy::unnecessary_wraps,
        reason = "fails only with the feature `failpoints`"
    )
)]
pub(super) fn failpoint(name: &'static str, path: &Path) -> Result<(), FsError> {
    fail::fail_point!(name, |_| {
        let cause = std::io::Error::other(format!("stopped at failpoint `{name}`"));
        Err(FsError::new("go on with", path, cause))
    });
    let _ = (name, path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoint_names_are_unique() {
        let unique: std::collections::BTreeSet<_> = FAILPOINTS.iter().collect();
        assert_eq!(unique.len(), FAILPOINTS.len());
    }
}
