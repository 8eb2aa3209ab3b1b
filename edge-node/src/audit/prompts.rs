//! Private prompts made up for an audit, each of another length and with a canary in it.

use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, TokenizerError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::audit::canary::{CANARY_TOKENS, Canary};
use crate::private::PrivateTokens;

/// Where made-up prompts begin in their random numbers: the same audit asks the same questions.
const SEED: u64 = 20_261_104;
/// Letters of a canary that chance has chosen: one of more than 10¹⁴ words.
const LETTERS: usize = 10;
/// Most sentences that only make a prompt longer.
const FILLERS_MAX: usize = 40;
/// Fewest tokens of a made-up prompt without text, the canary's among them.
const TOKENS_MIN: usize = CANARY_TOKENS + 2;

/// A made-up private prompt. Deliberately not `Debug`.
pub struct MadeUp {
    /// Its tokens.
    pub private: PrivateTokens,
    /// What it can be told by.
    pub canary: Canary,
}

/// The private prompt of case `index`, of at most `len_max` tokens.
///
/// # Errors
/// [`TokenizerError`] if the model's tokenizer cannot read it.
///
/// # Panics
/// If there is no room for a canary.
pub fn made_up(model: &Model, index: u64, len_max: usize) -> Result<MadeUp, TokenizerError> {
    assert!(len_max >= TOKENS_MIN, "there is room for a canary");
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    rng.set_stream(index);
    match model.tokenizer() {
        Ok(_) => of_text(model, &mut rng, len_max),
        Err(_) => Ok(of_tokens(model.config.vocab_size, &mut rng, len_max)),
    }
}

fn of_text(model: &Model, rng: &mut ChaCha8Rng, len_max: usize) -> Result<MadeUp, TokenizerError> {
    let letters = (0..LETTERS).map(|_| char::from(rng.random_range(b'a'..=b'z')));
    // The chance comes first: the first tokens of the word are what it is looked for by.
    let word: String = letters.chain("canary".chars()).collect();
    let before = " My name is Ada and my password is ";
    let more = " And so on.".repeat(rng.random_range(0..FILLERS_MAX));
    let start = private_tokens(model, before)?;
    let mut whole = private_tokens(model, &format!("{before}{word}.{more}"))?;
    whole.truncate(len_max);
    let pairs = start.iter().zip(&whole);
    let own = pairs.take_while(|(start, whole)| start == whole).count();
    // A tokenizer that swallows the word leaves the last tokens to tell the prompt by.
    let own = own.min(whole.len().saturating_sub(CANARY_TOKENS));
    let canary = Canary::new(word, &whole[own..]);
    let private = PrivateTokens::new(whole);
    Ok(MadeUp { private, canary })
}

/// Tokens of a text that does not begin its sequence.
fn private_tokens(model: &Model, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
    let Ok(tokenizer) = model.tokenizer() else {
        return Ok(Vec::new());
    };
    let mut tokens = tokenizer.encode(text)?;
    if model.config.bos.is_some() && tokens.first() == model.config.bos.as_ref() {
        tokens.remove(0);
    }
    Ok(tokens)
}

/// Random tokens for a model without words.
fn of_tokens(vocab_size: usize, rng: &mut ChaCha8Rng, len_max: usize) -> MadeUp {
    let vocab = u32::try_from(vocab_size).unwrap_or(u32::MAX).max(1);
    let len = rng.random_range(TOKENS_MIN..=len_max.min(8 * TOKENS_MIN));
    let tokens: Vec<_> = (0..len)
        .map(|_| TokenId(rng.random_range(0..vocab)))
        .collect();
    let canary = Canary::new(String::new(), &tokens);
    let private = PrivateTokens::new(tokens);
    MadeUp { private, canary }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use edgeprompt_model::ComputeDevice;

    use super::*;

    #[test]
    fn every_prompt_is_another_with_a_canary_of_its_own() {
        let device = ComputeDevice::default().open().unwrap();
        let model = Model::demo(&device).unwrap();
        let made: Vec<_> = (0..50)
            .map(|index| made_up(&model, index, 200).unwrap())
            .collect();
        let lengths: BTreeSet<_> = made.iter().map(|m| m.private.len()).collect();
        assert!(lengths.len() > 8, "{lengths:?}");
        for (index, one) in made.iter().enumerate() {
            let ids: Vec<String> = one
                .private
                .for_engine()
                .iter()
                .map(|token| token.0.to_string())
                .collect();
            let printed = ids.join(",");
            for (other, of) in made.iter().enumerate() {
                let found = of.canary.found_in_text(&printed).is_some();
                assert_eq!(found, index == other, "{index} {other}");
            }
        }
    }

    #[test]
    fn a_prompt_fits_its_room() {
        let device = ComputeDevice::default().open().unwrap();
        let model = Model::demo(&device).unwrap();
        for index in 0..20 {
            assert!(made_up(&model, index, 40).unwrap().private.len() <= 40);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(of_tokens(5, &mut rng, TOKENS_MIN).private.len(), TOKENS_MIN);
    }
}
