//! A model's folder to loaded weights, and to what may be in flight beside them.

use std::sync::Arc;

use crate::device::DeviceId;
use crate::engine::{Learned, Tuning};
use crate::job::{BatchSpec, JobSpec};
use crate::measure::batch_size::{FIRST_ROWS, READING_ROWS};
use crate::measure::kept_rows::{self, FoundRows};
use crate::measure::{BatchSpeed, device, machine};
use crate::model::{Backend, Glm, ModelError, TextModel};
use crate::plan::{self, Budget, Memory};

use super::model_facts::{self, ModelFacts};

/// Rows in flight where the job leaves them open, on a CPU; a GPU is timed when the model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenRows {
    /// So many, and the job's steps find out whether more are faster.
    First(usize),
    /// So many: an earlier job or `bench` has found them, or nothing is generated.
    Enough(usize),
}

impl OpenRows {
    /// Those of a job with this model.
    pub(super) fn of(spec: &JobSpec, facts: &ModelFacts) -> Self {
        if !spec.task.generates() {
            return Self::Enough(READING_ROWS);
        }
        match kept_rows::load(&facts.subject()) {
            Some(FoundRows::Enough(rows)) => Self::Enough(rows),
            Some(FoundRows::OrMore(rows)) => Self::First(rows),
            None => Self::First(FIRST_ROWS),
        }
    }

    pub(super) fn count(self) -> usize {
        match self {
            Self::First(rows) | Self::Enough(rows) => rows,
        }
    }

    /// The search that goes on from here; none where the number is known, where the job gives it, and on a GPU.
    pub(super) fn search(self, batch: &BatchSpec, facts: &Arc<ModelFacts>) -> Option<Tuning> {
        match self {
            Self::First(rows) if facts.is_cpu() && batch.max_batch_size.is_none() => {
                let facts = Arc::clone(facts);
                Some(Tuning::new(rows, move |learned| keep(&facts, learned)))
            }
            Self::First(_) | Self::Enough(_) => None,
        }
    }
}

/// Keeps what a job's steps have shown for the next jobs; a machine that has no place for it finds out again.
fn keep(facts: &ModelFacts, learned: &Learned) {
    let speed = |&(rows, decode): &(usize, f64)| BatchSpeed {
        rows,
        prefill: learned.prefill,
        decode,
        products: None,
        read_bytes_per_second: None,
        reading: None,
        cache: None,
    };
    let speeds = learned.decode.iter().map(speed).collect();
    let found = if learned.is_enough {
        FoundRows::Enough(learned.rows)
    } else {
        FoundRows::OrMore(learned.rows)
    };
    kept_rows::keep(&facts.subject(), found, speeds);
}

/// Loads the weights; what may be in flight follows from the memory that is left then.
pub(super) fn load_model(
    spec: &JobSpec,
    id: DeviceId,
    facts: &ModelFacts,
    open: OpenRows,
) -> std::result::Result<(Box<dyn TextModel>, Budget), ModelError> {
    let opened = id.open()?;
    let source = model_facts::source(spec);
    let mut model = Glm::load_source(&source, &opened, facts.precision, Backend::of(&opened))?
        .cached_as(facts.cache);
    let batch = &spec.batch;
    let memory = if id.is_cpu() {
        Some(machine::memory(0))
    } else {
        device::memory(&opened, 0)
    };
    let mut budget = budget(batch, facts, open, memory.as_ref());
    if batch.max_batch_size.is_none() && !id.is_cpu() {
        let enough = device::batch_size(&mut model, budget.max_batch_tokens)?;
        // Those steps were no answers.
        model.watch_again();
        budget.max_batch_size = enough.unwrap_or(budget.max_batch_size);
    }
    Ok((Box::new(model), budget))
}

/// What may be in flight at once on each of the job's devices: on a CPU `open` rows where the job leaves them open, on a
/// GPU many until its steps have been timed.
pub(super) fn budget(
    batch: &BatchSpec,
    facts: &ModelFacts,
    open: OpenRows,
    memory: Option<&Memory>,
) -> Budget {
    let cache_bytes_per_token = facts.cache_bytes_per_token();
    match memory {
        Some(memory) if facts.is_cpu() => {
            plan::cpu_budget(batch, open.count(), memory, cache_bytes_per_token)
        }
        _ => plan::device_budget(batch, memory, cache_bytes_per_token),
    }
}
