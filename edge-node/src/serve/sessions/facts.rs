//! What a session is made of, beside its answer: enough to begin it again on any node.

use edgeprompt_engine::{Generation, Sampler, SamplingParams};
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{PromptName, SessionKey, SessionTerms, Ticket};
use zeroize::Zeroize;

use crate::private::PrivateTokens;
use crate::serve::access::Caller;
use crate::serve::segments::SharedPrompt;
use crate::serve::sessions::log::ReaderKind;

/// One session. Deliberately not `Debug`: it holds the private prompt.
pub(crate) struct Facts {
    pub(crate) key: SessionKey,
    pub(crate) ticket: Ticket,
    /// Who began it, if that was here.
    pub(crate) caller: Option<Caller>,
    /// Whether its user goes where it goes.
    pub(crate) reader: ReaderKind,
    pub(crate) prompt: PrivateTokens,
    /// The end of the whole prompt: spacing depends on it.
    pub(crate) context: PrivateTokens,
    pub(crate) cloud: Option<(PromptName, SharedPrompt)>,
    pub(crate) terms: SessionTerms,
}

impl Facts {
    /// The generation, as it was before its first token.
    pub(crate) fn generation(&self) -> Generation {
        let cloud = self.cloud.as_ref().map(|(_, cloud)| cloud);
        let cloud_tokens = cloud.map_or(&[][..], |cloud| &cloud.tokens);
        let whole = [cloud_tokens, self.prompt.for_engine()].concat();
        let mut sampler = Sampler::new(params(&self.terms), self.terms.seed, &whole);
        if let Some(count) = self.terms.top_logprobs {
            sampler = sampler.with_logprobs(count as usize);
        }
        Generation {
            prompt: self.prompt.for_engine().to_vec(),
            segment: cloud.map(|cloud| cloud.segment.clone()),
            session: None,
            sampler,
            max_tokens: self.terms.max_tokens as usize,
            end_tokens: self.terms.end_tokens.clone(),
        }
    }

    /// Forgets what is private.
    pub(crate) fn wipe(&mut self) {
        self.prompt.wipe();
        self.context.wipe();
        self.terms.stops.zeroize();
    }
}

/// What a session is begun with.
pub(crate) fn terms(
    sampling: &SamplingParams,
    seed: u64,
    (max_tokens, end_tokens): (usize, &[TokenId]),
    (stops, top_logprobs): (&[String], Option<usize>),
) -> SessionTerms {
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    SessionTerms {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: small(sampling.top_k),
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        seed,
        max_tokens: small(max_tokens),
        end_tokens: end_tokens.to_vec(),
        stops: stops.to_vec(),
        top_logprobs: top_logprobs.map(small),
    }
}

/// The sampler's part of the terms.
pub(crate) fn params(terms: &SessionTerms) -> SamplingParams {
    SamplingParams {
        temperature: terms.temperature,
        top_p: terms.top_p,
        top_k: terms.top_k as usize,
        min_p: terms.min_p,
        repetition_penalty: terms.repetition_penalty,
        presence_penalty: terms.presence_penalty,
        frequency_penalty: terms.frequency_penalty,
    }
}
