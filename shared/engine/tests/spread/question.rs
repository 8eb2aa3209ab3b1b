//! What users ask of an engine, and what is to be seen of it from outside.

use edgeprompt_engine::{
    CloudSegment, Engine, Generation, Sampler, SamplingParams, SequenceId, SessionId,
};
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use rand::RngExt;
use rand::rngs::StdRng;

use super::worker::Seen;

/// How questions of one run belong together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not at all.
    Apart,
    /// They are of one cloud prompt each, whose layers come one by one.
    Late,
    /// They are of one session and one cloud prompt, one after the other, with samplers.
    Session,
}

/// What a user asks: a cloud prompt, perhaps, and a private one.
#[derive(Clone)]
pub(crate) struct Question {
    /// The step before which it is asked.
    pub(crate) at: usize,
    cloud: Option<CloudSegment>,
    is_late: bool,
    prompt: Vec<TokenId>,
    len: usize,
    session: Option<SessionId>,
    params: SamplingParams,
}

impl Question {
    pub(crate) fn generation(&self) -> Generation {
        Generation {
            prompt: self.prompt.clone(),
            segment: self.cloud.clone(),
            session: self.session,
            sampler: Sampler::new(self.params, 5, &[]),
            max_tokens: self.len,
            end_tokens: Vec::new(),
        }
    }
}

/// Up to 3 questions.
pub(crate) fn questions(model: &Model, kind: Kind, rng: &mut StdRng) -> Vec<Question> {
    let vocabulary = u32::try_from(model.config.vocab_size).unwrap();
    let tokens = |rng: &mut StdRng, count: usize| -> Vec<TokenId> {
        (0..count)
            .map(|_| TokenId(rng.random_range(3..vocabulary)))
            .collect()
    };
    let count = match kind {
        Kind::Apart => rng.random_range(1..=3),
        Kind::Late | Kind::Session => 3,
    };
    let session = (kind == Kind::Session).then(|| {
        let begin = tokens(rng, 30);
        (begin, CloudSegment::computed(model, &tokens(rng, 20)))
    });
    let one = |index: usize| {
        let (cloud, mut prompt) = (tokens(rng, 20), tokens(rng, 30));
        prompt.truncate(rng.random_range(1..30));
        let has_cloud = rng.random_bool(0.5) || kind == Kind::Late;
        let cloud = has_cloud.then(|| CloudSegment::computed(model, &cloud));
        let (cloud, prompt) = match &session {
            Some((begin, common)) => (Some(common.clone()), [&begin[..], &prompt].concat()),
            None => (cloud, prompt),
        };
        Question {
            at: match kind {
                Kind::Apart => 0,
                Kind::Late | Kind::Session => index * 12,
            },
            cloud,
            is_late: kind == Kind::Late,
            prompt,
            len: 40,
            session: (kind == Kind::Session).then_some(SessionId([7; 32])),
            params: match kind {
                Kind::Apart | Kind::Late => SamplingParams::greedy(),
                Kind::Session => SamplingParams::default(),
            },
        }
    };
    (0..count).map(one).collect()
}

/// The same questions; of cloud prompts whose layers come one by one nothing is there yet.
pub(crate) fn arriving(model: &Model, questions: &[Question]) -> Vec<Question> {
    let arriving = questions.iter().map(|question| {
        let mut arriving = question.clone();
        if let (Some(cloud), true) = (&mut arriving.cloud, question.is_late) {
            let token_count = u32::try_from(cloud.range().len()).unwrap();
            *cloud = CloudSegment::empty(&model.geometry, token_count);
        }
        arriving
    });
    arriving.collect()
}

/// Brings a layer here and there.
pub(crate) fn bring_layers((from, to): (&[Question], &[Question]), seen: &Seen, rng: &mut StdRng) {
    for (from, to) in from.iter().zip(to) {
        let (Some(from), Some(to)) = (&from.cloud, &to.cloud) else {
            continue;
        };
        let next = to.layers.missing().next();
        if let Some(layer) = next.filter(|_| rng.random_bool(0.3)) {
            let view = from.layers.get(layer).unwrap().clone();
            to.layers.fill(layer, view).unwrap();
            seen.note("layers came late");
        }
    }
}

/// How far an engine is with what it was asked.
pub(crate) struct SoFar<'a> {
    pub(crate) ids: &'a [SequenceId],
    /// Tokens of the longest answer.
    pub(crate) len: usize,
    /// Tokens that a session had computed before.
    pub(crate) shared_len: usize,
}

/// Sees from outside what an engine does by itself.
#[derive(Default)]
pub(crate) struct Watch {
    computed: Vec<usize>,
    lost: usize,
}

impl Watch {
    /// `lost`: workers so far, with whom keys and values are lost for another reason.
    pub(crate) fn look(&mut self, (engine, so_far): (&Engine, &SoFar), lost: usize, seen: &Seen) {
        let computed = so_far.ids.iter().map(|id| {
            let progress = engine.progress(*id);
            progress.map_or(usize::MAX, |it| it.computed_count)
        });
        let computed: Vec<_> = computed.collect();
        let mut both = self.computed.iter().zip(&computed);
        if lost == self.lost && both.any(|(before, now)| now < before) {
            seen.note("preempted");
        }
        if so_far.shared_len > 0 {
            seen.note("shared");
        }
        (self.computed, self.lost) = (computed, lost);
    }
}
