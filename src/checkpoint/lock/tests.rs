//! Locks and owner files of this host and of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn foreign() -> Owner {
    Owner {
        host: "some other host".to_owned(),
        pid: 12,
        started_ms: 1,
        heartbeat_ms: 2,
        beats: 3,
        work: None,
    }
}

fn quick(asking: impl Fn() -> bool + Send + Sync + 'static) -> LockOptions {
    let timing = LockTiming {
        heartbeat: Duration::from_hours(1),
        stale_after: Duration::from_micros(3),
        poll: Duration::ZERO,
    };
    LockOptions {
        break_lock: false,
        timing,
        stop: StopFlag::asking(asking),
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
    let lock = ShardLock::acquire(&folder, ShardId(0), &quick(no_wait)).unwrap();
    assert!(lock.still_mine());
}

#[test]
fn a_still_heart_of_another_host_is_taken_over() {
    let (_parent, folder) = folder();
    foreign().write(&folder.owner(ShardId(0))).unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    let lock = ShardLock::acquire(&folder, ShardId(0), &quick(count)).unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    insta::assert_snapshot!(lock.note().unwrap(), @"shard 0 was taken over from process 12 on `some other host`, whose heartbeat stood still");
}

#[test]
fn a_beating_heart_of_another_host_refuses() {
    let (_parent, folder) = folder();
    let path = folder.owner(ShardId(0));
    foreign().write(&path).unwrap();
    let beat = move || {
        foreign().next_beat(None).write(&path).unwrap();
        false
    };
    let error = ShardLock::acquire(&folder, ShardId(0), &quick(beat)).unwrap_err();
    assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
}

#[test]
fn waiting_ends_with_a_signal_or_is_skipped() {
    let (_parent, folder) = folder();
    foreign().write(&folder.owner(ShardId(0))).unwrap();
    let error = ShardLock::acquire(&folder, ShardId(0), &quick(|| true)).unwrap_err();
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
    // A folder in its place cannot be read, as a file on a network file system sometimes cannot.
    std::fs::create_dir(&path).unwrap();
    let error = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap_err();
    assert!(matches!(error, CheckpointError::Fs(_)), "{error}");
    std::fs::remove_dir(&path).unwrap();
    foreign().write(&path).unwrap();
    let vanish = move || {
        if path.is_file() {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            return false;
        }
        std::fs::remove_dir(&path).unwrap();
        foreign().next_beat(None).write(&path).unwrap();
        false
    };
    let error = ShardLock::acquire(&folder, ShardId(0), &quick(vanish)).unwrap_err();
    assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_system_without_locks_is_recognised() {
    use rustix::io::Errno;
    let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
    for errno in [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS] {
        assert!(fsio::knows_no_locks(&error(errno)), "{errno}");
    }
    for errno in [Errno::ACCESS, Errno::IO, Errno::INTR] {
        assert!(!fsio::knows_no_locks(&error(errno)), "{errno}");
    }
}

#[test]
fn without_locks_the_owner_file_decides() {
    let (_parent, folder) = folder();
    let path = folder.owner(ShardId(0));
    let unknown = || FileLock::Unknown(io::ErrorKind::Unsupported.into());
    let claim = |options: LockOptions| claim_by(unknown(), &folder, ShardId(0), &options);
    let free = claim(quick(|| panic!("must not wait"))).unwrap();
    assert!(free.file.is_none() && free.note.is_none());
    let warning = free.warning.unwrap();
    assert!(warning.contains("Lustre: with `flock`"), "{warning}");

    // An owner of this host may live: no lock says that it does not.
    let own = Owner::this_process();
    own.write(&path).unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    let taken = claim(quick(count)).unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    assert!(taken.note.is_some() && taken.warning.is_some());
    let beat = move || {
        own.next_beat(None).write(&path).unwrap();
        false
    };
    let refused = claim(quick(beat)).err().unwrap();
    assert!(
        matches!(refused, CheckpointError::Locked { .. }),
        "{refused}"
    );
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
    assert_eq!(owner().unwrap().work, None);
    let work = Work {
        rows: 5,
        tokens: 70,
        milliseconds: 900,
    };
    lock.tell(work);
    while owner().is_none_or(|owner| owner.work != Some(work)) {
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

#[test]
fn a_folder_that_is_moved_away_meanwhile_is_anothers() {
    let (_parent, folder) = folder();
    std::fs::remove_dir_all(folder.locks()).unwrap();
    let is_locked = |error: CheckpointError| {
        assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
        assert!(error.is_temporary());
    };
    let options = LockOptions::default();
    is_locked(ShardLock::acquire(&folder, ShardId(0), &options).unwrap_err());
    is_locked(JobLock::acquire(&folder, &options).unwrap_err());
    let path = folder.owner(ShardId(0));
    is_locked(write_owner(&Owner::this_process(), &path, ShardId(0)).unwrap_err());
}

#[test]
fn a_wait_for_another_hosts_heartbeat_is_announced() {
    let (_parent, folder) = folder();
    let awaits = |options: &LockOptions| ShardLock::awaits(&folder, ShardId(0), options);
    assert_eq!(awaits(&LockOptions::default()), None);
    let other = r#"{"host":"elsewhere","pid":3,"started_ms":1,"heartbeat_ms":1,"beats":0}"#;
    std::fs::write(folder.owner(ShardId(0)), other).unwrap();
    let words = awaits(&LockOptions::default()).unwrap();
    assert!(
        words.contains("elsewhere") && words.contains("60 s"),
        "{words}"
    );
    let breaking = LockOptions {
        break_lock: true,
        ..LockOptions::default()
    };
    assert_eq!(awaits(&breaking), None);
    Owner::this_process()
        .write(&folder.owner(ShardId(0)))
        .unwrap();
    assert_eq!(
        awaits(&LockOptions::default()),
        None,
        "the lock alone decides"
    );
}

/// `status` takes the lock for a moment, and a run that begins then must not be refused for it.
#[test]
fn a_look_at_the_lock_keeps_no_writer_out() {
    let (_parent, folder) = folder();
    assert_eq!(is_held(&folder, ShardId(0)), Some(false));
    let lock = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
    assert_eq!(is_held(&folder, ShardId(0)), Some(true));
    drop(lock);
    let look = File::open(folder.shard_lock(ShardId(0))).unwrap();
    look.try_lock_shared().unwrap();
    assert_eq!(is_held(&folder, ShardId(0)), Some(false));
    let ends = thread::spawn(move || {
        thread::sleep(RETRY);
        drop(look);
    });
    ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
    ends.join().unwrap();
}
