//! One writer a shard, one process that sets the job up.
//!
//! On one host the file lock alone decides: it goes when its process goes. Where the owner file names
//! another host, whose lock may not be visible here, a heartbeat that stands still is taken over. A
//! writer re-reads the owner file before each commit, so one that was taken over commits nothing more.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::fsio::FsError;
use crate::ids::ShardId;

use super::owner::Owner;
use super::{CheckpointError, OutputFolder};

/// How often an owner file is read that the system cannot read at first.
const READS: usize = 3;

/// How long things take around locks.
#[derive(Clone, Copy, Debug)]
pub struct LockTiming {
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// A heartbeat of another host that stands still this long is dead.
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
#[derive(Clone, Copy)]
pub struct LockOptions<'a> {
    /// Do not wait for another host's heartbeat to stand still.
    pub break_lock: bool,
    /// Times.
    pub timing: LockTiming,
    /// Says that waiting should end.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

impl Default for LockOptions<'_> {
    fn default() -> Self {
        Self {
            break_lock: false,
            timing: LockTiming::default(),
            is_interrupted: &|| false,
        }
    }
}

impl std::fmt::Debug for LockOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockOptions")
            .field("break_lock", &self.break_lock)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

impl LockOptions<'_> {
    fn wait(&self) -> Result<(), CheckpointError> {
        if (self.is_interrupted)() {
            return Err(CheckpointError::Interrupted);
        }
        thread::sleep(self.timing.poll);
        Ok(())
    }
}

/// The right to set the job up: first pass and `job.json`. Given back when dropped.
#[derive(Debug)]
pub struct JobLock {
    _file: File,
}

impl JobLock {
    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Interrupted`]; [`CheckpointError::Fs`].
    pub fn acquire(
        folder: &OutputFolder,
        options: &LockOptions<'_>,
    ) -> Result<Self, CheckpointError> {
        loop {
            if let Some(lock) = Self::try_acquire(folder)? {
                return Ok(lock);
            }
            options.wait()?;
        }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Fs`].
    pub fn try_acquire(folder: &OutputFolder) -> Result<Option<Self>, CheckpointError> {
        Ok(try_lock(&folder.job_lock())?.map(|file| Self { _file: file }))
    }
}

/// The right to write a shard. Given back when dropped.
#[derive(Debug)]
pub struct ShardLock {
    shard: ShardId,
    path: PathBuf,
    owner: Owner,
    note: Option<String>,
    /// `None` where another host's lock was taken over while it stood.
    file: Option<File>,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

impl ShardLock {
    /// Takes a shard's lock and starts its heartbeat.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Locked`], where somebody writes the shard; [`CheckpointError::Interrupted`].
    pub fn acquire(
        folder: &OutputFolder,
        shard: ShardId,
        options: &LockOptions<'_>,
    ) -> Result<Self, CheckpointError> {
        let Claim { file, note } = claim(folder, shard, options)?;
        let path = folder.owner(shard);
        let owner = Owner::this_process();
        owner.write(&path)?;
        let heart = start_heart(&path, &owner, options.timing.heartbeat)
            .map_err(|cause| FsError::new("start the heartbeat of", &path, cause))?;
        Ok(Self {
            shard,
            path,
            owner,
            note,
            file,
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

    /// Whether nobody has taken the shard over: the owner file still names this process.
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
            let _ = std::fs::remove_file(&self.path);
        }
        self.file = None;
    }
}

fn start_heart(
    path: &Path,
    owner: &Owner,
    interval: Duration,
) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let (path, mut owner) = (path.to_path_buf(), owner.clone());
    let beat = move || {
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            match Owner::read(&path) {
                Ok(Some(found)) if found.is_same(&owner) => {}
                Ok(_) => return,
                // Who owns the shard now is not known; the next look may tell.
                Err(_) => continue,
            }
            owner = owner.next_beat();
            // A beat that cannot be written, on a full disk say, is missed; the next one may do.
            let _ = owner.write(&path);
        }
    };
    let heart = thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(beat)?;
    Ok((stop, heart))
}

/// A shard that nobody else writes.
pub(super) struct Claim {
    /// The locked file; `None` where another host's lock still stands but its heart does not beat.
    pub(super) file: Option<File>,
    note: Option<String>,
}

/// Finds out whether a shard may be written, without becoming its owner yet.
pub(super) fn claim(
    folder: &OutputFolder,
    shard: ShardId,
    options: &LockOptions<'_>,
) -> Result<Claim, CheckpointError> {
    let lock = folder.shard_lock(shard);
    let mut file = try_lock(&lock)?;
    let owner = read_again(&folder.owner(shard))?;
    let Some(other) = owner.clone().filter(|owner| !owner.is_on_this_host()) else {
        return match file {
            Some(_) => Ok(Claim { file, note: None }),
            None => Err(CheckpointError::Locked {
                shard: Some(shard),
                owner,
            }),
        };
    };
    if !options.break_lock {
        watch(&folder.owner(shard), shard, &other, options)?;
    }
    if file.is_none() {
        file = try_lock(&lock)?;
    }
    let why = if options.break_lock {
        "by `--break-lock`"
    } else {
        "whose heartbeat stood still"
    };
    let note = format!("shard {shard} was taken over from {other}, {why}");
    Ok(Claim {
        file,
        note: Some(note),
    })
}

/// Waits until another host's heartbeat has stood still for long enough.
fn watch(
    path: &Path,
    shard: ShardId,
    first: &Owner,
    options: &LockOptions<'_>,
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

/// Locks a file if it is free. The file may have been moved away while it was being opened, by a
/// restart; then the one that has its name now is tried.
fn try_lock(path: &Path) -> Result<Option<File>, CheckpointError> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|cause| FsError::new("open", path, cause))?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => {
                return Err(FsError::new("lock", path, cause).into());
            }
        }
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
mod tests {
    use std::cell::Cell;

    use super::*;

    fn foreign() -> Owner {
        Owner {
            host: "some other host".to_owned(),
            pid: 12,
            started_ms: 1,
            heartbeat_ms: 2,
            beats: 3,
        }
    }

    fn quick(is_interrupted: &dyn Fn() -> bool) -> LockOptions<'_> {
        let timing = LockTiming {
            heartbeat: Duration::from_hours(1),
            stale_after: Duration::from_micros(3),
            poll: Duration::ZERO,
        };
        LockOptions {
            break_lock: false,
            timing,
            is_interrupted,
        }
    }

    fn folder() -> (tempfile::TempDir, OutputFolder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        (parent, folder)
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let (_parent, folder) = folder();
        let first = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
        let error = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap_err();
        assert!(error.is_temporary());
        assert!(
            error
                .to_string()
                .starts_with("shard 0 is being written by process"),
            "{error}"
        );
        ShardLock::acquire(&folder, ShardId(1), &LockOptions::default()).unwrap();
        drop(first);
        let next = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
        assert_eq!(next.note(), None);
        assert!(next.still_mine());
    }

    #[test]
    fn a_dead_owner_of_this_host_is_no_obstacle() {
        let (_parent, folder) = folder();
        let dead = Owner {
            pid: 1,
            started_ms: 5,
            ..Owner::this_process()
        };
        dead.write(&folder.owner(ShardId(0))).unwrap();
        let no_wait = || panic!("must not wait");
        let lock = ShardLock::acquire(&folder, ShardId(0), &quick(&no_wait)).unwrap();
        assert!(lock.still_mine());
    }

    #[test]
    fn a_still_heart_of_another_host_is_taken_over() {
        let (_parent, folder) = folder();
        foreign().write(&folder.owner(ShardId(0))).unwrap();
        let looks = Cell::new(0);
        let count = || {
            looks.set(looks.get() + 1);
            false
        };
        let lock = ShardLock::acquire(&folder, ShardId(0), &quick(&count)).unwrap();
        assert_eq!(looks.get(), 3);
        insta::assert_snapshot!(lock.note().unwrap(), @"shard 0 was taken over from process 12 on `some other host`, whose heartbeat stood still");
    }

    #[test]
    fn a_beating_heart_of_another_host_refuses() {
        let (_parent, folder) = folder();
        let path = folder.owner(ShardId(0));
        foreign().write(&path).unwrap();
        let beat = || {
            foreign().next_beat().write(&path).unwrap();
            false
        };
        let error = ShardLock::acquire(&folder, ShardId(0), &quick(&beat)).unwrap_err();
        assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
    }

    #[test]
    fn waiting_ends_with_a_signal_or_is_skipped() {
        let (_parent, folder) = folder();
        foreign().write(&folder.owner(ShardId(0))).unwrap();
        let error = ShardLock::acquire(&folder, ShardId(0), &quick(&|| true)).unwrap_err();
        assert!(matches!(error, CheckpointError::Interrupted));
        let breaking = LockOptions {
            break_lock: true,
            ..LockOptions::default()
        };
        let lock = ShardLock::acquire(&folder, ShardId(0), &breaking).unwrap();
        assert!(lock.note().unwrap().ends_with("by `--break-lock`"));
    }

    #[test]
    fn a_writer_that_was_taken_over_notices() {
        let (_parent, folder) = folder();
        let lock = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
        lock.ensure_mine().unwrap();
        foreign().write(&folder.owner(ShardId(0))).unwrap();
        assert!(
            lock.ensure_mine()
                .unwrap_err()
                .to_string()
                .contains("some other host")
        );
        drop(lock);
        assert_eq!(
            Owner::read(&folder.owner(ShardId(0))).unwrap(),
            Some(foreign())
        );
    }

    #[test]
    fn an_owner_file_that_cannot_be_read_is_not_a_missing_one() {
        let (_parent, folder) = folder();
        let path = folder.owner(ShardId(0));
        // What cannot be read as a file stands for what a network file system may answer.
        std::fs::create_dir(&path).unwrap();
        let error = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap_err();
        assert!(matches!(error, CheckpointError::Fs(_)), "{error}");
        std::fs::remove_dir(&path).unwrap();
        foreign().write(&path).unwrap();
        let vanish = || {
            if path.is_file() {
                std::fs::remove_file(&path).unwrap();
                std::fs::create_dir(&path).unwrap();
                return false;
            }
            std::fs::remove_dir(&path).unwrap();
            foreign().next_beat().write(&path).unwrap();
            false
        };
        let error = ShardLock::acquire(&folder, ShardId(0), &quick(&vanish)).unwrap_err();
        assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
    }

    #[test]
    fn the_heart_beats() {
        let (_parent, folder) = folder();
        let timing = LockTiming {
            heartbeat: Duration::from_micros(100),
            ..LockTiming::default()
        };
        let options = LockOptions {
            timing,
            ..LockOptions::default()
        };
        let lock = ShardLock::acquire(&folder, ShardId(0), &options).unwrap();
        let owner = || Owner::read(&folder.owner(ShardId(0))).unwrap();
        while owner().is_none_or(|owner| owner.beats < 3) {
            thread::yield_now();
        }
        assert!(lock.still_mine());
        drop(lock);
        assert_eq!(owner(), None);
    }

    #[test]
    fn the_job_lock_excludes() {
        let (_parent, folder) = folder();
        let lock = JobLock::try_acquire(&folder).unwrap().unwrap();
        assert!(JobLock::try_acquire(&folder).unwrap().is_none());
        drop(lock);
        JobLock::acquire(&folder, &LockOptions::default()).unwrap();
    }
}
