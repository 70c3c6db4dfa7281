//! What the phases of a job would take, one after the other.

use std::fmt;

use serde::Serialize;

use super::super::model_facts::{ModelFacts, check_vocabulary};
use super::Rows;
use super::text::about;
use crate::error::Result;
use crate::job::{JobSpec, Phase, Rules};
use crate::plan::PlanStatistics;
use crate::report::{counted, grouped};

/// The start and the ending token of an answer that is judged.
const AROUND_AN_ANSWER: u64 = 2;

/// What a phase of a job would take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhasePlan {
    /// Its name.
    pub phase: String,
    /// Rows that the model is given.
    pub rows: u64,
    /// Answers, over all rows.
    pub answers: u64,
    /// Context and answer tokens, if every answer is as long as it may be.
    pub tokens: u64,
    /// Bytes of the weights once loaded. The models take turns: no two are loaded at once.
    pub weight_bytes: u64,
    /// Floating-point operations of the products, if every answer is as long as it may be.
    pub operations: f64,
    /// Seconds of the phase, by what `bench` measured or by the speed of an earlier job; absent where neither is known.
    pub estimated_seconds: Option<f64>,
}

/// The phases of a job whose rows are these.
pub(super) fn phases(
    spec: &JobSpec,
    model: &ModelFacts,
    rows: &Rows,
    statistics: &PlanStatistics,
    samples_seconds: Option<f64>,
) -> Result<Vec<PhasePlan>> {
    let lengths = || rows.lengths.iter().flatten();
    let answers = lengths().map(|row| row.samples as u64).sum::<u64>();
    let written = statistics.prompt_tokens + statistics.reserved_tokens;
    let plan = |phase: Phase, facts: &ModelFacts, tokens: u64| {
        let operations = operations(facts, tokens);
        PhasePlan {
            phase: phase.name().to_owned(),
            rows: lengths().count() as u64,
            answers,
            tokens,
            weight_bytes: facts.footprint.loaded_bytes,
            operations,
            estimated_seconds: match phase {
                Phase::Samples => samples_seconds,
                Phase::Rewards => reading_seconds(facts, tokens),
            },
        }
    };
    let mut plans = Vec::new();
    for phase in spec.phases() {
        plans.push(match phase {
            Phase::Samples => plan(phase, model, written),
            Phase::Rewards => {
                let judge = ModelFacts::load(&spec.of_phase(phase), Rules::of_new(spec))?;
                check_vocabulary(model, &judge)?;
                plan(phase, &judge, written + answers * AROUND_AN_ANSWER)
            }
        });
    }
    Ok(plans)
}

fn operations(facts: &ModelFacts, tokens: u64) -> f64 {
    2.0 * facts.config.matrix_weights() as f64 * tokens as f64
}

/// Seconds in which a model reads so many tokens, by what `bench` measured or by the speed of an earlier job.
fn reading_seconds(facts: &ModelFacts, tokens: u64) -> Option<f64> {
    let calibration = facts.calibration().or_else(|| facts.speeds_of_jobs());
    let seconds = calibration.and_then(|calibration| calibration.seconds(tokens, 0, 1));
    seconds.map(|seconds| seconds / facts.devices.len() as f64)
}

/// Writes a line a phase, and how the models share the memory.
pub(super) fn write(phases: &[PhasePlan], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, plan) in phases.iter().enumerate() {
        let head = if at == 0 { "phases" } else { "" };
        let time = plan.estimated_seconds.map(about).unwrap_or_default();
        let link = if time.is_empty() { "" } else { "; " };
        writeln!(
            f,
            "  {head:<11} {}: {}, {}, at most {}; weights {} MiB{link}{time}",
            plan.phase,
            counted(plan.rows, "row"),
            counted(plan.answers, "answer"),
            counted(plan.tokens, "token"),
            grouped(plan.weight_bytes >> 20),
        )?;
    }
    if phases.len() > 1 {
        let most = phases.iter().map(|plan| plan.weight_bytes).max();
        writeln!(
            f,
            "              the models take turns, each loaded once a run: at most {} MiB of weights at a time",
            grouped(most.unwrap_or_default() >> 20)
        )?;
    }
    Ok(())
}
