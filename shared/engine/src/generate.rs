//! A sequence: a cloud prompt, a private prompt, and the tokens that follow.

use edgeprompt_attention::Fusion;
use edgeprompt_kv::{TokenId, TokenPosition, TokenRange};
use edgeprompt_model::Model;

use crate::{CloudSegment, ForwardPass, PrivateKv, Progress};

/// How a sequence attends. The default is exact; everything else is an ablation.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceOptions {
    /// How prefix and suffix are fused.
    pub fusion: Fusion,
    /// The first private position, if not the one after the cloud prompt.
    pub private_start: Option<TokenPosition>,
}

/// One generation on one model.
///
/// Deliberately not `Debug`: it holds private KV, which counts as private text.
pub struct Sequence<'a> {
    model: &'a Model,
    cloud: Option<CloudSegment>,
    kv: PrivateKv,
    fusion: Fusion,
    private_start: u32,
    private_len: u32,
    pass: Option<ForwardPass>,
}

impl<'a> Sequence<'a> {
    /// A sequence on a cloud prompt, or monolithic without one.
    pub fn new(model: &'a Model, cloud: Option<CloudSegment>, options: SequenceOptions) -> Self {
        let after_cloud = cloud.as_ref().map_or(0, |cloud| cloud.range().end().0);
        Self {
            model,
            kv: PrivateKv::empty(&model.geometry, &model.decoder.device()),
            cloud,
            fusion: options.fusion,
            private_start: options
                .private_start
                .map_or(after_cloud, |position| position.0),
            private_len: 0,
            pass: None,
        }
    }

    /// Begins a pass over the next private tokens: the prompt, or the token chosen last.
    ///
    /// # Panics
    /// If there are none or a pass is under way.
    pub fn begin(&mut self, tokens: &[TokenId]) {
        assert!(self.pass.is_none(), "one pass at a time");
        let start = self.private_start + self.private_len;
        let count = u32::try_from(tokens.len()).expect("a prompt fits in u32 positions");
        let range = TokenRange::new(start, start + count);
        let private = TokenRange::new(self.private_start, start + count);
        self.pass = Some(ForwardPass::continuing(self.model, tokens, range, private));
        self.private_len += count;
    }

    /// Goes on by one layer, or says which layer of the cloud prompt is missing.
    ///
    /// # Panics
    /// If no pass is under way.
    pub fn advance(&mut self) -> Progress {
        let pass = self.pass.as_mut().expect("a pass is under way");
        pass.advance(self.model, self.cloud.as_ref(), &mut self.kv, self.fusion)
    }

    /// Ends a complete pass and takes the scores of the next token, `[vocab]`.
    ///
    /// # Panics
    /// If no pass is complete.
    pub fn logits(&mut self) -> Vec<f32> {
        self.pass
            .take()
            .expect("a pass is complete")
            .logits(self.model)
    }

    /// Runs a whole pass on a cloud prompt that is there, and chooses greedily.
    ///
    /// # Panics
    /// If a layer of the cloud prompt is missing.
    pub fn next_greedy(&mut self, tokens: &[TokenId]) -> TokenId {
        self.begin(tokens);
        loop {
            match self.advance() {
                Progress::NeedsLayer(layer) => panic!("layer {} is missing", layer.0),
                Progress::LayerDone(_) => {}
                Progress::Complete => return greedy(&self.logits()),
            }
        }
    }

    /// The first `max` greedy tokens after a private prompt, whatever they are.
    ///
    /// # Panics
    /// If a layer of the cloud prompt is missing.
    pub fn generate_greedy(&mut self, prompt: &[TokenId], max: usize) -> Vec<TokenId> {
        let mut tokens: Vec<TokenId> = Vec::with_capacity(max);
        while tokens.len() < max {
            let token = match tokens.last() {
                None => self.next_greedy(prompt),
                Some(last) => self.next_greedy(&[*last]),
            };
            tokens.push(token);
        }
        tokens
    }

    /// The most positions this sequence may still take before the model's context ends.
    pub fn room(&self) -> usize {
        let used = self.private_start as usize + self.private_len as usize;
        self.model.config.context_len_max.saturating_sub(used)
    }
}

/// The token of the highest score; the first of equals.
///
/// NaN is lower than every number, so the first token is chosen where every score is NaN.
///
/// # Panics
/// If there are no scores.
pub fn greedy(logits: &[f32]) -> TokenId {
    let best = |best: (u32, f32), (index, score): (u32, f32)| {
        let is_better = score > best.1 || (best.1.is_nan() && !score.is_nan());
        if is_better { (index, score) } else { best }
    };
    let indexed = (0u32..).zip(logits.iter().copied());
    let (index, _) = indexed.reduce(best).expect("a vocabulary is not empty");
    TokenId(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(greedy(&[0.0, 2.0, 2.0, -1.0]), TokenId(1));
        assert_eq!(greedy(&[f32::NEG_INFINITY, -5.0]), TokenId(1));
    }

    #[test]
    fn greedy_takes_nan_for_the_lowest() {
        let nan = f32::NAN;
        assert_eq!(greedy(&[nan, f32::NEG_INFINITY, nan]), TokenId(1));
        assert_eq!(greedy(&[1.0, nan, 2.0, nan]), TokenId(2));
        assert_eq!(greedy(&[nan, -3.0, nan, -2.0]), TokenId(3));
        assert_eq!(greedy(&[nan, nan]), TokenId(0));
    }
}
