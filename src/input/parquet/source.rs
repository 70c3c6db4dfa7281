//! Windows of Parquet rows.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use rayon::prelude::*;

use super::cells::Cells;
use super::decoder::is_beyond_decoder;
use super::fit::{Misfit, fit, nulls};
use super::footer::{Footer, open_footer, shared_schema};
use super::group::GroupReader;
use super::odd_integers::OddIntegers;
use super::paths;
use super::schema::{Shared, by_parquet};
use crate::ids::RowId;
use crate::input::built::{Built, bad};
use crate::input::error::{FileProblem, InputError, one_line};
use crate::input::partition::ArrowPartitions;
use crate::input::prompt::PromptBuilder;
use crate::input::types::{
    Carried, HeldPrompt, InputIndex, InputRow, InputWindow, Place, WindowSpan,
};
use crate::input::{EachRow, OpenOptions, PromptSource, id_column};
use crate::job::{CarriedColumns, GenerationSpec, RowForm, Rules, nearest};
use crate::numbers::counted;
use crate::stop::StopFlag;

/// Readers that wait for the window after their last one.
const KEPT_READERS: usize = 2;

/// A row group of a file.
type GroupId = (u32, u32);

/// Reads windows of Parquet rows.
pub(crate) struct ParquetSource {
    index: Arc<InputIndex>,
    builder: PromptBuilder,
    rules: Rules,
    shared: Shared,
    /// The columns that folders add to those of the files.
    partitions: ArrowPartitions,
    /// Whether each column of the schema is in the results.
    carried: Vec<bool>,
    /// The footer used last.
    footer: Mutex<Option<(u32, Footer)>>,
    /// Row groups that were decoded whole, with the damage found.
    checked: Mutex<HashMap<GroupId, Option<String>>>,
    /// Readers with the row that they read next.
    kept: Mutex<Vec<(GroupId, u64, GroupReader)>>,
}

/// Some rows of one row group.
struct Slice {
    id: GroupId,
    first: u64,
    rows: u64,
    content: Result<Content, String>,
}

/// What the rows of a slice hold.
struct Content {
    /// The columns that prompts are made of.
    cells: Cells,
    /// Values that a carried column cannot hold, by row of the slice.
    misfits: BTreeMap<u64, String>,
}

impl ParquetSource {
    pub(crate) fn new(
        index: Arc<InputIndex>,
        builder: PromptBuilder,
        options: &OpenOptions<'_>,
    ) -> Result<Self, InputError> {
        let mut odd = OddIntegers::default();
        let files = index.files.iter().map(|file| file.path.clone());
        let shared = shared_schema(files, options.rules, |path, footer| {
            if by_parquet(options.rules) {
                odd.add(path, footer);
            }
        })?;
        let partitions = ArrowPartitions::new(&index.files);
        let shared = partitions.add_to(shared);
        let id = id_column(&options.input.columns, &index);
        let is_carried = |name: &str| {
            let is_asked_for = match options.carried {
                CarriedColumns::All => !index.is_result(name),
                CarriedColumns::None => false,
                CarriedColumns::Names(names) => names.iter().any(|asked| asked == name),
            };
            is_asked_for && id.as_deref() != Some(name)
        };
        odd.check(&shared, is_carried)?;
        paths::check(&shared.schema, builder.named())?;
        if options.input.format == RowForm::Rows {
            check_settings(&shared.schema, options.input.columns.generation.as_deref())?;
        }
        let fields = shared.schema.fields().iter();
        Ok(Self {
            carried: fields.map(|field| is_carried(field.name())).collect(),
            partitions,
            index,
            builder,
            rules: options.rules,
            shared,
            footer: Mutex::new(None),
            checked: Mutex::new(HashMap::new()),
            kept: Mutex::new(Vec::new()),
        })
    }

    fn path(&self, file: u32) -> PathBuf {
        self.index
            .files
            .get(file as usize)
            .map(|file| file.path.clone())
            .unwrap_or_default()
    }

    fn footer(&self, file: u32) -> Result<Footer, InputError> {
        let mut last = self.footer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, footer)) = &*last
            && *known == file
        {
            return Ok(footer.clone());
        }
        let path = self.path(file);
        let footer = open_footer(&path, self.rules).map_err(|reason| InputError::Broken {
            problems: vec![FileProblem { path, reason }],
        })?;
        *last = Some((file, footer.clone()));
        Ok(footer)
    }

    /// The window's batch and the places of its rows.
    fn read(&self, span: &WindowSpan) -> Result<(RecordBatch, Vec<Slice>), InputError> {
        let (mut file, mut group, mut row) = (span.file, span.row_group, span.row_in_group);
        let mut missing = span.rows;
        let (mut batches, mut slices) = (Vec::new(), Vec::new());
        while missing > 0 {
            if file as usize >= self.index.files.len() {
                let what = format!(
                    "window {} ends before its {}",
                    span.id,
                    counted(span.rows, "row")
                );
                return Err(InputError::Changed {
                    path: self.path(span.file),
                    what,
                });
            }
            let footer = self.footer(file)?;
            let Some(size) = footer.metadata().row_groups().get(group as usize) else {
                (file, group, row) = (file + 1, 0, 0);
                continue;
            };
            let left = (size.num_rows().max(0) as u64).saturating_sub(row);
            let rows = left.min(missing);
            if rows > 0 {
                let read = self.read_group(&footer, (file, group), row, rows);
                let (batch, content) = match read {
                    Ok((own, finer)) => match self.content(&footer, file, &own, finer) {
                        Ok((batch, content)) => Ok((batch, Ok(content))),
                        Err(error) => {
                            let reason = one_line(&error.to_string());
                            nulls(&self.shared.layout, rows as usize)
                                .map(|batch| (batch, Err(unfitting(group, &reason))))
                        }
                    },
                    Err(reason) if is_machine_error(&reason) => {
                        let (path, source) = (self.path(file), io::Error::other(reason));
                        return Err(InputError::Io { path, source });
                    }
                    Err(reason) => nulls(&self.shared.layout, rows as usize)
                        .map(|batch| (batch, Err(unreadable(group, &reason, self.rules)))),
                }
                .map_err(|error| self.odd(file, &error))?;
                batches.push(batch);
                slices.push(Slice {
                    id: (file, group),
                    first: row,
                    rows,
                    content,
                });
                missing -= rows;
            }
            row += rows;
            if rows == left {
                (group, row) = (group + 1, 0);
            }
        }
        let batch = concat_batches(&self.shared.layout, &batches)
            .map_err(|error| self.odd(span.file, &error))?;
        Ok((batch, slices))
    }

    /// Rows of a file in the schema of all files, and what they hold.
    fn content(
        &self,
        footer: &Footer,
        file: u32,
        own: &RecordBatch,
        finer: Vec<Misfit>,
    ) -> Result<(RecordBatch, Content), ArrowError> {
        let names = self.builder.used_columns();
        let exact = by_parquet(self.rules);
        let (batch, lost) = fit(own, &self.shared.layout, exact)?;
        let batch = self
            .partitions
            .fill(&batch, &self.index.files[file as usize])?;
        let mut cells = Cells::new(&batch, &self.shared.schema, &names)?;
        if exact {
            // Numbers keep their own digits, whatever other files have in the column.
            let own = footer.marks.apply_to(own)?;
            cells.replace(Cells::new(&own, &footer.schema, &names)?);
        }
        // Prompts are made of the file's own values: what the common type lost is there, what the file's lost is not.
        let is_needed = |name: &str| names.contains(&name);
        let misfits = self
            .named(&footer.schema, finer, is_needed)
            .chain(self.named(&self.shared.schema, lost, |_| false))
            .fold(BTreeMap::new(), |mut first, (row, reason)| {
                first.entry(row).or_insert(reason);
                first
            });
        Ok((batch, Content { cells, misfits }))
    }

    /// Reasons for rows, by what columns of `schema` could not hold and the results, or the prompts, would.
    fn named(
        &self,
        schema: &Schema,
        misfits: Vec<Misfit>,
        is_needed: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (u64, String)> {
        misfits.into_iter().filter_map(move |misfit| {
            let name = schema.field(misfit.column).name();
            let place = self.shared.schema.index_of(name).ok()?;
            let Misfit { value, kind, .. } = &misfit;
            let reason = format!("column `{name}` holds {value}, which {kind} cannot hold exactly");
            (self.carried[place] || is_needed(name)).then_some((misfit.row as u64, reason))
        })
    }

    /// Rows of a group as the file has them, or what keeps the whole group from being read.
    fn read_group(
        &self,
        footer: &Footer,
        id: GroupId,
        row: u64,
        rows: u64,
    ) -> Result<(RecordBatch, Vec<Misfit>), String> {
        let path = self.path(id.0);
        let size = footer.metadata().row_group(id.1 as usize).num_rows().max(0) as u64;
        let whole = row == 0 && rows == size;
        if !whole {
            self.check(footer, id, size)?;
        }
        let mut reader = match self.take_kept(id, row) {
            Some(reader) => reader,
            None => GroupReader::open(&path, footer, id.1, row)?,
        };
        let batch = reader.take(rows, &footer.schema)?;
        if !whole && row + rows < size {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= KEPT_READERS {
                kept.remove(0);
            }
            kept.push((id, row + rows, reader));
        }
        Ok(batch)
    }

    fn take_kept(&self, id: GroupId, row: u64) -> Option<GroupReader> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept
            .iter()
            .position(|(known, next, _)| *known == id && *next == row)?;
        Some(kept.remove(place).2)
    }

    /// Decodes a whole group once.
    fn check(&self, footer: &Footer, id: GroupId, rows: u64) -> Result<(), String> {
        let known = {
            let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            checked.get(&id).cloned()
        };
        if let Some(damage) = known {
            return damage.map_or(Ok(()), Err);
        }
        let result = GroupReader::open(&self.path(id.0), footer, id.1, 0)
            .and_then(|reader| reader.check(rows));
        if result
            .as_ref()
            .is_err_and(|reason| is_machine_error(reason))
        {
            return result;
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.insert(id, result.clone().err());
        result
    }

    /// An array operation failed that no input should make fail.
    fn odd(&self, file: u32, error: &ArrowError) -> InputError {
        InputError::Broken {
            problems: vec![FileProblem {
                path: self.path(file),
                reason: one_line(&error.to_string()),
            }],
        }
    }

    fn row(&self, row: RowId, slice: &Slice, at: u64) -> InputRow {
        let (file, row_group) = slice.id;
        let place = Place::RowGroup {
            file,
            row_group,
            row: slice.first + at,
        };
        let is_result = self.index.is_result_file(file);
        let Built {
            id,
            reference,
            group,
            left_out,
            mut outcome,
        } = match (self.builder.left_out(row), &slice.content) {
            (Some(why), _) => Built::left_out(row, why),
            (None, Ok(content)) => {
                let record = content.cells.row(at as usize);
                self.builder.build(row, &record, is_result)
            }
            (None, Err(reason)) => Built::bad(row, reason.clone()),
        };
        if let Ok(content) = &slice.content
            && let Some(reason) = content.misfits.get(&at)
        {
            outcome = outcome.and(Err(bad(reason.clone())));
        }
        InputRow {
            row,
            place,
            id,
            reference,
            group,
            is_record: slice.content.is_ok(),
            left_out,
            outcome: outcome.map(HeldPrompt::from),
        }
    }
}

impl PromptSource for ParquetSource {
    fn read_rows(&self, span: &WindowSpan, each: EachRow<'_>) -> Result<InputWindow, InputError> {
        let (batch, slices) = self.read(span)?;
        let mut places = Vec::with_capacity(batch.num_rows());
        for slice in &slices {
            places.extend((0..slice.rows).map(|at| (slice, at)));
        }
        let rows = places
            .par_iter()
            .enumerate()
            .map(|(position, (slice, at))| {
                let number = RowId(span.first_row.0 + position as u64);
                let mut row = self.row(number, slice, *at);
                each(position, &mut row);
                row
            })
            .collect();
        Ok(InputWindow {
            id: span.id,
            rows,
            carried: Carried::Arrow(batch),
        })
    }

    fn keep_turns(&mut self) {
        self.builder.keep_turns();
    }

    fn stop_with(&mut self, stop: &StopFlag) {
        self.builder.stop_with(stop);
    }

    fn arrow_schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.shared.schema))
    }
}

/// Why no row of a group can be read.
fn unreadable(group: u32, reason: &str, rules: Rules) -> String {
    if rules.rows > 1 && is_beyond_decoder(reason) {
        format!("row group {group} cannot be decoded by this program: {reason}")
    } else {
        format!("row group {group} is damaged: {reason}")
    }
}

/// Why no row of a group can be used, though it was decoded.
fn unfitting(group: u32, reason: &str) -> String {
    format!("row group {group} cannot be given the types that all files share: {reason}")
}

/// Whether the machine failed and not the bytes: the rows must not fail for it. The decoder passes on
/// nothing but text; the standard library ends errors of the system so.
fn is_machine_error(reason: &str) -> bool {
    reason.contains("(os error ")
}

/// Refuses a struct of settings with a field that is none.
fn check_settings(schema: &Schema, column: Option<&str>) -> Result<(), InputError> {
    let Some(column) = column else { return Ok(()) };
    let Ok(field) = schema.field_with_name(column) else {
        return Ok(());
    };
    let DataType::Struct(fields) = field.data_type() else {
        return Ok(());
    };
    let known = GenerationSpec::ROW_KEYS;
    for inner in fields {
        let name = inner.name().as_str();
        if !known.contains(&name) {
            let cure = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            return Err(InputError::UnknownSetting {
                column: column.to_owned(),
                field: name.to_owned(),
                cure,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::unreadable;
    use crate::job::Rules;

    #[test]
    fn what_the_decoder_cannot_do_is_not_called_damage() {
        let reason = "Parquet error: NYI: The codec type LZO is not supported yet";
        let beyond = unreadable(3, reason, Rules::CURRENT);
        assert!(beyond.starts_with("row group 3 cannot be decoded by this program: "));
        let of_old_job = unreadable(3, reason, Rules::FIRST);
        assert_eq!(of_old_job, format!("row group 3 is damaged: {reason}"));
        let damage = unreadable(3, "EOF: eof decoding byte array", Rules::CURRENT);
        assert_eq!(
            damage,
            "row group 3 is damaged: EOF: eof decoding byte array"
        );
    }
}
