//! Files that people download: opened only where they are what their name says.
//!
//! A model's folder comes from elsewhere, so a name in it may lead to a pipe, to a link without its
//! target, or to a small text that takes the place of the file. Each is refused at once, with what
//! helps; nothing is waited for. `tokenize` and `model` read their files through here.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read, Seek};
use std::path::Path;

/// Bytes that are looked at to tell what a file really is.
const START_BYTES: usize = 512;

/// Start of the text that Git LFS leaves in place of a large file.
pub(crate) const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Starts of a web page, in lower case.
const PAGES: [&[u8]; 2] = [b"<!doctype", b"<html"];

const FETCH: &str = "hint: download the file itself: `git lfs pull` in its folder, or the download command of where the model was \
     published";

const AGAIN: &str = "hint: download the file again";

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Nothing has this name.
    Missing,
    /// The system does not let it be read.
    Io(io::Error),
    /// It is something else: what, with the cure on a line of its own.
    Other(String),
}

/// Opens a file for reading.
///
/// # Errors
///
/// [`Unusable`], where it is missing, not a plain file, empty, or a text left in the file's place.
pub(crate) fn open(path: &Path) -> Result<File, Unusable> {
    let found = metadata(path)?;
    if !found.is_file() {
        let kind = kind(found.file_type());
        return Err(Unusable::Other(format!(
            "is {kind}, not a file\nhint: put the file itself there"
        )));
    }
    let mut file = File::open(path).map_err(Unusable::Io)?;
    let mut start = Vec::with_capacity(START_BYTES);
    let read = file
        .by_ref()
        .take(START_BYTES as u64)
        .read_to_end(&mut start);
    read.and_then(|_| file.rewind()).map_err(Unusable::Io)?;
    match stand_in(&start) {
        Some(reason) => Err(Unusable::Other(reason)),
        None => Ok(file),
    }
}

/// Reads a file of at most so many bytes.
///
/// # Errors
///
/// As [`open`], and where the file is larger.
pub(crate) fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, Unusable> {
    let mut bytes = Vec::new();
    let mut file = open(path)?.take(most_bytes + 1);
    file.read_to_end(&mut bytes).map_err(Unusable::Io)?;
    if bytes.len() as u64 > most_bytes {
        return Err(Unusable::Other(format!(
            "has more than {} MiB, so it is not what its name says\n{AGAIN}",
            most_bytes >> 20
        )));
    }
    Ok(bytes)
}

/// What the system says of a file, links followed.
fn metadata(path: &Path) -> Result<Metadata, Unusable> {
    let error = match std::fs::metadata(path) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::NotFound {
        return Err(Unusable::Io(error));
    }
    match std::fs::read_link(path) {
        Ok(target) => Err(Unusable::Other(format!(
            "is a link to `{}`, which is not there\nhint: finish the download, or copy the folder with its links \
             followed (`cp -rL`)",
            target.display()
        ))),
        Err(_) => Err(Unusable::Missing),
    }
}

/// What is in the place of a file, by its first bytes.
fn stand_in(start: &[u8]) -> Option<String> {
    if start.is_empty() {
        return Some(format!("is empty\n{AGAIN}"));
    }
    if start.starts_with(LFS_POINTER) {
        return Some(format!(
            "is a Git LFS pointer, not the file itself\n{FETCH}"
        ));
    }
    let text = start.trim_ascii_start().to_ascii_lowercase();
    let is_page = PAGES.iter().any(|page| text.starts_with(page));
    is_page.then(|| format!("is a web page, not the file itself\n{AGAIN}"))
}

/// What something other than a file is, in words.
fn kind(found: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return "a named pipe";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    if found.is_dir() {
        "a folder"
    } else {
        "something else"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(path: &Path) -> String {
        match open(path).unwrap_err() {
            Unusable::Missing => "missing".to_owned(),
            Unusable::Io(error) => error.to_string(),
            Unusable::Other(reason) => reason,
        }
    }

    #[test]
    fn what_is_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert_eq!(reason(&path("none")), "missing");
        assert!(reason(folder.path()).starts_with("is a folder, not a file\nhint: "));
        for (name, text, want) in [
            ("empty", "", "is empty\nhint: "),
            (
                "pointer",
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "is a Git LFS pointer, not the file itself\nhint: download the file itself: `git lfs pull`",
            ),
            ("page", "\n<!DOCTYPE html><html>", "is a web page"),
        ] {
            std::fs::write(path(name), text).unwrap();
            assert!(reason(&path(name)).starts_with(want), "{name}");
        }
        std::fs::write(path("sound"), "12345").unwrap();
        assert_eq!(read(&path("sound"), 5).unwrap(), b"12345");
        assert!(matches!(read(&path("sound"), 4), Err(Unusable::Other(_))));
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("gone", path("link")).unwrap();
        assert!(reason(&path("link")).starts_with("is a link to `gone`, which is not there"));
        let made = std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status();
        assert!(made.unwrap().success());
        assert!(reason(&path("pipe")).starts_with("is a named pipe, not a file"));
        assert!(reason(Path::new("/dev/null")).starts_with("is a device, not a file"));
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        assert!(reason(&path("socket")).starts_with("is a socket, not a file"));
    }
}
