//! GLM from differentiable operations: padded rows in, the final hidden states and logits out.
//!
//! The library's forward uses fused kernels that carry no gradient, so training has its own layers. Weight
//! names, shapes and arithmetic are the library's; a test includes this file and holds both forwards
//! equal. The file knows candle alone, so that it can be included by itself.

use std::collections::BTreeMap;

use candle_core::{D, Device, Error, Result, Tensor};

const LAYER_NORM_EPSILON: f64 = 1e-5;

/// What the reference adds to the score of a masked position: the lowest f16, not minus infinity.
const MASKED: f32 = -65504.0;

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Rows of the word embedding.
    pub(crate) vocab: usize,
    /// Width of a hidden state.
    pub(crate) hidden: usize,
    /// Transformer blocks.
    pub(crate) layers: usize,
    /// Attention heads.
    pub(crate) heads: usize,
    /// Longest answer; both position tables have one row more.
    pub(crate) max_sequence_length: usize,
}

impl Sizes {
    /// Lists all weights by name and shape, always in the same order.
    pub(crate) fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, positions) = (self.hidden, self.max_sequence_length + 1);
        let mut weights = vec![
            (
                "glm.word_embeddings.weight".to_owned(),
                vec![self.vocab, hidden],
            ),
            (
                "glm.transformer.position_embeddings.weight".to_owned(),
                vec![positions, hidden],
            ),
            (
                "glm.transformer.block_position_embeddings.weight".to_owned(),
                vec![positions, hidden],
            ),
        ];
        for layer in 0..self.layers {
            let block = format!("glm.transformer.layers.{layer}");
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("attention.query_key_value", vec![3 * hidden, hidden]),
                ("attention.dense", vec![hidden, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.dense_h_to_4h", vec![4 * hidden, hidden]),
                ("mlp.dense_4h_to_h", vec![hidden, 4 * hidden]),
            ] {
                weights.push((format!("{block}.{name}.bias"), vec![shape[0]]));
                weights.push((format!("{block}.{name}.weight"), shape));
            }
        }
        for part in ["weight", "bias"] {
            weights.push((
                format!("glm.transformer.final_layernorm.{part}"),
                vec![hidden],
            ));
        }
        weights
    }
}

/// A context followed by the start token and the answer so far.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// How many of them are the context: they see each other, and the answer sees them.
    pub(crate) context: usize,
    /// Position of the mask, which all answer tokens carry.
    pub(crate) mask_position: u32,
}

/// Rows of one length, padded on the right.
#[derive(Clone, Debug)]
pub(crate) struct PaddedRows {
    ids: Tensor,
    positions: Tensor,
    blocks: Tensor,
    mask: Tensor,
    rows: usize,
    length: usize,
}

impl PaddedRows {
    /// Lays rows out as tensors; what follows a row's end is `padding`, which no real token sees.
    pub(crate) fn new(rows: &[&Row], padding: u32, device: &Device) -> Result<Self> {
        let length = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let cells = rows.len() * length;
        let (mut ids, mut positions, mut blocks) = (
            Vec::with_capacity(cells),
            Vec::with_capacity(cells),
            Vec::with_capacity(cells),
        );
        let mut mask = Vec::with_capacity(cells * length);
        for row in rows {
            for at in 0..length {
                ids.push(row.ids.get(at).copied().unwrap_or(padding));
                let in_answer = at >= row.context && at < row.ids.len();
                positions.push(if in_answer {
                    row.mask_position
                } else {
                    at as u32
                });
                blocks.push(if in_answer {
                    (at - row.context + 1) as u32
                } else {
                    0
                });
                mask.extend((0..length).map(|key| {
                    let visible = key < row.context || (key <= at && in_answer);
                    if visible { 0.0 } else { MASKED }
                }));
            }
        }
        Ok(Self {
            ids: Tensor::from_vec(ids, cells, device)?,
            positions: Tensor::from_vec(positions, cells, device)?,
            blocks: Tensor::from_vec(blocks, cells, device)?,
            mask: Tensor::from_vec(mask, (rows.len(), 1, length, length), device)?,
            rows: rows.len(),
            length,
        })
    }

    /// Padded length of every row.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

/// GLM over named weights, every operation of which has a gradient.
#[derive(Clone, Debug)]
pub(crate) struct TrainingGlm {
    sizes: Sizes,
    weights: BTreeMap<String, Tensor>,
}

impl TrainingGlm {
    /// Takes f32 weights under their Hugging Face names; they stay shared with the caller's.
    pub(crate) fn new(sizes: Sizes, weights: BTreeMap<String, Tensor>) -> Self {
        Self { sizes, weights }
    }

    /// Computes the hidden states after the final norm.
    ///
    /// # Shapes
    ///
    /// (rows x padded length, hidden), rows one after the other.
    pub(crate) fn forward(&self, rows: &PaddedRows) -> Result<Tensor> {
        self.layer_norm(&self.blocks(rows)?, "glm.transformer.final_layernorm")
    }

    /// Computes the hidden states before the final norm, which a value head reads.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward).
    pub(crate) fn blocks(&self, rows: &PaddedRows) -> Result<Tensor> {
        let mut hidden = self
            .weight("glm.word_embeddings.weight")?
            .index_select(&rows.ids, 0)?
            .add(&self.look_up("position_embeddings", &rows.positions)?)?
            .add(&self.look_up("block_position_embeddings", &rows.blocks)?)?;
        for layer in 0..self.sizes.layers {
            let block = format!("glm.transformer.layers.{layer}");
            let normed = self.layer_norm(&hidden, &format!("{block}.input_layernorm"))?;
            let attended = self.attention(&normed, rows, &format!("{block}.attention"))?;
            hidden = (hidden + attended)?;
            let normed = self.layer_norm(&hidden, &format!("{block}.post_attention_layernorm"))?;
            let wide = self
                .linear(&normed, &format!("{block}.mlp.dense_h_to_4h"))?
                .gelu_erf()?;
            hidden = (hidden + self.linear(&wide, &format!("{block}.mlp.dense_4h_to_h"))?)?;
        }
        Ok(hidden)
    }

    /// Multiplies hidden states by the word embedding.
    ///
    /// # Shapes
    ///
    /// (n, hidden) to (n, vocab).
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden.matmul(&self.weight("glm.word_embeddings.weight")?.t()?)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.weights
            .get(name)
            .ok_or_else(|| Error::Msg(format!("no weight `{name}`")))
    }

    fn look_up(&self, table: &str, indices: &Tensor) -> Result<Tensor> {
        self.weight(&format!("glm.transformer.{table}.weight"))?
            .index_select(indices, 0)
    }

    fn linear(&self, input: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = self.repeated(&format!("{name}.bias"), input.dim(0)?)?;
        input.matmul(&weight.t()?)? + bias
    }

    fn layer_norm(&self, input: &Tensor, name: &str) -> Result<Tensor> {
        let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + LAYER_NORM_EPSILON)?.sqrt()?)?;
        let count = input.dim(0)?;
        let scaled = (normed * self.repeated(&format!("{name}.weight"), count)?)?;
        scaled + self.repeated(&format!("{name}.bias"), count)?
    }

    /// A vector once for each of `count` rows, as a product with a column of ones.
    ///
    /// The gradient is then a product too; candle sums that of a broadcast one value at a time.
    fn repeated(&self, name: &str, count: usize) -> Result<Tensor> {
        let vector = self.weight(name)?.unsqueeze(0)?;
        Tensor::ones((count, 1), vector.dtype(), vector.device())?.matmul(&vector)
    }

    fn attention(&self, input: &Tensor, rows: &PaddedRows, name: &str) -> Result<Tensor> {
        let (width, heads) = (self.sizes.hidden, self.sizes.heads);
        let fused = self.linear(input, &format!("{name}.query_key_value"))?;
        // A third of the fused width each, heads side by side inside it.
        let part = |third: usize| {
            fused
                .narrow(1, third * width, width)?
                .reshape((rows.rows, rows.length, heads, width / heads))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let queries = (queries / ((width / heads) as f64).sqrt())?;
        let scores = queries.matmul(&keys.t()?)?.broadcast_add(&rows.mask)?;
        let mixed = softmax(&scores)?.matmul(&values)?;
        let joined = mixed
            .transpose(1, 2)?
            .reshape((rows.rows * rows.length, width))?;
        self.linear(&joined, &format!("{name}.dense"))
    }
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    // The maximum only keeps `exp` in range; its gradient is zero in sum.
    let highest = scores.max_keepdim(D::Minus1)?.detach();
    let powers = scores.broadcast_sub(&highest)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}
