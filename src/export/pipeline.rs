//! The export itself: committed rows through filters and a format to a writer.

use std::io;
use std::path::{Path, PathBuf};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::Schema;
use arrow_select::filter::filter_record_batch;
use serde_json::Value;

use super::card::Card;
use super::counts::{LeftOut, Reason};
use super::filters::Sieve;
use super::format::{Format, Source};
use super::items::{Reading, has_failed, items};
use super::job::Job;
use super::lines::{Shape, failed_batch_line};
use super::prompts::{Needs, Origin, PromptTemplate, Texts};
use super::schema::schema;
use super::target::{Form, Target};
use super::writer::{Out, Writer};
use super::{ExportError, ExportOptions, ExportReport, Result, refused};
use crate::checkpoint::{CommittedWindow, JobRecord, OutputFolder};
use crate::error::Error;
use crate::fsio;
use crate::job::OutputFormat;
use crate::report::counted;
use crate::sink::{self, PartLine, ResultRow};
use crate::stop::StopFlag;

/// Rows with which the reference's trainers begin to work.
const LEAST_RLHF_ROWS: u64 = 5;

/// Exports the committed rows of a job.
///
/// # Errors
///
/// What the command asks for in vain, a damaged part, an input that prompts cannot be made of any more, and what hinders
/// the output. No file is left then.
pub(crate) fn export(
    folder: &OutputFolder,
    record: &JobRecord,
    options: ExportOptions<'_>,
    stdout: &mut (dyn io::Write + Send),
) -> Result<ExportReport> {
    let job = Job::new(folder, record)?;
    let target = Target::new(options.format, options.output.as_deref(), folder.root())?;
    let mut export = Export::new(&job, &target, options)?;
    let Some(file) = &target.file else {
        export.write(stdout)?;
        return Ok(export.report(None));
    };
    if let Some(parent) = file.parent().filter(|_| target.in_folder) {
        fsio::create_dir_all(parent).map_err(ExportError::Output)?;
    }
    export.write_file(&target, file)
}

/// An export under way.
struct Export<'a> {
    job: &'a Job<'a>,
    bytes: Bytes,
    options: ExportOptions<'a>,
    /// How lines are made; `None` for the result rows themselves.
    shape: Option<Shape>,
    /// Where prompts come from; `None` where nothing needs them.
    origin: Option<Origin>,
    sieve: Sieve,
    left_out: LeftOut,
    lines: u64,
    /// Lines of two answers or more, and all the pairs of neighbours in them.
    pairs: u64,
    /// Whether an answer had no score.
    lacks_scores: bool,
    /// What is known from the start.
    notes: Vec<String>,
}

/// How the bytes of the file are made.
enum Bytes {
    Json,
    /// Values between these.
    Separated(u8),
    /// Parquet of these types.
    Typed(Schema),
    /// Parquet as the parts have it, of which this is one.
    Stored(PathBuf),
}

impl Bytes {
    /// Decides it for a job; `shape` says how lines are made. Also what is to be known of it.
    fn new(
        job: &Job<'_>,
        form: Form,
        shape: Option<&Shape>,
        stop: &StopFlag,
    ) -> Result<(Self, Option<String>)> {
        let is_stored = job.record.spec.output.format == OutputFormat::Parquet;
        let part = job.windows.first().filter(|_| is_stored);
        let bytes = match (form, shape, part) {
            (Form::Json, ..) => Self::Json,
            (Form::Commas, ..) => Self::Separated(b','),
            (Form::Tabs, ..) => Self::Separated(b'\t'),
            (Form::Parquet, Some(shape), _) => Self::Typed(schema(shape)),
            (Form::Parquet, None, Some(part)) => Self::Stored(job.part(part, stop)?),
            (Form::Parquet, None, None) => {
                let (types, note) = job.schema(stop)?;
                return Ok((Self::Typed(types), note));
            }
        };
        Ok((bytes, None))
    }
}

impl<'a> Export<'a> {
    fn new(job: &'a Job<'a>, target: &Target, options: ExportOptions<'a>) -> Result<Self> {
        job.check(&options)?;
        let template = options.prompt_template.as_deref();
        let template = template
            .map(|text| PromptTemplate::new(text, &job.columns))
            .transpose()?;
        let shape = job
            .source
            .filter(|_| !options.format.is_rows())
            .map(|source| Shape {
                format: options.format,
                source,
                conversational: options.conversational,
                margin: options.margin,
                template,
                model: job
                    .record
                    .spec
                    .model
                    .path
                    .file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            });
        let reads_texts = job.source.is_some_and(Source::reads_texts);
        let needs_prompts = match &shape {
            // The line of a request has its id, not its text.
            Some(shape) => shape.format != Format::OpenaiBatch || options.filters.dedup,
            None => options.filters.dedup,
        };
        let needs = Needs {
            is_kept: job.own.has("rendered_prompt") && !reads_texts,
            turns: shape.as_ref().is_some_and(Shape::has_turns),
        };
        let origin = needs_prompts
            .then(|| Origin::open(job.record, &needs, &options.stop))
            .transpose()?;
        let (origin, turns_note) = origin.unzip();
        let (bytes, note) = Bytes::new(job, target.form, shape.as_ref(), &options.stop)?;
        Ok(Self {
            job,
            bytes,
            sieve: Sieve::new(options.filters.clone()),
            options,
            shape,
            origin,
            left_out: LeftOut::default(),
            lines: 0,
            pairs: 0,
            lacks_scores: false,
            notes: note.into_iter().chain(turns_note.flatten()).collect(),
        })
    }

    /// Writes a file that has its name only once it is complete and its card tells of it: an export that is stopped
    /// before leaves a card at most, and the same command does it all.
    fn write_file(&mut self, target: &Target, file: &Path) -> Result<ExportReport> {
        let Some(claim) = fsio::claim(file)? else {
            return Err(Error::BeingWritten {
                path: file.to_path_buf(),
            }
            .into());
        };
        let came = || {
            refused(format!(
                "`{}` came while the export was written, which replaces no file\nhint: remove it, or give another `--output`",
                file.display()
            ))
        };
        if file.symlink_metadata().is_ok() {
            return Err(came());
        }
        claim.remove_leftovers(target.card.as_deref());
        let mut failure = None;
        let written = claim.write(|out| match self.write(out) {
            Ok(()) => Ok(()),
            Err(ExportError::Output(cause)) => Err(cause),
            Err(error) => {
                failure = Some(error);
                Err(io::Error::other("the export ended early"))
            }
        });
        let unnamed = match (failure, written) {
            (Some(error), _) => return Err(error),
            (None, written) => written?,
        };
        if file.symlink_metadata().is_ok() {
            // Its card is not ours to write.
            return Err(came());
        }
        // One export at a time tells of itself in the folder, and has its name there before the next one looks.
        let readme = target.readme.as_deref();
        let stop = &self.options.stop;
        let turn = readme.map(|readme| fsio::wait_for_claim(readme, stop));
        let turn = turn.transpose()?;
        if let Some(turn) = &turn {
            let turn = turn.as_ref().ok_or(Error::Interrupted)?;
            turn.remove_leftovers(None);
        }
        let mut report = self.report(Some(file));
        let card = Card {
            job: self.job,
            options: &self.options,
            target,
            report: &report,
            digest: unnamed.digest(),
        };
        let notes = card.write()?;
        report.notes.extend(notes);
        match unnamed.name()? {
            Some(_) => Ok(report),
            None => Err(came()),
        }
    }

    fn write(&mut self, out: &mut Out<'_>) -> Result<()> {
        let mut writer = self.writer(out)?;
        let job = self.job;
        for window in &job.windows {
            self.window(window, &mut writer)?;
        }
        writer.finish()
    }

    fn writer<'w>(&self, out: &'w mut Out<'w>) -> Result<Writer<'w>> {
        match &self.bytes {
            Bytes::Json => Ok(Writer::Json(out)),
            Bytes::Separated(separator) => {
                Writer::separated(out, *separator, self.job.columns.clone())
            }
            Bytes::Typed(types) => Writer::parquet(out, types.clone()),
            Bytes::Stored(part) => Writer::stored(out, part),
        }
    }

    fn window(&mut self, window: &CommittedWindow, writer: &mut Writer<'_>) -> Result<()> {
        let path = self.job.part(window, &self.options.stop)?;
        // The lines of a row lie together, and in one window.
        let mut of_row: Vec<PartLine> = Vec::new();
        for chunk in sink::read_chunks(&path, writer.wants_batches())? {
            if self.options.stop.is_requested() {
                return Err(Error::Interrupted.into());
            }
            let chunk = chunk?;
            if self.shape.is_none() {
                self.rows(chunk.lines, chunk.stored, writer)?;
                continue;
            }
            for line in chunk.lines {
                let is_next = |first: &PartLine| first.row.get("row") != line.row.get("row");
                if of_row.first().is_some_and(is_next) {
                    self.row(std::mem::take(&mut of_row), writer)?;
                }
                of_row.push(line);
            }
        }
        self.row(of_row, writer)
    }

    /// Writes result rows as they are.
    fn rows(
        &mut self,
        lines: Vec<PartLine>,
        stored: Option<RecordBatch>,
        writer: &mut Writer<'_>,
    ) -> Result<()> {
        let mut wanted = Vec::with_capacity(lines.len());
        for line in lines {
            let is_wanted = self.is_wanted(&line.row)? && self.passes(&line.row)?;
            wanted.push(is_wanted);
            if is_wanted {
                self.lines += 1;
                writer.row(line)?;
            }
        }
        if let Some(stored) = stored {
            let wanted = BooleanArray::from(wanted);
            let stored = filter_record_batch(&stored, &wanted)
                .map_err(|error| ExportError::from(sink::SinkError::from(error)))?;
            writer.stored_rows(&stored)?;
        }
        Ok(())
    }

    fn is_wanted(&mut self, row: &ResultRow) -> Result<bool> {
        let is_wanted = match &self.options.keep {
            Some(test) => (test.matches)(row)?,
            None => true,
        };
        if !is_wanted {
            self.left_out.add(Reason::Where);
        }
        Ok(is_wanted)
    }

    /// Whether the filters let a result row through.
    fn passes(&mut self, row: &ResultRow) -> Result<bool> {
        let Some(source) = self.job.source.filter(|_| self.options.filters.are_set()) else {
            return Ok(true);
        };
        if has_failed(row) {
            self.left_out.add(Reason::Failed);
            return Ok(false);
        }
        let texts = match &mut self.origin {
            Some(origin) => origin.of(row)?.unwrap_or_default(),
            None => Texts::default(),
        };
        let reading = Reading {
            source,
            own: &self.job.own,
            label: None,
        };
        let row = std::slice::from_ref(row);
        let mut items = items(&reading, row, texts, &mut self.left_out)?;
        self.sieve.sift(&mut items, &mut self.left_out);
        Ok(!items.answers.is_empty() || !items.pairs.is_empty())
    }

    /// Writes what a format makes of one row.
    fn row(&mut self, lines: Vec<PartLine>, writer: &mut Writer<'_>) -> Result<()> {
        let mut kept = Vec::new();
        for line in lines {
            if !self.is_wanted(&line.row)? {
                continue;
            }
            if !has_failed(&line.row) {
                kept.extend(self.job.own.flat(line.row));
            } else if self.options.format == Format::OpenaiBatch {
                let row = line.row.get("row").and_then(Value::as_u64);
                let text = |name: &str| line.row.get(name).and_then(Value::as_str);
                let (id, error) = (text("id"), text("error"));
                let line = failed_batch_line(
                    row.unwrap_or_default(),
                    id.unwrap_or_default(),
                    error.unwrap_or_default(),
                );
                self.lines += 1;
                writer.line(&line)?;
            } else {
                self.left_out.add(Reason::Failed);
            }
        }
        let (Some(shape), Some(first)) = (&self.shape, kept.first()) else {
            return Ok(());
        };
        let texts = match &mut self.origin {
            Some(origin) => origin.of(first)?,
            None => Some(Texts::default()),
        };
        let Some(texts) = texts else {
            self.left_out.add(Reason::NoPrompt);
            return Ok(());
        };
        let reading = Reading {
            source: shape.source,
            own: &self.job.own,
            label: self.options.label.as_ref(),
        };
        let mut items = items(&reading, &kept, texts, &mut self.left_out)?;
        if shape.source == Source::ScoredPair {
            // They are the same texts twice, and only one form of them is wanted.
            match shape.format {
                Format::TrlPreference => items.answers.clear(),
                // The second column is the worse one, which nothing should learn from.
                Format::TrlPromptCompletion => {
                    items.pairs.clear();
                    items.answers.retain(|answer| answer.label != Some(false));
                }
                _ => items.pairs.clear(),
            }
        }
        self.sieve.sift(&mut items, &mut self.left_out);
        self.lacks_scores |= items.answers.iter().any(|answer| answer.score.is_none());
        for line in shape.lines(items, &mut self.left_out)? {
            self.lines += 1;
            let answers = line.get("answers").and_then(Value::as_array);
            self.pairs += answers.map_or(0, |all| all.len().saturating_sub(1) as u64);
            writer.line(&line)?;
        }
        Ok(())
    }

    fn report(&self, file: Option<&Path>) -> ExportReport {
        ExportReport {
            lines: self.lines,
            file: file.map(Path::to_path_buf),
            left_out: self.left_out.in_words(),
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        let (done, all) = (self.job.windows.len(), self.job.record.input.windows.len());
        if done < all {
            notes.push(format!(
                "note: the job is not finished: these are the rows of {done} of its {}",
                counted(all as u64, "window")
            ));
        }
        if self.options.format != Format::Rlhf {
            return notes;
        }
        if self.lacks_scores {
            notes.push(
                "note: these answers have no scores: each line has one answer, with score 0"
                    .to_owned(),
            );
        }
        if self.lines < LEAST_RLHF_ROWS {
            notes.push(format!(
                "warning: {}: the trainers print {LEAST_RLHF_ROWS} rows at the start, and stop with an IndexError where there are fewer",
                counted(self.lines, "line")
            ));
        } else if self.pairs < LEAST_RLHF_ROWS && !self.lacks_scores {
            notes.push(format!(
                "warning: {}: the trainers of reward models and DPO print {LEAST_RLHF_ROWS} pairs at the start, and stop with an IndexError where there are fewer",
                counted(self.pairs, "pair")
            ));
        }
        notes
    }
}
