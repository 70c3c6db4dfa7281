//! CPU products, attention and activations behind the model.
