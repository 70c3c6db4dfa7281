//! JSON lines: the first pass over a file, which reads and hashes one block of lines while rayon parses the block
//! before it. `jsonl_source` reads the windows that it finds.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::fields::{Fields, Seen as SeenTypes};
use super::lines::{Lines, RowLine, SharedHasher, Unread};
use super::nested::{Search, Seen};
use super::partition;
use super::prompt::PromptBuilder;
use super::types::{InputColumn, Place};
use super::windows::{Start, Windows};
use crate::ids::RowId;
use crate::job::Rules;
use crate::numbers::counted;
use crate::outcome::{BadRow, Stage};
use crate::stop::StopFlag;

/// Lines of a block are parsed while the next block is read.
const BLOCK_BYTES: usize = 1 << 20;

/// Lines that one task parses in the first pass.
const TASK_LINES: usize = 64;

/// Columns in order of first appearance.
#[derive(Default)]
pub(super) struct Columns {
    order: Vec<(String, SeenTypes)>,
    places: HashMap<String, usize>,
}

impl Columns {
    /// The column of this name. Lines mostly have the same keys in the same order: `guess` is where
    /// it would then be.
    fn entry(&mut self, guess: usize, name: &str) -> &mut SeenTypes {
        let place = if self
            .order
            .get(guess)
            .is_some_and(|(known, _)| known == name)
        {
            guess
        } else if let Some(place) = self.places.get(name) {
            *place
        } else {
            self.order.push((name.to_owned(), SeenTypes::default()));
            self.places.insert(name.to_owned(), self.order.len() - 1);
            self.order.len() - 1
        };
        &mut self.order[place].1
    }

    fn merge(&mut self, later: &Self) {
        for (guess, (name, seen)) in later.order.iter().enumerate() {
            self.entry(guess, name).merge(*seen);
        }
    }

    /// The columns with their types; where `exact`, no integer is rounded for the sake of other numbers.
    pub(super) fn finish(self, exact: bool) -> Vec<InputColumn> {
        self.order
            .into_iter()
            .map(|(name, seen)| InputColumn {
                name,
                kind: seen.kind(exact),
                mixed_at: seen.mixed_at(),
            })
            .collect()
    }
}

/// What the first pass gathers over all files.
pub(super) struct FirstPass<'a> {
    pub(super) windows: Windows,
    pub(super) columns: Columns,
    /// Where set, prompts are built until the first bad row.
    pub(super) builder: Option<&'a PromptBuilder>,
    /// Bytes that a line may have.
    pub(super) max_row_bytes: u64,
    pub(super) rules: Rules,
    /// Whether the file that is read has results of an earlier job.
    pub(super) is_result: bool,
    pub(super) first_bad: Option<(Place, BadRow)>,
    /// Paths into columns, looked for until a row has them.
    pub(super) searches: Vec<Search>,
    /// Says that the pass should end early; what it has by then is of no use.
    pub(super) stop: &'a StopFlag,
}

#[derive(Default)]
struct Block {
    arena: Vec<u8>,
    lines: Vec<RowLine>,
}

impl Block {
    fn read(lines: &mut Lines, max_row_bytes: u64) -> io::Result<Self> {
        let mut block = Self::default();
        while block.arena.len() < BLOCK_BYTES {
            match lines.next_row(&mut block.arena, max_row_bytes)? {
                Some(line) => block.lines.push(line),
                None => break,
            }
        }
        Ok(block)
    }
}

/// What some consecutive lines hold.
#[derive(Default)]
struct Facts {
    columns: Columns,
    /// One for each path that is looked for.
    seen: Vec<Seen>,
    first_bad: Option<(u64, BadRow)>,
}

impl FirstPass<'_> {
    /// Reads one file to its end and returns its rows; `added` are the fields that its folders give.
    pub(super) fn file(
        &mut self,
        path: &Path,
        file: u32,
        added: &partition::Fields,
        hasher: Option<SharedHasher>,
    ) -> io::Result<u64> {
        let before = self.windows.rows();
        let most = self.max_row_bytes;
        let mut lines = Lines::open(path, hasher, self.stop)?;
        let mut block = Block::read(&mut lines, most)?;
        while !block.lines.is_empty() && !self.stop.is_requested() {
            let examiner = Examiner {
                first_row: self.windows.rows(),
                is_result: self.is_result,
                builder: self.builder.filter(|_| self.first_bad.is_none()),
                searches: &self.searches,
                added,
                max_row_bytes: most,
                rules: self.rules,
                stop: self.stop,
            };
            let (facts, next) =
                rayon::join(|| examiner.block(&block), || Block::read(&mut lines, most));
            self.take(&block, file, facts);
            block = next?;
        }
        Ok(self.windows.rows() - before)
    }

    fn take(&mut self, block: &Block, file: u32, facts: Vec<Facts>) {
        for line in &block.lines {
            let start = Start {
                file,
                offset: line.offset,
                line: line.line,
                row_group: 0,
            };
            self.windows.push(start, 1, line.bytes);
        }
        for fact in facts {
            self.columns.merge(&fact.columns);
            for (search, seen) in self.searches.iter_mut().zip(fact.seen) {
                search.seen.merge(seen);
            }
            if let (None, Some((line, bad))) = (&self.first_bad, fact.first_bad) {
                self.first_bad = Some((Place::Line { file, line }, bad));
            }
        }
    }
}

/// What the first pass asks of each line.
struct Examiner<'a> {
    /// Number of the first line's row.
    first_row: u64,
    /// Whether the lines are results of an earlier job.
    is_result: bool,
    builder: Option<&'a PromptBuilder>,
    searches: &'a [Search],
    added: &'a partition::Fields,
    max_row_bytes: u64,
    rules: Rules,
    stop: &'a StopFlag,
}

impl Examiner<'_> {
    fn block(&self, block: &Block) -> Vec<Facts> {
        block
            .lines
            .par_chunks(TASK_LINES)
            .enumerate()
            .map(|(task, lines)| {
                let mut facts = Facts {
                    seen: vec![Seen::default(); self.searches.len()],
                    ..Facts::default()
                };
                let first = self.first_row + (task * TASK_LINES) as u64;
                for (line, row) in lines.iter().zip(first..) {
                    // A template may take long; what is gathered so far is of no use then.
                    if self.stop.is_requested() {
                        break;
                    }
                    let bad = self.line(RowId(row), line, &block.arena, &mut facts);
                    if let (None, Some(bad)) = (&facts.first_bad, bad) {
                        facts.first_bad = Some((line.line, bad));
                    }
                }
                facts
            })
            .collect()
    }

    /// Adds what a line holds; returns why it is bad, as far as that is asked.
    fn line(&self, row: RowId, line: &RowLine, arena: &[u8], facts: &mut Facts) -> Option<BadRow> {
        let is_left_out = || self.builder?.left_out(row);
        let bad = |reason| BadRow {
            stage: Stage::Input,
            reason,
        };
        let mut fields = match fields(line, arena, self.max_row_bytes, self.rules) {
            Ok(fields) => fields,
            Err(_) if is_left_out().is_some() => return None,
            Err(reason) => return Some(bad(reason)),
        };
        for (guess, (name, value)) in fields.0.iter().enumerate() {
            facts.columns.entry(guess, name).add(row, value);
        }
        for (search, seen) in self.searches.iter().zip(&mut facts.seen) {
            if !search.seen.is_found {
                seen.look(&search.named, &fields);
            }
        }
        let builder = self.builder.filter(|_| is_left_out().is_none())?;
        fields.add(self.added);
        let built = builder.build(row, &fields, self.is_result);
        built.outcome.err().filter(|_| built.left_out.is_none())
    }
}

/// The fields of a line, or the reason for the bad row.
pub(super) fn fields<'a>(
    line: &RowLine,
    arena: &'a [u8],
    max_row_bytes: u64,
    rules: Rules,
) -> Result<Fields<'a>, String> {
    match line.unread {
        None => Fields::parse(&arena[line.start..line.end], rules),
        Some(Unread::TooLong(bytes)) => Err(format!(
            "the line has {bytes} bytes, more than `input.max_row_bytes` = {max_row_bytes}; its beginning is kept"
        )),
        Some(Unread::Ragged { fields, columns }) => Err(format!(
            "the row has {}, and the first line has {columns}; put a field that holds a separator or a line end in quotes",
            counted(fields.into(), "field")
        )),
        Some(Unread::StrayQuote) => Err(
            "a field goes on behind its closing quote; write a quote inside a quoted field twice"
                .to_owned(),
        ),
    }
}
