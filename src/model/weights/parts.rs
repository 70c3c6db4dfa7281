//! A configuration to the tensors that its weights must have.

use super::super::GlmConfig;

/// The weight of a reward model's value head.
pub(in crate::model) const VALUE_HEAD: &str = "v_head.weight";

/// What the network does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Role {
    /// The word embedding, whose rows are looked up and whose product gives the logits.
    Words,
    /// A table whose rows are looked up.
    Table,
    /// The weight of a product.
    Matrix,
    /// What is added to a product.
    Bias,
    /// Scale or shift of a norm.
    Norm,
    /// The value head.
    Head,
}

/// A tensor that the weights must have.
#[derive(Clone, Debug)]
pub(in crate::model) struct Part {
    pub(in crate::model) name: String,
    pub(in crate::model) shape: Vec<usize>,
    pub(in crate::model) role: Role,
}

impl Part {
    fn new(name: impl Into<String>, shape: &[usize], role: Role) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            role,
        }
    }
}

/// The value head of a reward model.
pub(in crate::model) fn value_head(config: &GlmConfig) -> Part {
    Part::new(VALUE_HEAD, &[1, config.hidden_size], Role::Head)
}

/// Every tensor that a configuration needs, but for a value head.
pub(in crate::model) fn parts(config: &GlmConfig) -> Vec<Part> {
    let (hidden, words, positions) = (
        config.hidden_size,
        config.vocab_size,
        config.position_rows(),
    );
    let table = |name: &str| {
        let name = format!("transformer.{name}.weight");
        Part::new(name, &[positions, hidden], Role::Table)
    };
    let mut all = vec![
        Part::new("word_embeddings.weight", &[words, hidden], Role::Words),
        table("position_embeddings"),
    ];
    if config.block_position_encoding {
        all.push(table("block_position_embeddings"));
    }
    for layer in 0..config.num_layers {
        let name = |part: &str| format!("transformer.layers.{layer}.{part}");
        all.extend(norm(&name("input_layernorm"), hidden));
        let attention = name("attention.query_key_value");
        all.extend(linear(&attention, 3 * hidden, hidden));
        all.extend(linear(&name("attention.dense"), hidden, hidden));
        all.extend(norm(&name("post_attention_layernorm"), hidden));
        all.extend(linear(&name("mlp.dense_h_to_4h"), 4 * hidden, hidden));
        all.extend(linear(&name("mlp.dense_4h_to_h"), hidden, 4 * hidden));
    }
    all.extend(norm("transformer.final_layernorm", hidden));
    all
}

fn linear(name: &str, out: usize, width: usize) -> [Part; 2] {
    [
        Part::new(format!("{name}.weight"), &[out, width], Role::Matrix),
        Part::new(format!("{name}.bias"), &[out], Role::Bias),
    ]
}

fn norm(name: &str, hidden: usize) -> [Part; 2] {
    [
        Part::new(format!("{name}.weight"), &[hidden], Role::Norm),
        Part::new(format!("{name}.bias"), &[hidden], Role::Norm),
    ]
}
