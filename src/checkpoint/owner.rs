//! Who writes a shard: the owner file beside its lock.
//!
//! The file lock decides on one host; the owner file tells other hosts, which may not see the lock, that
//! the writer lives: it counts up with every heartbeat.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::fsio::{self, FsError};

/// The process that writes a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it took the shard, milliseconds since the epoch.
    pub started_ms: u64,
    /// Last heartbeat, milliseconds since the epoch by its own clock.
    pub heartbeat_ms: u64,
    /// Number of heartbeats. Other hosts watch it, since clocks may disagree.
    pub beats: u64,
    /// What it had done by its last heartbeat; `None` before its first one, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
}

/// What the owner of a shard has done since its work on it began. Rates follow from it, and need no file of their
/// own: the heartbeat is written anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Rows that ended.
    pub rows: u64,
    /// Context and answer tokens that were computed.
    pub tokens: u64,
    /// Time since the model was loaded. The owner measures it itself, so that a clock that is set does not change
    /// its rates.
    pub milliseconds: u64,
}

impl Owner {
    /// This process, from now on.
    pub(super) fn this_process() -> Self {
        let now = now_ms();
        Self {
            host: this_host(),
            pid: std::process::id(),
            started_ms: now,
            heartbeat_ms: now,
            beats: 0,
            work: None,
        }
    }

    /// Reads an owner file; `None` where it is not there, or is not an owner's.
    ///
    /// # Errors
    ///
    /// The system's, where it can be neither read nor found missing: a network file system may say so for a file
    /// that is being replaced, which says nothing about its owner.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), FsError> {
        let text = serde_json::to_string(self)
            .map_err(|error| FsError::new("write", path, error.into()))?;
        fsio::write_atomic(path, |out| writeln!(out, "{text}")).map(drop)
    }

    /// The same owner one heartbeat later, with what it has done by now.
    pub(super) fn next_beat(&self, work: Option<Work>) -> Self {
        Self {
            heartbeat_ms: now_ms(),
            beats: self.beats + 1,
            work,
            ..self.clone()
        }
    }

    /// Whether both are one process's hold of the shard, whatever their heartbeats.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.host, self.pid, self.started_ms) == (&other.host, other.pid, other.started_ms)
    }

    /// Whether the owner's file lock can be seen from here.
    pub(super) fn is_on_this_host(&self) -> bool {
        self.host == this_host()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on `{}`", self.pid, self.host)
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(unix)]
fn this_host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(not(unix))]
fn this_host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}
