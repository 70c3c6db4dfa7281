//! Weights as 8-bit codes in a file: what they are called there, what must be there, and what is refused of it.
//!
//! A matrix is three tensors: its codes, their scales and their sums, named after it. All else keeps its name and the
//! values that it had. The metadata of the file name the version of the codes.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::super::{FloatType, ModelError};
use super::files::WeightFiles;
use super::parts::{Part, Role};
use super::store::WeightStore;
use super::tensors::Kind;
use crate::precision::{Precision, PrecisionChoice};
use crate::shell::shell_word;
use glm_batch_kernels::{CODES_VERSION, CodesError, CodesSource, PackedLinear, StoredShape};

/// What a file's metadata name the version of its codes by.
pub(super) const VERSION_KEY: &str = "glm_batch_codes";

/// Ends of the names of what a matrix becomes.
pub(super) const CODES: &str = "codes";
pub(super) const SCALES: &str = "scales";
pub(super) const SUMS: &str = "sums";

/// The name of one of the tensors that a matrix becomes.
pub(super) fn name(matrix: &str, end: &str) -> String {
    format!("{matrix}.{end}")
}

/// A tensor that the weights must have.
pub(super) struct Needed {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Its one kind; where there is none, any floats.
    pub(super) kind: Option<Kind>,
}

/// The tensors that hold a part: more than one where its file holds codes.
pub(super) fn needed(part: &Part, is_coded: bool) -> Vec<Needed> {
    let mut all = Vec::new();
    let is_matrix = matches!(part.role, Role::Matrix | Role::Words);
    // The rows of the word embedding are looked up too.
    if !is_coded || part.role != Role::Matrix {
        all.push(Needed {
            name: part.name.clone(),
            shape: part.shape.clone(),
            kind: None,
        });
    }
    if let (true, true, &[width_out, width_in]) = (is_coded, is_matrix, &part.shape[..]) {
        let shape = StoredShape {
            width_out,
            width_in,
        };
        let (codes, scales) = (shape.codes().to_vec(), shape.scales().to_vec());
        let tensors = [
            (CODES, codes, Kind::codes()),
            (SCALES, scales.clone(), Kind::Float(FloatType::F32)),
            (SUMS, scales, Kind::sums()),
        ];
        all.extend(tensors.map(|(end, shape, kind)| Needed {
            name: name(&part.name, end),
            shape,
            kind: Some(kind),
        }));
    }
    all
}

/// Whether a file holds codes, which must be of this version.
///
/// # Errors
///
/// [`ModelError::File`] for codes of another version, or of none.
pub(super) fn are_held(
    path: &Path,
    metadata: &HashMap<String, String>,
    mut names: impl Iterator<Item = impl AsRef<str>>,
) -> Result<bool, ModelError> {
    let anew = "hint: write it anew from the folder of floats that it was made from: \
                `glm-batch convert FLOATS OUT --dtype q8`";
    let reason = match metadata.get(VERSION_KEY) {
        Some(version) if *version == CODES_VERSION.to_string() => return Ok(true),
        Some(version) => format!(
            "holds 8-bit codes of version {version}, and this program reads version {CODES_VERSION}"
        ),
        None if names.any(|name| name.as_ref().ends_with(".weight.codes")) => {
            "holds 8-bit codes and does not say of which version".to_owned()
        }
        None => return Ok(false),
    };
    Err(ModelError::file(path, format!("{reason}\n{anew}")))
}

/// Refuses codes that are not alone: no float can take the place of one.
///
/// # Errors
///
/// [`ModelError::File`].
pub(super) fn check_files(weights: &WeightFiles, are_codes: bool) -> Result<(), ModelError> {
    let Some(path) = weights.files.first().filter(|_| are_codes) else {
        return Ok(());
    };
    if weights.files.len() > 1 {
        return Err(ModelError::file(
            path,
            "is one of several files, and some of them hold 8-bit codes\nhint: codes are one file, as \
             `glm-batch convert FLOATS OUT --dtype q8` writes it",
        ));
    }
    match &weights.overlay {
        None => Ok(()),
        Some(overlay) => Err(ModelError::file(
            path,
            format!(
                "holds 8-bit codes, and tensors of `{}` cannot take their place\nhint: put both into one folder of codes: \
                 `glm-batch convert FLOATS OUT --dtype q8 --overlay {}`",
                overlay.display(),
                shell_word(&overlay.display().to_string())
            ),
        )),
    }
}

/// The error for codes that are to be written in another type.
pub(super) fn not_convertible(folder: &Path) -> ModelError {
    ModelError::Folder {
        path: folder.to_owned(),
        reason: "holds 8-bit codes, from which no other type can be made\nhint: convert the folder of floats that it was \
                 made from"
            .to_owned(),
    }
}

/// The error for an overlay that holds codes.
pub(super) fn in_overlay(path: &Path) -> ModelError {
    ModelError::file(
        path,
        "holds 8-bit codes, which cannot take the place of a folder's floats\nhint: give the file of floats that the reward \
         model was saved as",
    )
}

/// The precision that a choice comes to on the CPU or on a GPU, for weights that are codes, or are not.
///
/// # Errors
///
/// [`ModelError::Unsupported`] for 8-bit weights anywhere but on the CPU, and for codes in any other precision.
pub(super) fn precision(
    folder: &Path,
    is_coded: bool,
    choice: PrecisionChoice,
    is_cpu: bool,
) -> Result<Precision, ModelError> {
    if !is_coded {
        let precision = choice.resolve(is_cpu);
        precision.check(is_cpu)?;
        return Ok(precision);
    }
    if !is_cpu {
        return Err(ModelError::Unsupported(format!(
            "`{}` holds 8-bit codes, which need the CPU\nhint: set `model.device = \"cpu\"`, or give the folder of floats that it was \
             made from",
            folder.display()
        )));
    }
    match choice {
        PrecisionChoice::Auto | PrecisionChoice::Q8 => Ok(Precision::Q8),
        other => {
            check(folder, other.resolve(is_cpu))?;
            Ok(Precision::Q8)
        }
    }
}

/// Refuses codes in another precision than theirs.
///
/// # Errors
///
/// [`ModelError::Unsupported`].
pub(super) fn check(folder: &Path, precision: Precision) -> Result<(), ModelError> {
    if precision == Precision::Q8 {
        return Ok(());
    }
    Err(ModelError::Unsupported(format!(
        "`{}` holds 8-bit codes, which cannot be used as {precision}\nhint: set `model.dtype` to `auto` or `q8`, or give the \
         folder of floats that it was made from",
        folder.display()
    )))
}

impl WeightStore {
    /// Refuses a precision that the weights cannot have.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unsupported`] for codes in another precision than theirs.
    pub(in crate::model) fn check_precision(&self, precision: Precision) -> Result<(), ModelError> {
        if self.is_coded() {
            check(self.folder(), precision)
        } else {
            Ok(())
        }
    }

    /// Reads the codes of a matrix that [`WeightStore::check`] has seen into pages of its own.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`]; [`ModelError::Io`], or [`ModelError::File`] for codes that are damaged.
    pub(in crate::model) fn read_codes(
        &self,
        matrix: &str,
        shape: StoredShape,
        bias: Option<Vec<f32>>,
    ) -> Result<PackedLinear, ModelError> {
        let scales = self.values(&name(matrix, SCALES))?;
        let sums = self.whole_numbers(&name(matrix, SUMS))?;
        let codes = name(matrix, CODES);
        let source = CodesSource {
            shape,
            scales: &scales,
            sums: &sums,
            read: &|start, buffer: &mut [i8]| {
                self.read_bytes(&codes, start, bytemuck::cast_slice_mut(buffer))
            },
        };
        PackedLinear::read_codes(&source, bias).map_err(|error| self.unreadable(&codes, error))
    }

    fn unreadable(&self, codes: &str, error: CodesError) -> ModelError {
        let path = self.path_of(codes);
        match error {
            CodesError::NoMemory => ModelError::OutOfMemory,
            CodesError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                ModelError::Changed {
                    path: path.to_owned(),
                }
            }
            CodesError::Read(error) => ModelError::io(path)(error),
            CodesError::Sums => ModelError::file(
                path,
                format!(
                    "is damaged: `{codes}` does not have the sums that are beside it\nhint: copy the folder again, or write it anew with \
                     `glm-batch convert FLOATS OUT --dtype q8`"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_8_bits_on_the_cpu_and_nothing_else() {
        let of = |is_coded, choice, is_cpu| {
            let found = precision(Path::new("m"), is_coded, choice, is_cpu);
            found.map_err(|error| error.to_string())
        };
        let (auto, f16, q8) = (
            PrecisionChoice::Auto,
            PrecisionChoice::F16,
            PrecisionChoice::Q8,
        );
        for (is_coded, choice, is_cpu, want) in [
            (true, auto, true, Precision::Q8),
            (true, q8, true, Precision::Q8),
            (false, auto, true, Precision::F32),
            (false, auto, false, Precision::F16),
            (false, q8, true, Precision::Q8),
        ] {
            assert_eq!(of(is_coded, choice, is_cpu), Ok(want));
        }
        let refused = |is_coded, choice, is_cpu| of(is_coded, choice, is_cpu).unwrap_err();
        let needs_cpu =
            "`m` holds 8-bit codes, which need the CPU\nhint: set `model.device = \"cpu\"`";
        assert!(refused(true, auto, false).starts_with(needs_cpu));
        assert!(refused(true, f16, false).starts_with(needs_cpu));
        assert!(refused(false, q8, false).starts_with("8-bit weights need the CPU"));
        let other = refused(true, f16, true);
        assert!(
            other.contains("cannot be used as f16\nhint: set `model.dtype` to `auto` or `q8`"),
            "{other}"
        );
    }
}
