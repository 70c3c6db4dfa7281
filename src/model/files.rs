//! The files of a model folder: which hold its weights, and their fingerprint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ModelError;
use super::weights::map_file;

/// Names under which weights are published, with the index of their sharded form; first found wins.
const NAMES: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// The files that hold a folder's weights, in a fixed order.
///
/// # Errors
///
/// [`ModelError::NoWeights`] where there are none, [`ModelError::File`] for an index that cannot be
/// read or names a file that is not there.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    for (single, index) in NAMES {
        let single = folder.join(single);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(index);
        if index.is_file() {
            return shards(folder, &index);
        }
    }
    Err(ModelError::NoWeights {
        folder: folder.to_owned(),
    })
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let text = std::fs::read_to_string(index).map_err(ModelError::io(index))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| ModelError::file(index, format!("is not valid JSON: {error}")))?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| ModelError::file(index, "has no `weight_map`"))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        // A name with a path in it could lead out of the folder.
        if Path::new(name).file_name().is_none_or(|file| file != name) {
            return Err(ModelError::file(
                index,
                format!("names `{name}`, which is not a file name"),
            ));
        }
        let file = folder.join(name);
        if !file.is_file() {
            return Err(ModelError::file(
                index,
                format!("names `{name}`, which is not in the folder\nhint: finish the download"),
            ));
        }
        files.push(file);
    }
    if files.is_empty() {
        return Err(ModelError::file(index, "names no files"));
    }
    Ok(files)
}

/// A fingerprint of a model: blake3 over `config.json` and the content of its weight files.
///
/// # Errors
///
/// As [`weight_files`], or [`ModelError::Io`].
pub fn weights_fingerprint(folder: &Path) -> Result<String, ModelError> {
    let mut files = vec![folder.join("config.json")];
    files.extend(weight_files(folder)?);
    let mut all = blake3::Hasher::new();
    for path in files {
        let content = map_file(&path)?;
        all.update(blake3::hash(&content).as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write their own files")]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_follows_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert!(matches!(
            weight_files(path),
            Err(ModelError::NoWeights { .. })
        ));
        std::fs::write(path.join("config.json"), "{}").unwrap();
        std::fs::write(path.join("model.safetensors"), "abc").unwrap();
        let first = weights_fingerprint(path).unwrap();
        assert_eq!(first, weights_fingerprint(path).unwrap());
        std::fs::write(path.join("model.safetensors"), "abd").unwrap();
        assert_ne!(first, weights_fingerprint(path).unwrap());
    }

    #[test]
    fn an_index_names_its_shards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let index = path.join("pytorch_model.bin.index.json");
        std::fs::write(
            &index,
            r#"{"weight_map": {"a": "x-2.bin", "b": "x-1.bin", "c": "x-2.bin"}}"#,
        )
        .unwrap();
        let error = weight_files(path).unwrap_err().to_string();
        assert!(
            error.contains("`x-1.bin`, which is not in the folder"),
            "{error}"
        );
        std::fs::write(path.join("x-1.bin"), "").unwrap();
        std::fs::write(path.join("x-2.bin"), "").unwrap();
        assert_eq!(
            weight_files(path).unwrap(),
            [path.join("x-1.bin"), path.join("x-2.bin")]
        );
        std::fs::write(&index, r#"{"weight_map": {"a": "../x-2.bin"}}"#).unwrap();
        assert!(weight_files(path).is_err());
    }
}
