//! What can go wrong with a model, from its folder to its forward pass.

use std::path::{Path, PathBuf};

use crate::download::Unusable;

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A signal came while the weights were hashed.
    #[error("interrupted while the model's files were hashed")]
    Interrupted,
    /// The machine or the device has no room for this call.
    #[error("out of memory")]
    OutOfMemory,
    /// The machine or the device has no room for the weights.
    #[error(
        "no room in memory for the weights in `{}`: {} million numbers as {precision}\nhint: {cure}",
        folder.display(),
        numbers.div_ceil(1_000_000)
    )]
    NoRoom {
        /// The model's folder.
        folder: PathBuf,
        /// Weights of the products, which are almost all.
        numbers: usize,
        /// The type that the weights were to have.
        precision: &'static str,
        /// What helps.
        cure: &'static str,
    },
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder has no weights.
    #[error("`{}` holds no weights\nhint: {cure}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What helps.
        cure: String,
    },
    /// The path leads to something else than a model folder.
    #[error("`{}` {reason}", path.display())]
    Folder {
        /// The path.
        path: PathBuf,
        /// What it leads to, with what helps on a line of its own.
        reason: String,
    },
    /// A key of `config.json` is missing or wrong.
    #[error("`{}`: `{key}`: {reason}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight file is cut short, damaged, or of a form that cannot be read.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not the one any more that it was when the run began.
    #[error(
        "`{}`: was changed while the model was being loaded\nhint: run the same command again once nothing writes to the model's folder",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Tensors are missing, too many, of another kind or of another shape than the configuration says.
    #[error(
        "weights in `{}` do not fit its `config.json`:\n  {}\nhint: {cure}",
        folder.display(),
        problems.join("\n  ")
    )]
    Weights {
        /// The model's folder.
        folder: PathBuf,
        /// One line a tensor: its name, what was expected and what was found.
        problems: Vec<String>,
        /// What helps.
        cure: &'static str,
    },
    /// A reward model has no value head.
    #[error(
        "`{}` holds no value head: `v_head.weight` is missing\nhint: {cure}",
        path.display()
    )]
    NoValueHead {
        /// The folder, or the file that should hold it.
        path: PathBuf,
        /// What helps.
        cure: &'static str,
    },
    /// A model that answers has a value head.
    #[error(
        "`{}` holds a reward model, which gives values and no answers: `{tensor}` is there\nhint: use it for the task \
         `reward`, or give the folder of a GLM without a value head",
        folder.display()
    )]
    ValueHead {
        /// The model's folder.
        folder: PathBuf,
        /// The head's name in the weights.
        tensor: String,
    },
    /// Two tensors are one by their names, and differ.
    #[error(
        "{first} and {second} are names of one tensor, with different values\nhint: remove the wrong one, or download \
         the model again"
    )]
    Twice {
        /// Name and file of the first.
        first: String,
        /// Name and file of the second.
        second: String,
    },
    /// Tensors hold NaN or infinity.
    #[error(
        "weights in `{}` are not finite as {precision}: {}\nhint: the file may be damaged; a value \
         above 65504 does not fit f16, use f32 or bf16",
        folder.display(),
        tensors.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    )]
    NotFinite {
        /// The model's folder.
        folder: PathBuf,
        /// The type that the weights were to have.
        precision: &'static str,
        /// Names of the tensors.
        tensors: Vec<String>,
    },
    /// The wanted device is not there.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// The device as asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The model cannot do what was asked.
    #[error("{0}")]
    Unsupported(String),
    /// A call breaks the rules of `TextModel`: unknown slot, full slot, id or position out of range.
    #[error("wrong model call: {0}")]
    Call(String),
    /// The tensor library failed.
    #[error("tensor computation failed: {0}")]
    Tensor(candle_core::Error),
}

/// Marks of an allocation that failed, in the messages of CUDA, cuBLAS, Metal and the drivers below them.
const OUT_OF_MEMORY: [&str; 4] = [
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "status_alloc_failed",
];

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string().to_lowercase();
        if OUT_OF_MEMORY.iter().any(|mark| text.contains(mark)) {
            Self::OutOfMemory
        } else {
            Self::Tensor(error)
        }
    }
}

impl ModelError {
    /// Puts the path to an I/O error.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Puts the path to what is wrong with a file.
    pub(super) fn unusable(path: &Path) -> impl FnOnce(Unusable) -> Self {
        move |unusable| match unusable {
            Unusable::Missing => Self::io(path)(std::io::ErrorKind::NotFound.into()),
            Unusable::Io(error) => Self::io(path)(error),
            Unusable::Other(reason) => Self::file(path, reason),
        }
    }

    /// A file that cannot be used.
    pub(super) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_messages_about_memory_become_out_of_memory() {
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "Metal error FailedToCreateResource: Out of memory",
            "Cuda(Cublas(CublasError(CUBLAS_STATUS_ALLOC_FAILED)))",
        ] {
            let error = ModelError::from(candle_core::Error::Msg(text.to_owned()));
            assert!(matches!(error, ModelError::OutOfMemory), "{text}");
        }
        let other = ModelError::from(candle_core::Error::Msg("shape mismatch".to_owned()));
        assert!(matches!(other, ModelError::Tensor(_)));
    }
}
