//! Atomic and synced file writes, hashing: the only place that creates files.
