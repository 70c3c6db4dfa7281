//! A glob to the paths that match it.
//!
//! One component after another, so that only folders which may match are read. Names are matched as text; one
//! that is none is matched by its readable form, so that its file is found and can be named. A wildcard does
//! not match a dot at the beginning, `**` goes into folders that are not hidden.

use std::io;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};
use walkdir::WalkDir;

use super::error::InputError;
use super::folders::dangling;
use super::formats::TABLE_ENDINGS;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// The folders down to any depth.
const ANY_DEPTH: &str = "**";

/// The part of a pattern that has no wildcards, and the paths that match, in no order; links to nothing are
/// among them.
pub(super) fn expand(pattern: &str) -> Result<(PathBuf, Vec<PathBuf>), InputError> {
    let invalid = |reason: String| InputError::Glob {
        pattern: pattern.to_owned(),
        reason,
    };
    Pattern::new(pattern).map_err(|error| invalid(error.to_string()))?;
    let mut root = PathBuf::new();
    let mut found: Option<Vec<PathBuf>> = None;
    for component in Path::new(pattern).components() {
        let text = component.as_os_str().to_string_lossy();
        let wild = matches!(component, Component::Normal(_)) && text.contains(['*', '?', '[']);
        found = match (wild, found) {
            (false, None) => {
                root.push(component);
                None
            }
            (false, Some(found)) => Some(found.iter().map(|path| path.join(component)).collect()),
            (true, found) => {
                let above = found.unwrap_or_else(|| vec![root.clone()]);
                let below = if text == ANY_DEPTH {
                    folders_below(&above)?
                } else {
                    let name = Pattern::new(&text).map_err(|error| invalid(error.to_string()))?;
                    matching(&above, &name)?
                };
                Some(below)
            }
        };
    }
    let mut paths = found.unwrap_or_default();
    paths.retain(|path| path.exists() || path.is_symlink());
    Ok((root, paths))
}

/// Whether a pattern itself has a name that begins with `_`.
pub(super) fn names_underscores(pattern: &str) -> bool {
    let begins =
        |component: Component<'_>| component.as_os_str().as_encoded_bytes().starts_with(b"_");
    Path::new(pattern).components().any(begins)
}

/// Whether a pattern itself says that JSON files are meant.
pub(super) fn names_json(pattern: &str) -> bool {
    let pattern = pattern.to_lowercase();
    [".json", ".json*"].iter().any(|end| pattern.ends_with(end))
}

/// Whether a pattern itself says that CSV or TSV files are meant.
pub(super) fn names_tables(pattern: &str) -> bool {
    let pattern = pattern.to_lowercase();
    let kinds = [".csv", ".tsv"];
    kinds
        .iter()
        .any(|kind| pattern.ends_with(&format!("{kind}*")))
        || TABLE_ENDINGS.iter().any(|ending| pattern.ends_with(ending))
}

fn matching(folders: &[PathBuf], name: &Pattern) -> Result<Vec<PathBuf>, InputError> {
    let mut found = Vec::new();
    for folder in folders {
        let failed = |source| InputError::Io {
            path: folder.clone(),
            source,
        };
        let entries = match std::fs::read_dir(folder) {
            Err(error) if is_no_folder(&error) => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if name.matches_with(&entry.file_name().to_string_lossy(), OPTIONS) {
                found.push(folder.join(entry.file_name()));
            }
        }
    }
    Ok(found)
}

fn is_no_folder(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory | io::ErrorKind::NotFound
    )
}

/// These folders and all below them but hidden ones.
fn folders_below(above: &[PathBuf]) -> Result<Vec<PathBuf>, InputError> {
    let mut found = Vec::new();
    for folder in above.iter().filter(|folder| folder.is_dir()) {
        let entries = WalkDir::new(folder)
            .follow_links(true)
            .into_iter()
            .filter_entry(|entry| {
                let name = entry.file_name().as_encoded_bytes();
                entry.depth() == 0 || (entry.file_type().is_dir() && !name.starts_with(b"."))
            });
        for entry in entries {
            if entry.as_ref().err().and_then(dangling).is_some() {
                continue;
            }
            let entry = entry.map_err(|error| InputError::Io {
                path: error.path().unwrap_or(folder).to_owned(),
                source: error.into(),
            })?;
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn patterns_find_what_they_say() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/1.x", "a/b/2.x", "a/b/.3.x", ".h/4.x", "a/[5].x", "c.x"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        for (pattern, expected) in [
            ("*.x", &["c.x"][..]),
            ("*/*.x", &["a/1.x", "a/[5].x"]),
            ("**/*.x", &["a/1.x", "a/[5].x", "a/b/2.x", "c.x"]),
            ("a/**/*.x", &["a/1.x", "a/[5].x", "a/b/2.x"]),
            ("a/[[]5[]].x", &["a/[5].x"]),
            ("a/b/.*.x", &["a/b/.3.x"]),
            ("*/b/2.x", &["a/b/2.x"]),
            ("c.x/*", &[]),
            ("a/?", &["a/b"]),
            ("a/**", &["a", "a/b"]),
        ] {
            let pattern = folder.path().join(pattern);
            let (_, mut found) = expand(pattern.to_str().unwrap()).unwrap();
            found.sort();
            let found: Vec<&str> = found
                .iter()
                .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
                .collect();
            assert_eq!(found, expected, "{}", pattern.display());
        }
        assert!(expand("/x/[a").is_err());
        assert!(expand("/x/a**").is_err());
    }
}
