//! The vocabulary of a GGUF file: tokens with their kinds and scores, and the special ones.

use std::collections::HashSet;

use super::GgufError;
use super::metadata::Metadata;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what is not in the vocabulary.
    Unknown,
    /// Never part of a text.
    Control,
    /// Text that is never split.
    UserDefined,
    /// In the vocabulary but never given.
    Unused,
    /// One byte.
    Byte,
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Algorithm<'a> {
    /// SentencePiece: the pair whose union has the best score is merged first.
    Scores(Vec<f32>),
    /// Byte-level: pairs are merged in the order of a list.
    Merges {
        /// Pairs, each as two texts with a space between.
        merges: Vec<&'a str>,
        /// How text is cut before merging.
        cut: &'a str,
    },
}

/// The vocabulary of a file, its lists as long as each other.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) algorithm: Algorithm<'a>,
    pub(super) unknown: Option<usize>,
    pub(super) bos: Option<usize>,
    pub(super) eos: Option<usize>,
    /// Whether a text begins with `bos`, ends with `eos` and has a space put before it.
    pub(super) begins_with_bos: bool,
    pub(super) ends_with_eos: bool,
    pub(super) adds_space: bool,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

impl<'a> Vocabulary<'a> {
    /// Reads the keys that begin with `tokenizer.ggml`.
    ///
    /// # Errors
    /// [`GgufError`] names the key.
    pub(super) fn read(metadata: &Metadata<'a>) -> Result<Self, GgufError> {
        let missing = |key: &str| GgufError::MissingKey(key.to_owned());
        let tokens = metadata.texts(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
        let mut seen = HashSet::new();
        if let Some(token) = tokens.iter().position(|text| !seen.insert(*text)) {
            return Err(GgufError::DuplicateToken { token });
        }
        let kinds = match metadata.u32s(KINDS)? {
            None => vec![TokenKind::Normal; tokens.len()],
            Some(numbers) => numbers
                .iter()
                .map(|kind| token_kind(*kind))
                .collect::<Result<_, _>>()?,
        };
        same_length(KINDS, kinds.len(), tokens.len())?;
        let algorithm = algorithm(metadata, tokens.len())?;
        let scored = matches!(algorithm, Algorithm::Scores(_));
        let special = |name: &str| special_token(metadata, name, tokens.len());
        let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.{name}"));
        let cut_begins_with_bos = match &algorithm {
            Algorithm::Scores(_) => true,
            Algorithm::Merges { cut, .. } => LLAMA_3_CUTS.contains(cut),
        };
        // SentencePiece's own numbers, for files that do not say.
        let usual = |id: usize| (scored && id < tokens.len()).then_some(id);
        Ok(Self {
            unknown: special("unknown_token_id")?.or_else(|| usual(0)),
            bos: special("bos_token_id")?.or_else(|| usual(1)),
            eos: special("eos_token_id")?.or_else(|| usual(2)),
            begins_with_bos: flag("add_bos_token")?.unwrap_or(cut_begins_with_bos),
            ends_with_eos: flag("add_eos_token")?.unwrap_or(false),
            adds_space: flag("add_space_prefix")?.unwrap_or(scored),
            tokens,
            kinds,
            algorithm,
        })
    }
}

/// Names that files give to the way Llama 3 cuts text.
pub(super) const LLAMA_3_CUTS: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];

fn algorithm<'a>(metadata: &Metadata<'a>, token_count: usize) -> Result<Algorithm<'a>, GgufError> {
    let missing = |key: &str| GgufError::MissingKey(key.to_owned());
    let model = "tokenizer.ggml.model";
    match metadata.required_text(model)? {
        "llama" => {
            let scores = metadata.f32s(SCORES)?.ok_or_else(|| missing(SCORES))?;
            same_length(SCORES, scores.len(), token_count)?;
            Ok(Algorithm::Scores(scores))
        }
        "gpt2" => Ok(Algorithm::Merges {
            merges: metadata.texts(MERGES)?.ok_or_else(|| missing(MERGES))?,
            cut: metadata.required_text("tokenizer.ggml.pre")?,
        }),
        other => Err(GgufError::Unsupported {
            key: model.to_owned(),
            value: other.to_owned(),
        }),
    }
}

fn special_token(
    metadata: &Metadata<'_>,
    name: &str,
    token_count: usize,
) -> Result<Option<usize>, GgufError> {
    let key = format!("tokenizer.ggml.{name}");
    let Some(id) = metadata.u64(&key)? else {
        return Ok(None);
    };
    let known = usize::try_from(id).ok().filter(|id| *id < token_count);
    let known = known.ok_or_else(|| GgufError::Unsupported {
        key,
        value: id.to_string(),
    });
    known.map(Some)
}

fn token_kind(number: u32) -> Result<TokenKind, GgufError> {
    match number {
        1 => Ok(TokenKind::Normal),
        2 => Ok(TokenKind::Unknown),
        3 => Ok(TokenKind::Control),
        4 => Ok(TokenKind::UserDefined),
        5 => Ok(TokenKind::Unused),
        6 => Ok(TokenKind::Byte),
        other => Err(GgufError::Unsupported {
            key: KINDS.to_owned(),
            value: other.to_string(),
        }),
    }
}

const fn same_length(key: &'static str, actual: usize, expected: usize) -> Result<(), GgufError> {
    if actual == expected {
        return Ok(());
    }
    Err(GgufError::Entries {
        key,
        actual,
        expected,
    })
}
