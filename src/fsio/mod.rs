//! Bytes to durable files: atomic writes, exclusive creation, synced renames, hashing.
//!
//! This is the only place that creates, opens for writing, renames or removes files; `clippy.toml` bans the other
//! ways. Invariant: a name that appears in a folder holds complete, synced content, except for the append-only
//! files that [`open_append`] gives, whose reader must tell a torn tail, and for locks, which hold nothing.
//!
//! ```text
//! write    whole files: write_atomic, create_exclusive, and the names of files under way
//! claim    the right to write a file, which one process at a time has
//! append   files that grow: open_append, append_synced, truncate_synced, open_lock
//! folders  create, sync, move, remove, look at
//! hash     FileDigest
//! points   every durable step lies between two failpoints, all listed in FAILPOINTS; without the
//!          feature `failpoints` they vanish
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "this is the module that may create, rename and remove files"
)]

mod append;
mod claim;
mod error;
mod folders;
mod hash;
mod points;
mod write;

pub use append::append_synced;
pub(crate) use append::{open_append, open_lock, truncate_synced};
pub(crate) use claim::{claim, knows_no_locks, wait_for_claim};
pub use error::FsError;
pub(crate) use error::is_full;
pub(crate) use folders::{
    create_dir_all, free_path, is_empty_or_absent, remove_empty_folder, remove_folder,
    remove_quietly, remove_synced, rename_synced, temporary_folder,
};
pub use hash::FileDigest;
pub(crate) use hash::hash_file_unless;
pub use points::FAILPOINTS;
pub use write::write_atomic;
pub(crate) use write::{check_writable, create_exclusive, temporary_target};
