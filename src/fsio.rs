//! Bytes to durable files: atomic writes, exclusive creation, synced renames, hashing.
//!
//! This is the only place that creates, renames or removes files. Invariant: a name that appears in
//! a folder holds complete, synced content, except for the append-only files that
//! [`open_append`] gives, whose reader must tell a torn tail. `checkpoint/` builds on it, and whatever
//! else writes a file goes through it.
//!
//! Every durable step stands between two failpoints, all listed in [`FAILPOINTS`]; without the
//! feature `failpoints` they vanish.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::stop::StopFlag;

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

const WRITE_BEFORE_CREATE: &str = "write-before-create";
const WRITE_BEFORE_SYNC: &str = "write-before-sync";
const WRITE_BEFORE_RENAME: &str = "write-before-rename";
const WRITE_BEFORE_FOLDER_SYNC: &str = "write-before-folder-sync";
const WRITE_AFTER: &str = "write-after";
const CREATE_BEFORE_LINK: &str = "create-before-link";
const CREATE_AFTER_LINK: &str = "create-after-link";
const APPEND_BEFORE_WRITE: &str = "append-before-write";
const APPEND_BEFORE_SYNC: &str = "append-before-sync";
const APPEND_AFTER: &str = "append-after";
const TRUNCATE_BEFORE: &str = "truncate-before";
const TRUNCATE_AFTER: &str = "truncate-after";
const REMOVE_BEFORE: &str = "remove-before";
const REMOVE_AFTER: &str = "remove-after";
const RENAME_BEFORE: &str = "rename-before";
const RENAME_AFTER: &str = "rename-after";

/// End of the names of files that are being written; they start with a dot.
const TEMPORARY_ENDING: &str = ".tmp";

/// Bytes that are hashed at once, by all cores.
const HASH_BLOCK_BYTES: u64 = 8 << 20;

/// A file operation that failed.
#[derive(Debug)]
pub struct FsError {
    /// What was tried, as a verb with its object's preposition: `write`, `sync`, `rename`.
    pub operation: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

impl FsError {
    /// Names the operation and the path that an i/o error belongs to.
    pub fn new(operation: &'static str, path: &Path, cause: io::Error) -> Self {
        Self {
            operation,
            path: path.to_path_buf(),
            cause,
        }
    }

    /// Whether the disk or the quota is full.
    pub fn is_full(&self) -> bool {
        is_full(&self.cause)
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} `{}`: {}",
            self.operation,
            self.path.display(),
            self.cause
        )?;
        if self.is_full() {
            f.write_str("\nhint: free some space there, then run the same command again")?;
        }
        if self.cause.kind() == io::ErrorKind::FileTooLarge {
            write!(
                f,
                "\nhint: {}, then run the same command again",
                size_limit()
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for FsError {}

/// What allows no larger file here, and what helps.
fn size_limit() -> String {
    #[cfg(unix)]
    if let Some(bytes) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        return format!(
            "a file may have {bytes} bytes at most here (`ulimit -f`): raise that limit"
        );
    }
    "this file system allows no larger file: choose another place".to_owned()
}

/// Whether an i/o error says that the disk or the quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Size and blake3 hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the content, in hex.
    pub blake3: String,
}

/// Creates a folder and those above it, and syncs every folder that got a new entry.
///
/// # Errors
///
/// The system's, where a folder cannot be created or synced.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent(path) {
        create_dir_all(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !path.is_dir() {
                return create_behind_link(path, error);
            }
        }
        result => result?,
    }
    parent(path).map_or(Ok(()), sync_dir)
}

/// Creates the folder that a symbolic link leads to, in a folder that is there. Whatever else is in the way is
/// the error that there was.
fn create_behind_link(path: &Path, in_the_way: io::Error) -> io::Result<()> {
    let Ok(target) = std::fs::read_link(path) else {
        return Err(in_the_way);
    };
    let target = parent(path).map_or_else(|| target.clone(), |folder| folder.join(&target));
    std::fs::create_dir(&target)?;
    parent(&target).map_or(Ok(()), sync_dir)
}

/// Writes a file so that its name only ever holds the old or the complete new content: temporary
/// file beside it, sync, rename, sync of the folder.
///
/// # Errors
///
/// [`FsError`]: the old content, if any, still stands, or the new one already does.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<FileDigest, FsError> {
    let temporary = temporary_path(path);
    failpoint(WRITE_BEFORE_CREATE, path)?;
    let digest = write_synced(&temporary, write, WRITE_BEFORE_SYNC)
        .inspect_err(|_| remove_quietly(&temporary))?;
    failpoint(WRITE_BEFORE_RENAME, path)?;
    rename(&temporary, path).map_err(|cause| FsError::new("rename to", path, cause))?;
    failpoint(WRITE_BEFORE_FOLDER_SYNC, path)?;
    sync_parent(path)?;
    failpoint(WRITE_AFTER, path)?;
    Ok(digest)
}

/// Fails where [`write_atomic`] would; what stands at the path stays as it is.
///
/// # Errors
///
/// [`FsError`], where the folder takes no file, or the path is a folder itself.
pub fn check_writable(path: &Path) -> Result<(), FsError> {
    let folder = parent(path).unwrap_or_else(|| Path::new("."));
    let made = if path.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        tempfile::tempfile_in(folder)
    };
    made.map(drop)
        .map_err(|cause| FsError::new("write", path, cause))
}

/// Creates a file with this content unless the name is taken: true where this call created it.
///
/// The content is complete and synced before the name appears.
///
/// # Errors
///
/// [`FsError`], where it could be neither created nor found.
pub fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<bool, FsError> {
    let temporary = temporary_path(path);
    failpoint(WRITE_BEFORE_CREATE, path)?;
    write_synced(&temporary, |out| out.write_all(bytes), WRITE_BEFORE_SYNC)
        .inspect_err(|_| remove_quietly(&temporary))?;
    failpoint(CREATE_BEFORE_LINK, path)?;
    let linked = link_new(&temporary, path);
    remove_quietly(&temporary);
    match linked {
        Ok(()) => {}
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(cause) => return Err(FsError::new("create", path, cause)),
    }
    sync_parent(path)?;
    failpoint(CREATE_AFTER_LINK, path)?;
    Ok(true)
}

/// Opens a file for appending; a new one is made and its folder synced.
///
/// # Errors
///
/// [`FsError`].
pub fn open_append(path: &Path) -> Result<File, FsError> {
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|cause| FsError::new("open", path, cause))?;
    if is_new {
        sync_parent(path)?;
    }
    Ok(file)
}

/// Appends bytes to a file of known length and syncs them.
///
/// # Errors
///
/// [`FsError`]. The file is cut back to `length` as far as the system lets it, so that the same bytes
/// can be appended again.
pub fn append_synced(
    file: &mut File,
    path: &Path,
    length: u64,
    bytes: &[u8],
) -> Result<(), FsError> {
    let appended = append(file, path, bytes);
    if appended.is_err() {
        // A failure here leaves a torn tail, which the reader cuts.
        let _ = file.set_len(length);
    }
    appended?;
    failpoint(APPEND_AFTER, path)
}

fn append(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    failpoint(APPEND_BEFORE_WRITE, path)?;
    file.write_all(bytes)
        .map_err(|cause| FsError::new("append to", path, cause))?;
    failpoint(APPEND_BEFORE_SYNC, path)?;
    file.sync_data()
        .map_err(|cause| FsError::new("sync", path, cause))
}

/// Cuts an open file to `length` bytes and syncs it.
///
/// # Errors
///
/// [`FsError`].
pub fn truncate_synced(file: &mut File, path: &Path, length: u64) -> Result<(), FsError> {
    failpoint(TRUNCATE_BEFORE, path)?;
    file.set_len(length)
        .and_then(|()| file.seek(SeekFrom::End(0)))
        .and_then(|_| file.sync_all())
        .map_err(|cause| FsError::new("truncate", path, cause))?;
    failpoint(TRUNCATE_AFTER, path)
}

/// Hashes a file, which is read once from start to end.
///
/// # Errors
///
/// [`FsError`], where it cannot be read.
pub fn hash_file(path: &Path) -> Result<FileDigest, FsError> {
    hash_file_unless(path, &StopFlag::default())
}

/// As [`hash_file`], block by block on all cores, so that it can be interrupted.
///
/// # Errors
///
/// As [`hash_file`]; its cause is [`io::ErrorKind::Interrupted`] where, and only where, it was interrupted.
pub fn hash_file_unless(path: &Path, stop: &StopFlag) -> Result<FileDigest, FsError> {
    let read_error = |cause| FsError::new("read", path, cause);
    let mut file = File::open(path).map_err(read_error)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::new();
    loop {
        if stop.is_requested() {
            return Err(read_error(io::ErrorKind::Interrupted.into()));
        }
        block.clear();
        let mut next = Read::by_ref(&mut file).take(HASH_BLOCK_BYTES);
        if next.read_to_end(&mut block).map_err(read_error)? == 0 {
            break;
        }
        hasher.update_rayon(&block);
    }
    Ok(FileDigest {
        bytes: hasher.count(),
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// Syncs a folder, so that the names in it survive a power cut.
///
/// # Errors
///
/// The system's. File systems that cannot sync a folder are taken as they are.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(path)?.sync_all() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Renames a file or folder and syncs both folders.
///
/// # Errors
///
/// [`FsError`].
pub fn rename_synced(from: &Path, to: &Path) -> Result<(), FsError> {
    failpoint(RENAME_BEFORE, from)?;
    rename(from, to).map_err(|cause| FsError::new("move", from, cause))?;
    sync_parent(to)?;
    if parent(from) != parent(to) {
        sync_parent(from)?;
    }
    failpoint(RENAME_AFTER, from)
}

/// Removes a file, if it is there, and syncs its folder.
///
/// # Errors
///
/// [`FsError`].
pub fn remove_synced(path: &Path) -> Result<(), FsError> {
    failpoint(REMOVE_BEFORE, path)?;
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|cause| FsError::new("remove", path, cause))?,
    }
    sync_parent(path)?;
    failpoint(REMOVE_AFTER, path)
}

/// Whether nothing stands at a path, or a folder without entries.
pub fn is_empty_or_absent(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The first of numbered paths, from 1, that is not taken.
pub fn free_path(path: impl Fn(u64) -> PathBuf) -> PathBuf {
    let mut number = 1;
    while path(number).symlink_metadata().is_ok() {
        number += 1;
    }
    path(number)
}

/// A folder for files that nobody keeps, among the system's temporary files; it goes with the value.
///
/// # Errors
///
/// [`FsError`].
pub fn temporary_folder(prefix: &str) -> Result<TempDir, FsError> {
    let made = tempfile::Builder::new().prefix(prefix).tempdir();
    made.map_err(|cause| FsError::new("create", &std::env::temp_dir(), cause))
}

/// The final name that a temporary file was meant for; `None` where it is no temporary file.
pub fn temporary_target(name: &str) -> Option<&str> {
    let (target, process) = name
        .strip_prefix('.')?
        .strip_suffix(TEMPORARY_ENDING)?
        .rsplit_once('.')?;
    process
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(target)
}

/// Name beside `path` for the time of writing. It holds a number of this process, so that two
/// processes never write into one file: in containers on many hosts every process may have one id.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}{TEMPORARY_ENDING}", process_number()));
    path.with_file_name(name)
}

/// A number that no other process has: its id and the time of its first call.
pub fn process_number() -> u128 {
    static NUMBER: OnceLock<u128> = OnceLock::new();
    *NUMBER.get_or_init(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u128::from(std::process::id()) * 10_u128.pow(20) + now.as_nanos() % 10_u128.pow(20)
    })
}

fn write_synced(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    before_sync: &'static str,
) -> Result<FileDigest, FsError> {
    let write_error = |cause| FsError::new("write", path, cause);
    let mut out = BufWriter::new(create_new(path)?);
    write(&mut out)
        .and_then(|()| out.flush())
        .map_err(write_error)?;
    failpoint(before_sync, path)?;
    out.get_ref()
        .sync_all()
        .map_err(|cause| FsError::new("sync", path, cause))?;
    drop(out);
    hash_file(path)
}

#[expect(clippy::disallowed_methods, reason = "this is the file creator")]
fn create_new(path: &Path) -> Result<File, FsError> {
    File::create(path).map_err(|cause| FsError::new("create", path, cause))
}

#[expect(clippy::disallowed_methods, reason = "its callers sync")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Gives a complete file its name, unless the name is taken.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => rename_new(from, to, error),
        result => result,
    }
}

/// For file systems without hard links: a rename that refuses to replace.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn rename_new(from: &Path, to: &Path, _hard_link: io::Error) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn rename_new(_from: &Path, _to: &Path, hard_link: io::Error) -> io::Result<()> {
    Err(hard_link)
}

fn sync_parent(path: &Path) -> Result<(), FsError> {
    let Some(folder) = parent(path) else {
        return Ok(());
    };
    sync_dir(folder).map_err(|cause| FsError::new("sync", folder, cause))
}

/// The folder a path is in; `.` for a bare name.
fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| {
        if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        }
    })
}

/// A leftover is harmless: the next start cleans it.
fn remove_quietly(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Stops here when a test asks for it.
#[cfg_attr(
    not(feature = "failpoints"),
    expect(
        clippy::unnecessary_wraps,
        reason = "fails only with the feature `failpoints`"
    )
)]
fn failpoint(name: &'static str, path: &Path) -> Result<(), FsError> {
    fail::fail_point!(name, |_| {
        let cause = io::Error::other(format!("stopped at failpoint `{name}`"));
        Err(FsError::new("go on with", path, cause))
    });
    let _ = (name, path);
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files by hand")]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let digest = write_atomic(&path, |out| out.write_all(b"newer")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
        assert_eq!(digest, hash_file(&path).unwrap());
        assert_eq!(digest.blake3, blake3::hash(b"newer").to_hex().to_string());
        assert_eq!(digest.bytes, 5);
        let interrupted = hash_file_unless(&path, &StopFlag::asking(|| true)).unwrap_err();
        assert_eq!(interrupted.cause.kind(), io::ErrorKind::Interrupted);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failed_write_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.is_full());
        assert!(
            error.to_string().ends_with("run the same command again"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn whether_a_file_can_be_written_is_found_out_without_touching_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        check_writable(&file).unwrap();
        assert!(!file.exists());
        std::fs::write(&file, "old").unwrap();
        check_writable(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
        let error = check_writable(folder.path()).unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        let error = check_writable(&folder.path().join("none/a")).unwrap_err();
        assert!(error.to_string().contains("none/a"), "{error}");
    }

    #[test]
    fn exclusive_creation_is_won_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.json");
        assert!(create_exclusive(&path, b"first").unwrap());
        assert!(!create_exclusive(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn the_rename_without_hard_links_does_not_replace() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let refused = || io::Error::from(io::ErrorKind::Unsupported);
        std::fs::write(&from, "1").unwrap();
        rename_new(&from, &to, refused()).unwrap();
        std::fs::write(&from, "2").unwrap();
        let error = rename_new(&from, &to, refused()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&to).unwrap(), b"1");
    }

    #[test]
    fn temporary_names_lead_back_to_their_target() {
        let path = temporary_path(Path::new("/out/parts/part-000001.parquet"));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(temporary_target(name), Some("part-000001.parquet"));
        assert_eq!(temporary_target("part-000001.parquet"), None);
        assert_eq!(temporary_target(".notes.tmp"), None);
    }

    #[test]
    fn failpoint_names_are_unique() {
        let unique: std::collections::BTreeSet<_> = FAILPOINTS.iter().collect();
        assert_eq!(unique.len(), FAILPOINTS.len());
    }

    #[test]
    fn folders_are_made_all_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(create_dir_all(&folder.path().join("file/x")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_gets_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("disk", &link).unwrap();
        create_dir_all(&link.join("parts")).unwrap();
        assert!(folder.path().join("disk/parts").is_dir());
        let loose = folder.path().join("loose");
        std::os::unix::fs::symlink("loose", &loose).unwrap();
        assert!(create_dir_all(&loose).is_err());
    }
}
