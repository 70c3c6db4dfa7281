//! What a run has made of an output folder before its job was refused: it goes again.
//!
//! Nothing is removed but empty folders that were not there before, and only while no other process sets up a job in
//! them.

use std::path::{Path, PathBuf};

use crate::fsio;

use super::OutputFolder;
use super::lock::JobLock;

/// The folders of a job that were not there yet.
pub(crate) struct Fresh {
    folder: OutputFolder,
    /// Outermost first.
    absent: Vec<PathBuf>,
}

impl Fresh {
    /// Looks which of them, and of those above them, are not there.
    pub(crate) fn look(folder: &OutputFolder) -> Self {
        let is_absent = |path: &&Path| path.symlink_metadata().is_err();
        let above = folder.root().ancestors();
        let above = above.take_while(|path| !path.as_os_str().is_empty());
        let mut absent: Vec<PathBuf> = above.filter(is_absent).map(Path::to_path_buf).collect();
        absent.reverse();
        let inside = folder.own_folders().into_iter();
        absent.extend(inside.filter(|path| is_absent(&path.as_path())));
        Self {
            folder: folder.clone(),
            absent,
        }
    }

    /// Removes those that a refused job has left empty. It is a courtesy: what cannot be removed stays.
    pub(crate) fn take_back(self) {
        let folder = &self.folder;
        let is_empty = || {
            let has_content = folder.job_file().exists() || folder.standard_input().exists();
            !has_content && folder.is_untouched()
        };
        if self.absent.is_empty() || !is_empty() {
            return;
        }
        let Ok(Some(lock)) = JobLock::try_acquire(folder) else {
            return;
        };
        // Another run may have set up a job until then.
        if !lock.is_held() || !is_empty() {
            return;
        }
        // The lock goes last. The next process to hold it makes the other folders again, and they must stay then.
        let locks = folder.locks();
        let above = |path: &&PathBuf| locks.starts_with(path);
        let (above, beside): (Vec<_>, Vec<_>) = self.absent.iter().rev().partition(above);
        for path in beside {
            fsio::remove_empty_folder(path);
        }
        if self.absent.contains(&locks) {
            fsio::remove_quietly(&folder.job_lock());
        }
        for path in above {
            fsio::remove_empty_folder(path);
        }
        drop(lock);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::{LockOptions, LockTiming};

    /// How often one run sets up while another one is refused.
    const TURNS: usize = 100;

    /// How often it is tried at most.
    const MOST_TRIES: usize = 10_000;

    #[test]
    fn a_refused_run_takes_nothing_from_one_that_sets_up() {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::at(&parent.path().join("deep/out"));
        let is_over = AtomicBool::new(false);
        let options = LockOptions {
            timing: LockTiming {
                poll: Duration::from_millis(1),
                ..LockTiming::default()
            },
            ..LockOptions::default()
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let fresh = Fresh::look(&folder);
                    // Here the other run may be just taking them away.
                    let _ = OutputFolder::open(folder.root());
                    fresh.take_back();
                }
            });
            let (mut set_up, mut gone) = (0, None);
            for _ in 0..MOST_TRIES {
                // One that is refused again and again may take the folders away again and again.
                let Ok(lock) = JobLock::acquire_first(&folder, &options) else {
                    continue;
                };
                Fresh::look(&folder).take_back();
                let folders = folder.own_folders().into_iter();
                gone = gone.or(folders.into_iter().find(|path| !path.is_dir()));
                drop(lock);
                set_up += 1;
                if set_up == TURNS || gone.is_some() {
                    break;
                }
            }
            // The other thread must end whatever happened.
            is_over.store(true, Ordering::SeqCst);
            assert_eq!((set_up, gone), (TURNS, None));
        });
    }
}
