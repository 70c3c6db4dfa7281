//! The card of a finished job, written where it is missing or out of date.
//!
//! It is a help, not a result: what hinders it is said and changes nothing about how the run ends.

use std::io::{ErrorKind, Write};

use super::prepare::Prepared;
use crate::checkpoint;
use crate::error::Result;
use crate::fsio;
use crate::input;
use crate::report::{CARD_MARK, Card, Loading, Observer, RunReport, loading};
use crate::sink::{self, ResultColumn};

/// Writes the card of a job whose shards are all finished. A `README.md` without our mark stays as it is.
pub(super) fn write(
    prepared: &Prepared,
    report: &RunReport,
    observer: &mut dyn Observer,
) -> Result<()> {
    let root = prepared.folder.root();
    let card = Card {
        record: &prepared.record,
        folder: &root.file_name().unwrap_or_default().to_string_lossy(),
        columns: &columns(prepared)?,
        totals: &report.totals,
        parts: &parts(prepared)?,
    };
    let (text, path) = (card.to_string(), prepared.folder.card());
    match std::fs::read_to_string(&path) {
        Ok(present) if present == text || !present.contains(CARD_MARK) => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Whatever stands there is none of ours.
        Err(_) => return Ok(()),
    }
    let written = fsio::write_atomic(&path, |out| out.write_all(text.as_bytes()));
    let cleared = written.and_then(|_| {
        let leftovers = prepared.folder.temporary_cards();
        leftovers
            .iter()
            .try_for_each(|path| fsio::remove_synced(path))
    });
    if let Err(error) = cleared {
        observer.note(&format!("note: the job has no new card: {error}"));
    }
    Ok(())
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
pub(super) fn calls(prepared: &Prepared) -> Result<Vec<Loading>> {
    let folder = prepared.folder.root().to_string_lossy();
    let format = prepared.record.spec.output.format;
    Ok(loading(&folder, format, &columns(prepared)?))
}

fn columns(prepared: &Prepared) -> Result<Vec<ResultColumn>> {
    let spec = &prepared.record.spec;
    Ok(sink::result_types(
        &spec.output,
        &spec.generation,
        &prepared.index,
        input::id_column(&spec.input.columns, &prepared.index).as_deref(),
        prepared.source.arrow_schema().as_deref(),
    )?)
}
