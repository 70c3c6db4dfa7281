//! JSON text to JSON text that carries its own checksum, and back.
//!
//! The last member, `crc`, is the crc32c of the text without it, so any flipped byte shows, white space
//! too, while the text stays JSON that `jq` reads. Journal lines are sealed in one line, files in many.

use serde::Serialize;
use serde::de::DeserializeOwned;

use std::path::Path;

use super::CheckpointError;

/// How the closing brace and the member before it look.
struct Form {
    before: &'static str,
    after: &'static str,
    closing: &'static str,
}

const LINE: Form = Form {
    before: ",\"crc\":\"",
    after: "\"}",
    closing: "}",
};
const FILE: Form = Form {
    before: ",\n  \"crc\": \"",
    after: "\"\n}\n",
    closing: "\n}\n",
};

/// Hexadecimal digits of a checksum.
const DIGITS: usize = 8;

impl Form {
    /// Seals `text`, which ends in `closing`.
    fn seal(&self, mut text: String) -> String {
        let crc = crc32c::crc32c(text.as_bytes());
        text.truncate(text.len() - self.closing.len());
        text.push_str(self.before);
        text + &format!("{crc:08x}{}", self.after)
    }

    fn is_sound(&self, text: &[u8]) -> bool {
        let seal_length = self.before.len() + DIGITS + self.after.len();
        let Some(start) = text.len().checked_sub(seal_length) else {
            return false;
        };
        let (content, seal) = text.split_at(start);
        let crc = crc32c::crc32c_append(crc32c::crc32c(content), self.closing.as_bytes());
        seal == format!("{}{crc:08x}{}", self.before, self.after).as_bytes()
    }
}

/// A value as one sealed line, without line end.
pub(super) fn seal_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|text| LINE.seal(text))
}

/// Whether a line, without its end, is as it was sealed.
pub(super) fn is_sound_line(line: &[u8]) -> bool {
    LINE.is_sound(line)
}

/// Whether a file is as it was sealed.
pub(super) fn is_sound_file(text: &[u8]) -> bool {
    FILE.is_sound(text)
}

/// A value as a sealed file.
pub(super) fn seal_file<T: Serialize>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|text| FILE.seal(text + "\n"))
}

/// Reads a sealed file of one of the `known` versions; `None` where there is none.
pub(super) fn read_file<T: DeserializeOwned>(
    path: &Path,
    known: &[&str],
    cure: &'static str,
) -> Result<Option<T>, CheckpointError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    parse_file(path, &text, known, cure).map(Some)
}

/// The bytes of a file; `None` where there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(CheckpointError::read(path, cause)),
    }
}

/// The value in the bytes of a sealed file of one of the `known` versions.
pub(super) fn parse_file<T: DeserializeOwned>(
    path: &Path,
    text: &[u8],
    known: &[&str],
    cure: &'static str,
) -> Result<T, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged {
        path: path.to_path_buf(),
        reason,
        cure,
    };
    if !FILE.is_sound(text) {
        return Err(damaged("its checksum does not fit its content".to_owned()));
    }
    check_version(path, text, known)?;
    serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))
}

/// All sealed files say which version they have.
fn check_version(path: &Path, text: &[u8], known: &[&str]) -> Result<(), CheckpointError> {
    match version(text) {
        Ok(version) if known.contains(&version.as_str()) => Ok(()),
        found => Err(CheckpointError::UnknownVersion {
            path: path.to_path_buf(),
            found: found.unwrap_or_else(|_| "none".to_owned()),
        }),
    }
}

/// The version that a sealed file says it has.
pub(super) fn version(text: &[u8]) -> serde_json::Result<String> {
    #[derive(serde::Deserialize)]
    struct Tagged {
        version: String,
    }
    serde_json::from_slice::<Tagged>(text).map(|tagged| tagged.version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_flipped_bit_of_a_line_shows() {
        let line = seal_line(&json!({"row": 7, "text": "北京 is a city"})).unwrap();
        assert!(is_sound_line(line.as_bytes()));
        assert!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["crc"].is_string());
        assert_every_flip_shows(line.as_bytes(), is_sound_line);
    }

    #[test]
    fn every_flipped_bit_of_a_file_shows() {
        let file = seal_file(&json!({"version": "1", "windows": [1, 2]})).unwrap();
        assert!(FILE.is_sound(file.as_bytes()));
        assert_every_flip_shows(file.as_bytes(), |text| FILE.is_sound(text));
    }

    fn assert_every_flip_shows(text: &[u8], is_sound: impl Fn(&[u8]) -> bool) {
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut flipped = text.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(!is_sound(&flipped), "bit {bit} of byte {at}");
            }
            assert!(!is_sound(&text[..at]), "cut at {at}");
        }
    }

    #[test]
    fn an_unknown_version_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard-0.json");
        std::fs::write(&path, seal_file(&json!({"version": "99"})).unwrap()).unwrap();
        let error = read_file::<serde_json::Value>(&path, &["1"], "").unwrap_err();
        assert!(matches!(error, CheckpointError::UnknownVersion { found, .. } if found == "99"));
    }
}
