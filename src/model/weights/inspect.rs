//! A model folder to what can be said of it before its weights are loaded.

use std::path::{Path, PathBuf};

use super::super::{FloatType, GlmConfig, ModelError};
use super::codes;
use super::files::WeightFiles;
use super::parts::Part;
use super::source::ModelSource;
use super::store::WeightStore;
use crate::precision::{Precision, PrecisionChoice};

/// Tensors that a warning names; the others are counted.
const MOST_NAMED: usize = 5;

/// What the headers of the weight files say.
#[derive(Debug)]
pub struct Inspection {
    /// The files.
    pub files: WeightFiles,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
    /// A tensor of which the first version of this program took a copy that the index does not name.
    pub read_otherwise_before: Option<String>,
    /// The folder.
    folder: PathBuf,
    /// Whether its matrices are 8-bit codes.
    is_coded: bool,
    /// The tensors that are loaded, each with what it is stored as.
    pub(in crate::model) parts: Vec<(Part, FloatType)>,
}

impl Inspection {
    /// The precision that a choice comes to for these weights, on the CPU or on a GPU.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unsupported`] for 8-bit weights anywhere but on the CPU, and for a folder of 8-bit codes in any other
    /// precision.
    pub fn precision(
        &self,
        choice: PrecisionChoice,
        is_cpu: bool,
    ) -> Result<Precision, ModelError> {
        codes::precision(&self.folder, self.is_coded, choice, is_cpu)
    }
}

/// What is done about layers that a configuration leaves out, and about a value head that no task of the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FurtherLayers {
    /// The folder is refused.
    Refused,
    /// They are left out, as the first version of this program did, with a warning.
    LeftOut,
}

/// [`inspect_source`] of a GLM without a value head.
///
/// # Errors
///
/// As [`inspect_source`].
pub(crate) fn inspect(
    folder: &Path,
    config: &GlmConfig,
    further: FurtherLayers,
) -> Result<Inspection, ModelError> {
    inspect_source(&ModelSource::glm(folder), config, further)
}

/// Holds the weights of a folder against its configuration; the values are not read.
///
/// # Errors
///
/// What [`Glm::load`](crate::model::Glm::load) would refuse, but for values that are not finite; further layers, and a
/// value head that does not belong to the model, where these are refused.
pub fn inspect_source(
    source: &ModelSource<'_>,
    config: &GlmConfig,
    further: FurtherLayers,
) -> Result<Inspection, ModelError> {
    let files = source.files()?;
    let store = WeightStore::open(source.folder, &files, FloatType::F32)?;
    source.check_head(&store)?;
    let expected = source.parts(config);
    let most_layers = match further {
        FurtherLayers::Refused => {
            source.refuse_head(&store)?;
            Some(config.num_layers)
        }
        FurtherLayers::LeftOut => None,
    };
    store.check(&expected, most_layers)?;
    let unread = unread(source.folder, &store.unread(&expected));
    Ok(Inspection {
        warnings: unread.into_iter().collect(),
        read_otherwise_before: store.read_otherwise_before().map(str::to_owned),
        files,
        folder: source.folder.to_owned(),
        is_coded: store.is_coded(),
        parts: store.with_types(expected),
    })
}

/// The warning for tensors that nothing reads.
pub(super) fn unread(folder: &Path, names: &[String]) -> Option<String> {
    let shown: Vec<String> = names
        .iter()
        .take(MOST_NAMED)
        .map(|name| format!("`{name}`"))
        .collect();
    let (tensors, are) = match names.len() {
        0 => return None,
        1 => ("a tensor", "it"),
        _ => ("tensors", "them"),
    };
    let more = match names.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "the weights in `{}` hold {tensors} that nothing reads: {}{more}; the model answers without {are}",
        folder.display(),
        shown.join(", "),
    ))
}
