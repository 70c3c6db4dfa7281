//! The files of a model folder: which hold its weights, and their fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::download;
use crate::stop::StopFlag;

use super::super::ModelError;
use super::mapped::MappedFile;
use super::source::ModelSource;

/// Names under which weights are published, with the index of their sharded form; first found wins.
const NAMES: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// Bytes of the largest index that is read: some million tensors.
const MOST_INDEX_BYTES: u64 = 256 << 20;

/// Bytes that are hashed at once, by all cores.
const HASH_BYTES: usize = 64 << 20;

/// Ends of the names that downloads have while they are under way.
const UNFINISHED: [&str; 5] = ["incomplete", "part", "partial", "crdownload", "aria2"];

/// The files that hold a folder's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// Files with tensors, in a fixed order.
    pub files: Vec<PathBuf>,
    /// What says which of them holds which tensor, where there is more than one.
    pub index: Option<ShardIndex>,
    /// A file whose tensors replace those of the others.
    pub overlay: Option<PathBuf>,
}

/// An index of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    /// The index file.
    pub path: PathBuf,
    /// Position of a tensor's file in [`WeightFiles::files`], by the tensor's name.
    pub(super) places: BTreeMap<String, usize>,
}

/// What the fingerprint of weights is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fingerprinted {
    /// `config.json` and the weight files, an overlay last.
    Files,
    /// These, and the index of shards.
    FilesAndIndex,
}

impl WeightFiles {
    /// Finds the weights of a folder.
    ///
    /// # Errors
    ///
    /// [`ModelError::NoWeights`] where there are none, [`ModelError::File`] for an index that cannot be
    /// read or names a file that is not there.
    pub fn find(folder: &Path) -> Result<Self, ModelError> {
        for (single, index) in NAMES {
            let single = folder.join(single);
            if single.symlink_metadata().is_ok() {
                download::open(&single).map_err(ModelError::unusable(&single))?;
                return Ok(Self {
                    files: vec![single],
                    index: None,
                    overlay: None,
                });
            }
            let index = folder.join(index);
            if index.symlink_metadata().is_ok() {
                return shards(folder, &index);
            }
        }
        Err(ModelError::NoWeights {
            folder: folder.to_owned(),
            cure: cure(folder),
        })
    }

    /// All files that decide what the weights are, `config.json` first.
    pub fn deciding(&self, folder: &Path, by: Fingerprinted) -> Vec<PathBuf> {
        let mut paths = vec![folder.join("config.json")];
        if by == Fingerprinted::FilesAndIndex {
            paths.extend(self.index.as_ref().map(|index| index.path.clone()));
        }
        paths.extend_from_slice(&self.files);
        paths.extend(self.overlay.clone());
        paths
    }
}

/// What helps where a folder has no weights.
fn cure(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: BTreeSet<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let is_unfinished = |name: &&String| {
        UNFINISHED
            .iter()
            .any(|end| name.ends_with(&format!(".{end}")))
    };
    match names.iter().find(is_unfinished) {
        Some(name) => format!("finish the download: `{name}` has come only in part"),
        None => "give a folder (`model.path` in a job file) with `config.json` and `model.safetensors` or \
                 `pytorch_model.bin` (or their shards with an index)"
            .to_owned(),
    }
}

fn shards(folder: &Path, path: &Path) -> Result<WeightFiles, ModelError> {
    let wrong = |reason: String| ModelError::file(path, reason);
    let text = download::read(path, MOST_INDEX_BYTES).map_err(ModelError::unusable(path))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("is not valid JSON: {error}")))?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| wrong("has no `weight_map`".to_owned()))?;
    let mut tensors: BTreeMap<&str, &str> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| {
            wrong(format!(
                "names `{file}` as the file of `{tensor}`, which is not a file name"
            ))
        })?;
        tensors.insert(tensor, file);
    }
    let names: BTreeSet<&str> = tensors.values().copied().collect();
    if names.is_empty() {
        return Err(wrong("names no files".to_owned()));
    }
    let files = names.iter().map(|name| shard(folder, path, name));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let numbers: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
    let places = tensors
        .into_iter()
        .map(|(tensor, file)| (tensor.to_owned(), numbers[file]));
    Ok(WeightFiles {
        files,
        index: Some(ShardIndex {
            path: path.to_owned(),
            places: places.collect(),
        }),
        overlay: None,
    })
}

/// A file that an index names.
fn shard(folder: &Path, index: &Path, name: &str) -> Result<PathBuf, ModelError> {
    // A name with a path in it could lead out of the folder.
    if Path::new(name).file_name().is_none_or(|file| file != name) {
        return Err(ModelError::file(
            index,
            format!("names `{name}`, which is not a file name"),
        ));
    }
    let file = folder.join(name);
    if file.symlink_metadata().is_err() {
        return Err(ModelError::file(
            index,
            format!("names `{name}`, which is not in the folder\nhint: finish the download"),
        ));
    }
    download::open(&file).map_err(ModelError::unusable(&file))?;
    Ok(file)
}

/// [`source_fingerprint`] of a GLM without a value head.
///
/// # Errors
///
/// As [`source_fingerprint`].
pub fn weights_fingerprint(
    folder: &Path,
    by: Fingerprinted,
    stop: &StopFlag,
) -> Result<String, ModelError> {
    source_fingerprint(&ModelSource::glm(folder), by, stop)
}

/// A fingerprint of a model: blake3 over the files that decide what its weights are.
///
/// # Errors
///
/// As [`ModelSource::files`], or [`ModelError::Io`]; [`ModelError::Interrupted`].
pub fn source_fingerprint(
    source: &ModelSource<'_>,
    by: Fingerprinted,
    stop: &StopFlag,
) -> Result<String, ModelError> {
    let mut all = blake3::Hasher::new();
    for path in source.files()?.deciding(source.folder, by) {
        let mut hasher = blake3::Hasher::new();
        let file = MappedFile::open(&path)?;
        for (number, block) in file.chunks(HASH_BYTES).enumerate() {
            if stop.is_requested() {
                return Err(ModelError::Interrupted);
            }
            hasher.update_rayon(block);
            let start = number * HASH_BYTES;
            file.forget(start..start + block.len());
        }
        all.update(hasher.finalize().as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_follows_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert!(matches!(
            WeightFiles::find(path),
            Err(ModelError::NoWeights { .. })
        ));
        std::fs::write(path.join("config.json"), "{}").unwrap();
        std::fs::write(path.join("model.safetensors"), "abc").unwrap();
        let fingerprint = || {
            weights_fingerprint(path, Fingerprinted::FilesAndIndex, &StopFlag::default()).unwrap()
        };
        let first = fingerprint();
        assert_eq!(first, fingerprint());
        assert_eq!(
            weights_fingerprint(path, Fingerprinted::Files, &StopFlag::default()).unwrap(),
            first
        );
        let interrupted =
            weights_fingerprint(path, Fingerprinted::Files, &StopFlag::asking(|| true));
        assert!(matches!(interrupted, Err(ModelError::Interrupted)));
        std::fs::write(path.join("model.safetensors"), "abd").unwrap();
        assert_ne!(first, fingerprint());
    }

    #[test]
    fn the_index_is_part_of_the_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for (name, text) in [("config.json", "{}"), ("1.bin", "a"), ("2.bin", "b")] {
            std::fs::write(path.join(name), text).unwrap();
        }
        let both = || {
            [Fingerprinted::Files, Fingerprinted::FilesAndIndex]
                .map(|by| weights_fingerprint(path, by, &StopFlag::default()).unwrap())
        };
        let index = path.join("pytorch_model.bin.index.json");
        std::fs::write(&index, r#"{"weight_map": {"a": "1.bin", "b": "2.bin"}}"#).unwrap();
        let first = both();
        std::fs::write(&index, r#"{"weight_map": {"a": "2.bin", "b": "1.bin"}}"#).unwrap();
        let second = both();
        assert_eq!(first[0], second[0]);
        assert_ne!(first[1], second[1]);
    }

    #[test]
    fn an_index_names_its_shards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let index = path.join("pytorch_model.bin.index.json");
        let error = || WeightFiles::find(path).unwrap_err().to_string();
        std::fs::write(
            &index,
            r#"{"weight_map": {"a": "x-2.bin", "b": "x-1.bin", "c": "x-2.bin"}}"#,
        )
        .unwrap();
        assert!(error().contains("`x-1.bin`, which is not in the folder\nhint: finish"));
        std::fs::write(path.join("x-1.bin"), "1").unwrap();
        std::fs::write(path.join("x-2.bin"), "").unwrap();
        assert!(error().contains("x-2.bin`: is empty"));
        std::fs::write(path.join("x-2.bin"), "2").unwrap();
        let found = WeightFiles::find(path).unwrap();
        assert_eq!(found.files, [path.join("x-1.bin"), path.join("x-2.bin")]);
        let places: Vec<_> = found.index.unwrap().places.into_iter().collect();
        assert_eq!(
            places,
            [("a", 1), ("b", 0), ("c", 1)].map(|(name, at)| (name.to_owned(), at))
        );
        for (map, want) in [
            (r#"{"a": "../x-2.bin"}"#, "which is not a file name"),
            (r#"{"a": 7}"#, "names `7` as the file of `a`"),
            ("{}", "names no files"),
        ] {
            std::fs::write(&index, format!(r#"{{"weight_map": {map}}}"#)).unwrap();
            assert!(error().contains(want), "{}", error());
        }
        std::fs::remove_file(&index).unwrap();
        std::fs::write(path.join("model.safetensors.part"), "x").unwrap();
        assert!(error().ends_with(
            "hint: finish the download: `model.safetensors.part` has come only in part"
        ));
    }
}
