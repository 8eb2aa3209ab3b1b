//! The vocabulary of a GGUF file as the `tokenizer.json` that Hugging Face would publish.
//!
//! One form for both kinds of file means one way in, and the digest of a model is over it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, DecoderWrapper, Tokenizer};

use super::GgufError;
use super::vocabulary::{Algorithm, LLAMA_3_CUTS, TokenKind, Vocabulary};

/// What SentencePiece writes for a space.
const SPACE: &str = "▁";
/// Longest piece that is derived from pairs, in bytes: SentencePiece makes none beyond 16
/// characters unless told to.
const PIECE_BYTES_MAX: usize = 256;
/// Most merges for each token of a vocabulary; Llama 2 has fewer than two.
const MERGES_PER_TOKEN_MAX: usize = 16;

/// The words of Llama 3: as those of Qwen 2 but for numbers, which are cut every three digits.
const LLAMA_3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The text of a `tokenizer.json`.
pub(super) fn tokenizer_json(vocabulary: &Vocabulary<'_>) -> Result<String, GgufError> {
    let mut tokenizer = match &vocabulary.algorithm {
        Algorithm::Scores(scores) => sentence_piece(vocabulary, scores)?,
        Algorithm::Merges { merges, cut } => byte_level(vocabulary, merges, cut)?,
    };
    if let Some(template) = template(vocabulary)? {
        tokenizer.with_post_processor(Some(template));
    }
    let (special, whole): (Vec<_>, Vec<_>) = added_tokens(vocabulary).partition(|t| t.special);
    tokenizer.add_special_tokens(&special);
    tokenizer.add_tokens(&whole);
    tokenizer.to_string(false).map_err(refused)
}

fn sentence_piece(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Result<Tokenizer, GgufError> {
    let mut builder = bpe(vocabulary, merges_by_score(vocabulary, scores)?);
    builder = builder.fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = vocabulary.unknown {
        builder = builder.unk_token(vocabulary.tokens[unknown].to_owned());
    }
    let mut tokenizer = Tokenizer::new(built(builder)?);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(refused)?.into(),
        ByteFallback::default().into(),
        Fuse::default().into(),
    ];
    if vocabulary.adds_space {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(Replace::new(" ", SPACE).map_err(refused)?.into());
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)));
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

fn byte_level(
    vocabulary: &Vocabulary<'_>,
    merges: &[&str],
    cut: &str,
) -> Result<Tokenizer, GgufError> {
    let unread = |value: &str| GgufError::Unsupported {
        key: "tokenizer.ggml.merges".to_owned(),
        value: format!("{value:?}"),
    };
    let pair = |merge: &&str| {
        let pair = merge.split_once(' ').ok_or_else(|| unread(merge))?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    };
    let merges = merges
        .iter()
        .map(pair)
        .collect::<Result<Merges, GgufError>>()?;
    let by_word = |words: &str| {
        let words = SplitPattern::Regex(words.to_owned());
        let split = Split::new(words, SplitDelimiterBehavior::Isolated, false).map_err(refused)?;
        let bytes = ByteLevel::new(vocabulary.adds_space, false, false);
        Ok::<_, GgufError>(PreTokenizers::new(vec![split.into(), bytes.into()]))
    };
    let bytes_of_words = || ByteLevel::new(vocabulary.adds_space, false, true);
    let mut builder = bpe(vocabulary, merges);
    let mut normalizer = None;
    let pre_tokenizer = match cut {
        "gpt-2" => PreTokenizers::new(vec![bytes_of_words().into()]),
        "smollm" => PreTokenizers::new(vec![Digits::new(true).into(), bytes_of_words().into()]),
        "qwen2" => {
            normalizer = Some(NFC);
            by_word(QWEN_2_WORDS)?
        }
        llama_3 if LLAMA_3_CUTS.contains(&llama_3) => {
            builder = builder.ignore_merges(true);
            by_word(LLAMA_3_WORDS)?
        }
        other => {
            return Err(GgufError::Unsupported {
                key: "tokenizer.ggml.pre".to_owned(),
                value: other.to_owned(),
            });
        }
    };
    let mut tokenizer = Tokenizer::new(built(builder)?);
    tokenizer.with_normalizer(normalizer);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    Ok(tokenizer)
}

fn bpe(vocabulary: &Vocabulary<'_>, merges: Merges) -> BpeBuilder {
    let ids = (0u32..).zip(&vocabulary.tokens);
    let vocab: Vocab = ids.map(|(id, text)| ((*text).to_owned(), id)).collect();
    BPE::builder().vocab_and_merges(vocab, merges)
}

fn built(builder: BpeBuilder) -> Result<BPE, GgufError> {
    builder.build().map_err(refused)
}

/// The merges that give the pieces of a SentencePiece vocabulary, best score first.
///
/// SentencePiece merges the pair whose union is the piece of the best score; a list of pairs in
/// that order does the same. This is how Hugging Face converts its tokenizers: every cut of every
/// piece into two pieces, by falling score, then by falling length of the two.
fn merges_by_score(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Result<Merges, GgufError> {
    let tokens = &vocabulary.tokens;
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, t)| (*t, id)).collect();
    // Tokens of other kinds are found in the text before anything is merged.
    let derived =
        |id: &usize| [TokenKind::Normal, TokenKind::Unused].contains(&vocabulary.kinds[*id]);
    let most = tokens.len().saturating_mul(MERGES_PER_TOKEN_MAX);
    let mut merges = Vec::new();
    for (id, piece) in tokens.iter().enumerate().filter(|(id, _)| derived(id)) {
        let (bytes, most_bytes) = (piece.len(), PIECE_BYTES_MAX);
        if bytes > most_bytes {
            return Err(GgufError::Piece {
                token: id,
                bytes,
                most: most_bytes,
            });
        }
        let cuts = piece
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.split_at(at));
        let pieces = cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        merges.extend(pieces.map(|pair| (id, pair)));
        if merges.len() > most {
            let tokens = tokens.len();
            return Err(GgufError::Merges { tokens, most });
        }
    }
    let length = |id: usize| Reverse(tokens[id].chars().count());
    merges.sort_by(|(a, (a_left, a_right)), (b, (b_left, b_right))| {
        let by_score = scores[*b].total_cmp(&scores[*a]);
        let ties = |id, left, right| (length(left), length(right), id, left, right);
        by_score.then_with(|| ties(*a, *a_left, *a_right).cmp(&ties(*b, *b_left, *b_right)))
    });
    let text = |id: usize| tokens[id].to_owned();
    let pairs = merges
        .into_iter()
        .map(|(_, (left, right))| (text(left), text(right)));
    Ok(pairs.collect())
}

/// What is put around every text.
fn template(vocabulary: &Vocabulary<'_>) -> Result<Option<TemplateProcessing>, GgufError> {
    let before = vocabulary.bos.filter(|_| vocabulary.begins_with_bos);
    let after = vocabulary.eos.filter(|_| vocabulary.ends_with_eos);
    if before.is_none() && after.is_none() {
        return Ok(None);
    }
    let text = |id: &usize| vocabulary.tokens[*id].to_owned();
    let sequence = |name: &str| {
        let middle = std::iter::once(name.to_owned());
        let pieces = before
            .iter()
            .map(text)
            .chain(middle)
            .chain(after.iter().map(text));
        pieces.collect::<Vec<_>>()
    };
    let used: HashSet<usize> = before.into_iter().chain(after).collect();
    let mut special = Vec::new();
    for id in used {
        let number = u32::try_from(id).map_err(|e| refused(e.into()))?;
        special.push((vocabulary.tokens[id].to_owned(), number));
    }
    let refused = |reason: String| GgufError::Tokenizer(reason);
    let mut builder = TemplateProcessing::builder();
    builder.try_single(sequence("$A")).map_err(refused)?;
    builder.special_tokens(special);
    builder
        .build()
        .map(Some)
        .map_err(|e| refused(e.to_string()))
}

/// Tokens that are looked for in the text before it is cut.
fn added_tokens(vocabulary: &Vocabulary<'_>) -> impl Iterator<Item = AddedToken> {
    let kinds = vocabulary.tokens.iter().zip(&vocabulary.kinds);
    kinds.filter_map(|(text, kind)| {
        let special = match kind {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => false,
            TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
        };
        Some(AddedToken::from((*text).to_owned(), special).normalized(false))
    })
}

fn refused(reason: tokenizers::Error) -> GgufError {
    GgufError::Tokenizer(reason.to_string())
}
