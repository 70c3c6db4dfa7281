//! The card of a finished job, written where it is missing or out of date.
//!
//! It is a help, not a result: what hinders it is said and changes nothing about how the run ends.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use super::prepare::Prepared;
use crate::checkpoint::{self, JobLock};
use crate::error::Result;
use crate::fsio;
use crate::input;
use crate::report::{CARD_MARK, Card, Loading, Observer, RunReport, loading};
use crate::sink::{self, ResultColumn};
use crate::tasks;

/// Bytes of a `README.md` that are looked at; a card has fewer.
const MOST_CARD_BYTES: u64 = 16 << 20;

/// Says how the results of a finished job are loaded, in its report and in its card.
pub(super) fn finish(prepared: &Prepared, report: &mut RunReport, observer: &mut dyn Observer) {
    let finished = calls(prepared).and_then(|calls| {
        report.loading = calls;
        write(prepared, report)
    });
    match finished {
        Ok(has_card) => {
            let card = has_card.then(|| prepared.folder.card());
            report.card = card.map(|card| card.display().to_string());
        }
        Err(error) => observer.note(&format!("note: the job has no new card: {error}")),
    }
}

/// Writes the card where it is missing or out of date. A `README.md` without our mark stays as it is; false where there is one.
fn write(prepared: &Prepared, report: &RunReport) -> Result<bool> {
    let folder = &prepared.folder;
    let kinds = kinds(prepared)?;
    let card = Card {
        kinds: kinds.as_deref(),
        record: &prepared.record,
        folder: &folder
            .root()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
        columns: &columns(prepared)?,
        totals: &report.totals,
        parts: &parts(prepared)?,
    };
    let (text, path) = (card.to_string(), folder.card());
    let is_current = match present(&path) {
        Ok(present) if !present.contains(CARD_MARK) => return Ok(false),
        Ok(present) => present == text,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        // What cannot be read as text is not ours.
        Err(_) => return Ok(false),
    };
    if is_current && folder.temporary_cards().is_empty() {
        return Ok(true);
    }
    // The runs of two shards may end together: one writes, and clears only what no other is writing.
    let Some(_lock) = JobLock::try_acquire(folder)? else {
        return Ok(true);
    };
    if !is_current {
        fsio::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
    }
    for leftover in folder.temporary_cards() {
        fsio::remove_synced(&leftover)?;
    }
    Ok(true)
}

/// The card that is there, as far as a card goes.
fn present(path: &Path) -> io::Result<String> {
    // A pipe would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    File::open(path)?
        .take(MOST_CARD_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Fingerprint of all parts, in order of their rows.
fn parts(prepared: &Prepared) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for window in checkpoint::committed_windows(&prepared.folder)? {
        hasher.update(window.part.digest.blake3.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The calls that load the results.
fn calls(prepared: &Prepared) -> Result<Vec<Loading>> {
    let folder = prepared.folder.root().to_string_lossy();
    let format = prepared.record.spec.output.format;
    Ok(loading(&folder, format, &columns(prepared)?))
}

fn kinds(prepared: &Prepared) -> Result<Option<String>> {
    let spec = &prepared.record.spec;
    Ok(sink::kinds_note(
        &tasks::form(spec),
        &prepared.index,
        input::id_column(&spec.input.columns, &prepared.index).as_deref(),
    )?)
}

fn columns(prepared: &Prepared) -> Result<Vec<ResultColumn>> {
    let spec = &prepared.record.spec;
    Ok(sink::result_types(
        &tasks::form(spec),
        &prepared.index,
        input::id_column(&spec.input.columns, &prepared.index).as_deref(),
        prepared.source.arrow_schema().as_deref(),
    )?)
}
