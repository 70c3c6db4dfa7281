//! Solved rows to examples, and which of them go before a row's prompt.
//!
//! ```text
//! intro  separator  example 1  separator  ...  example k  separator  prompt
//! ```
//!
//! Invariant: which examples a row gets depends on the file of examples, the settings, the row and its number alone.
//!
//! # Source
//!
//! `eval_pretrain.py` and `data.py` of sunzeyeah/RLHF, C-Eval and MMLU, for the order of intro, examples and prompt. There
//! too the last example goes first where they do not fit, and the intro goes with the last of them.

use std::collections::{BTreeMap, HashMap};

use crate::generate::Draw;
use crate::ids::RowId;
use crate::input::{
    self, ExampleFile, ExampleOptions, InputError, InputFile, InputIndex, Prompt, SolvedRow,
};
use crate::job::{FewShotSpec, JobSpec, MaskToken, Rules, ShotOrder};
use crate::stop::StopFlag;

use super::TaskKind;

/// What keeps the draws of examples apart from those of answers, whose samples are counted from 0.
const DRAWS: u32 = u32::MAX;

/// The examples of a job.
pub(crate) struct Examples {
    few_shot: FewShotSpec,
    file: InputFile,
    all: Vec<Example>,
    /// Places in `all` by what `by` compares; one entry where it compares nothing.
    groups: BTreeMap<Option<String>, Vec<usize>>,
    /// Rows of the input at which a file with the bytes of the examples begins.
    begins: Vec<u64>,
}

struct Example {
    text: String,
    /// What the job would ask if it were a row of its own.
    question: Option<(String, Option<String>)>,
}

impl Examples {
    /// Reads the examples of a job; `None` where it has none.
    ///
    /// # Errors
    ///
    /// [`InputError::Examples`], [`InputError::Interrupted`].
    pub(crate) fn read(
        spec: &JobSpec,
        rules: Rules,
        stop: &StopFlag,
    ) -> Result<Option<Self>, InputError> {
        let Some(few_shot) = &spec.prompt.few_shot else {
            return Ok(None);
        };
        let options = ExampleOptions { spec, rules, stop };
        let ExampleFile { file, rows } = input::read_examples(few_shot, &options)?;
        let task = super::of(spec.task);
        let (mut all, mut groups) = (Vec::new(), BTreeMap::<_, Vec<usize>>::new());
        for row in rows {
            let text = text_of(task, spec, &row).map_err(|reason| InputError::Examples {
                path: few_shot.path.clone(),
                source: Box::new(InputError::BadExample {
                    place: row.place.clone(),
                    reason,
                }),
            })?;
            groups.entry(row.prompt.group).or_default().push(all.len());
            all.push(Example {
                text,
                question: row.question,
            });
        }
        Ok(Some(Self {
            few_shot: few_shot.clone(),
            file,
            all,
            groups,
            begins: Vec::new(),
        }))
    }

    /// Lets rows of this input not see themselves, where the file of examples is part of it.
    pub(crate) fn beside(&mut self, index: &InputIndex) {
        let mut begin = 0;
        for file in &index.files {
            if file.fingerprint == self.file.fingerprint {
                self.begins.push(begin);
            }
            begin += file.rows;
        }
    }

    /// What identifies the content of the file.
    pub(crate) fn file(&self) -> &InputFile {
        &self.file
    }

    /// Examples that each row gets where the file has so many for it.
    pub(crate) fn wanted(&self) -> usize {
        self.few_shot.n as usize
    }

    /// The examples of a row.
    pub(crate) fn of(&self, row: RowId, prompt: &Prompt) -> Shots<'_> {
        let group = self.groups.get(&prompt.group);
        let places = group.map_or(&[][..], Vec::as_slice);
        let others = |&at: &usize| !self.is_itself(at, row, prompt);
        let n = self.wanted();
        let chosen: Vec<usize> = match self.few_shot.order {
            ShotOrder::First => places.iter().copied().filter(others).take(n).collect(),
            ShotOrder::Random => {
                let drawn = Shuffled::new(places.len(), self.few_shot.seed, row);
                drawn.map(|at| places[at]).filter(others).take(n).collect()
            }
        };
        let text = |at: usize| self.all[at].text.as_str();
        Shots {
            texts: chosen.into_iter().map(text).collect(),
            separator: &self.few_shot.separator,
        }
    }

    /// Whether an example is the row, or asks what the row asks.
    fn is_itself(&self, example: usize, row: RowId, prompt: &Prompt) -> bool {
        let asks_the_same = match &self.all[example].question {
            Some((text, prefix)) => *text == prompt.text && *prefix == prompt.prefix,
            None => false,
        };
        let mut begins = self.begins.iter();
        asks_the_same || begins.any(|begin| begin + example as u64 == row.0)
    }
}

/// The text of an example.
fn text_of(task: &dyn TaskKind, spec: &JobSpec, row: &SolvedRow) -> Result<String, String> {
    let few_shot = spec.prompt.few_shot.as_ref();
    let text = match few_shot.and_then(|few_shot| few_shot.template.as_ref()) {
        Some(_) => row.prompt.text.clone(),
        None => task.solved(spec, &row.prompt, row.reference.as_ref())?,
    };
    let mask = masks(&text).next();
    match mask {
        None => Ok(text),
        Some((_, mask)) => Err(format!(
            "the example holds `{mask}`, which would be answered in the place of the prompt's own mask"
        )),
    }
}

/// A prompt with its answers: each in the place of a mask, or one behind a prompt without masks. A prefix has a line of
/// its own.
///
/// # Errors
///
/// Why there is no such text.
pub(super) fn with_answers(prompt: &Prompt, answers: &[&str]) -> Result<String, String> {
    let mut whole = prompt.text.clone();
    if let Some(prefix) = &prompt.prefix {
        whole.push('\n');
        whole.push_str(prefix);
    }
    if answers.iter().any(|answer| answer.is_empty()) {
        return Err("the answer of the example is empty".to_owned());
    }
    let found: Vec<(usize, &str)> = masks(&whole).collect();
    match (found.len(), answers) {
        (0, [answer]) => Ok(whole + answer),
        (count, _) if count == answers.len() => {
            let (mut text, mut from) = (String::new(), 0);
            for ((at, mask), answer) in found.iter().zip(answers) {
                text.push_str(&whole[from..*at]);
                text.push_str(answer);
                from = at + mask.len();
            }
            Ok(text + &whole[from..])
        }
        (count, _) => Err(format!(
            "the example has {} and {}",
            crate::numbers::counted(count as u64, "mask"),
            crate::numbers::counted(answers.len() as u64, "answer"),
        )),
    }
}

/// The masks in a text, left to right.
fn masks(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    const KINDS: [MaskToken; 3] = [MaskToken::Mask, MaskToken::Sentence, MaskToken::Generation];
    let starts = text.match_indices('[').map(|(at, _)| at);
    starts.filter_map(move |at| {
        let mut names = KINDS.iter().map(|kind| kind.as_str());
        let name = names.find(|name| text[at..].starts_with(name))?;
        Some((at, name))
    })
}

/// The examples of one row, in their order.
pub(crate) struct Shots<'a> {
    texts: Vec<&'a str>,
    separator: &'a str,
}

impl Shots<'_> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    /// A prompt with the first `kept` of them before it.
    pub(crate) fn before(&self, prompt: &Prompt, kept: usize) -> Prompt {
        let mut whole = prompt.clone();
        if kept == 0 {
            return whole;
        }
        let mut head = String::new();
        let parts = prompt.intro.as_deref().into_iter();
        for part in parts.chain(self.texts[..kept].iter().copied()) {
            head.push_str(part);
            head.push_str(self.separator);
        }
        whole.text.insert_str(0, &head);
        // The text is more than the conversation now.
        whole.turns.clear();
        for text in &mut whole.filled {
            text.insert_str(0, &head);
        }
        whole
    }
}

/// The numbers below a length in an order that the seed and the row decide: a shuffle that does only the steps that are
/// asked for.
struct Shuffled {
    next: usize,
    length: usize,
    /// What other numbers than their own are at places.
    moved: HashMap<usize, usize>,
    seed: u64,
    row: u64,
}

impl Shuffled {
    fn new(length: usize, seed: u64, row: RowId) -> Self {
        Self {
            next: 0,
            length,
            moved: HashMap::new(),
            seed,
            row: row.0,
        }
    }
}

impl Iterator for Shuffled {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let left = self
            .length
            .checked_sub(self.next)
            .filter(|left| *left > 0)?;
        let draw = Draw {
            seed: self.seed,
            row: self.row,
            sample: DRAWS,
            step: self.next as u32,
        };
        let ahead = (draw.uniform() * left as f64) as usize;
        let place = self.next + ahead.min(left - 1);
        let drawn = self.moved.get(&place).copied().unwrap_or(place);
        let here = self.moved.get(&self.next).copied().unwrap_or(self.next);
        self.moved.insert(place, here);
        self.next += 1;
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(text: &str, prefix: Option<&str>) -> Prompt {
        Prompt {
            text: text.to_owned(),
            prefix: prefix.map(str::to_owned),
            ..Prompt::default()
        }
    }

    #[test]
    fn answers_follow_the_prompt_or_take_the_places_of_its_masks() {
        let solved = |text, prefix, answers: &[&str]| with_answers(&prompt(text, prefix), answers);
        assert_eq!(solved("1+1=", None, &["2"]).unwrap(), "1+1=2");
        assert_eq!(solved("1+1", Some("is "), &["2"]).unwrap(), "1+1\nis 2");
        assert_eq!(
            solved("[MASK] [x] [gMASK]!", None, &["a", "b"]).unwrap(),
            "a [x] b!"
        );
        assert_eq!(solved("q", Some("[sMASK]."), &["a"]).unwrap(), "q\na.");
        assert_eq!(
            solved("[MASK][MASK]", None, &["a"]).unwrap_err(),
            "the example has 2 masks and 1 answer"
        );
        assert_eq!(
            solved("q", None, &["a", "b"]).unwrap_err(),
            "the example has 0 masks and 2 answers"
        );
        assert!(solved("q", None, &[""]).is_err());
    }

    #[test]
    fn a_shuffle_has_every_number_once_and_depends_on_seed_and_row() {
        let shuffled = |seed, row| Shuffled::new(20, seed, RowId(row)).collect::<Vec<_>>();
        let first = shuffled(7, 3);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        assert_eq!(first, shuffled(7, 3));
        assert_ne!(first, shuffled(8, 3));
        assert_ne!(first, shuffled(7, 4));
        assert_eq!(Shuffled::new(0, 7, RowId(3)).next(), None);
        // Each number comes first about as often.
        let mut counts = [0; 5];
        for row in 0..5000 {
            counts[Shuffled::new(5, 1, RowId(row)).next().unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_intro_goes_with_the_last_example() {
        let shots = Shots {
            texts: vec!["a", "b"],
            separator: "|",
        };
        let asked = Prompt {
            intro: Some("i".to_owned()),
            filled: vec!["q1".to_owned(), "q2".to_owned()],
            ..prompt("q", None)
        };
        assert_eq!(shots.before(&asked, 2).text, "i|a|b|q");
        assert_eq!(shots.before(&asked, 1).text, "i|a|q");
        assert_eq!(shots.before(&asked, 1).filled, ["i|a|q1", "i|a|q2"]);
        assert_eq!(shots.before(&asked, 0).text, "q");
    }
}
