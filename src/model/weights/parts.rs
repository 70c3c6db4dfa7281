//! A configuration to the tensors that its weights must have.

use super::super::GlmConfig;

/// Every tensor that a configuration needs, with its shape.
pub(in crate::model) fn expected(config: &GlmConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let mut all = vec![
        (
            "word_embeddings.weight".to_owned(),
            vec![config.vocab_size, hidden],
        ),
        (
            "transformer.position_embeddings.weight".to_owned(),
            vec![config.position_rows(), hidden],
        ),
    ];
    if config.block_position_encoding {
        all.push((
            "transformer.block_position_embeddings.weight".to_owned(),
            vec![config.position_rows(), hidden],
        ));
    }
    let mut pair = |name: String, weight: Vec<usize>| {
        let width = weight[0];
        all.push((format!("{name}.weight"), weight));
        all.push((format!("{name}.bias"), vec![width]));
    };
    for layer in 0..config.num_layers {
        let name = |part: &str| format!("transformer.layers.{layer}.{part}");
        pair(name("input_layernorm"), vec![hidden]);
        pair(name("attention.query_key_value"), vec![3 * hidden, hidden]);
        pair(name("attention.dense"), vec![hidden, hidden]);
        pair(name("post_attention_layernorm"), vec![hidden]);
        pair(name("mlp.dense_h_to_4h"), vec![4 * hidden, hidden]);
        pair(name("mlp.dense_4h_to_h"), vec![hidden, 4 * hidden]);
    }
    pair("transformer.final_layernorm".to_owned(), vec![hidden]);
    all
}
