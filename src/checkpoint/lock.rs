//! One writer a shard, one process that sets the job up.
//!
//! On one host the file lock alone decides, because the system frees it when its process ends, however that
//! happens. A lock of another host may not be visible here, and some file systems have no locks. Where the owner file
//! names another host, or there are no locks, a shard is taken over once its heartbeat has stopped. A heartbeat may also
//! stop because a machine was paused: so a writer reads the owner file again before each commit, and commits nothing
//! more once another process has taken over.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::fsio::{self, FsError};
use crate::ids::ShardId;
use crate::stop::StopFlag;

mod job;

pub(crate) use job::JobLock;

use super::owner::{Owner, Work};
use super::{CheckpointError, OutputFolder};

/// How often an owner file is read that the system cannot read at first.
const READS: usize = 3;

/// How often a shard's lock is tried that somebody has: `status` takes it for a moment to see whether its writer
/// lives, and must not keep a run out.
const TRIES: usize = 4;

/// Time between two of those tries.
const RETRY: Duration = Duration::from_millis(25);

/// How long things take around locks.
#[derive(Clone, Copy, Debug)]
pub struct LockTiming {
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// A writer on another host whose heartbeat has not moved for this long is dead.
    pub stale_after: Duration,
    /// Time between two looks at a lock or a heartbeat.
    pub poll: Duration,
}

impl Default for LockTiming {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            stale_after: Duration::from_mins(1),
            poll: Duration::from_millis(500),
        }
    }
}

/// How to take a lock.
#[derive(Clone, Debug, Default)]
pub struct LockOptions {
    /// Do not wait for another host's heartbeat to stop.
    pub break_lock: bool,
    /// Times.
    pub timing: LockTiming,
    /// Set where waiting should end.
    pub stop: StopFlag,
}

impl LockOptions {
    fn wait(&self) -> Result<(), CheckpointError> {
        if self.stop.is_requested() {
            return Err(CheckpointError::Interrupted);
        }
        thread::sleep(self.timing.poll);
        Ok(())
    }
}

/// The right to write a shard. Given back when dropped.
#[derive(Debug)]
pub struct ShardLock {
    shard: ShardId,
    path: PathBuf,
    owner: Owner,
    note: Option<String>,
    warning: Option<String>,
    /// `None` where the lock of another host was taken over while that host still held it, or where there are no locks.
    file: Option<File>,
    work: SharedWork,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What the holder of a lock has done, between the thread that works and the heartbeat.
type SharedWork = Arc<Mutex<Option<Work>>>;

impl ShardLock {
    /// What taking a shard's lock would wait for: the heartbeat of another host, which may still beat.
    pub fn awaits(folder: &OutputFolder, shard: ShardId, options: &LockOptions) -> Option<String> {
        let owner = Owner::read(&folder.owner(shard)).ok().flatten();
        let other = owner.filter(|owner| !options.break_lock && !owner.is_on_this_host())?;
        Some(format!(
            "shard {shard} is held by {other}: waiting up to {} s to see whether its heartbeat goes on; where that process has ended, `--break-lock` skips the wait",
            options.timing.stale_after.as_secs()
        ))
    }

    /// Takes a shard's lock and starts its heartbeat.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Locked`], where somebody writes the shard; [`CheckpointError::Interrupted`].
    pub fn acquire(
        folder: &OutputFolder,
        shard: ShardId,
        options: &LockOptions,
    ) -> Result<Self, CheckpointError> {
        let Claim {
            file,
            note,
            warning,
        } = claim(folder, shard, options)?;
        let path = folder.owner(shard);
        let owner = Owner::this_process();
        write_owner(&owner, &path, shard)?;
        let work = SharedWork::default();
        let heart = start_heart(&path, &owner, &work, options.timing.heartbeat)
            .map_err(|cause| FsError::new("start the heartbeat of", &path, cause))?;
        Ok(Self {
            shard,
            path,
            owner,
            note,
            warning,
            file,
            work,
            heart: Some(heart),
        })
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// What the user should know: from whom the lock was taken over.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What the user should do about the file system.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Notes what has been done since the work began; the next heartbeat writes it for `status`.
    pub fn tell(&self, work: Work) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    }

    /// Whether no other process has taken the shard over: the owner file still names this process.
    pub fn still_mine(&self) -> bool {
        self.ensure_mine().is_ok()
    }

    /// Refuses where somebody has taken the shard over.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TakenOver`]; [`CheckpointError::Fs`], where the owner file cannot be read.
    pub fn ensure_mine(&self) -> Result<(), CheckpointError> {
        match read_again(&self.path)? {
            Some(owner) if owner.is_same(&self.owner) => Ok(()),
            owner => Err(CheckpointError::TakenOver {
                shard: self.shard,
                owner,
            }),
        }
    }
}

impl Drop for ShardLock {
    fn drop(&mut self) {
        if let Some((stop, heart)) = self.heart.take() {
            drop(stop);
            let _ = heart.join();
        }
        // Without an owner file the next host need not wait; where it stays, it only waits.
        if self.still_mine() {
            fsio::remove_quietly(&self.path);
        }
        self.file = None;
    }
}

/// Becomes the owner of a shard. A process that takes it over at the same moment may remove the half-written file
/// as a leftover, and a restart may move the whole folder away: both have it then.
fn write_owner(owner: &Owner, path: &Path, shard: ShardId) -> Result<(), CheckpointError> {
    owner.write(path).map_err(|error| {
        if error.cause.kind() == ErrorKind::NotFound {
            CheckpointError::Locked {
                shard: Some(shard),
                owner: Owner::read(path).ok().flatten(),
            }
        } else {
            error.into()
        }
    })
}

fn start_heart(
    path: &Path,
    owner: &Owner,
    work: &SharedWork,
    interval: Duration,
) -> io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let (path, mut owner, work) = (path.to_path_buf(), owner.clone(), Arc::clone(work));
    let beat = move || {
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            match Owner::read(&path) {
                Ok(Some(found)) if found.is_same(&owner) => {}
                Ok(_) => return,
                // Who owns the shard now is not known; the next look may tell.
                Err(_) => continue,
            }
            owner = owner.next_beat(*work.lock().unwrap_or_else(PoisonError::into_inner));
            // A beat that cannot be written, on a full disk for example, is left out: the next one may succeed.
            let _ = owner.write(&path);
        }
    };
    let heart = thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(beat)?;
    Ok((stop, heart))
}

/// A shard that no other process writes.
pub(super) struct Claim {
    /// The locked file; `None` where another host still holds the lock but its heart does not beat, or there are
    /// no locks.
    pub(super) file: Option<File>,
    note: Option<String>,
    warning: Option<String>,
}

/// Finds out whether a shard may be written, without becoming its owner yet.
pub(super) fn claim(
    folder: &OutputFolder,
    shard: ShardId,
    options: &LockOptions,
) -> Result<Claim, CheckpointError> {
    let path = folder.shard_lock(shard);
    let mut lock = try_lock(&path)?;
    for _ in 1..TRIES {
        if !matches!(lock, FileLock::Held) {
            break;
        }
        thread::sleep(RETRY);
        lock = try_lock(&path)?;
    }
    claim_by(lock, folder, shard, options)
}

/// As [`claim`], where the file lock has been tried.
fn claim_by(
    lock: FileLock,
    folder: &OutputFolder,
    shard: ShardId,
    options: &LockOptions,
) -> Result<Claim, CheckpointError> {
    let path = folder.shard_lock(shard);
    let owner = read_again(&folder.owner(shard))?;
    let warning = match &lock {
        FileLock::Unknown(cause) => Some(no_locks(&path, cause)),
        _ => None,
    };
    let other = match (&lock, owner) {
        (FileLock::Held, owner) if owner.as_ref().is_none_or(Owner::is_on_this_host) => {
            return Err(CheckpointError::Locked {
                shard: Some(shard),
                owner,
            });
        }
        // The lock was free, so an owner on this host has ended.
        (FileLock::Taken(_), owner) => owner.filter(|owner| !owner.is_on_this_host()),
        (_, owner) => owner,
    };
    let Some(other) = other else {
        return Ok(Claim {
            file: lock.file(),
            note: None,
            warning,
        });
    };
    if !options.break_lock {
        watch(&folder.owner(shard), shard, &other, options)?;
    }
    let file = match lock {
        FileLock::Held => try_lock(&path)?.file(),
        lock => lock.file(),
    };
    let why = if options.break_lock {
        "by `--break-lock`"
    } else {
        "whose heartbeat stood still"
    };
    let note = format!("shard {shard} was taken over from {other}, {why}");
    Ok(Claim {
        file,
        note: Some(note),
        warning,
    })
}

/// As [`claim`], where the file lock alone settles it: `None` where that takes a look at another host's heartbeat,
/// or another process writes.
pub(super) fn claim_quickly(
    folder: &OutputFolder,
    shard: ShardId,
) -> Result<Option<Claim>, CheckpointError> {
    let FileLock::Taken(file) = try_lock(&folder.shard_lock(shard))? else {
        return Ok(None);
    };
    let owner = read_again(&folder.owner(shard))?;
    let is_free = owner.as_ref().is_none_or(Owner::is_on_this_host);
    Ok(is_free.then_some(Claim {
        file: Some(file),
        note: None,
        warning: None,
    }))
}

fn no_locks(path: &Path, cause: &io::Error) -> String {
    format!(
        "`{}` cannot be locked ({cause}): the owner file beside it alone keeps a second writer out, and after a kill the next run waits until its heartbeat has stood still; mount the file system with locks (NFS: without `nolock`; Lustre: with `flock`), or choose an `output.path` on another one",
        path.display()
    )
}

/// Waits until the heartbeat of another host has not moved for long enough.
fn watch(
    path: &Path,
    shard: ShardId,
    first: &Owner,
    options: &LockOptions,
) -> Result<(), CheckpointError> {
    let LockTiming {
        stale_after, poll, ..
    } = options.timing;
    let mut watched = Duration::ZERO;
    while watched < stale_after {
        options.wait()?;
        watched += poll.max(Duration::from_micros(1));
        match Owner::read(path) {
            Ok(Some(owner)) if owner != *first => {
                return Err(CheckpointError::Locked {
                    shard: Some(shard),
                    owner: Some(owner),
                });
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => return Ok(()),
        }
    }
    Ok(())
}

/// Reads an owner file, a few times where the system cannot say what is there.
fn read_again(path: &Path) -> Result<Option<Owner>, CheckpointError> {
    let mut last = Owner::read(path);
    for _ in 1..READS {
        if last.is_ok() {
            break;
        }
        last = Owner::read(path);
    }
    last.map_err(|cause| CheckpointError::read(path, cause))
}

/// What became of the try to lock a file.
enum FileLock {
    /// It is locked by this process now.
    Taken(File),
    /// Another process has it.
    Held,
    /// The file system knows no locks.
    Unknown(io::Error),
}

impl FileLock {
    fn file(self) -> Option<File> {
        match self {
            Self::Taken(file) => Some(file),
            Self::Held | Self::Unknown(_) => None,
        }
    }
}

/// Locks a file if it is free. The file may have been moved away while it was being opened, by a
/// restart; then the one that has its name now is tried.
fn try_lock(path: &Path) -> Result<FileLock, CheckpointError> {
    loop {
        let file = fsio::open_lock(path).map_err(|cause| match cause.kind() {
            // The folder was there: a restart is moving it away.
            ErrorKind::NotFound => CheckpointError::Locked {
                shard: None,
                owner: None,
            },
            _ => FsError::new("open", path, cause).into(),
        })?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => return Ok(FileLock::Taken(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(FileLock::Held),
            Err(TryLockError::Error(cause)) if fsio::knows_no_locks(&cause) => {
                return Ok(FileLock::Unknown(cause));
            }
            Err(TryLockError::Error(cause)) => {
                return Err(FsError::new("lock", path, cause).into());
            }
        }
    }
}

/// Whether a process on this host holds a shard's lock; `None` where the system does not say. The lock file is
/// only read, and its lock shared, so that looks do not see each other and nothing needs to be writable.
pub(super) fn is_held(folder: &OutputFolder, shard: ShardId) -> Option<bool> {
    let file = match File::open(folder.shard_lock(shard)) {
        Ok(file) => file,
        Err(cause) => return (cause.kind() == ErrorKind::NotFound).then_some(false),
    };
    match file.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests;
