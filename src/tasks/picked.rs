//! The likelihoods of a row's choices to the one that is picked, and to whether it is right by each way to compare them.

use crate::job::{ChooseMethod, ChooseSpec, Normalize};
use crate::outcome::Cell;

use super::chances::Likelihood;

/// Place of the value that says whether the pick is right.
pub(super) const CORRECT: usize = 3;

/// What the summary compares side by side: the word, and the place of the value that says whether the pick would be
/// right with it. They follow the values of the columns, and are in no column.
pub(super) const COMPARED: [(&str, Normalize, usize); 3] = [
    ("none", Normalize::None, 4),
    ("tokens", Normalize::Tokens, 5),
    ("characters", Normalize::Characters, 6),
];

/// Place of what the picks are compared by, as far as a part holds it.
pub(super) const LOGPROBS: usize = 2;

/// A row's choices, and what its result needs of them.
pub(super) struct Picked {
    choices: Vec<String>,
    label: Option<usize>,
    method: ChooseMethod,
    normalize: Normalize,
}

impl Picked {
    pub(super) fn new(choices: &[String], label: Option<usize>, choose: &ChooseSpec) -> Self {
        Self {
            choices: choices.to_vec(),
            label,
            method: choose.method,
            normalize: choose.normalize,
        }
    }

    /// The values of the columns, and of what the summary compares.
    pub(super) fn cells(mut self, likelihoods: &[Likelihood]) -> Vec<Cell> {
        let choice = self.pick(likelihoods, self.normalize);
        let logprobs = likelihoods.iter().map(|of_choice| match self.method {
            ChooseMethod::WholeText => of_choice.mean() as f32,
            ChooseMethod::Target | ChooseMethod::NextToken => of_choice.logprob as f32,
        });
        let logprobs: Vec<f32> = logprobs.collect();
        let mut cells = vec![
            Cell::Int(i32::try_from(choice).unwrap_or(i32::MAX)),
            Cell::Null,
            Cell::from(logprobs.as_slice()),
            self.is_right(choice),
        ];
        cells.extend(self.compared(likelihoods, &self.is_right(choice)));
        cells[1] = Cell::Text(std::mem::take(&mut self.choices[choice]));
        cells
    }

    fn is_right(&self, pick: usize) -> Cell {
        let label = self.label;
        label.map_or(Cell::Null, |label| Cell::Bool(pick == label))
    }

    /// What the summary compares; `own` says whether the pick of the job itself is right.
    fn compared(&self, likelihoods: &[Likelihood], own: &Cell) -> Vec<Cell> {
        if self.method != ChooseMethod::Target {
            return Vec::new();
        }
        let compared = COMPARED.iter().map(|&(_, normalize, _)| match normalize {
            _ if normalize == self.normalize => own.clone(),
            // Tokens are compared where the job asks for it; the other two always.
            Normalize::Tokens => Cell::Null,
            Normalize::None | Normalize::Characters => {
                self.is_right(self.pick(likelihoods, normalize))
            }
        });
        compared.collect()
    }

    /// Puts behind the values of the columns what the summary compares, from what a part holds of them.
    pub(super) fn restore(&self, cells: &mut Vec<Cell>) {
        let (Some(Cell::List(logprobs)), Some(own)) = (cells.get(LOGPROBS), cells.get(CORRECT))
        else {
            return;
        };
        let likelihoods: Vec<Likelihood> = logprobs.iter().filter_map(likelihood).collect();
        let has_all = likelihoods.len() == self.choices.len();
        if has_all && cells.len() == CORRECT + 1 {
            let compared = self.compared(&likelihoods, own);
            cells.extend(compared);
        }
    }

    /// The choice with the highest value, the first of equal ones.
    fn pick(&self, likelihoods: &[Likelihood], normalize: Normalize) -> usize {
        let value = |(of_choice, text): (&Likelihood, &String)| match (self.method, normalize) {
            (ChooseMethod::WholeText, _) | (_, Normalize::Tokens) => of_choice.mean(),
            (_, Normalize::None) => of_choice.logprob,
            (_, Normalize::Characters) => of_choice.logprob / text.chars().count().max(1) as f64,
        };
        let values = likelihoods.iter().zip(&self.choices).map(value);
        let best = values
            .enumerate()
            .fold(None, |best, (place, value)| match best {
                Some((_, known)) if known >= value => best,
                _ => Some((place, value)),
            });
        best.map_or(0, |(place, _)| place)
    }
}

/// The likelihood that a part holds; how many tokens it is of, a part does not say.
fn likelihood(logprob: &Cell) -> Option<Likelihood> {
    let Cell::Float(logprob) = logprob else {
        return None;
    };
    Some(Likelihood {
        logprob: f64::from(*logprob),
        tokens: 1,
        is_greedy: false,
    })
}
