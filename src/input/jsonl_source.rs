//! The windows of JSON lines to rows, by the index that the first pass made.
//!
//! The reader keeps its place after each window, so that windows read in order unpack a file once.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::SchemaRef;
use rayon::prelude::*;

use super::built::Built;
use super::error::InputError;
use super::fields::Fields;
use super::json_rows::JsonRows;
use super::jsonl::fields;
use super::lines::{Lines, RowLine};
use super::partition;
use super::prompt::PromptBuilder;
use super::scan::MAX_WINDOW_BYTES;
use super::types::{
    Carried, HeldPrompt, InputIndex, InputRow, InputWindow, Place, Prompt, WindowSpan,
};
use super::{EachRow, PromptSource, TakePrompt};
use crate::ids::RowId;
use crate::job::Rules;
use crate::numbers::counted;
use crate::outcome::LeftOut;
use crate::stop::StopFlag;

/// Readers that wait for the window after their last one.
const KEPT_READERS: usize = 2;

/// Rows whose prompts are made at once where nothing else of them is wanted.
const PROMPTS_AT_ONCE: u64 = 256;

/// Reads windows of JSON lines.
pub(super) struct JsonlSource {
    index: Arc<InputIndex>,
    builder: PromptBuilder,
    max_row_bytes: u64,
    rules: Rules,
    /// The fields that folders give to the rows of each file.
    added: Arc<[partition::Fields]>,
    /// Readers that have just read a window, with their file.
    kept: Mutex<Vec<(u32, Lines)>>,
}

/// The lines of a window in one buffer, each with its file.
struct RawWindow {
    arena: Vec<u8>,
    lines: Vec<(u32, RowLine)>,
}

impl JsonlSource {
    pub(super) fn new(
        index: Arc<InputIndex>,
        builder: PromptBuilder,
        max_row_bytes: u64,
        rules: Rules,
    ) -> Self {
        Self {
            added: partition::fields(&index.files).into(),
            index,
            builder,
            max_row_bytes,
            rules,
            kept: Mutex::new(Vec::new()),
        }
    }

    fn path(&self, file: u32) -> Option<&Path> {
        self.index
            .files
            .get(file as usize)
            .map(|file| file.path.as_path())
    }

    fn failed(&self, file: u32, error: io::Error) -> InputError {
        if self.builder.stop().is_requested() {
            return InputError::Interrupted;
        }
        let path = self.path(file).map(Path::to_owned).unwrap_or_default();
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let what = "it ends before the place where rows were".to_owned();
            return InputError::Changed { path, what };
        }
        InputError::Io {
            path,
            source: error,
        }
    }

    /// A reader at the window's first line: a kept one that is not past it, else a new one.
    fn reader(&self, span: &WindowSpan, path: &Path) -> io::Result<Lines> {
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let best = kept
                .iter()
                .enumerate()
                .filter(|(_, (file, lines))| *file == span.file && lines.offset <= span.offset)
                .max_by_key(|(_, (_, lines))| lines.offset)
                .map(|(place, _)| place);
            best.map(|place| kept.swap_remove(place).1)
        };
        match kept {
            Some(mut lines) => lines.skip_to(span.offset, span.line).map(|()| lines),
            None => Lines::open_at(path, span.offset, span.line, self.builder.stop()),
        }
    }

    /// A reader at the window's first row in `file`.
    fn open_for(&self, span: &WindowSpan, file: u32, path: &Path) -> Result<Lines, InputError> {
        let opened = if file == span.file {
            self.reader(span, path)
        } else {
            Lines::open(path, None, self.builder.stop())
        };
        opened.map_err(|error| self.failed(file, error))
    }

    fn keep(&self, file: u32, lines: Lines) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_READERS {
            kept.remove(0);
        }
        kept.push((file, lines));
    }

    fn read_lines(&self, span: &WindowSpan) -> Result<RawWindow, InputError> {
        let mut raw = RawWindow {
            arena: Vec::with_capacity(self.bytes(span)),
            lines: Vec::with_capacity(span.rows as usize),
        };
        let mut at = Position {
            file: span.file,
            open: None,
        };
        self.read_on(span, &mut at, span.rows, &mut raw)?;
        self.leave(at);
        Ok(raw)
    }

    /// Bytes of a window's lines with all that is between them, where the next window tells; else 0.
    fn bytes(&self, span: &WindowSpan) -> usize {
        let next = self.index.windows.get(span.id.0 as usize + 1);
        let next = next.filter(|next| {
            next.file == span.file && next.first_row.0 == span.first_row.0 + span.rows
        });
        let bytes = next.map_or(0, |next| next.offset.saturating_sub(span.offset));
        // Of a line that is too long, only the beginning is kept.
        bytes.min(MAX_WINDOW_BYTES) as usize
    }

    /// Reads so many more rows of a window.
    fn read_on(
        &self,
        span: &WindowSpan,
        at: &mut Position,
        rows: u64,
        raw: &mut RawWindow,
    ) -> Result<(), InputError> {
        while (raw.lines.len() as u64) < rows {
            let file = at.file;
            let Some(path) = self.path(file) else {
                let what = format!(
                    "window {} ends before its {}",
                    span.id,
                    counted(span.rows, "row")
                );
                let path = self.path(span.file).map(Path::to_owned).unwrap_or_default();
                return Err(InputError::Changed { path, what });
            };
            let mut lines = match at.open.take() {
                Some(lines) => lines,
                None => self.open_for(span, file, path)?,
            };
            let next = lines
                .next_row(&mut raw.arena, self.max_row_bytes)
                .map_err(|error| self.failed(file, error))?;
            if let Some(line) = next {
                raw.lines.push((file, line));
                at.open = Some(lines);
            } else {
                at.file += 1;
            }
        }
        Ok(())
    }

    /// Keeps the reader for the rows that follow.
    fn leave(&self, at: Position) {
        if let Some(lines) = at.open {
            self.keep(at.file, lines);
        }
    }
}

/// Where a window is being read.
struct Position {
    file: u32,
    open: Option<Lines>,
}

/// Why the fields of a line are not read.
enum Unread {
    LeftOut(LeftOut),
    Bad(String),
}

impl JsonlSource {
    fn fields<'a>(
        &self,
        row: RowId,
        line: &RowLine,
        arena: &'a [u8],
    ) -> Result<Fields<'a>, Unread> {
        match self.builder.left_out(row) {
            Some(why) => Err(Unread::LeftOut(why)),
            None => fields(line, arena, self.max_row_bytes, self.rules).map_err(Unread::Bad),
        }
    }

    /// The prompt of a row that has one.
    fn prompt(&self, row: RowId, file: u32, line: &RowLine, arena: &[u8]) -> Option<Prompt> {
        let mut fields = self.fields(row, line, arena).ok()?;
        fields.add(&self.added[file as usize]);
        let is_result = self.index.is_result_file(file);
        self.builder.build(row, &fields, is_result).outcome.ok()
    }

    fn parse_row(&self, row: RowId, file: u32, line: &RowLine, arena: &[u8]) -> InputRow {
        let (built, is_record) = match self.fields(row, line, arena) {
            Err(Unread::LeftOut(why)) => (Built::left_out(row, why), false),
            Ok(mut fields) => {
                fields.add(&self.added[file as usize]);
                let is_result = self.index.is_result_file(file);
                (self.builder.build(row, &fields, is_result), true)
            }
            Err(Unread::Bad(reason)) => (Built::bad(row, reason), false),
        };
        let Built {
            id,
            reference,
            group,
            left_out,
            outcome,
        } = built;
        InputRow {
            row,
            place: Place::Line {
                file,
                line: line.line,
            },
            id,
            reference,
            group,
            is_record,
            left_out,
            outcome: outcome.map(HeldPrompt::from),
        }
    }
}

impl PromptSource for JsonlSource {
    fn read_rows(&self, span: &WindowSpan, each: EachRow<'_>) -> Result<InputWindow, InputError> {
        let raw = self.read_lines(span)?;
        let rows = raw
            .lines
            .par_iter()
            .enumerate()
            .map(|(position, (file, line))| {
                let row = RowId(span.first_row.0 + position as u64);
                let mut parsed = self.parse_row(row, *file, line, &raw.arena);
                each(position, &mut parsed);
                parsed
            })
            .collect();
        let lines = JsonRows::read(raw.arena, &raw.lines, self.rules, &self.added);
        Ok(InputWindow {
            id: span.id,
            rows,
            carried: Carried::Json(lines),
        })
    }

    /// A few rows at a time, and nothing of them but their prompts.
    fn read_prompts(&self, span: &WindowSpan, take: TakePrompt<'_>) -> Result<(), InputError> {
        let mut at = Position {
            file: span.file,
            open: None,
        };
        let mut raw = RawWindow {
            arena: Vec::new(),
            lines: Vec::new(),
        };
        let (mut row, end) = (span.first_row.0, span.first_row.0 + span.rows);
        while row < end {
            raw.arena.clear();
            raw.lines.clear();
            self.read_on(span, &mut at, (end - row).min(PROMPTS_AT_ONCE), &mut raw)?;
            let lines = raw.lines.par_iter().enumerate();
            let prompts = lines.map(|(place, (file, line))| {
                let row = RowId(row + place as u64);
                Some((row, self.prompt(row, *file, line, &raw.arena)?))
            });
            let prompts: Vec<_> = prompts.collect();
            for (row, prompt) in prompts.into_iter().flatten() {
                take(row, prompt);
            }
            row += raw.lines.len() as u64;
        }
        self.leave(at);
        Ok(())
    }

    fn keep_turns(&mut self) {
        self.builder.keep_turns();
    }

    fn stop_with(&mut self, stop: &StopFlag) {
        self.builder.stop_with(stop);
    }

    fn arrow_schema(&self) -> Option<SchemaRef> {
        None
    }
}
