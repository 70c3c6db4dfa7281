//! Says how well a model knows the examples: by margin, and by really answering.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::facts::Example;
use crate::layers::{PaddedRows, Row, TrainingGlm};
use crate::vocabulary::Frame;

/// Rows computed together.
const ROWS: usize = 64;

/// What [`margins`] finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margins {
    /// Examples whose every target has the highest logit: exactly these are answered right greedily.
    pub(crate) right: usize,
    /// By how much a target leads the next token, in logits, where it does so least.
    pub(crate) smallest: f32,
}

/// Where in flattened padded rows each target is predicted, and the targets.
///
/// Target `j` of a row is predicted `j` places after the context, at the start token for the first.
pub(crate) fn targets(examples: &[&Example], length: usize) -> (Tensor, Tensor) {
    let (mut places, mut ids) = (Vec::new(), Vec::new());
    for (row, example) in examples.iter().enumerate() {
        let first = row * length + example.row.context;
        places.extend((first..first + example.targets.len()).map(|place| place as u32));
        ids.extend(&example.targets);
    }
    let vector = |values: Vec<u32>| {
        let count = values.len();
        Tensor::from_vec(values, count, &Device::Cpu).expect("as many values as the shape says")
    };
    (vector(places), vector(ids))
}

/// Compares each target with the best other token.
pub(crate) fn margins(model: &TrainingGlm, examples: &[Example], padding: u32) -> Result<Margins> {
    let mut found = Margins {
        right: 0,
        smallest: f32::INFINITY,
    };
    let mut sorted: Vec<&Example> = examples.iter().collect();
    sorted.sort_by_key(|example| example.row.ids.len());
    for batch in sorted.chunks(ROWS) {
        let rows: Vec<&Row> = batch.iter().map(|example| &example.row).collect();
        let rows = PaddedRows::new(&rows, padding, &Device::Cpu)?;
        let hidden = model
            .forward(&rows)?
            .index_select(&targets(batch, rows.length()).0, 0)?;
        let mut logits = model.logits(&hidden)?.to_vec2::<f32>()?.into_iter();
        for example in batch {
            let lead = example
                .targets
                .iter()
                .zip(&mut logits)
                .map(|(&target, logits)| lead(&logits, target));
            let smallest = lead.fold(f32::INFINITY, f32::min);
            found.right += usize::from(smallest > 0.0);
            found.smallest = found.smallest.min(smallest);
        }
    }
    Ok(found)
}

fn lead(logits: &[f32], target: u32) -> f32 {
    let others = (0..)
        .zip(logits)
        .filter(|&(id, _)| id != target)
        .map(|(_, &logit)| logit);
    logits[target as usize] - others.fold(f32::NEG_INFINITY, f32::max)
}

/// Answers every example greedily, token by token, and counts the right ones.
pub(crate) fn answer(
    model: &TrainingGlm,
    examples: &[Example],
    frame: &Frame,
    limit: usize,
) -> Result<usize> {
    let mut right = 0;
    for batch in examples.chunks(ROWS) {
        let mut rows: Vec<Row> = batch.iter().map(|example| example.row.clone()).collect();
        for row in &mut rows {
            row.ids.truncate(row.context + 1);
        }
        for _ in 0..limit {
            extend(model, &mut rows, frame)?;
        }
        right += rows
            .iter()
            .zip(batch)
            .filter(|(row, example)| row.ids[row.context + 1..] == example.targets)
            .count();
    }
    Ok(right)
}

/// Adds the likeliest token to every row that has not ended.
fn extend(model: &TrainingGlm, rows: &mut [Row], frame: &Frame) -> Result<()> {
    let mut open: Vec<&mut Row> = rows
        .iter_mut()
        .filter(|row| row.ids.last() != Some(&frame.eop))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let views: Vec<&Row> = open.iter().map(|row| &**row).collect();
    let padded = PaddedRows::new(&views, frame.eos, &Device::Cpu)?;
    let last = views
        .iter()
        .enumerate()
        .map(|(at, row)| (at * padded.length() + row.ids.len() - 1) as u32);
    let last = Tensor::from_iter(last, &Device::Cpu)?;
    let hidden = model.forward(&padded)?.index_select(&last, 0)?;
    let best = model.logits(&hidden)?.argmax(1)?.to_vec1::<u32>()?;
    for (row, id) in open.iter_mut().zip(best) {
        row.ids.push(id);
    }
    Ok(())
}
