//! The fields of a SentencePiece model file that encoding needs, as protobuf messages.
//!
//! Field numbers and defaults are those of `sentencepiece_model.proto`; unknown fields are skipped.

use std::path::Path;

use prost::Message;

use super::error::TokenizeError;

/// `ModelProto`
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub(super) trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub(super) normalizer: Option<NormalizerSpec>,
    #[prost(message, optional, tag = "5")]
    pub(super) denormalizer: Option<NormalizerSpec>,
}

/// `SentencePiece`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Piece {
    #[prost(string, tag = "1")]
    pub(super) text: String,
    #[prost(float, tag = "2")]
    pub(super) score: f32,
    #[prost(enumeration = "PieceKind", optional, tag = "3")]
    pub(super) kind: Option<i32>,
}

/// `SentencePiece.Type`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// `TrainerSpec`
#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    pub(super) model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    pub(super) treat_whitespace_as_suffix: bool,
    #[prost(bool, tag = "35")]
    pub(super) byte_fallback: bool,
}

/// `NormalizerSpec`
#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    pub(super) precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3")]
    pub(super) add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(super) remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(super) escape_whitespaces: Option<bool>,
}

impl Piece {
    /// What the piece is; anything unknown is left unused.
    pub(super) fn piece_kind(&self) -> PieceKind {
        self.kind.map_or(PieceKind::Normal, |kind| {
            PieceKind::try_from(kind).unwrap_or(PieceKind::Unused)
        })
    }
}

/// Reads a model file and refuses what GLM does not use.
///
/// # Errors
/// [`TokenizeError::Damaged`] where the file is not a whole model, [`TokenizeError::Unsupported`]
/// where it is one of another kind.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<ModelProto, TokenizeError> {
    let damaged = |reason: String| TokenizeError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let model = ModelProto::decode(bytes).map_err(|error| damaged(error.to_string()))?;
    if model.pieces.is_empty() {
        return Err(damaged("it holds no pieces".to_owned()));
    }
    // Both come after the pieces: a file cut between fields lacks them.
    let Some(trainer) = &model.trainer else {
        return Err(damaged("it has no trainer settings".to_owned()));
    };
    if let Some(found) = unsupported(trainer, &model) {
        return Err(TokenizeError::Unsupported {
            path: path.to_owned(),
            found,
        });
    }
    if model.normalizer.is_none() {
        return Err(damaged("it has no normalizer settings".to_owned()));
    }
    Ok(model)
}

fn unsupported(trainer: &TrainerSpec, model: &ModelProto) -> Option<String> {
    let denormalizes = model
        .denormalizer
        .as_ref()
        .is_some_and(|spec| !spec.precompiled_charsmap.is_empty());
    match trainer.model_type.unwrap_or(1) {
        2 => {}
        1 => return Some("a SentencePiece unigram model".to_owned()),
        3 => return Some("a SentencePiece word model".to_owned()),
        4 => return Some("a SentencePiece character model".to_owned()),
        other => return Some(format!("a SentencePiece model of type {other}")),
    }
    if trainer.byte_fallback {
        return Some("a model with byte fallback".to_owned());
    }
    if trainer.treat_whitespace_as_suffix {
        return Some("a model with white space as suffix".to_owned());
    }
    denormalizes.then(|| "a model with a denormalizer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(model_type: Option<i32>) -> ModelProto {
        let piece = Piece {
            text: "a".to_owned(),
            score: 0.0,
            kind: None,
        };
        ModelProto {
            pieces: vec![piece],
            trainer: Some(TrainerSpec {
                model_type,
                ..TrainerSpec::default()
            }),
            normalizer: Some(NormalizerSpec::default()),
            denormalizer: None,
        }
    }

    fn message(model: &ModelProto) -> String {
        parse(Path::new("x.model"), &model.encode_to_vec())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn other_kinds_are_named() {
        assert!(parse(Path::new("x"), &model(Some(2)).encode_to_vec()).is_ok());
        assert!(message(&model(None)).contains("unigram"));
        assert!(message(&model(Some(1))).contains("unigram"));
        assert!(message(&model(Some(4))).contains("`x.model` holds a SentencePiece character"));
        let mut bytes = model(Some(2));
        bytes.trainer.as_mut().unwrap().byte_fallback = true;
        assert!(message(&bytes).contains("byte fallback"));
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = model(Some(2)).encode_to_vec();
        for length in 0..bytes.len() {
            let error = parse(Path::new("x.model"), &bytes[..length]).unwrap_err();
            assert!(error.to_string().starts_with("`x.model` "), "{error}");
        }
        assert!(message(&ModelProto::default()).contains("no pieces"));
    }

    #[test]
    fn a_piece_without_type_is_normal() {
        assert_eq!(Piece::default().piece_kind(), PieceKind::Normal);
        assert_eq!(
            Piece {
                kind: Some(99),
                ..Piece::default()
            }
            .piece_kind(),
            PieceKind::Unused
        );
    }
}
