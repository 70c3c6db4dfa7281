//! A job given by flags instead of a file: `run --model DIR --input FILE --output DIR`.
//!
//! The flags and `--set` make the same tree that a job file makes, so that both go through the same checks, and
//! the tree is written as the job file that the run keeps in its output folder. Invariant: the kept file, read from
//! that folder, gives the same job. Paths in it are absolute, except the output folder, which is `.`: the
//! folder may be moved.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::error::{Hint, Place, SpecError};
use super::spec::{JobFile, Origin, VERSION};
use super::tree::environment::expand_environment;
use super::tree::reader;
use super::tree::set::apply_override;
use super::tree::{Entry, Node, Value};
use super::{InputSpec, JobSpec, Unfinished, flaw, later, parse, paths, problem};

/// Keys that have a flag of their own, each with that flag: `--set` would start its relative path elsewhere.
const OWN_FLAGS: [(&str, &str); 3] = [
    ("model.path", "--model"),
    ("input.path", "--input"),
    ("output.path", "--output"),
];

/// What messages give as the name of the job file.
const SOURCE: &str = "the command line";

/// How the file begins that a run keeps in its output folder.
const KEPT_MARK: &str = "# glm-batch wrote this file:";

/// Whether the text of a job file is that of one which a run keeps in its output folder.
pub(crate) fn is_kept(text: &str) -> bool {
    text.starts_with(KEPT_MARK)
}

/// The flags that replace a job file.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobFlags {
    /// `--model`
    pub model: PathBuf,
    /// `--input`, once or several times.
    pub inputs: Vec<String>,
    /// `--output`
    pub output: PathBuf,
    /// `--prompt-column`
    pub prompt_column: Option<String>,
}

/// A job that is given by flags.
#[derive(Clone, Debug)]
pub(crate) struct FlagJob {
    tree: Node,
    base: PathBuf,
}

impl FlagJob {
    /// Reads flags and `--set` arguments; relative paths start at `base`.
    ///
    /// # Errors
    ///
    /// [`SpecError`]: a path that cannot be one, an argument that is not `key=value`, a key with a flag of its own.
    pub(crate) fn new(flags: &JobFlags, set: &[String], base: &Path) -> Result<Self, SpecError> {
        let mut tree = table(Vec::new());
        let path = |key: &str, path: &Path| {
            let text = path.to_str().ok_or_else(|| {
                flaw::Flaw::new(key, "is not UTF-8").hint("rename it: a job file is UTF-8")
            })?;
            paths::absolute(key, Path::new(text), base).map(|path| escaped(&path.to_string_lossy()))
        };
        let wrong = |flaw: flaw::Flaw| flaw.into_error(&table(Vec::new()));
        let model = path("model.path", &flags.model).map_err(wrong)?;
        let output = path("output.path", &flags.output).map_err(wrong)?;
        let inputs = paths::inputs("input.path", flags.inputs.clone(), base).map_err(wrong)?;
        let name = Path::new(&output).file_name().unwrap_or_default();
        put(&mut tree, "version", Value::Integer(VERSION.into()));
        put(&mut tree, "name", text(name.to_string_lossy()));
        put(&mut tree, "model.path", text(model));
        let inputs: Vec<Node> = inputs
            .iter()
            .map(|path| node(text(escaped(path))))
            .collect();
        let input = match <[Node; 1]>::try_from(inputs) {
            Ok([one]) => one.value,
            Err(many) => Value::Array(many),
        };
        put(&mut tree, "input.path", input);
        if let Some(column) = &flags.prompt_column {
            put(&mut tree, "input.columns.prompt", text(escaped(column)));
        }
        put(&mut tree, "output.path", text(output));
        for argument in set {
            apply_override(&mut tree, argument)?;
        }
        refuse_own_flags(&tree)?;
        Ok(Self {
            tree,
            base: base.to_path_buf(),
        })
    }

    /// Whether nothing says yet where prompts come from.
    pub(crate) fn lacks_prompt(&self) -> bool {
        [
            "input.columns.prompt",
            "input.columns.messages",
            "prompt.template",
        ]
        .iter()
        .all(|key| self.tree.find(key).is_none())
    }

    /// Takes prompts from a column.
    pub(crate) fn set_prompt_column(&mut self, name: &str) {
        put(&mut self.tree, "input.columns.prompt", text(escaped(name)));
    }

    /// The input, so far as it must be known to look for columns, and the output folder, which is not an input.
    ///
    /// # Errors
    ///
    /// [`SpecError`]: an environment variable that is not set.
    pub(crate) fn paths(&self) -> Result<(InputSpec, PathBuf), SpecError> {
        let mut tree = self.tree.clone();
        expand_environment(&mut tree, &|name| std::env::var(name).ok())?;
        let texts = |node: &Node| match &node.value {
            Value::Array(items) => items
                .iter()
                .filter_map(Node::as_str)
                .map(str::to_owned)
                .collect(),
            _ => node.as_str().map(str::to_owned).into_iter().collect(),
        };
        let mut input = InputSpec::of(tree.find("input.path").map(texts).unwrap_or_default());
        let unfinished = tree.find("input.unfinished").and_then(Node::as_str);
        if unfinished == Some("allow") {
            input.unfinished = Unfinished::Allow;
        }
        let output = tree.find("output.path").and_then(Node::as_str);
        Ok((input, output.unwrap_or_default().into()))
    }

    /// The job.
    ///
    /// # Errors
    ///
    /// As [`load`](super::load).
    pub(crate) fn spec(&self) -> Result<JobSpec, SpecError> {
        let mut tree = self.tree.clone();
        expand_environment(&mut tree, &|name| std::env::var(name).ok())?;
        later::refuse(&tree)?;
        let file: JobFile = reader::read(&tree).map_err(problem::Problem::into_error)?;
        let origin = Origin {
            source: SOURCE,
            base: &self.base,
            is_kept: true,
        };
        file.check(&tree, &origin)
    }

    /// Says which argument gave a key of the job.
    pub(crate) fn place_of(&self, key: &str) -> Option<Place> {
        let place = self.tree.place_of(key);
        place.filter(|place| matches!(place, Place::Set { .. }))
    }

    /// The job as the text of the file that is kept in the output folder.
    ///
    /// # Errors
    ///
    /// As [`spec`](Self::spec); this text is read as the next run will read it.
    pub(crate) fn text(&self, output: &Path) -> Result<String, SpecError> {
        let mut tree = self.tree.clone();
        put(&mut tree, "output.path", text("."));
        // A value of `--set` such as `2024` may be a number or a text. The key decides, so the reader is asked.
        let mut asked = 0;
        loop {
            let written = written(&tree);
            match parse(&written, "job.toml", output, &[]) {
                Err(SpecError::WrongType { key, .. }) if asked < MOST_QUESTIONS => {
                    asked += 1;
                    if !take_raw(&mut tree, &key) {
                        return self.spec().map(|_| written);
                    }
                }
                Err(error) => return Err(error),
                Ok(_) => return Ok(written),
            }
        }
    }
}

/// More `--set` values than any command has.
const MOST_QUESTIONS: usize = 10_000;

/// Puts the text in place of the value that was read of it; false where there is no such value.
fn take_raw(tree: &mut Node, key: &str) -> bool {
    let mut node = tree;
    for part in key.split('.') {
        let Value::Table(entries) = &mut node.value else {
            return false;
        };
        let Some(entry) = entries.iter_mut().find(|entry| entry.key == part) else {
            return false;
        };
        node = &mut entry.node;
    }
    match node.raw.take() {
        Some(raw) => {
            node.value = Value::String(raw);
            true
        }
        None => false,
    }
}

fn refuse_own_flags(tree: &Node) -> Result<(), SpecError> {
    for (key, flag) in OWN_FLAGS {
        let place = tree.find(key).and_then(|node| node.place.clone());
        if let Some(place @ Place::Set { .. }) = place {
            return Err(SpecError::Invalid {
                place,
                key: key.into(),
                reason: format!("is what `{flag}` gives"),
                hint: Hint::some(format!("give the path with `{flag}`")),
            });
        }
    }
    Ok(())
}

fn node(value: Value) -> Node {
    let place = Place::File {
        source: SOURCE.into(),
    };
    Node::new(Some(place), value)
}

fn table(entries: Vec<Entry>) -> Node {
    node(Value::Table(entries))
}

fn text(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// A text in which nothing is replaced by an environment variable.
fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// Puts a value under a dotted key of a tree that has tables above it.
fn put(tree: &mut Node, key: &str, value: Value) {
    let Value::Table(entries) = &mut tree.value else {
        return;
    };
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let at = entries.iter().position(|entry| entry.key == first);
    let at = at.unwrap_or_else(|| {
        let node = table(Vec::new());
        let (key, place) = (first.to_owned(), node.place.clone());
        entries.push(Entry { key, place, node });
        entries.len() - 1
    });
    match rest {
        Some(rest) => put(&mut entries[at].node, rest, value),
        None => entries[at].node = node(value),
    }
}

/// A tree as TOML: what has no section, then one section a table.
fn written(tree: &Node) -> String {
    let mut text = format!(
        "{KEPT_MARK} it is the job of this folder.\n# `glm-batch run` with this file goes on with it.\n\n"
    );
    let Value::Table(entries) = &tree.value else {
        return text;
    };
    let is_section = |entry: &&Entry| matches!(entry.node.value, Value::Table(_));
    for entry in entries.iter().filter(|entry| !is_section(entry)) {
        write_entry(&mut text, entry);
    }
    for section in entries.iter().filter(is_section) {
        let _ = writeln!(text, "\n[{}]", written_key(&section.key));
        let Value::Table(entries) = &section.node.value else {
            continue;
        };
        for entry in entries {
            write_entry(&mut text, entry);
        }
    }
    text
}

fn write_entry(text: &mut String, entry: &Entry) {
    let (key, value) = (written_key(&entry.key), written_value(&entry.node.value));
    let _ = writeln!(text, "{key} = {value}");
}

fn written_key(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        toml::Value::from(key).to_string()
    }
}

fn written_value(value: &Value) -> String {
    match value {
        // TOML has no null, so no text of a job holds one.
        Value::Null => "\"\"".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => toml::Value::from(*value).to_string(),
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        Value::Datetime(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| written_value(&item.value))
                .collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(entries) => {
            let pairs: Vec<String> = entries
                .iter()
                .map(|entry| {
                    let (key, value) = (written_key(&entry.key), written_value(&entry.node.value));
                    format!("{key} = {value}")
                })
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> JobFlags {
        JobFlags {
            model: "models/glm".into(),
            inputs: vec!["questions.jsonl".into()],
            output: "out/answers".into(),
            prompt_column: Some("question".into()),
        }
    }

    fn read(set: &[&str]) -> (JobSpec, JobSpec, String) {
        let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
        let job = FlagJob::new(&flags(), &set, Path::new("/data")).unwrap();
        let text = job.text(Path::new("/data/out/answers")).unwrap();
        let kept = parse(&text, "job.toml", Path::new("/data/out/answers"), &[]).unwrap();
        (job.spec().unwrap(), kept, text)
    }

    #[test]
    fn the_kept_file_gives_the_same_job() {
        for set in [
            &[][..],
            &["generation.top_p=0.9", "generation.do_sample=true"],
            &["name=2024", "prompt.mask=[gMASK]", "prompt.prefix=7"],
            &[
                "generation.stop=[\"a\", \"b\\nc\"]",
                "output.rename={ a = \"b.c\" }",
            ],
            &["output.rename.\"a b\"=x", "batch.max_batch_size=auto"],
            &["prompt.template={{ question }}\n\"\\ ende"],
            &[
                "generation.temperature=1e-3",
                "output.columns=[question, id]",
            ],
            &["generation.temperature=2"],
        ] {
            let (spec, kept, text) = read(set);
            assert_eq!(kept, spec, "{text}");
            assert_eq!(spec.output.path, Path::new("/data/out/answers"));
        }
    }

    #[test]
    fn the_kept_file_reads_as_a_person_would_write_it() {
        let (_, _, text) = read(&["generation.max_new_tokens=24"]);
        let (_, job) = text.split_once("\n\n").unwrap();
        assert_eq!(
            job,
            "version = 1\nname = \"answers\"\n\n[model]\npath = \"/data/models/glm\"\n\n[input]\n\
             path = \"/data/questions.jsonl\"\ncolumns = { prompt = \"question\" }\n\n[output]\n\
             path = \".\"\n\n[generation]\nmax_new_tokens = 24\n"
        );
    }

    #[test]
    fn a_dollar_in_a_path_is_no_variable() {
        let flags = JobFlags {
            model: "a${NOT_SET}".into(),
            ..flags()
        };
        let job = FlagJob::new(&flags, &[], Path::new("/data")).unwrap();
        assert_eq!(
            job.spec().unwrap().model.path,
            Path::new("/data/a${NOT_SET}")
        );
    }

    #[test]
    fn a_path_has_its_flag_alone() {
        let set = ["input={ path = \"x\" }".to_owned()];
        let error = FlagJob::new(&flags(), &set, Path::new("/data")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("hint: give the path with `--input`"),
            "{error}"
        );
    }
}
