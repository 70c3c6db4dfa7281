//! Rows that are read without a slot, to log-probabilities or to the numbers of a value head.
//!
//! The cache says which rows are read together and gives the hidden states of the wanted places. Logits are computed
//! for a block of these at a time and reduced to what was asked for, before the next block is computed.

use candle_core::Tensor;
use rayon::prelude::*;

use glm_batch_kernels::LogSoftmax;

use super::cache::{Reading, bytes_of_reading};
use super::text_model::no_value_head;
use super::{Asked, Backend, Glm, GlmConfig, ModelError, Precision, ReadRow, TokenChance};

/// Rows of logits that are in memory at once: products are as fast as with more, and 64 rows of 50,048 take 12 MiB.
const LOGIT_ROWS: usize = 64;

/// Texts that are handed over together, to be read.
#[derive(Clone, Copy, Debug)]
pub struct ReadingSize {
    /// Tokens of all of them, with their padding where the backend pads.
    pub tokens: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Whether log-probabilities are asked for, and not the numbers of a value head.
    pub needs_logits: bool,
}

impl ReadingSize {
    /// Bytes that reading them takes at most beside the weights.
    pub fn bytes(self, config: &GlmConfig, backend: Backend, precision: Precision) -> u64 {
        let dtype = precision.float().dtype();
        let bytes = bytes_of_reading(config, backend, dtype, self.tokens, self.longest);
        let number = match backend {
            // The product gives f32.
            Backend::Packed => 0,
            Backend::Padded => dtype.size_in_bytes(),
        };
        let block = LOGIT_ROWS * config.vocab_size * (size_of::<f32>() + number);
        let logits = if self.needs_logits { block as u64 } else { 0 };
        bytes.layers.max(bytes.left + logits)
    }
}

/// A place whose logits are wanted: the number of its row, and what that asks of it.
type Place<'a> = (usize, &'a [Asked]);

impl Glm {
    /// [`TextModel::chances`](super::TextModel::chances).
    pub(super) fn read_chances(
        &mut self,
        rows: &[ReadRow<'_>],
    ) -> Result<Vec<Vec<TokenChance>>, ModelError> {
        for row in rows {
            self.check_row(row)?;
            self.check_asked(row)?;
        }
        let mut chances: Vec<Vec<TokenChance>> = vec![Vec::new(); rows.len()];
        let asking: Vec<usize> = (0..rows.len())
            .filter(|&number| !rows[number].asked.is_empty())
            .collect();
        for part in self.parts(rows, &asking) {
            let mut wanted: Vec<Place<'_>> = Vec::new();
            let mut readings = Vec::with_capacity(part.len());
            for number in part {
                let row = rows[number];
                let by_place = row.asked.chunk_by(|a, b| a.place == b.place);
                readings.push(Reading {
                    row,
                    places: by_place.clone().map(|asked| asked[0].place).collect(),
                });
                wanted.extend(by_place.map(|asked| (number, asked)));
            }
            let hidden = self.cache.read(&self.network, &readings)?;
            for (block, wanted) in wanted.chunks(LOGIT_ROWS).enumerate() {
                let hidden = hidden.narrow(0, block * LOGIT_ROWS, wanted.len())?;
                let found = self.chances_of(&hidden, wanted)?;
                for (&(number, _), found) in wanted.iter().zip(found) {
                    chances[number].extend(found);
                }
            }
        }
        Ok(chances)
    }

    /// [`TextModel::values`](super::TextModel::values).
    pub(super) fn read_values(
        &mut self,
        rows: &[ReadRow<'_>],
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        if self.value_head.is_none() {
            return Err(no_value_head());
        }
        for row in rows {
            self.check_row(row)?;
            if row.branches.iter().any(|branch| branch.is_empty()) {
                return Err(ModelError::Call(
                    "the value of a branch without tokens".to_owned(),
                ));
            }
        }
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
        let with_branches: Vec<usize> = (0..rows.len())
            .filter(|&number| !rows[number].branches.is_empty())
            .collect();
        for part in self.parts(rows, &with_branches) {
            let readings: Vec<Reading<'_>> = part
                .iter()
                .map(|&number| Reading {
                    row: rows[number],
                    places: ends(&rows[number]),
                })
                .collect();
            let hidden = self.cache.read(&self.network, &readings)?;
            let head = self.value_head.as_ref().ok_or_else(no_value_head)?;
            let mut found = head.of(&hidden)?.into_iter();
            for number in part {
                let count = rows[number].branches.len();
                values[number].extend(found.by_ref().take(count));
            }
        }
        Ok(values)
    }

    /// The chosen rows in parts that are read together, by their numbers.
    fn parts(&self, rows: &[ReadRow<'_>], chosen: &[usize]) -> Vec<Vec<usize>> {
        let of_chosen: Vec<ReadRow<'_>> = chosen.iter().map(|&number| rows[number]).collect();
        let parts = self.cache.parts(&of_chosen).into_iter();
        parts
            .map(|part| part.into_iter().map(|at| chosen[at]).collect())
            .collect()
    }

    /// What is asked of each of the places, whose hidden states are (places, hidden).
    fn chances_of(
        &self,
        hidden: &Tensor,
        wanted: &[Place<'_>],
    ) -> Result<Vec<Vec<TokenChance>>, ModelError> {
        let logits = self.network.logits(&self.network.normalize(hidden)?)?;
        let rows = logits.par_chunks_exact(self.config().vocab_size);
        let found = rows.zip(wanted).map(|(logits, (_, asked))| {
            let row = LogSoftmax::new(logits);
            let likeliest = row.likeliest();
            let chance = |asked: &Asked| TokenChance {
                logprob: row.at(asked.token),
                is_likeliest: likeliest == Some(asked.token),
            };
            asked.iter().map(chance).collect()
        });
        Ok(found.collect())
    }

    fn check_row(&self, row: &ReadRow<'_>) -> Result<(), ModelError> {
        self.config().check_generation()?;
        if row.context.is_empty() {
            return Err(ModelError::Call("a context without tokens".to_owned()));
        }
        for (position, &id) in (0..).zip(row.context) {
            self.check_token(id, position, 0)?;
        }
        for branch in row.branches {
            for (block_position, &id) in (1..).zip(*branch) {
                self.check_token(id, row.mask_position, block_position)?;
            }
        }
        Ok(())
    }

    fn check_asked(&self, row: &ReadRow<'_>) -> Result<(), ModelError> {
        if !row.asked.is_sorted_by_key(|asked| asked.place) {
            return Err(ModelError::Call(
                "what is asked for is not sorted by place".to_owned(),
            ));
        }
        for asked in row.asked {
            self.check_token(asked.token, 0, 0)?;
        }
        let tokens = row.tokens();
        match row.asked.last() {
            Some(last) if last.place as usize >= tokens => Err(ModelError::Call(format!(
                "place {} in a row of {tokens} tokens",
                last.place
            ))),
            _ => Ok(()),
        }
    }
}

/// The places of the branches' last tokens.
fn ends(row: &ReadRow<'_>) -> Vec<u32> {
    let mut end = row.context.len();
    let lengths = row.branches.iter().map(|branch| branch.len());
    lengths
        .map(|length| {
            end += length;
            end as u32 - 1
        })
        .collect()
}
