//! Paths of the job file made absolute against its folder.
//!
//! Pure: no file is looked at. A leading `./` or `../` is worked in, so that messages show plain
//! paths; what follows a name is left alone, because a name may be a link.

use std::path::{Component, Path, PathBuf};

use super::flaw::Flaw;

/// Standard input among the input paths.
const STDIN: &str = "-";

/// A path of the job, absolute.
pub(super) fn absolute(key: &str, path: &Path, base: &Path) -> Result<PathBuf, Flaw> {
    let text = path.as_os_str();
    if text.is_empty() {
        return Err(Flaw::new(key, "is empty"));
    }
    if text.as_encoded_bytes().contains(&0) {
        return Err(Flaw::new(key, "holds a null character"));
    }
    if path.starts_with("~") {
        let flaw = Flaw::new(key, "starts with `~`, which only a shell knows");
        return Err(flaw.hint("write `${HOME}` in its place"));
    }
    let mut whole = if path.is_absolute() {
        PathBuf::new()
    } else {
        base.to_path_buf()
    };
    let mut leading = true;
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if leading => {
                whole.pop();
            }
            _ => {
                leading = false;
                whole.push(part);
            }
        }
    }
    Ok(whole)
}

/// The input paths, absolute; `-` alone stays as it is.
pub(super) fn inputs(key: &str, texts: Vec<String>, base: &Path) -> Result<Vec<String>, Flaw> {
    if texts.is_empty() {
        let flaw = Flaw::new(key, "is an empty list");
        return Err(flaw.hint("name files, globs or folders, or `-` for standard input"));
    }
    if texts.iter().any(|text| text == STDIN) {
        if texts.len() > 1 {
            return Err(Flaw::new(
                key,
                "names standard input (`-`) beside other files",
            ));
        }
        return Ok(texts);
    }
    texts.iter().map(|text| input(key, text, base)).collect()
}

fn input(key: &str, text: &str, base: &Path) -> Result<String, Flaw> {
    let glob = text.contains(['*', '?', '[']);
    let base = base.to_str().ok_or_else(|| {
        let flaw = Flaw::new(
            key,
            "cannot be resolved: the job file's folder is not UTF-8",
        );
        flaw.hint("move the job file to a folder with a plain name")
    })?;
    // The folder's own name is not a pattern, whatever characters it has.
    let base = if glob {
        glob::Pattern::escape(base)
    } else {
        base.to_string()
    };
    let path = absolute(key, Path::new(text), Path::new(&base))?;
    Ok(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_base() {
        let base = Path::new("/data/jobs");
        for (text, expected) in [
            ("m", "/data/jobs/m"),
            ("./m", "/data/jobs/m"),
            ("../out/demo", "/data/out/demo"),
            ("../../../../x", "/x"),
            ("a/../b", "/data/jobs/a/../b"),
            ("/abs/m", "/abs/m"),
            (".", "/data/jobs"),
        ] {
            assert_eq!(
                absolute("path", text.as_ref(), base).unwrap(),
                Path::new(expected),
                "{text}"
            );
        }
        assert!(absolute("path", "~/m".as_ref(), base).is_err());
        assert!(absolute("path", "".as_ref(), base).is_err());
        assert!(absolute("path", "a\0b".as_ref(), base).is_err());
    }

    #[test]
    fn globs_keep_their_pattern_and_only_theirs() {
        let base = Path::new("/data/[1]");
        let read = |text: &str| inputs("path", vec![text.into()], base).unwrap().remove(0);
        assert_eq!(read("q.jsonl"), "/data/[1]/q.jsonl");
        assert_eq!(read("*.jsonl"), "/data/[[]1[]]/*.jsonl");
        assert_eq!(read("-"), "-");
        assert!(inputs("path", vec!["-".into(), "a".into()], base).is_err());
        assert!(inputs("path", vec![], base).is_err());
    }
}
