//! A job's own texts, `stop` and `bad_words`, under the rule that the job began with.
//!
//! The first rule compares stop strings as they are written in the job and bars a bad word only where it
//! begins an answer; the present one compares both as the tokenizer writes them. Rows that set their own go
//! by the same rule as their job.

use std::sync::Arc;

use super::model_facts::ModelFacts;
use crate::checkpoint::{JobRecord, OutputFolder};
use crate::error::{Error, Result};
use crate::generate::{FirstTextRule, TextCodec};
use crate::job::{GenerationSpec, JobSpec, Rules};
use crate::report::counted;
use crate::tasks::TaskError;
use crate::tasks::generate::{FIRST_TEXT_RULE, written};
use crate::tokenize::GlmTokenizer;

/// The tokenizer as generation uses it under a rule.
pub(super) fn codec(tokenizer: &Arc<GlmTokenizer>, rule: u32) -> Arc<dyn TextCodec> {
    if rule == FIRST_TEXT_RULE {
        Arc::new(FirstTextRule(Arc::clone(tokenizer)))
    } else {
        Arc::<GlmTokenizer>::clone(tokenizer)
    }
}

/// Refuses texts that no answer can hold, and a job of the first rule that the present one would change.
/// Returns what the user should know, a line each.
pub(super) fn check(
    spec: &JobSpec,
    model: &ModelFacts,
    first: Option<&JobRecord>,
    folder: &OutputFolder,
) -> Result<Vec<String>> {
    match first {
        Some(first) if first.rules.text == FIRST_TEXT_RULE => {
            refuse_changed(&first.spec.generation, &model.tokenizer, folder)?;
            Ok(idle_settings(spec))
        }
        _ => notes(spec, &model.tokenizer),
    }
}

/// What a new job says of its texts and of settings without effect.
///
/// # Errors
///
/// [`Error::Stop`] for a stop string that no answer can hold.
pub(super) fn notes(spec: &JobSpec, tokenizer: &GlmTokenizer) -> Result<Vec<String>> {
    let now = written(spec.generation.clone(), tokenizer, Rules::CURRENT.text);
    let now = now.map_err(|(stop, error)| TaskError::Stop { stop, error })?;
    let pairs = spec.generation.stop.iter().zip(&now.stop);
    let changed = pairs.filter(|(stop, form)| stop != form);
    let mut notes: Vec<String> = changed
        .map(|(stop, form)| {
            format!("note: `generation.stop`: `{stop}` is compared as `{form}`, as the tokenizer writes it")
        })
        .collect();
    notes.extend(idle_settings(spec));
    Ok(notes)
}

/// A job of the first rule goes on where both rules give the same answers.
fn refuse_changed(
    settings: &GenerationSpec,
    tokenizer: &GlmTokenizer,
    folder: &OutputFolder,
) -> Result<()> {
    let mut differences = Vec::new();
    if !settings.bad_words.is_empty() {
        differences.push(
            "  `generation.bad_words` barred a word only where it begins an answer, is now barred inside too"
                .to_owned(),
        );
    }
    for stop in &settings.stop {
        match tokenizer.written(stop) {
            Ok(form) if form == *stop => {}
            Ok(form) => differences.push(format!(
                "  `generation.stop` was compared as `{stop}`, is now compared as `{form}`"
            )),
            Err(error) => differences.push(format!(
                "  `generation.stop` held `{stop}`, which is now refused: {}",
                error.reason
            )),
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Refused {
        folder: folder.root().display().to_string(),
        differences: differences.join("\n"),
        cure: "finish it with the version that began it, or begin anew with `--restart` (the old results are kept beside)",
    })
}

/// Warns of settings for drawing where no row is drawn, and of those for beams where no row has any. Rows with settings
/// of their own may draw or have beams.
pub(super) fn idle_settings(spec: &JobSpec) -> Vec<String> {
    if spec.input.columns.generation.is_some() {
        return Vec::new();
    }
    let settings = &spec.generation;
    let all = [
        (
            settings.idle_keys(),
            "do_sample = false",
            "do_sample = true",
        ),
        (settings.idle_beam_keys(), "num_beams = 1", "num_beams = 4"),
    ];
    let warnings = all.iter().filter_map(|(keys, now, cure)| {
        Some(format!(
            "warning: in `[generation]`, {} nothing while `{now}`: set `{cure}`, or take what does nothing out",
            that_do(keys)?
        ))
    });
    warnings.collect()
}

/// Keys as the subject of a sentence; `None` where there is none.
fn that_do(keys: &[&str]) -> Option<String> {
    let idle: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let (last, others) = idle.split_last()?;
    Some(match others {
        [] => format!("{last} does"),
        _ => format!("{} and {last} do", others.join(", ")),
    })
}

/// Warns of rows whose own settings for drawing do nothing.
pub(super) fn idle_rows(rows: u64) -> Option<String> {
    (rows > 0).then(|| {
        format!(
            "warning: {} {} settings for drawing, such as `temperature` or `seed`, that do nothing while `do_sample = false`",
            counted(rows, "row"),
            if rows == 1 { "has" } else { "have" }
        )
    })
}
