//! Versions of the rules that a job goes by from its first run to its last.

use serde::{Deserialize, Serialize};

use super::{JobSpec, RowForm};
use crate::precision::PrecisionChoice;

/// Versions of the rules by which files are identified, text is compared, types are read and a choice that the job leaves
/// open is made.
///
/// The first run writes them into `job.json`; every later run of the job goes by the same ones, so that a job
/// which an earlier version of the program began is finished as it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What identifies an input file. 1: all bytes of a JSON lines file, size and footer of a Parquet file.
    /// 2: all bytes of every file.
    pub input_fingerprint: u32,
    /// What identifies the weights. 1: `config.json` and the weight files. 2: the index of the shards too.
    pub weights_fingerprint: u32,
    /// How bad words and stop strings are compared. 1: as they are written in the job. 2: as the tokenizer
    /// writes them, bad words also where they go on a text.
    pub text: u32,
    /// How the types of columns are compared and carried. 1: by their layout in memory. 2: by what they are in
    /// Parquet.
    pub types: u32,
    /// How files become rows. 1: as they are. 2: folders named `column=value` give columns, a line has a
    /// limit, and the reason of a row that failed by its own settings names the cure. 3: the first entry of a list
    /// is a reference, and the first windows of each shard are smaller. 4: a row may have beams. 5: no window is made
    /// of rows that all come after the last one that `input.limit` takes; only a job with a limit begins so. 6:
    /// `input.where` must give true or false; only a job that has it begins so. 7: a row may ask for `logprobs` where the
    /// job has them; only a job over requests of the batch API begins so.
    pub rows: u32,
    /// What `model.cache_dtype = "auto"` comes to on a CPU. 1: f32. 2: f16 beside weights in 8 bits, else f32. 3: q8
    /// beside weights in 8 bits, f16 beside bf16, else f32; only a job that may have such weights begins so.
    #[serde(
        default = "Rules::first_cache",
        skip_serializing_if = "Rules::is_first_cache"
    )]
    pub cache: u32,
}

impl Rules {
    /// The rules of jobs that begin now, where [`of_new`](Self::of_new) says nothing else.
    pub const CURRENT: Self = Self {
        input_fingerprint: 2,
        weights_fingerprint: 2,
        text: 2,
        types: 2,
        rows: 4,
        cache: 1,
    };

    /// The rules of a job that begins now.
    pub(crate) fn of_new(spec: &JobSpec) -> Self {
        let rows = match (spec.input.format, &spec.input.filter, spec.input.limit) {
            (RowForm::OpenaiBatch, ..) => 7,
            (RowForm::Rows, Some(_), _) => 6,
            (RowForm::Rows, None, Some(_)) => 5,
            (RowForm::Rows, None, None) => Self::CURRENT.rows,
        };
        let may_be_rounded = matches!(
            spec.model.dtype,
            PrecisionChoice::Auto | PrecisionChoice::Q8 | PrecisionChoice::Bf16
        );
        Self {
            rows,
            cache: if may_be_rounded {
                3
            } else {
                Self::CURRENT.cache
            },
            ..Self::CURRENT
        }
    }

    /// The rules of jobs whose `job.json` does not name any.
    pub const FIRST: Self = Self {
        input_fingerprint: 1,
        weights_fingerprint: 1,
        text: 1,
        types: 1,
        rows: 1,
        cache: 1,
    };

    /// [`Self::FIRST`], as a default for `serde`.
    #[must_use]
    pub const fn first() -> Self {
        Self::FIRST
    }

    fn first_cache() -> u32 {
        Self::FIRST.cache
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    fn is_first_cache(cache: &u32) -> bool {
        *cache == Self::FIRST.cache
    }
}
