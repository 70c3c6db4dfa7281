//! The lines of a window in one buffer, and the fields of a line, which are read from it when they are wanted.
//!
//! Fields that are held beside their lines take several times as much memory as the lines alone.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::fields::Fields;
use super::lines::RowLine;
use super::partition;
use crate::job::Rules;

/// JSON lines, one a row of a window.
#[derive(Clone, Debug)]
pub struct JsonRows {
    /// The lines without their ends, one behind the other; between them there may be bytes of no line.
    text: Vec<u8>,
    places: Vec<Place>,
    rules: Rules,
    /// The fields that folders give to the rows of each file.
    added: Arc<[partition::Fields]>,
}

/// Where a line is in the text, and the file that it came from.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    end: usize,
    file: u32,
}

impl JsonRows {
    /// These lines, in no folders that give fields.
    pub fn of<L: AsRef<[u8]>>(lines: impl IntoIterator<Item = L>) -> Self {
        let mut rows = Self {
            text: Vec::new(),
            places: Vec::new(),
            rules: Rules::CURRENT,
            added: Arc::default(),
        };
        for line in lines {
            rows.push(line.as_ref(), 0);
        }
        rows
    }

    /// The lines that were read into `text`, each with its file.
    pub(super) fn read(
        mut text: Vec<u8>,
        lines: &[(u32, RowLine)],
        rules: Rules,
        added: &Arc<[partition::Fields]>,
    ) -> Self {
        text.shrink_to_fit();
        let place = |(file, line): &(u32, RowLine)| Place {
            start: line.start,
            end: line.end,
            file: *file,
        };
        Self {
            text,
            places: lines.iter().map(place).collect(),
            rules,
            added: Arc::clone(added),
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it holds no rows.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The raw line of a row, without line end; not UTF-8 where the line is broken so.
    pub fn line(&self, position: usize) -> &[u8] {
        let Place { start, end, .. } = self.places[position];
        &self.text[start..end]
    }

    /// The fields of a row; none where the line holds no object.
    pub fn fields(&self, position: usize) -> JsonFields<'_> {
        let Ok(mut fields) = Fields::parse(self.line(position), self.rules) else {
            return JsonFields(Fields(Vec::new()));
        };
        if let Some(added) = self.added.get(self.places[position].file as usize) {
            fields.add(added);
        }
        JsonFields(fields)
    }

    fn push(&mut self, line: &[u8], file: u32) {
        let start = self.text.len();
        self.text.extend_from_slice(line);
        let end = self.text.len();
        self.places.push(Place { start, end, file });
    }

    /// The rows at `positions` alone, without the text of the others.
    pub(super) fn taken(&self, positions: &[u64]) -> Self {
        let mut taken = Self {
            text: Vec::new(),
            places: Vec::with_capacity(positions.len()),
            rules: self.rules,
            added: Arc::clone(&self.added),
        };
        taken.extend(self, positions);
        taken
    }

    /// Adds the rows at `positions` of others, which come from the same input.
    pub(super) fn extend(&mut self, others: &Self, positions: &[u64]) {
        let positions = || positions.iter().map(|&position| position as usize);
        let bytes = positions().map(|position| others.line(position).len());
        self.text.reserve_exact(bytes.sum());
        for position in positions() {
            self.push(others.line(position), others.places[position].file);
        }
    }
}

/// The fields of a line: as they are in it, the last one of equal names, and behind them those of its folders.
#[derive(Debug)]
pub struct JsonFields<'a>(Fields<'a>);

impl JsonFields<'_> {
    /// A value as the input has it; `None` where the record does not have it.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        let mut fields = self.iter();
        fields.find_map(|(known, value)| (known == name).then_some(value))
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        let fields = self.0.0.iter();
        fields.map(|(name, value)| (&**name, &**value))
    }
}
