//! Newtypes for the numbers that must not be mixed up: rows, windows, shards.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Position of a record in the whole input, from 0. Broken lines take a number too.
    RowId(u64)
}
id! {
    /// Number of a window, a run of consecutive rows committed as one part, from 0.
    WindowId(u32)
}
id! {
    /// Number of a shard, from 0: the windows with `window % shards == shard`.
    ShardId(u32)
}

impl WindowId {
    /// The shard that owns this window when the job has `shards` shards.
    pub fn shard(self, shards: u32) -> ShardId {
        ShardId(self.0 % shards.max(1))
    }
}
