//! `task = "preference"`: samples answers, ranks them, and writes pairs of a better and a worse one.
//!
//! ```text
//! row -> phase `samples` -> phase `rewards` -> Contender, one a sample -> pairs_of -> RowResult, a pair a line
//!        `generate`         `reward`           its text and its score
//! ```
//!
//! The phases are jobs of other tasks; here is what becomes of what they found. Pure: a row's pairs follow from its
//! answers and scores alone.

use std::cmp::Ordering;

use crate::job::{JobSpec, Pairs, PreferenceSpec};
use crate::numbers::{counted, grouped};
use crate::outcome::{Cell, Measured, RowResult, Sums};
use crate::sink::{Column, Kind};

use super::{Fact, JobTask, TaskError, TaskJob, TaskKind, generate};

/// The task.
pub(crate) static TASK: Preference = Preference;

/// `task = "preference"`.
#[derive(Debug)]
pub(crate) struct Preference;

/// Places of a pair's values.
const PAIR: usize = 0;
const CHOSEN: usize = 1;
const REJECTED: usize = 2;
const CHOSEN_SCORE: usize = 3;
const REJECTED_SCORE: usize = 4;
const MARGIN: usize = 5;
const CHOSEN_SAMPLE: usize = 6;
const REJECTED_SAMPLE: usize = 7;
const VALUES: usize = 8;

/// Place of the reason, and of the number of answers that were left out, which is no column.
const NO_PAIR: usize = 0;
const LEFT_OUT: usize = 1;

static COLUMNS: &[Column] = &[
    Column::of_sample("pair", PAIR, Kind::Int32),
    Column::of_sample("chosen", CHOSEN, Kind::Text),
    Column::of_sample("rejected", REJECTED, Kind::Text),
    Column::of_sample("chosen_score", CHOSEN_SCORE, Kind::Float32),
    Column::of_sample("rejected_score", REJECTED_SCORE, Kind::Float32),
    Column::of_sample("margin", MARGIN, Kind::Float32),
    Column::of_sample("chosen_sample", CHOSEN_SAMPLE, Kind::Int32),
    Column::of_sample("rejected_sample", REJECTED_SAMPLE, Kind::Int32),
    Column::of_row("no_pair", NO_PAIR, Kind::Text),
    Column::PROMPT_TOKENS,
];

impl TaskKind for Preference {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn is_nested(&self, _: &JobSpec) -> bool {
        false
    }

    /// What it asks of the model is what its first phase does.
    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError> {
        generate::TASK.open(job)
    }

    fn example(&self, result: &RowResult) -> Option<[String; 2]> {
        let RowResult::Measured(measured) = result else {
            return None;
        };
        let first = measured.samples.first()?;
        match (first.get(CHOSEN)?, first.get(REJECTED)?) {
            (Cell::Text(chosen), Cell::Text(rejected)) => Some([chosen.clone(), rejected.clone()]),
            _ => None,
        }
    }

    fn count(&self, result: &RowResult, sums: &mut Sums) {
        let RowResult::Measured(measured) = result else {
            return;
        };
        if let Some(Cell::Int(left_out)) = measured.row.get(LEFT_OUT) {
            sums.add("left out", f64::from(*left_out));
        }
        if let Some(Cell::Text(reason)) = measured.row.get(NO_PAIR) {
            sums.add("rows without", 1.0);
            sums.add(&without(reason), 1.0);
            return;
        }
        sums.add("rows", 1.0);
        for pair in &measured.samples {
            sums.add("pairs", 1.0);
            if let Some(Cell::Float(margin)) = pair.get(MARGIN) {
                sums.add("margin", f64::from(*margin));
            }
        }
    }

    fn summary(&self, sums: &Sums) -> Vec<Fact> {
        let count = |name: &str| sums.get(name) as u64;
        let fact = |name: &str, text: String| Fact {
            name: name.to_owned(),
            text,
        };
        let mut facts = Vec::new();
        let pairs = count("pairs");
        if pairs > 0 {
            let rows = counted(count("rows"), "row");
            let margin = sums.get("margin") / sums.get("pairs");
            let text = format!("{} from {rows}, mean margin {margin:.4}", grouped(pairs));
            facts.push(fact("pairs", text));
        }
        let all = count("rows without");
        if all > 0 {
            let reasons = NoPair::ALL.iter().filter_map(|reason| {
                let rows = count(&without(reason.words()));
                (rows > 0).then(|| format!("{} {}", grouped(rows), reason.words()))
            });
            let reasons: Vec<String> = reasons.collect();
            let text = format!("{}: {}", counted(all, "row"), reasons.join(", "));
            facts.push(fact("no pair", text));
        }
        let left_out = count("left out");
        if left_out > 0 {
            let answers = counted(left_out, "answer");
            facts.push(fact(
                "left out",
                format!("{answers} without a text or a score"),
            ));
        }
        facts
    }
}

/// Name of the sum of rows without a pair for a reason.
fn without(reason: &str) -> String {
    format!("without, {reason}")
}

/// An answer that may be in a pair.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contender {
    /// Its text.
    pub text: String,
    /// What it is ranked by; `None` where that is not known.
    pub score: Option<f32>,
}

/// Why a row has no pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPair {
    /// Fewer than two answers have a text and a score.
    TooFew,
    /// All answers have one text.
    AllEqual,
    /// Different answers, all of one score.
    Tie,
    /// No two scores differ by more than the margin.
    UnderTheMargin,
    /// Nothing that the answers could be compared with.
    NoReference,
}

impl NoPair {
    const ALL: [Self; 5] = [
        Self::TooFew,
        Self::AllEqual,
        Self::Tie,
        Self::UnderTheMargin,
        Self::NoReference,
    ];

    /// As the results have it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::TooFew => "fewer than two answers left",
            Self::AllEqual => "all equal",
            Self::Tie => "tie",
            Self::UnderTheMargin => "under the margin",
            Self::NoReference => "no reference",
        }
    }
}

/// An answer in its rank.
#[derive(Clone, Copy, Debug)]
struct Ranked<'a> {
    sample: usize,
    text: &'a str,
    score: f32,
}

/// The result of a row whose answers are these, in the order of the samples.
pub(crate) fn row_result(
    prompt_tokens: u32,
    contenders: &[Contender],
    preference: &PreferenceSpec,
) -> RowResult {
    let left_out = contenders.iter().filter(|one| !is_fit(one)).count();
    let (samples, reason) = match pairs_of(contenders, preference) {
        Ok(pairs) => {
            let numbered = pairs.iter().enumerate();
            let cells = numbered.map(|(number, pair)| pair_cells(number, pair));
            (cells.collect(), Cell::Null)
        }
        Err(reason) => (no_pair_cells(), Cell::Text(reason.words().to_owned())),
    };
    measured(prompt_tokens, samples, reason, left_out)
}

/// The result of a row that cannot have a pair, independent of its answers.
pub(crate) fn row_without(prompt_tokens: u32, reason: NoPair) -> RowResult {
    let reason = Cell::Text(reason.words().to_owned());
    measured(prompt_tokens, no_pair_cells(), reason, 0)
}

fn measured(
    prompt_tokens: u32,
    samples: Vec<Vec<Cell>>,
    reason: Cell,
    left_out: usize,
) -> RowResult {
    RowResult::Measured(Measured {
        prompt_tokens,
        truncated: 0,
        row: vec![reason, Cell::Int(left_out as i32)],
        samples,
    })
}

/// The one line of a row without a pair.
fn no_pair_cells() -> Vec<Vec<Cell>> {
    vec![vec![Cell::Null; VALUES]]
}

fn pair_cells(number: usize, (chosen, rejected): &(Ranked<'_>, Ranked<'_>)) -> Vec<Cell> {
    vec![
        Cell::Int(number as i32),
        Cell::Text(chosen.text.to_owned()),
        Cell::Text(rejected.text.to_owned()),
        Cell::Float(chosen.score),
        Cell::Float(rejected.score),
        Cell::Float(chosen.score - rejected.score),
        Cell::Int(chosen.sample as i32),
        Cell::Int(rejected.sample as i32),
    ]
}

/// Whether an answer may be in a pair.
fn is_fit(contender: &Contender) -> bool {
    !contender.text.trim().is_empty() && contender.score.is_some_and(f32::is_finite)
}

/// The pairs of a row, the better answer first, or why there are none.
///
/// Answers with one text count once, as the first sample that has it. The rank is by falling score, and by the number
/// of the sample where scores are equal; the worst answer is the first one of the lowest score.
fn pairs_of<'a>(
    contenders: &'a [Contender],
    preference: &PreferenceSpec,
) -> Result<Vec<(Ranked<'a>, Ranked<'a>)>, NoPair> {
    let fit = contenders.iter().enumerate().filter(|(_, one)| is_fit(one));
    let mut ranked: Vec<Ranked<'_>> = Vec::with_capacity(contenders.len());
    let mut answers = 0;
    for (sample, contender) in fit {
        answers += 1;
        let text = contender.text.as_str();
        if let (Some(score), true) = (contender.score, ranked.iter().all(|one| one.text != text)) {
            ranked.push(Ranked {
                sample,
                text,
                score,
            });
        }
    }
    if answers < 2 {
        return Err(NoPair::TooFew);
    }
    if ranked.len() < 2 {
        return Err(NoPair::AllEqual);
    }
    // A stable sort: samples of one score stay in their order.
    ranked.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
    let lowest = ranked[ranked.len() - 1].score;
    if ranked[0].score <= lowest {
        return Err(NoPair::Tie);
    }
    let is_apart = |(chosen, rejected): &(Ranked<'_>, Ranked<'_>)| {
        f64::from(chosen.score - rejected.score) > preference.margin
    };
    let pairs: Vec<_> = candidates(&ranked, preference.pairs, lowest)
        .into_iter()
        .filter(is_apart)
        .collect();
    if pairs.is_empty() {
        return Err(NoPair::UnderTheMargin);
    }
    Ok(pairs)
}

/// The pairs of ranked answers before the margin is looked at. Answers with equal scores make no pair, because no margin
/// is below zero.
fn candidates<'a>(
    ranked: &[Ranked<'a>],
    pairs: Pairs,
    lowest: f32,
) -> Vec<(Ranked<'a>, Ranked<'a>)> {
    match pairs {
        Pairs::BestWorst => {
            let worst = ranked.iter().find(|one| one.score <= lowest);
            let best = ranked.first();
            best.copied().zip(worst.copied()).into_iter().collect()
        }
        Pairs::Adjacent => ranked.windows(2).map(|two| (two[0], two[1])).collect(),
        Pairs::All => {
            let behind = |at: usize| ranked[at + 1..].iter().copied();
            let of = |at: usize| behind(at).map(move |worse| (ranked[at], worse));
            (0..ranked.len()).flat_map(of).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contenders(answers: &[(&str, f32)]) -> Vec<Contender> {
        let contender = |&(text, score): &(&str, f32)| Contender {
            text: text.to_owned(),
            score: Some(score),
        };
        answers.iter().map(contender).collect()
    }

    fn pairs(
        answers: &[(&str, f32)],
        pairs: Pairs,
        margin: f64,
    ) -> Result<Vec<(usize, usize)>, NoPair> {
        let preference = PreferenceSpec {
            pairs,
            margin,
            ..PreferenceSpec::default()
        };
        let all = contenders(answers);
        let found = pairs_of(&all, &preference)?;
        Ok(found.iter().map(|(a, b)| (a.sample, b.sample)).collect())
    }

    #[test]
    fn each_way_makes_its_pairs() {
        let answers = [("b", 2.0), ("d", 1.0), ("a", 3.0), ("c", 2.0), ("b", 2.0)];
        assert_eq!(pairs(&answers, Pairs::BestWorst, 0.0), Ok(vec![(2, 1)]));
        // `b` and `c` have one score: no pair of them, and the next one is that of the second.
        assert_eq!(
            pairs(&answers, Pairs::Adjacent, 0.0),
            Ok(vec![(2, 0), (3, 1)])
        );
        assert_eq!(
            pairs(&answers, Pairs::All, 0.0),
            Ok(vec![(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)])
        );
        assert_eq!(pairs(&answers, Pairs::All, 1.5), Ok(vec![(2, 1)]));
    }

    #[test]
    fn the_worst_is_the_first_of_the_lowest_score() {
        let answers = [("a", 0.0), ("b", 1.0), ("c", 0.0), ("d", 1.0)];
        assert_eq!(pairs(&answers, Pairs::BestWorst, 0.0), Ok(vec![(1, 0)]));
    }

    #[test]
    fn a_row_without_a_pair_has_its_reason() {
        for (answers, reason) in [
            (vec![("a", 1.0)], NoPair::TooFew),
            (vec![("a", 1.0), (" ", 2.0)], NoPair::TooFew),
            (vec![("a", 1.0), ("b", f32::NAN)], NoPair::TooFew),
            (vec![("a", 1.0), ("a", 1.0)], NoPair::AllEqual),
            (vec![("a", 1.0), ("b", 1.0)], NoPair::Tie),
            (vec![("a", 1.0), ("b", 0.5)], NoPair::UnderTheMargin),
        ] {
            assert_eq!(pairs(&answers, Pairs::All, 0.5), Err(reason), "{answers:?}");
        }
        let unscored = [Contender {
            text: "a".to_owned(),
            score: None,
        }];
        let none = pairs_of(&unscored, &PreferenceSpec::default());
        assert_eq!(none.map(|pairs| pairs.len()), Err(NoPair::TooFew));
    }

    #[test]
    fn the_summary_counts_rows_pairs_and_reasons() {
        let preference = PreferenceSpec {
            pairs: Pairs::All,
            ..PreferenceSpec::default()
        };
        let mut sums = Sums::default();
        let rows: [&[(&str, f32)]; 4] = [
            &[("a", 3.0), ("b", 1.0), ("", 0.0)],
            &[("a", 2.0), ("b", 1.0), ("c", 0.0)],
            &[("a", 1.0), ("b", 1.0)],
            &[("a", 1.0), ("a", 1.0)],
        ];
        for row in rows {
            TASK.count(&row_result(7, &contenders(row), &preference), &mut sums);
        }
        let facts = TASK.summary(&sums);
        let lines: Vec<String> = facts
            .iter()
            .map(|fact| format!("{}: {}", fact.name, fact.text))
            .collect();
        assert_eq!(
            lines,
            [
                "pairs: 4 from 2 rows, mean margin 1.5000",
                "no pair: 2 rows: 1 all equal, 1 tie",
                "left out: 1 answer without a text or a score",
            ]
        );
    }
}
