//! Parts of the program that its own tests and benches look into, by stage.
//!
//! They promise nothing: any of them may change or go with any version. What a user of the library may count on is
//! what `lib.rs` lists; much of it is here too, so that a test names the stage that it tests.

pub mod checkpoint {
    pub use crate::checkpoint::{
        CheckpointError, Commit, CommittedWindow, Comparison, Example, FileEntry, JobFingerprint,
        JobRecord, Journal, LockOptions, LockTiming, Manifest, OutputFolder, RECORD_VERSION,
        Resolved, ShardLock, Soundness, StoredJob, Totals, Work, check_sizes, clean_leftovers,
        commit_window, discard, record_version, repair, restart, status, verify, verify_shards,
    };
}

pub mod device {
    pub use crate::device::{DeviceId, DeviceKind};
}

pub mod engine {
    pub use crate::engine::{
        Devices, Engine, EngineError, EngineStatistics, Finished, Found, Generation, Learned,
        LoadModel, Reading, Request, Tuning, Want, Work,
    };
}

pub mod fsio {
    pub use crate::fsio::{FAILPOINTS, FileDigest, append_synced, write_atomic};
}

pub mod generate {
    pub use crate::generate::{
        Answered, BadWords, BeamSearch, Beams, Choices, Draw, EarlyStopping, Endings, Fork,
        LengthOver, Rules, Scored, Scratch, Searched, Start, TextCodec, Warp, Writing, Written,
        choose, fill, log_probability, mask_positions, probabilities, process,
    };
}

pub mod ids {
    pub use crate::ids::{RowId, ShardId, WindowId};
}

pub mod input {
    pub use crate::input::{
        Carried, ColumnKind, EarlierJob, FoundFile, HeldPrompt, InputColumn, InputError, InputFile,
        InputFormat, InputIndex, InputRow, InputStream, InputWindow, JsonFields, JsonRows,
        MAX_WINDOW_BYTES, OpenOptions, PartOf, Place, Prompt, PromptSource, Scan, ScanOptions,
        Selection, WindowSpan, id_column, json_lines, open, resolve_files, scan, select,
    };
}

pub mod job {
    pub use crate::job::{
        CarriedColumns, ColumnNames, ColumnSpec, EarlyStopping, GenerationSpec, InfillSpec,
        InputSpec, JobSpec, LengthOver, MaskToken, OnBadRow, OutputFormat, OutputSpec, Overflow,
        PromptSpec, Rules, SampleLayout, ScoreSpec, SpecError, Task, Unfinished, job_keys,
        json_schema, load, parse,
    };
}

pub mod model {
    pub use crate::model::{
        Asked, AttentionMask, Backend, DecodeRow, Fingerprinted, FloatType, ForwardInput,
        ForwardOutput, FurtherLayers, Glm, GlmConfig, Head, Logits, ModelError, ModelSource,
        Positions, Precision, PrefillRow, ReadRow, ReadingSize, Scores, Sight, TextModel,
        TokenChance, convert, convert_source, inspect_source, source_fingerprint, step_counts,
        weights_fingerprint, with_ops,
    };

    pub mod fused {
        #[cfg(feature = "cuda")]
        pub use crate::model::fused::Kernels;
        pub use crate::model::fused::{
            ByTensors, Counts, HEAD, Norm, Ops, Place, Sizes, Step, StepRow, Tables, Uploaded,
        };
    }
}

pub mod outcome {
    pub use crate::outcome::{
        BadRow, Cell, Completion, FinishReason, LeftOut, LeftOutRows, Measured, Outcome, Outcomes,
        RowResult, Sample, Span, Stage, Sums,
    };
}

pub mod plan {
    pub use crate::plan::{
        Budget, Load, RowLength, SlotSizes, order, padded, schedule, simulate, simulate_windows,
    };
}

pub mod precision {
    pub use crate::precision::Precision;
}

pub mod report {
    pub use crate::report::{Moment, Observer, Progress, RowWork, RunReport, Silent, TimeLeft};
}

pub mod sink {
    pub use crate::sink::{ResultSink, SinkError, new_sink, read_part, write_failed};
}

pub mod tasks {
    pub use crate::tasks::form;
}

pub mod tokenize {
    pub use crate::tokenize::{Encoded, GlmTokenizer};
}
