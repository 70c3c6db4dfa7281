//! A SentencePiece BPE model: a fragment of text to piece ids, and a run of ids to text.
//!
//! The normalizer and the user-defined pieces are handled here, because those of the `tokenizers`
//! crate work on grapheme clusters and differ in 2% of texts; the merging itself is the crate's BPE.

use std::path::Path;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::borders::Borders;
use super::error::TokenizeError;
use super::normalize::{Normalizer, SPACE};
use super::proto::{self, ModelProto, PieceKind};
use super::special::{Fragment, SpecialSplit, SpecialToken};

/// What an unknown piece becomes in decoded text, as SentencePiece has it.
const UNKNOWN_SURFACE: &str = " \u{2047} ";
/// Parts that the crate's BPE remembers a thread, each of some hundred bytes.
const CACHED_PARTS: usize = 4096;

/// A SentencePiece BPE model.
#[derive(Debug)]
pub(super) struct SentencePiece {
    normalizer: Normalizer,
    user_defined: SpecialSplit,
    bpe: BPE,
    pieces: Vec<(Box<str>, PieceKind)>,
    borders: Borders,
}

impl SentencePiece {
    /// Builds the model from the bytes of its file.
    ///
    /// # Errors
    /// [`TokenizeError::Damaged`] or [`TokenizeError::Unsupported`], with `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TokenizeError> {
        let damaged = |reason: String| TokenizeError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let model = proto::parse(path, bytes)?;
        let normalizer =
            Normalizer::new(&model.normalizer.clone().unwrap_or_default()).map_err(damaged)?;
        Ok(Self {
            normalizer,
            user_defined: user_defined(&model),
            bpe: build_bpe(&model).map_err(damaged)?,
            borders: borders(&model),
            pieces: model
                .pieces
                .into_iter()
                .map(|piece| (piece.text.as_str().into(), piece.piece_kind()))
                .collect(),
        })
    }

    /// Appends the ids of one fragment.
    pub(super) fn encode_fragment(&self, text: &str, ids: &mut Vec<u32>) {
        let normalized = self.normalizer.normalize(text, &self.user_defined);
        self.user_defined
            .split(&normalized, |fragment| match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(segment) => self.encode_segment(segment, ids),
            });
    }

    fn encode_segment(&self, segment: &str, ids: &mut Vec<u32>) {
        self.borders.split(segment, |part| self.merge(part, ids));
    }

    fn merge(&self, part: &str, ids: &mut Vec<u32>) {
        // It fails only where the unknown token has no id.
        let tokens = self.bpe.tokenize(part);
        let tokens = tokens.expect("building refuses a model without an unknown piece");
        ids.extend(tokens.iter().map(|token| token.id));
    }

    /// Appends the text of a run of ids; ids without a piece give nothing.
    pub(super) fn decode_run(&self, run: &[u32], out: &mut String) {
        let start = out.len();
        for &id in run {
            let Some((piece, kind)) = self.pieces.get(id as usize) else {
                continue;
            };
            match kind {
                PieceKind::Control => {}
                PieceKind::Unknown => out.push_str(UNKNOWN_SURFACE),
                _ => {
                    let at_start = out.len() == start;
                    let piece = if at_start {
                        piece.strip_prefix(SPACE).unwrap_or(piece)
                    } else {
                        piece
                    };
                    out.extend(piece.chars().map(|c| if c == SPACE { ' ' } else { c }));
                }
            }
        }
    }

    /// The piece of an id.
    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|(piece, _)| &**piece)
    }

    /// The id of a piece; the unknown id where there is none, as in SentencePiece.
    pub(super) fn piece_id(&self, piece: &str) -> Option<u32> {
        let position = self.pieces.iter().position(|(known, _)| &**known == piece);
        let unknown = || {
            self.pieces
                .iter()
                .position(|(_, kind)| *kind == PieceKind::Unknown)
        };
        position.or_else(unknown).map(|position| position as u32)
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }
}

fn user_defined(model: &ModelProto) -> SpecialSplit {
    let pieces = model.pieces.iter().enumerate();
    let tokens = pieces
        .filter(|(_, piece)| piece.piece_kind() == PieceKind::UserDefined)
        .map(|(position, piece)| SpecialToken {
            content: piece.text.clone(),
            id: position as u32,
            trim_left: false,
            trim_right: false,
        });
    SpecialSplit::new(tokens.collect())
}

fn borders(model: &ModelProto) -> Borders {
    let normal = model
        .pieces
        .iter()
        .filter(|piece| piece.piece_kind() == PieceKind::Normal);
    Borders::new(normal.map(|piece| piece.text.as_str()))
}

fn build_bpe(model: &ModelProto) -> Result<BPE, String> {
    let unknown = model
        .pieces
        .iter()
        .position(|piece| piece.piece_kind() == PieceKind::Unknown)
        .ok_or("it has no unknown piece".to_owned())?;
    let mut vocab = Vocab::with_capacity(model.pieces.len());
    for (position, piece) in model.pieces.iter().enumerate() {
        if piece.piece_kind() == PieceKind::Normal && !piece.text.is_empty() {
            vocab.insert(piece.text.clone(), position as u32);
        }
    }
    let merges = merges(model, &vocab);
    let unknown_piece = model.pieces[unknown].text.clone();
    vocab.insert(unknown_piece.clone(), unknown as u32);
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unknown_piece)
        .fuse_unk(true)
        .cache_capacity(CACHED_PARTS)
        .build()
        .map_err(|error| error.to_string())
}

/// Every way to put a normal piece together from two: the best piece first, within a piece by the
/// ids of the parts.
fn merges(model: &ModelProto, normal: &Vocab) -> Merges {
    let mut ranked: Vec<&proto::Piece> = model
        .pieces
        .iter()
        .filter(|piece| piece.piece_kind() == PieceKind::Normal)
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merges = Merges::with_capacity(ranked.len() + ranked.len() / 8);
    let mut parts = Vec::new();
    for piece in ranked {
        let text = piece.text.as_str();
        parts.extend(text.char_indices().skip(1).filter_map(|(at, _)| {
            let (left, right) = text.split_at(at);
            Some((*normal.get(left)?, *normal.get(right)?, at))
        }));
        parts.sort_unstable();
        merges.extend(parts.drain(..).map(|(_, _, at)| {
            let (left, right) = text.split_at(at);
            (left.to_owned(), right.to_owned())
        }));
    }
    merges
}

#[cfg(test)]
pub(super) mod tests {
    use prost::Message;

    use super::super::proto::{NormalizerSpec, Piece, TrainerSpec};
    use super::*;

    /// `<unk> <s> </s> <n>`, then normal pieces in the order of their scores.
    pub(in crate::tokenize) fn model_bytes(normal: &[&str]) -> Vec<u8> {
        let fixed = [
            ("<unk>", PieceKind::Unknown),
            ("<s>", PieceKind::Control),
            ("</s>", PieceKind::Control),
            ("<n>", PieceKind::UserDefined),
        ];
        let normal = normal.iter().map(|piece| (*piece, PieceKind::Normal));
        let pieces = fixed
            .into_iter()
            .chain(normal)
            .enumerate()
            .map(|(position, (text, kind))| Piece {
                text: text.to_owned(),
                score: -(position as f32),
                kind: Some(kind as i32),
            });
        ModelProto {
            pieces: pieces.collect(),
            trainer: Some(TrainerSpec {
                model_type: Some(2),
                ..TrainerSpec::default()
            }),
            normalizer: Some(NormalizerSpec::default()),
            denormalizer: None,
        }
        .encode_to_vec()
    }

    fn model(normal: &[&str]) -> SentencePiece {
        SentencePiece::parse(Path::new("x.model"), &model_bytes(normal)).unwrap()
    }

    fn pieces(model: &SentencePiece, text: &str) -> Vec<String> {
        let mut ids = Vec::new();
        model.encode_fragment(text, &mut ids);
        ids.iter()
            .map(|&id| model.piece(id).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_best_piece_merges_first_and_leftmost() {
        let model = model(&["bc", "ab", "▁", "a", "b", "c"]);
        assert_eq!(pieces(&model, "abc"), ["▁", "a", "bc"]);
        assert_eq!(pieces(&model, "abab"), ["▁", "ab", "ab"]);
        let model = self::model(&["aa", "▁", "a"]);
        assert_eq!(pieces(&model, "aaa"), ["▁", "aa", "a"]);
    }

    #[test]
    fn parts_give_the_ids_of_the_whole() {
        let model = model(&["▁a", "ab", "a▁b", "▁b", "▁", "a", "b"]);
        for text in ["a ab  aab", "ab?? ?a", "a<n>b ab", "b??b a b", "?? ??"] {
            let normalized = model.normalizer.normalize(text, &model.user_defined);
            let mut whole = Vec::new();
            model
                .user_defined
                .split(&normalized, |fragment| match fragment {
                    Fragment::Token(id) => whole.push(id),
                    Fragment::Text(segment) => model.merge(segment, &mut whole),
                });
            let mut ids = Vec::new();
            model.encode_fragment(text, &mut ids);
            assert_eq!(ids, whole, "{text:?}");
        }
        assert_eq!(
            pieces(&model, "ab?? ?a"),
            ["▁a", "b", "<unk>", "▁", "<unk>", "a"]
        );
    }

    #[test]
    fn user_defined_pieces_cut() {
        let model = model(&["▁a", "▁", "a"]);
        assert_eq!(pieces(&model, "<n>a"), ["▁", "<n>", "a"]);
        assert_eq!(pieces(&model, "a <n> a"), ["▁a", "▁", "<n>", "▁a"]);
        assert_eq!(pieces(&model, "?<n>?"), ["▁", "<unk>", "<n>", "<unk>"]);
    }

    #[test]
    fn decoding_strips_one_mark_until_something_stands() {
        let model = model(&["▁a", "▁", "a"]);
        let text = |run: &[u32]| {
            let mut out = "before".to_owned();
            model.decode_run(run, &mut out);
            out.split_off("before".len())
        };
        assert_eq!(text(&[4, 4]), "a a");
        assert_eq!(text(&[5, 5, 4, 5]), "a ");
        assert_eq!(text(&[1, 4, 2, 3]), "a<n>");
        assert_eq!(text(&[0, 4]), " \u{2047}  a");
        assert_eq!(text(&[4, 999, 6]), "aa", "an id without a piece is nothing");
    }

    #[test]
    fn an_unknown_piece_is_needed() {
        let bytes = ModelProto::decode(&*model_bytes(&["a"])).unwrap();
        let pieces = bytes.pieces[1..].to_vec();
        let bytes = ModelProto { pieces, ..bytes }.encode_to_vec();
        let error = SentencePiece::parse(Path::new("x.model"), &bytes).unwrap_err();
        assert!(error.to_string().contains("no unknown piece"), "{error}");
    }

    #[test]
    fn names_become_ids() {
        let model = model(&["a"]);
        assert_eq!(model.piece_id("a"), Some(4));
        assert_eq!(model.piece_id("[UNK]"), Some(0));
        assert_eq!(model.piece(5), None);
        assert_eq!(model.len(), 5);
    }
}
