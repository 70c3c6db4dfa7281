//! Where a model's weights come from, and whether a value head belongs to them.

use std::path::Path;

use crate::download::{self, Unusable};

use super::super::{GlmConfig, ModelError};
use super::files::WeightFiles;
use super::parts::{Part, parts, value_head};
use super::store::WeightStore;

/// A model folder, and what its weights must be.
#[derive(Clone, Copy, Debug)]
pub struct ModelSource<'a> {
    /// The folder, with `config.json` and weights.
    pub folder: &'a Path,
    /// Where its value head is.
    pub head: Head<'a>,
}

/// Where a value head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// None belongs to the model: it answers and reads texts.
    None,
    /// The model is a reward model, and its head is among the folder's weights.
    InFolder,
    /// The model is a reward model: a file holds the head, and all tensors that differ from the folder's, under the
    /// names of either layout. They replace the folder's.
    Overlay(&'a Path),
}

impl<'a> ModelSource<'a> {
    /// A GLM, which answers and reads texts.
    pub fn glm(folder: &'a Path) -> Self {
        Self {
            folder,
            head: Head::None,
        }
    }

    /// A reward model: a folder whose weights hold the head, or the folder of a GLM with a file that holds the head and
    /// what differs.
    pub fn reward(folder: &'a Path, overlay: Option<&'a Path>) -> Self {
        Self {
            folder,
            head: overlay.map_or(Head::InFolder, Head::Overlay),
        }
    }

    /// Finds the weights, those of an overlay included.
    ///
    /// # Errors
    ///
    /// Weights that cannot be found or read; [`ModelError::Io`] or [`ModelError::File`] for an overlay that cannot be read.
    pub fn files(&self) -> Result<WeightFiles, ModelError> {
        let files = WeightFiles::find(self.folder)?;
        let Head::Overlay(overlay) = self.head else {
            return Ok(files);
        };
        download::open(overlay).map_err(|unusable| match unusable {
            Unusable::Missing => ModelError::file(
                overlay,
                "does not exist\nhint: name the file that holds the value head of the reward model",
            ),
            other => ModelError::unusable(overlay)(other),
        })?;
        Ok(WeightFiles {
            overlay: Some(overlay.to_owned()),
            ..files
        })
    }

    /// Every tensor that the model needs.
    pub(in crate::model) fn parts(&self, config: &GlmConfig) -> Vec<Part> {
        let mut all = parts(config);
        if self.head != Head::None {
            all.push(value_head(config));
        }
        all
    }

    /// Refuses a reward model without a head.
    pub(in crate::model) fn check_head(&self, store: &WeightStore) -> Result<(), ModelError> {
        let (path, cure) = match self.head {
            Head::None => return Ok(()),
            Head::InFolder => (
                self.folder,
                "give a reward model's folder, or name the file that holds the head of a model on top of this one \
                 (`model.overlay` in a job file, `reward.overlay` where the task is `preference`)",
            ),
            Head::Overlay(overlay) => (
                overlay,
                "give the file of a reward model that was trained from the model in the folder",
            ),
        };
        if store.value_head().is_some() {
            return Ok(());
        }
        Err(ModelError::NoValueHead {
            path: path.to_owned(),
            cure,
        })
    }

    /// Refuses a head that does not belong to the model.
    pub(in crate::model) fn refuse_head(&self, store: &WeightStore) -> Result<(), ModelError> {
        match store.value_head() {
            Some(tensor) if self.head == Head::None => Err(ModelError::ValueHead {
                folder: self.folder.to_owned(),
                tensor: tensor.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
