//! Journal, manifest, commit, locks, resume.
