//! A canary: something so unusual in a private prompt that wherever it turns up, the private prompt
//! has leaked. Pure: bytes in, findings out.
//!
//! It finds what was copied, in the forms that programs give to text and numbers. It cannot find
//! what was encrypted or computed: against that stands that all sessions send the same bytes.

use edgeprompt_kv::TokenId;

/// Token ids that a canary is looked for by; fewer would be found by chance.
pub const CANARY_TOKENS: usize = 6;

/// A word of a private prompt, and the tokens it became. Deliberately not `Debug`.
#[derive(Clone)]
pub struct Canary {
    /// Empty where the model has no tokenizer.
    word: String,
    tokens: Vec<TokenId>,
}

/// The form in which a canary was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trace {
    /// As text.
    #[error("its word")]
    Word,
    /// As text in hexadecimal digits.
    #[error("its word in hexadecimal")]
    Hex,
    /// As integers of a fixed size.
    #[error("its token ids as integers of {0} bytes")]
    Integers(usize),
    /// As the integers of our control messages.
    #[error("its token ids as in a message")]
    Varints,
    /// As numbers that people can read.
    #[error("its token ids in decimal")]
    Decimal,
}

impl Canary {
    /// A canary of a word, which may be empty, and the tokens that are its own.
    ///
    /// # Panics
    /// If there is too little to look for.
    pub fn new(word: String, tokens: &[TokenId]) -> Self {
        assert!(
            tokens.len() >= CANARY_TOKENS,
            "a canary has at least {CANARY_TOKENS} tokens"
        );
        let tokens = tokens[..CANARY_TOKENS].to_vec();
        Self { word, tokens }
    }

    /// The first trace of it in a message or a file.
    pub fn found_in(&self, bytes: &[u8]) -> Option<Trace> {
        self.found_in_text(&String::from_utf8_lossy(bytes))
            .or_else(|| {
                let integers = [2, 4, 8].into_iter().map(Trace::Integers);
                let mut binary = integers.chain([Trace::Varints]);
                binary.find(|trace| {
                    self.encodings(*trace)
                        .iter()
                        .any(|part| contains(bytes, part))
                })
            })
    }

    /// The first trace of it in a log or another text.
    pub fn found_in_text(&self, text: &str) -> Option<Trace> {
        let hex: String = self
            .word
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let lower = text.to_lowercase();
        let has_word = !self.word.is_empty() && lower.contains(&self.word.to_lowercase());
        if has_word {
            return Some(Trace::Word);
        }
        if !hex.is_empty() && lower.contains(&hex) {
            return Some(Trace::Hex);
        }
        let joined = |between: &str, around: [&str; 2]| {
            let ids = self.tokens.iter();
            let ids = ids.map(|token| format!("{}{}{}", around[0], token.0, around[1]));
            ids.collect::<Vec<_>>().join(between)
        };
        let decimals = [
            joined(",", ["", ""]),
            joined(", ", ["", ""]),
            joined(" ", ["", ""]),
            joined(", ", ["TokenId(", ")"]),
        ];
        let is_there = decimals.iter().any(|ids| text.contains(ids));
        is_there.then_some(Trace::Decimal)
    }

    /// The tokens' bytes, little-endian and big-endian where that makes a difference.
    fn encodings(&self, trace: Trace) -> Vec<Vec<u8>> {
        let tokens = self.tokens.iter().map(|token| token.0);
        match trace {
            Trace::Integers(width) => {
                let little = tokens.clone().flat_map(|token| {
                    let bytes = u64::from(token).to_le_bytes();
                    bytes.into_iter().take(width)
                });
                let big = tokens.flat_map(|token| {
                    let bytes = u64::from(token).to_be_bytes();
                    bytes.into_iter().skip(8 - width)
                });
                vec![little.collect(), big.collect()]
            }
            Trace::Varints => vec![tokens.flat_map(varint).collect()],
            Trace::Word | Trace::Hex | Trace::Decimal => Vec::new(),
        }
    }
}

/// An integer as bincode's standard configuration writes it.
fn varint(value: u32) -> Vec<u8> {
    if let Some(byte) = u8::try_from(value).ok().filter(|byte| *byte < 251) {
        return vec![byte];
    }
    match u16::try_from(value) {
        Ok(value) => [&[251], &value.to_le_bytes()[..]].concat(),
        Err(_) => [&[252], &value.to_le_bytes()[..]].concat(),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use edgeprompt_kv::{KvDtype, ModelDigest};
    use edgeprompt_protocol::codec::encode_to_cloud;
    use edgeprompt_protocol::{CloudRequest, Fetch, FetchId, PromptRef, PublicPrompt};

    use super::*;

    fn tokens(ids: [u32; 6]) -> Vec<TokenId> {
        ids.map(TokenId).to_vec()
    }

    fn canary() -> Canary {
        Canary::new(
            "Canaryqxz".to_owned(),
            &tokens([7, 300, 70_000, 250, 251, 9]),
        )
    }

    /// A message of an edge that had a private prompt declared public.
    fn leak(prompt: PublicPrompt) -> Vec<u8> {
        let fetch = Fetch {
            fetch: FetchId(0),
            model: ModelDigest::new([1; 32]),
            prompt: PromptRef::Public(prompt),
            layers: None,
            dtype: KvDtype::F32,
        };
        encode_to_cloud(&CloudRequest::Fetch(fetch))
            .unwrap()
            .to_vec()
    }

    #[test]
    fn a_leak_through_the_real_codec_is_found() {
        let text = PublicPrompt::Text("my password is canaryQXZ!".to_owned());
        assert_eq!(canary().found_in(&leak(text)), Some(Trace::Word));
        let ids = PublicPrompt::Tokens(tokens([7, 300, 70_000, 250, 251, 9]));
        assert_eq!(canary().found_in(&leak(ids)), Some(Trace::Varints));
        let other = PublicPrompt::Tokens(tokens([7, 300, 70_001, 250, 251, 9]));
        assert_eq!(canary().found_in(&leak(other)), None);
    }

    #[test]
    fn a_leak_into_a_log_is_found_however_it_is_printed() {
        let found = |text: &str| canary().found_in_text(text);
        assert_eq!(found("asked: 43616e61727971787a"), Some(Trace::Hex));
        let printed = format!("prompt={:?}", tokens([7, 300, 70_000, 250, 251, 9]));
        assert_eq!(found(&printed), Some(Trace::Decimal));
        assert_eq!(found("ids 7,300,70000,250,251,9"), Some(Trace::Decimal));
        assert_eq!(found("ids 7,300,70000,250,251"), None);
    }

    #[test]
    fn integers_are_found_in_both_orders() {
        let ids = [7u32, 300, 70_000, 250, 251, 9];
        let big: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        assert_eq!(canary().found_in(&big), Some(Trace::Integers(4)));
        let wide: Vec<u8> = ids
            .iter()
            .flat_map(|id| u64::from(*id).to_le_bytes())
            .collect();
        assert_eq!(canary().found_in(&wide), Some(Trace::Integers(8)));
    }
}
