//! File form to [`JobSpec`]: ranges, keys that need one another, absolute paths.
//!
//! The last step of reading a job; what comes out cannot be wrong in itself. Places of what is
//! wrong come from the tree; `[generation]` has its own file, because rows use it too.

use std::path::Path;

use super::error::SpecError;
use super::file::{
    BatchSection, CheckpointSection, InputSection, JobFile, MAX_BUCKET, ModelSection,
    OutputSection, PromptSection,
};
use super::flaw::{Checked, Flaw, at_least_one, not_empty};
use super::generation::check_generation;
use super::paths;
use super::source::Node;
use super::suggest::nearest;
use super::types::{
    BatchSpec, CarriedColumns, CheckpointSpec, InputSpec, JobSpec, MaxNewTokens, ModelSpec,
    OutputSpec, PromptSpec,
};

/// A day: later is never, for a checkpoint.
const MAX_INTERVAL: f64 = 86_400.0;

/// Where a job comes from.
pub(super) struct Origin<'a> {
    /// Name of its file in messages.
    pub(super) source: &'a str,
    /// Where relative paths start.
    pub(super) base: &'a Path,
    /// Whether its file may lie in the output folder: there is none, or `run` put it there and writes it again
    /// where it moves that folder away.
    pub(super) is_kept: bool,
}

/// Checks a whole file; `tree` is what it was read from.
pub(super) fn check(file: JobFile, tree: &Node, origin: &Origin<'_>) -> Result<JobSpec, SpecError> {
    check_sections(file, origin).map_err(|flaw| flaw.into_error(tree))
}

fn check_sections(file: JobFile, origin: &Origin<'_>) -> Checked<JobSpec> {
    let Origin { source, base, .. } = *origin;
    at_least_one("shards", file.shards)?;
    let spec = JobSpec {
        name: file.name.unwrap_or_else(|| default_name(source)),
        shards: file.shards,
        model: model(&file.model, base).map_err(|flaw| flaw.under("model"))?,
        input: input(file.input, base).map_err(|flaw| flaw.under("input"))?,
        prompt: prompt(file.prompt).map_err(|flaw| flaw.under("prompt"))?,
        generation: check_generation(file.generation).map_err(|flaw| flaw.under("generation"))?,
        batch: batch(&file.batch).map_err(|flaw| flaw.under("batch"))?,
        output: output(file.output, base).map_err(|flaw| flaw.under("output"))?,
        checkpoint: checkpoint(&file.checkpoint).map_err(|flaw| flaw.under("checkpoint"))?,
    };
    together(&spec, origin)?;
    Ok(spec)
}

/// Keys of several sections that need one another.
fn together(spec: &JobSpec, origin: &Origin<'_>) -> Checked<()> {
    if spec.prompt.template.is_none() && spec.input.columns.prompt.is_none() {
        let flaw = Flaw::new(
            "input.columns.prompt",
            "is missing, and there is no template",
        );
        return Err(flaw.hint(
            "name the column that holds the prompt: `columns = { prompt = \"question\" }` under \
             `[input]`, or write `prompt.template`",
        ));
    }
    if spec.shards > 1 && spec.input.path == ["-"] {
        let flaw = Flaw::new("shards", "must be 1 where the input is standard input");
        return Err(flaw.hint("write the input to a file, so that every worker can read it"));
    }
    if let (Some(max_length), Some(MaxNewTokens::Count(count))) =
        (spec.prompt.max_length, spec.generation.max_new_tokens)
        && count >= max_length
    {
        let reason = format!(
            "is {count} and leaves no room for the prompt in `prompt.max_length` ({max_length})"
        );
        let flaw = Flaw::new("generation.max_new_tokens", reason);
        return Err(flaw.hint("lower it, or raise `prompt.max_length`"));
    }
    own_folder(spec, origin)
}

/// `--restart` moves the output folder away: nothing that the job needs may lie in it.
fn own_folder(spec: &JobSpec, origin: &Origin<'_>) -> Checked<()> {
    let out = &spec.output.path;
    let what = if origin.base.starts_with(out) && !origin.is_kept {
        "job file"
    } else if spec.model.path.starts_with(out) {
        "model"
    } else if spec
        .input
        .path
        .iter()
        .any(|path| Path::new(path).starts_with(out))
    {
        "input"
    } else {
        return Ok(());
    };
    let flaw = Flaw::new("output.path", format!("is a folder that holds the {what}"));
    Err(flaw.hint("give the results a folder of their own"))
}

fn default_name(source: &str) -> String {
    let stem = Path::new(source).file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn model(section: &ModelSection, base: &Path) -> Checked<ModelSpec> {
    Ok(ModelSpec {
        path: paths::absolute("path", &section.path, base)?,
        device: section.device.clone(),
        dtype: section.dtype,
    })
}

fn input(section: InputSection, base: &Path) -> Checked<InputSpec> {
    let columns = &section.columns;
    for (key, column) in [
        ("columns.id", &columns.id),
        ("columns.prompt", &columns.prompt),
        ("columns.prefix", &columns.prefix),
        ("columns.reference", &columns.reference),
        ("columns.generation", &columns.generation),
    ] {
        not_empty(key, column.as_deref())?;
    }
    at_least_one("max_row_bytes", section.max_row_bytes)?;
    Ok(InputSpec {
        path: paths::inputs("path", section.path.0, base)?,
        columns: section.columns,
        on_bad_row: section.on_bad_row,
        max_row_bytes: section.max_row_bytes,
    })
}

fn prompt(section: PromptSection) -> Checked<PromptSpec> {
    not_empty("template", section.template.as_deref())?;
    if let Some(length) = section.max_length
        && length < 2
    {
        return Err(Flaw::new(
            "max_length",
            format!("must be at least 2, and is {length}"),
        ));
    }
    Ok(PromptSpec {
        template: section.template,
        prefix: section.prefix,
        mask: section.mask,
        max_length: section.max_length,
        overflow: section.overflow,
    })
}

fn batch(section: &BatchSection) -> Checked<BatchSpec> {
    at_least_one("window_rows", section.window_rows)?;
    let within = |key: &str, value: Option<u64>, most: u64| match value {
        Some(value) if !(1..=most).contains(&value) => {
            let reason = format!("must be `\"auto\"` or from 1 to {most}, and is {value}");
            Err(Flaw::new(key, reason))
        }
        _ => Ok(value),
    };
    let small = |value: Option<u64>| value.map(|value| value as u32);
    let rows = within(
        "max_batch_size",
        section.max_batch_size.0,
        u64::from(u32::MAX),
    )?;
    let tokens = within(
        "max_batch_tokens",
        section.max_batch_tokens.0,
        i64::MAX as u64,
    )?;
    let bucket = within("bucket_tokens", section.bucket_tokens.0, MAX_BUCKET)?;
    Ok(BatchSpec {
        max_batch_size: small(rows),
        max_batch_tokens: tokens,
        window_rows: section.window_rows,
        bucket_tokens: small(bucket),
    })
}

fn output(section: OutputSection, base: &Path) -> Checked<OutputSpec> {
    if let CarriedColumns::Names(names) = &section.columns {
        for (at, name) in names.iter().enumerate() {
            not_empty("columns", Some(name))?;
            if names[..at].contains(name) {
                return Err(Flaw::new("columns", format!("names `{name}` twice")));
            }
        }
    }
    let rename: Vec<(String, String)> = section.rename.into_iter().collect();
    renames(&rename, &section.columns)?;
    Ok(OutputSpec {
        path: paths::absolute("path", &section.path, base)?,
        format: section.format,
        columns: section.columns,
        rename,
        samples: section.samples,
        token_ids: section.token_ids,
        max_failed: section.max_failed.0,
    })
}

fn renames(rename: &[(String, String)], columns: &CarriedColumns) -> Checked<()> {
    for (at, (from, to)) in rename.iter().enumerate() {
        if to.is_empty() {
            let reason = format!("gives `{from}` an empty name");
            return Err(Flaw::new("rename", reason));
        }
        if let Some((other, _)) = rename[..at].iter().find(|(_, name)| name == to) {
            let reason = format!("gives `{other}` and `{from}` the same name, `{to}`");
            return Err(Flaw::new("rename", reason));
        }
        let carried = match columns {
            CarriedColumns::All => true,
            CarriedColumns::None => false,
            CarriedColumns::Names(names) => names.contains(from),
        };
        if carried {
            continue;
        }
        let flaw = Flaw::new(
            "rename",
            format!("names `{from}`, which `columns` does not carry"),
        );
        let CarriedColumns::Names(names) = columns else {
            return Err(flaw.hint("set `output.columns = \"all\"`, or name the columns"));
        };
        return Err(match nearest(from, names.iter().map(String::as_str)) {
            Some(near) => flaw.hint(format!("did you mean `{near}`?")),
            None => flaw.hint(format!("add `{from}` to `output.columns`")),
        });
    }
    Ok(())
}

fn checkpoint(section: &CheckpointSection) -> Checked<CheckpointSpec> {
    let seconds = section.interval_seconds;
    if !(0.0..=MAX_INTERVAL).contains(&seconds) {
        let reason = format!("must be from 0 to {MAX_INTERVAL}, and is {seconds}");
        return Err(Flaw::new("interval_seconds", reason));
    }
    Ok(CheckpointSpec {
        interval_seconds: seconds,
    })
}
