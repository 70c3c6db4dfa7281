//! Trains the weights on the examples until every answer is right by a clear margin.
//!
//! The same seed gives the same first weights and the same batches.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

use crate::Result;
use crate::check;
use crate::facts::Example;
use crate::layers::{PaddedRows, Sizes, TrainingGlm};
use crate::random::Random;

/// Widely spread first weights learn facts by heart in fewer steps than the usual 0.02.
const INITIAL_DEVIATION: f64 = 0.05;
/// Long gradients are cut to this length: at a high learning rate single batches would undo many others.
const GRADIENT_LENGTH: f64 = 1.0;
const WARM_UP_STEPS: usize = 40;
/// Epochs between two checks.
const CHECK_EVERY: usize = 5;

/// How to train.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) epochs: usize,
    pub(crate) batch_rows: usize,
    pub(crate) learning_rate: f64,
    /// Training ends early once the weights, rounded to f16, lead by this many logits everywhere.
    pub(crate) margin: f32,
}

/// Named weights that the optimiser changes.
pub(crate) struct Trained {
    pub(crate) sizes: Sizes,
    pub(crate) weights: BTreeMap<String, Var>,
}

impl Trained {
    fn initial(sizes: Sizes, random: &mut Random) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (name, shape) in sizes.weights() {
            let count = shape.iter().product();
            let values = match (shape.len(), name.ends_with("weight")) {
                (1, true) => vec![1.0; count],
                (1, false) => vec![0.0; count],
                _ => random.normal(count, INITIAL_DEVIATION),
            };
            weights.insert(name, Var::from_vec(values, shape, &Device::Cpu)?);
        }
        Ok(Self { sizes, weights })
    }

    fn model(&self) -> TrainingGlm {
        let tensors = self
            .weights
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        TrainingGlm::new(self.sizes, tensors.collect())
    }

    /// Rounds all weights to f16: what will be stored.
    pub(crate) fn rounded(&self) -> Result<BTreeMap<String, Tensor>> {
        let round = |(name, var): (&String, &Var)| Ok((name.clone(), var.to_dtype(DType::F16)?));
        self.weights.iter().map(round).collect()
    }

    /// A model with the stored weights, computing in f32 without gradients.
    pub(crate) fn rounded_model(&self) -> Result<TrainingGlm> {
        let widen =
            |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(DType::F32)?.detach()));
        Ok(TrainingGlm::new(
            self.sizes,
            self.rounded()?
                .into_iter()
                .map(widen)
                .collect::<Result<_>>()?,
        ))
    }
}

/// Trains from scratch.
pub(crate) fn train(
    sizes: Sizes,
    examples: &[Example],
    schedule: &Schedule,
    padding: u32,
) -> Result<Trained> {
    let mut random = Random::new(schedule.seed);
    let trained = Trained::initial(sizes, &mut random)?;
    let model = trained.model();
    let vars = trained.weights.values().cloned().collect();
    let mut optimizer = AdamW::new(
        vars,
        ParamsAdamW {
            weight_decay: 0.01,
            ..Default::default()
        },
    )?;
    let steps = schedule.epochs * examples.len().div_ceil(schedule.batch_rows);
    let mut order: Vec<&Example> = examples.iter().collect();
    let mut step = 0;
    for epoch in 1..=schedule.epochs {
        random.shuffle(&mut order);
        let mut loss = 0.0;
        for batch in order.chunks(schedule.batch_rows) {
            optimizer.set_learning_rate(schedule.learning_rate * share(step, steps));
            let (batch_loss, gradients) = gradients(&model, batch, padding)?;
            optimizer.step(&limit(gradients, &trained)?)?;
            loss += batch_loss * batch.len() as f32 / order.len() as f32;
            step += 1;
        }
        if epoch % CHECK_EVERY != 0 {
            continue;
        }
        let found = check::margins(&trained.rounded_model()?, examples, padding)?;
        println!(
            "epoch {epoch:3}  loss {loss:.4}  right {}/{}  margin {:.2}",
            found.right,
            examples.len(),
            found.smallest
        );
        if found.right == examples.len() && found.smallest >= schedule.margin {
            break;
        }
    }
    Ok(trained)
}

/// Share of the full learning rate: a straight rise, then a straight fall to a twentieth.
fn share(step: usize, steps: usize) -> f64 {
    let rise = (step + 1) as f64 / WARM_UP_STEPS as f64;
    let fall = 1.0 - 0.95 * step as f64 / steps as f64;
    rise.min(fall)
}

/// Mean loss of a batch and its gradients.
///
/// Short rows and long ones are computed apart: that saves half of the padding.
fn gradients(model: &TrainingGlm, batch: &[&Example], padding: u32) -> Result<(f32, GradStore)> {
    let tokens = batch
        .iter()
        .map(|example| example.targets.len())
        .sum::<usize>() as f64;
    let mut sorted = batch.to_vec();
    sorted.sort_by_key(|example| example.row.ids.len());
    let (short, long) = sorted.split_at(even_split(&sorted));
    let part = |part: &[&Example]| -> Result<(f32, GradStore)> {
        let loss = (loss(model, part, padding)? / tokens)?;
        Ok((loss.to_scalar()?, loss.backward()?))
    };
    let (long_loss, mut sum) = part(long)?;
    if short.is_empty() {
        return Ok((long_loss, sum));
    }
    let (short_loss, short_gradients) = part(short)?;
    sum.extend(short_gradients)?;
    Ok((short_loss + long_loss, sum))
}

/// Where to cut rows sorted by length so that both parts hold about as many padded tokens.
fn even_split(sorted: &[&Example]) -> usize {
    let length = |at: usize| sorted[at].row.ids.len();
    let larger =
        |at: usize| (at * length(at - 1)).max((sorted.len() - at) * length(sorted.len() - 1));
    (1..sorted.len()).min_by_key(|&at| larger(at)).unwrap_or(0)
}

/// Summed loss over the answers' tokens; the context and the padding count for nothing.
fn loss(model: &TrainingGlm, examples: &[&Example], padding: u32) -> Result<Tensor> {
    let rows = PaddedRows::new(
        &examples.iter().map(|e| &e.row).collect::<Vec<_>>(),
        padding,
        &Device::Cpu,
    )?;
    let (places, targets) = check::targets(examples, rows.length());
    let hidden = model.forward(&rows)?.index_select(&places, 0)?;
    let likelihoods = candle_nn::ops::log_softmax(&model.logits(&hidden)?, 1)?;
    Ok(likelihoods
        .gather(&targets.unsqueeze(1)?, 1)?
        .sum_all()?
        .neg()?)
}

/// Shortens the gradients, taken together, to [`GRADIENT_LENGTH`].
fn limit(mut gradients: GradStore, trained: &Trained) -> Result<GradStore> {
    let mut squares = 0.0;
    for var in trained.weights.values() {
        if let Some(gradient) = gradients.get(var) {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    let factor = (GRADIENT_LENGTH / squares.sqrt()).min(1.0);
    for var in trained.weights.values() {
        if let Some(gradient) = gradients.remove(var) {
            gradients.insert(var, (gradient * factor)?);
        }
    }
    Ok(gradients)
}
