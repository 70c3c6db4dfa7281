//! A model's folder to loaded weights, and to what may be in flight beside them.

use crate::device::DeviceId;
use crate::job::{BatchSpec, JobSpec};
use crate::measure::batch_size::{self, ProductCurve};
use crate::measure::{device, machine};
use crate::model::{Backend, Glm, ModelError, TextModel};
use crate::plan::{self, Budget, Memory};

use super::model_facts::{self, ModelFacts};

/// Loads the weights; what may be in flight follows from the memory that is left then.
pub(super) fn load_model(
    spec: &JobSpec,
    id: DeviceId,
    facts: &ModelFacts,
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
    let curve = match batch.max_batch_size {
        None => facts.product_curve(),
        Some(_) => None,
    };
    let mut budget = budget(batch, facts, curve.as_ref(), memory.as_ref());
    if batch.max_batch_size.is_none() && !id.is_cpu() {
        let enough = device::batch_size(&mut model, budget.max_batch_tokens)?;
        // Those steps were no answers.
        model.watch_again();
        budget.max_batch_size = enough.unwrap_or(budget.max_batch_size);
    }
    Ok((Box::new(model), budget))
}

/// What may be in flight at once on each of the job's devices; where it was not timed how many rows are
/// enough, few on a CPU and many on a GPU.
pub(super) fn budget(
    batch: &BatchSpec,
    facts: &ModelFacts,
    curve: Option<&ProductCurve>,
    memory: Option<&Memory>,
) -> Budget {
    let cache_bytes_per_token = facts.cache_bytes_per_token();
    match memory {
        Some(memory) if facts.is_cpu() => {
            let rows = curve.map_or(batch_size::FEWEST_ROWS, ProductCurve::batch_size);
            plan::cpu_budget(batch, rows, memory, cache_bytes_per_token)
        }
        _ => plan::device_budget(batch, memory, cache_bytes_per_token),
    }
}
