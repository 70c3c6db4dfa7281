//! What remains of a run: counts of the whole job, times of this run, and how both are printed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::groups::write_metrics;
use super::{
    GroupReport, Loading, counted, first, grouped, line, on_one_line, rate, shell_word,
    side_by_side,
};
use crate::checkpoint::{Example, Totals};
use crate::engine::EngineStatistics;
use crate::metrics::Metrics;
use crate::tasks::Fact;

/// Most questions shown beside their answers.
const SHOWN_EXAMPLES: usize = 8;

/// Reasons of failed rows that the summary gives.
const SHOWN_REASONS: usize = 3;

/// Times of one run.
///
/// # Units
///
/// Wall-clock seconds. Reading and tokenising run beside the engine, so the parts may sum to more
/// than `wall`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunTimes {
    /// From the start of the command to the last commit.
    pub wall: f64,
    /// Counting and hashing the input.
    pub scan: f64,
    /// Loading weights and tokenizer.
    pub load: f64,
    /// Reading windows and filling templates.
    pub read: f64,
    /// Encoding prompts.
    pub tokenize: f64,
    /// Reading contexts into the cache.
    pub prefill: f64,
    /// Producing tokens.
    pub decode: f64,
    /// Choosing tokens and looking for stop strings.
    pub sampling: f64,
    /// Journal, parts and manifest.
    pub write: f64,
}

/// Files that earlier runs committed, as this run found them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckedFiles {
    /// How many there are.
    pub files: u64,
    /// Whether their content was compared with its checksums, not only names and sizes.
    pub content: bool,
}

/// Why rows failed, and how many did for that reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureReason {
    /// How many rows.
    pub rows: u64,
    /// The stage that refused them.
    pub stage: String,
    /// The reason that the first of them got; the others may have other numbers in it.
    pub reason: String,
}

/// The summary of a run, of one shard or of several.
///
/// Printed as `{}` it is what a user needs at the end, as `{:#}` all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// Name of the job.
    pub job: String,
    /// What the files of the job name it by: blake3 of its `job.json`; absent for the jobs of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_fingerprint: Option<String>,
    /// Version of the program.
    pub program: String,
    /// Where the results are; empty where they are not kept.
    pub results: String,
    /// The output folder; empty where results are not kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Why rows failed, the most frequent reason first; of committed rows, at the end of a run alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailureReason>,
    /// How the results are loaded, once all are there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loading: Vec<Loading>,
    /// Where the card is; none where a `README.md` of somebody else has its place.
    #[serde(skip)]
    pub card: Option<String>,
    /// What a trial says of itself.
    #[serde(skip)]
    pub trial: Option<String>,
    /// Whether every window of the job is committed.
    pub finished: bool,
    /// Rows of the whole job.
    pub job_rows: u64,
    /// What is committed, over all runs and shards.
    pub totals: Totals,
    /// What this run looked at before its work.
    pub checked: CheckedFiles,
    /// Rows that this run answered or refused.
    pub rows_now: u64,
    /// Tokens of the answers that this run wrote, ending tokens included. Rows with the same prompt share an answer,
    /// which counts for each of them here and once in the engine's `completion_tokens`; there the tokens of answers
    /// that did not end count too, and those of beams that were given up.
    pub tokens_written: u64,
    /// Rows with an `id` that an earlier one has, among those that this run read.
    pub duplicate_ids: u64,
    /// Whether the count of duplicates stopped early, and after how many rows.
    pub duplicates_counted_to: Option<u64>,
    /// Times of this run.
    pub times: RunTimes,
    /// What the engine counted in this run.
    pub engine: EngineStatistics,
    /// Seconds of prefill and decode that `bench` foretells for this run's tokens, where it has measured.
    pub foretold_seconds: Option<f64>,
    /// Most memory that the process has held, bytes; absent where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Whether the job compares answers with a reference column.
    pub compares: bool,
    /// What the job's task says of its results.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
    /// How well the answers fit their references.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Whether an earlier version committed windows without measuring them.
    #[serde(skip_serializing_if = "is_false")]
    pub has_unmeasured: bool,
    /// The same for each group of rows, where the job has `report.by`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupReport>,
    /// A few rows side by side.
    pub examples: Vec<Example>,
    /// What a demonstration model says of itself.
    pub notice: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

impl fmt::Display for CheckedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.content {
            "names, sizes and content"
        } else {
            "names and sizes (`run --verify` reads the content too)"
        };
        write!(f, "{}: {what}", counted(self.files, "committed file"))
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let state = if self.finished {
            "finished"
        } else {
            "not finished"
        };
        writeln!(f, "{}: {state}", on_one_line(&self.job))?;
        if let Some(notice) = &self.notice {
            line(f, "note", notice)?;
        }
        line(f, "rows", &self.rows_text())?;
        if let Some(trial) = &self.trial {
            line(f, "", trial)?;
        }
        self.reasons(f)?;
        for fact in &self.facts {
            line(f, &fact.name, &fact.text)?;
        }
        if self.compares && self.totals.referenced > 0 {
            line(
                f,
                "exact match",
                &exact_match(totals.exact, totals.referenced),
            )?;
        }
        write_metrics(self, f)?;
        if f.alternate() {
            self.details(f)?;
        } else if self.rows_now > 0 {
            line(f, "this run", &self.speed())?;
        }
        if !self.results.is_empty() {
            line(f, "results", &self.results)?;
        }
        self.loading(f)?;
        self.side_by_side(f)
    }
}

impl RunReport {
    fn rows_text(&self) -> String {
        let totals = &self.totals;
        let mut parts = vec![format!(
            "{} of {} done",
            grouped(totals.taken()),
            grouped(self.job_rows.saturating_sub(totals.left_out.total()))
        )];
        if !totals.left_out.is_empty() {
            parts.push(format!("left out {}", totals.left_out));
        }
        for (count, what) in [
            (totals.failed + totals.bad, "failed"),
            (totals.truncated, "with a prompt cut to fit"),
            (
                totals.several_masks,
                "with more than one mask (the first is answered)",
            ),
            (totals.equal_choices, "with the same choice twice"),
            (
                totals.passed_over,
                "with keys that change no answer, such as `model`",
            ),
            (
                totals.shots_dropped,
                "with fewer examples than asked for, so that they fit",
            ),
            (self.duplicate_ids, "with an id seen before"),
        ] {
            if count > 0 {
                parts.push(format!("{} {what}", grouped(count)));
            }
        }
        if let Some(rows) = self.duplicates_counted_to {
            parts.push(format!("ids compared among {}", first(rows, "row")));
        }
        parts.join(", ")
    }

    /// The most frequent reasons of failed rows, and the command that shows the rows.
    fn reasons(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.failures.iter().take(SHOWN_REASONS) {
            let (rows, stage, reason) = (grouped(failure.rows), &failure.stage, &failure.reason);
            line(f, "  failed", &format!("{rows} at {stage}: {reason}"))?;
        }
        match self.failures.len().saturating_sub(SHOWN_REASONS) {
            0 => {}
            more => line(
                f,
                "",
                &format!("and {}", counted(more as u64, "more reason")),
            )?,
        }
        if self.totals.failed + self.totals.bad > 0 && !self.folder.is_empty() {
            let folder = shell_word(&self.folder);
            line(
                f,
                "  see them",
                &format!("glm-batch show {folder} --failed"),
            )?;
        }
        Ok(())
    }

    /// One call that loads the results where all the others are in the card, or all of them.
    fn loading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            for loading in &self.loading {
                line(f, &loading.library, &loading.to_string())?;
            }
            return Ok(());
        }
        let Some(first) = self.loading.first() else {
            return Ok(());
        };
        line(f, "load", &first.to_string())?;
        let others: Vec<&str> = self.loading[1..]
            .iter()
            .map(|one| one.library.as_str())
            .collect();
        let place = match &self.card {
            Some(card) => format!("see {card}"),
            None => "`run --verbose` prints their calls".to_owned(),
        };
        line(f, "", &format!("{}: {place}", others.join(", ")))
    }

    /// A few rows: pairs where the job makes them, else answers beside their references.
    fn side_by_side(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = || self.examples.iter().take(SHOWN_EXAMPLES);
        let pair = |e: &Example| {
            let rejected = e.rejected.clone()?;
            Some([e.question.clone(), e.completion.clone(), rejected])
        };
        let pairs: Vec<[String; 3]> = shown().filter_map(pair).collect();
        if !pairs.is_empty() {
            let table = side_by_side(["question", "chosen", "rejected"], pairs);
            return write!(f, "\n{table}");
        }
        if self.compares && !self.examples.is_empty() {
            let rows =
                shown().map(|e| [&e.question, &e.completion, &e.reference].map(Clone::clone));
            let table = side_by_side(["question", "answer", "reference"], rows);
            return write!(f, "\n{table}");
        }
        Ok(())
    }

    fn speed(&self) -> String {
        let seconds = self.times.wall;
        let a_second = |tokens: u64| match seconds {
            seconds if seconds > 0.0 => rate(tokens as f64 / seconds),
            _ => rate(0.0),
        };
        let (computed, written) = (self.engine.completion_tokens, self.tokens_written);
        // A task that only reads gives no tokens out.
        let tokens = if computed == 0 && self.engine.prompt_tokens > 0 {
            format!("{} tokens/s in", a_second(self.engine.prompt_tokens))
        } else if computed == written {
            format!("{} tokens/s out", a_second(written))
        } else {
            format!(
                "{} tokens/s out, {} computed",
                a_second(written),
                a_second(computed)
            )
        };
        format!(
            "{} in {} s: {tokens}",
            counted(self.rows_now, "row"),
            rate(seconds)
        )
    }

    /// What is worth to know of a run beyond its results.
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prompt, answer) = (self.totals.prompt_tokens, self.totals.completion_tokens);
        line(
            f,
            "tokens",
            &format!("{} in, {} out", grouped(prompt), grouped(answer)),
        )?;
        let (computed, written) = (self.engine.completion_tokens, self.tokens_written);
        if computed > 0 && computed != written {
            let (written, computed) = (grouped(written), grouped(computed));
            line(
                f,
                "",
                &format!("of this run {written} out, {computed} computed"),
            )?;
        }
        if self.checked.files > 0 {
            line(f, "checked", &self.checked.to_string())?;
        }
        if self.rows_now > 0 {
            self.this_run(f)?;
        }
        match self.peak_memory_bytes {
            Some(bytes) => line(f, "peak memory", &format!("{} MiB", grouped(bytes >> 20))),
            None => Ok(()),
        }
    }

    fn this_run(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (times, engine) = (&self.times, &self.engine);
        let per_second = |tokens: u64, seconds: f64| match seconds {
            seconds if seconds > 0.0 => rate(tokens as f64 / seconds),
            _ => rate(0.0),
        };
        line(
            f,
            "this run",
            &format!(
                "{}; prefill {} tokens/s, decode {} tokens/s",
                self.speed(),
                per_second(engine.prompt_tokens, times.prefill),
                per_second(engine.completion_tokens, times.decode),
            ),
        )?;
        line(
            f,
            "batching",
            &format!(
                "padding {:.1}%, slots in use {:.1}%, at most {} at once, {} shared an answer",
                engine.padding_share() * 100.0,
                (1.0 - engine.idle_share()) * 100.0,
                grouped(engine.peak_slots as u64),
                counted(engine.shared_rows, "row"),
            ),
        )?;
        line(
            f,
            "seconds",
            &format!(
                "scan {:.2}, load {:.2}, prefill {:.2}, decode {:.2}, sampling {:.2}, write {:.2}; \
                 beside them read {:.2}, tokenize {:.2}",
                times.scan,
                times.load,
                times.prefill,
                times.decode,
                times.sampling,
                times.write,
                times.read,
                times.tokenize,
            ),
        )?;
        if let Some(foretold) = self.foretold_seconds {
            let took = times.prefill + times.decode;
            line(
                f,
                "estimate",
                &format!("{foretold:.1} s of prefill and decode by `bench`, took {took:.1} s"),
            )?;
        }
        Ok(())
    }
}

fn exact_match(exact: u64, referenced: u64) -> String {
    let share = match referenced {
        0 => 0.0,
        n => exact as f64 / n as f64 * 100.0,
    };
    let answers = counted(referenced, "answer");
    format!(
        "{} of {answers} match the reference ({share:.1}%)",
        grouped(exact)
    )
}

/// Most memory that this process has held, bytes; `None` where the system does not say.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests;
