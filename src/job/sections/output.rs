//! `[output]`: where results go and in which form.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Section;
use crate::job::flaw::{Checked, Flaw, not_empty};
use crate::job::hint::nearest;
use crate::job::paths;
use crate::job::values::{AllWord, NumberOr, OneOrMany, TextsVisitor, all_or_number};

/// Where results go and in which form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Folder of the results.
    pub path: PathBuf,
    /// File format of the parts.
    #[serde(default)]
    pub format: OutputFormat,
    /// Input columns to carry through: `all`, `none` or a list of names.
    #[serde(default)]
    pub columns: CarriedColumns,
    /// Carried columns under another name: `{ from = "to" }`.
    #[serde(default, deserialize_with = "renames")]
    #[schemars(with = "BTreeMap<String, String>", extend("default" = {}))]
    pub rename: Vec<(String, String)>,
    /// Layout of several samples.
    #[serde(default)]
    pub samples: SampleLayout,
    /// Also write the answer's token ids.
    #[serde(default)]
    pub token_ids: bool,
    /// Also write the prompt and the prefix that the model was given.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub prompt: bool,
    /// More failed rows than this in a shard end the run with exit code 3.
    #[serde(default, deserialize_with = "all_or_number")]
    #[schemars(with = "NumberOr<AllWord>")]
    pub max_failed: Option<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

/// File format of the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Apache Parquet.
    #[default]
    Parquet,
    /// JSON lines.
    Jsonl,
}

impl OutputFormat {
    /// Ending of a part's file name, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
        }
    }
}

/// Input columns that are carried through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CarriedColumns {
    /// Every column.
    #[default]
    All,
    /// No column.
    None,
    /// These columns.
    Names(Vec<String>),
}

/// Layout of several samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SampleLayout {
    /// A line a sample, column `sample`.
    #[default]
    Flat,
    /// A line a row, list columns.
    Nested,
}

impl Section for OutputSpec {
    const NAME: &'static str = "output";

    fn check(&mut self, base: &Path) -> Checked<()> {
        if let CarriedColumns::Names(names) = &self.columns {
            for (at, name) in names.iter().enumerate() {
                not_empty("columns", Some(name))?;
                if names[..at].contains(name) {
                    return Err(Flaw::new("columns", format!("names `{name}` twice")));
                }
            }
        }
        check_renames(&self.rename, &self.columns)?;
        self.path = paths::absolute("path", &self.path, base)?;
        Ok(())
    }
}

fn check_renames(rename: &[(String, String)], columns: &CarriedColumns) -> Checked<()> {
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

/// Reads a table of names, which `job.json` has as a list of pairs.
fn renames<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<(String, String)>, D::Error> {
    struct RenamesVisitor;

    impl<'de> Visitor<'de> for RenamesVisitor {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut sorted = BTreeMap::new();
            while let Some((from, to)) = map.next_entry()? {
                sorted.insert(from, to);
            }
            Ok(sorted.into_iter().collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = items.next_element()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }

    // As of a struct: the reader of a job file takes no lists for these.
    reader.deserialize_struct("Renames", &[], RenamesVisitor)
}

impl Serialize for CarriedColumns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CarriedColumns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(COLUMNS)? {
            OneOrMany::Many(names) => Ok(Self::Names(names)),
            OneOrMany::One(word) if word == "all" => Ok(Self::All),
            OneOrMany::One(word) if word == "none" => Ok(Self::None),
            OneOrMany::One(word) => Err(de::Error::invalid_value(Unexpected::Str(&word), &COLUMNS)),
        }
    }
}

const COLUMNS: TextsVisitor = TextsVisitor {
    expecting: "`\"all\"`, `\"none\"` or a list of column names",
};

impl JsonSchema for CarriedColumns {
    fn schema_name() -> Cow<'static, str> {
        "CarriedColumns".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "enum": ["all", "none"] },
                { "type": "array", "items": { "type": "string" } },
            ],
        })
    }
}
