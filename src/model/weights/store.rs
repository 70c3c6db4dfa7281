//! All tensors of a model folder by their plain names, to f32 values.
//!
//! Invariant: what a tensor's values are follows from the files alone. Names are taken in order, one tensor that
//! is there under two names is refused unless both are equal, and where there is an index, it says which file
//! holds a tensor.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::super::{FloatType, ModelError};
use super::codes::{self, Needed};
use super::files::{ShardIndex, WeightFiles};
use super::mapped::MappedFile;
use super::parts::{Part, VALUE_HEAD};
use super::tensors::{Kind, StoredTensor, header};

mod reading;

/// Tensors that an error names; the others are counted.
const MOST_NAMED: usize = 20;

/// Prefixes of the classes that wrap the network: training on many devices, and the model for generation.
const PREFIXES: [&str; 2] = ["module.", "glm."];

/// What a reward model puts before the names of the network, and how these then begin.
const WRAPPER: &str = "transformer.";
const WRAPPED: [&str; 2] = ["transformer.", "word_embeddings."];

/// Ends of the names of tensors that a class keeps beside its weights.
const BUFFERS: [&str; 5] = [
    "position_ids",
    "masked_bias",
    "attention.bias",
    "attn.bias",
    "inv_freq",
];

/// The word embedding, and a name under which it is saved a second time.
const WORDS: &str = "word_embeddings.weight";
const TIED: &str = "lm_head.weight";

/// How the names of a value head's tensors begin.
const HEAD: &str = "v_head.";

/// What comes before the number of a layer.
const LAYERS: &str = "transformer.layers.";

/// All tensors of a model folder, read when asked for.
pub(in crate::model) struct WeightStore {
    folder: PathBuf,
    float: FloatType,
    /// Whether its matrices are 8-bit codes.
    is_coded: bool,
    files: Vec<WeightFile>,
    /// By plain name.
    tensors: BTreeMap<String, Stored>,
    /// Names in the files, two of one tensor too.
    counted: BTreeSet<String>,
    /// Those that the index does not count, in the order of files and names.
    uncounted: Vec<(String, Stored)>,
    not_finite: Mutex<Vec<String>>,
}

struct WeightFile {
    path: PathBuf,
    map: MappedFile,
}

struct Stored {
    file: usize,
    tensor: StoredTensor,
}

impl WeightStore {
    /// Opens the weights of a folder; values will be rounded to `float`.
    pub(in crate::model) fn open(
        folder: &Path,
        weights: &WeightFiles,
        float: FloatType,
    ) -> Result<Self, ModelError> {
        let mut store = Self {
            folder: folder.to_owned(),
            float,
            is_coded: false,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            counted: BTreeSet::new(),
            uncounted: Vec::new(),
            not_finite: Mutex::new(Vec::new()),
        };
        for path in &weights.files {
            store.is_coded |= store.add(path, weights.index.as_ref())?;
        }
        codes::check_files(weights, store.is_coded)?;
        if let Some(index) = &weights.index {
            store.check_index(index)?;
        }
        if let Some(path) = &weights.overlay {
            store.overlay(path)?;
        }
        Ok(store)
    }

    /// Replaces tensors by those of a file.
    fn overlay(&mut self, path: &Path) -> Result<(), ModelError> {
        let below = std::mem::take(&mut self.tensors);
        if self.add(path, None)? {
            return Err(codes::in_overlay(path));
        }
        for (plain, stored) in below {
            self.tensors.entry(plain).or_insert(stored);
        }
        Ok(())
    }

    /// The value head's name in the files, where they hold one.
    pub(in crate::model) fn value_head(&self) -> Option<&str> {
        let stored = self.tensors.get(VALUE_HEAD);
        stored.map(|stored| stored.tensor.name.as_str())
    }

    /// Whether its matrices are 8-bit codes.
    pub(in crate::model) fn is_coded(&self) -> bool {
        self.is_coded
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the network's tensors have the names that a reward model gives them.
    pub(in crate::model) fn is_wrapped(&self) -> bool {
        let words = self.tensors.get(WORDS);
        words.is_some_and(|words| words.tensor.name.contains(WRAPPER))
    }

    /// Adds the tensors of a file; true where it holds codes.
    fn add(&mut self, path: &Path, index: Option<&ShardIndex>) -> Result<bool, ModelError> {
        let map = MappedFile::open(path)?;
        let header = header(path, &map)?;
        let names = header.tensors.iter().map(|tensor| &tensor.name);
        let is_coded = codes::are_held(path, &header.metadata, names)?;
        let file = self.files.len();
        self.files.push(WeightFile {
            path: path.to_owned(),
            map,
        });
        for tensor in header.tensors {
            let plain = plain(&tensor.name).to_owned();
            let counts = index.is_none_or(|index| index.places.get(&tensor.name) == Some(&file));
            let stored = Stored { file, tensor };
            if !counts {
                self.uncounted.push((plain, stored));
                continue;
            }
            self.counted.insert(stored.tensor.name.clone());
            if let Some(first) = self.tensors.get(&plain) {
                self.check_equal(first, &stored)?;
            } else {
                self.tensors.insert(plain, stored);
            }
        }
        Ok(is_coded)
    }

    /// Refuses an index that names a tensor which its file does not hold.
    fn check_index(&self, index: &ShardIndex) -> Result<(), ModelError> {
        let missing = index
            .places
            .iter()
            .find(|(name, _)| !self.counted.contains(*name));
        let Some((name, &file)) = missing else {
            return Ok(());
        };
        let file = self.files[file].path.file_name().unwrap_or_default();
        Err(ModelError::file(
            &index.path,
            format!(
                "names `{name}` in `{}`, which does not hold it\nhint: download index and shards again, from one version \
                 of the model",
                file.display()
            ),
        ))
    }

    fn check_equal(&self, first: &Stored, second: &Stored) -> Result<(), ModelError> {
        if self.are_equal(first, second) {
            return Ok(());
        }
        let name = |stored: &Stored| {
            let path = self.files[stored.file].path.display();
            format!("`{}` in `{path}`", stored.tensor.name)
        };
        Err(ModelError::Twice {
            first: name(first),
            second: name(second),
        })
    }

    /// Whether two tensors have the same kind, shape and bytes.
    fn are_equal(&self, first: &Stored, second: &Stored) -> bool {
        let are_alike =
            first.tensor.kind == second.tensor.kind && first.tensor.shape == second.tensor.shape;
        if !are_alike {
            return false;
        }
        let is_equal = self.bytes(first) == self.bytes(second);
        for stored in [first, second] {
            self.files[stored.file]
                .map
                .forget(stored.tensor.bytes.clone());
        }
        is_equal
    }

    fn bytes(&self, stored: &Stored) -> Cow<'_, [u8]> {
        stored.tensor.gather(&self.files[stored.file].map)
    }

    /// Refuses weights that lack one of the given tensors, have it in another kind or shape, or have more
    /// layers than `most_layers`, where that is given; names all.
    pub(in crate::model) fn check(
        &self,
        expected: &[Part],
        most_layers: Option<usize>,
    ) -> Result<(), ModelError> {
        let beyond = most_layers.and_then(|layers| self.layers_beyond(layers));
        let mut problems: Vec<String> = beyond.into_iter().collect();
        if expected.iter().any(|part| part.name == VALUE_HEAD) {
            problems.extend(self.other_parts_of_head());
        }
        let mut is_kind_alone = problems.is_empty();
        for needed in self.needed(expected) {
            let Some(problem) = self.problem(&needed) else {
                continue;
            };
            let stored = self.tensors.get(&needed.name);
            let kind = stored.map(|stored| &stored.tensor.kind);
            is_kind_alone &= matches!(kind, Some(Kind::Other(_)));
            problems.push(problem);
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::Weights {
            folder: self.folder.clone(),
            problems: shortened(problems),
            cure: if is_kind_alone {
                "save the model in one of these kinds, such as by `model.float().save_pretrained(path)`"
            } else {
                "the folder may mix files of two models, or a download may be incomplete"
            },
        })
    }

    /// What is wrong with a value head that has more than its weight, such as a bias.
    fn other_parts_of_head(&self) -> Vec<String> {
        let is_other = |name: &&String| name.starts_with(HEAD) && *name != VALUE_HEAD;
        let others = self.tensors.keys().filter(is_other);
        others
            .map(|name| format!("`{name}`: is there, but a value head has `{VALUE_HEAD}` alone"))
            .collect()
    }

    /// The tensors that hold these parts.
    fn needed(&self, parts: &[Part]) -> Vec<Needed> {
        let needed = |part| codes::needed(part, self.is_coded);
        parts.iter().flat_map(needed).collect()
    }

    /// What is wrong with a tensor that should be there.
    fn problem(&self, needed: &Needed) -> Option<String> {
        let Needed { name, shape, kind } = needed;
        let Some(Stored { tensor, .. }) = self.tensors.get(name) else {
            return Some(format!("`{name}`: expected {shape:?}, missing"));
        };
        let (name, found) = (&tensor.name, &tensor.kind);
        match (kind, found) {
            (Some(kind), found) if kind != found => Some(format!(
                "`{name}`: is there as {}; {} is read",
                found.name(),
                kind.name()
            )),
            (None, Kind::Other(kind)) => Some(format!(
                "`{name}`: is there as {kind}; F32, F16 and BF16 are read"
            )),
            _ => (tensor.shape != *shape)
                .then(|| format!("`{name}`: expected {shape:?}, found {:?}", tensor.shape)),
        }
    }

    /// What is wrong where there are layers that a configuration leaves out.
    fn layers_beyond(&self, layers: usize) -> Option<String> {
        let layer = |name: &str| -> Option<usize> {
            name.strip_prefix(LAYERS)?.split('.').next()?.parse().ok()
        };
        let numbered = self
            .tensors
            .iter()
            .filter_map(|(plain, stored)| Some((layer(plain)?, &stored.tensor.name)));
        let (last, name) = numbered.max().filter(|&(last, _)| last >= layers)?;
        Some(format!(
            "`num_layers` is {layers}, but the weights have {} layers: `{name}` is there",
            last.saturating_add(1)
        ))
    }

    /// Names of the tensors that nothing reads, except those that are known not to be weights.
    pub(in crate::model) fn unread(&self, expected: &[Part]) -> Vec<String> {
        let expected = self.needed(expected).into_iter();
        let expected: BTreeSet<String> = expected.map(|needed| needed.name).collect();
        let is_known = |name: &str| {
            expected.contains(name) || BUFFERS.iter().any(|buffer| name.ends_with(buffer))
        };
        let is_tied = |name: &str, stored| name == TIED && self.is_tied(stored);
        let counted = self
            .tensors
            .iter()
            .filter(|(name, stored)| !is_known(name) && !is_tied(name, stored));
        let mut names: Vec<String> = counted
            .map(|(_, stored)| stored.tensor.name.clone())
            .collect();
        // What the index has in another file is read there.
        let uncounted = self
            .uncounted
            .iter()
            .filter(|(name, _)| !is_known(name) && !self.tensors.contains_key(name));
        names.extend(uncounted.map(|(_, stored)| stored.tensor.name.clone()));
        names.sort();
        names.dedup();
        names
    }

    fn is_tied(&self, stored: &Stored) -> bool {
        self.tensors
            .get(WORDS)
            .is_some_and(|words| self.are_equal(words, stored))
    }

    /// A tensor for which the first version of this program took a copy that the index does not name, if any:
    /// the one in the last file.
    pub(in crate::model) fn read_otherwise_before(&self) -> Option<&str> {
        let other = self.uncounted.iter().find(|(name, copy)| {
            let chosen = self.tensors.get(name);
            matches!(copy.tensor.kind, Kind::Float(_))
                && chosen
                    .is_some_and(|chosen| copy.file > chosen.file && !self.are_equal(chosen, copy))
        });
        other.map(|(_, copy)| copy.tensor.name.as_str())
    }

    /// All tensors of floats with their names as stored and their shapes, by plain name.
    pub(in crate::model) fn floats(&self) -> impl Iterator<Item = (&str, &str, &[usize])> {
        let floats = self
            .tensors
            .iter()
            .filter(|(_, stored)| matches!(stored.tensor.kind, Kind::Float(_)));
        floats.map(|(plain, stored)| {
            (
                plain.as_str(),
                stored.tensor.name.as_str(),
                stored.tensor.shape.as_slice(),
            )
        })
    }

    /// The name in the files of a tensor that [`WeightStore::check`] has seen.
    pub(super) fn name_of(&self, name: &str) -> &str {
        &self.tensor(name).tensor.name
    }

    /// The file of a tensor that [`WeightStore::check`] has seen.
    pub(super) fn path_of(&self, name: &str) -> &Path {
        &self.files[self.tensor(name).file].path
    }

    /// What a tensor that [`WeightStore::check`] has seen is stored as; [`FloatType::F32`] for a matrix that is there as
    /// codes alone, whose product does not depend on what they were made from.
    pub(in crate::model) fn stored(&self, name: &str) -> FloatType {
        let is_codes_alone = self.is_coded && !self.tensors.contains_key(name);
        if is_codes_alone {
            FloatType::F32
        } else {
            self.found(name).1
        }
    }

    /// Tensors that [`WeightStore::check`] has seen, each with what it is stored as.
    pub(in crate::model) fn with_types(&self, parts: Vec<Part>) -> Vec<(Part, FloatType)> {
        let with_type = |part: Part| {
            let stored = self.stored(&part.name);
            (part, stored)
        };
        parts.into_iter().map(with_type).collect()
    }
}

/// The first of the lines, and how many more there are.
fn shortened(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST_NAMED);
    lines.truncate(MOST_NAMED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// The name of a tensor in a reward model: a part of the network is wrapped, all else is called as it is stored.
pub(super) fn wrapped(plain: &str, stored: &str) -> String {
    if WRAPPED.iter().any(|start| plain.starts_with(start)) {
        format!("{WRAPPER}{plain}")
    } else {
        stored.to_owned()
    }
}

/// The name without the prefixes of what wraps the network.
fn plain(name: &str) -> &str {
    let name = PREFIXES.iter().fold(name, |name, prefix| {
        name.strip_prefix(prefix).unwrap_or(name)
    });
    let inner = name.strip_prefix(WRAPPER);
    let inner = inner.filter(|inner| WRAPPED.iter().any(|start| inner.starts_with(start)));
    inner.unwrap_or(name)
}
