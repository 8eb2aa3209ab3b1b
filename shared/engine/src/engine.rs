//! Many generations at once on one model: continuous batching over blocks of private KV.
//!
//! [`Engine::step`] computes as much as one step allows and never waits: a prompt whose cloud layer
//! is missing stands still while the others go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgeprompt_kv::{LayerIndex, TokenId};
use edgeprompt_model::Model;

use crate::batch::{BatchPass, BatchRow};
use crate::scheduler::{
    AdmissionError, ScheduledRow, Scheduler, SchedulerLimits, SequenceId, Step,
};
use crate::shard::{Shard, ShardShape};
use crate::spread::{Losses, Spread};
use crate::{Chosen, CloudSegment, Progress, Sampler, SessionId};

/// What an engine may use.
pub type EngineLimits = SchedulerLimits;

/// One generation. Deliberately not `Debug`: it holds private tokens.
pub struct Generation {
    /// The private prompt.
    pub prompt: Vec<TokenId>,
    /// The cloud prompt before it; its layers may still be on their way.
    pub segment: Option<CloudSegment>,
    /// The session it belongs to, if any: it shares private keys and values with others of it, all
    /// of which must be on the same cloud prompt.
    pub session: Option<SessionId>,
    /// Chooses its tokens.
    pub sampler: Sampler,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end it; none to ignore the model's.
    pub end_tokens: Vec<TokenId>,
}

/// Why a generation is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is nothing to continue.
    #[error("the private prompt is empty: it needs at least one token")]
    EmptyPrompt,
    /// The model has no positions for it.
    #[error("{token_count} tokens do not fit the model's context of {context_len_max}")]
    ContextTooShort {
        /// Tokens of both prompts, and one to generate.
        token_count: usize,
        /// Positions of the model.
        context_len_max: usize,
    },
    /// The schedule has no place for it.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of its end tokens was chosen.
    EndToken,
    /// It has as many tokens as were asked for, or as the model's context holds.
    Length,
}

/// What a step brought for one generation. Deliberately not `Debug`: the token follows from the
/// private prompt.
pub struct Output {
    /// The generation.
    pub id: SequenceId,
    /// The token chosen; an end token is not part of the answer.
    pub chosen: Chosen,
    /// Whether that was the last.
    pub finish: Option<Finish>,
    /// Tokens of the private prompt that its session had computed before.
    pub shared_len: usize,
}

/// What happened to the rows of a pass. The engine reads no clock: whoever is told may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassEvent {
    /// Work on the pass begins, or is tried again after a wait.
    Resumed,
    /// The layer is computed.
    Computed(LayerIndex),
    /// This layer of a cloud prompt is missing; whatever needs nothing of it is computed.
    Missing(LayerIndex),
}

/// Generates for many at once.
///
/// Deliberately not `Debug`: it holds private tokens and KV.
pub struct Engine {
    model: Arc<Model>,
    scheduler: Scheduler,
    /// What is here of the model, with its keys and values.
    shard: Shard,
    /// Others that compute with this one.
    spread: Option<Spread>,
    sequences: BTreeMap<SequenceId, State>,
    /// Passes that wait for a layer of a cloud prompt, each of one row.
    suspended: Vec<Suspended>,
}

mod moving;
mod spreading;

pub use moving::{KvChunk, NotAdopted, Progressed};
pub use spreading::Demand;

struct State {
    /// Private tokens: the prompt and what was generated.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    /// Tokens that its session had computed, known when its turn comes.
    shared_len: Option<usize>,
    segment: Option<CloudSegment>,
    sampler: Sampler,
    max_tokens: usize,
    end_tokens: Vec<TokenId>,
}

impl State {
    /// Whether no layer of its cloud prompt is missing, here or wherever heads are.
    fn is_ready(&self, spread: Option<&Spread>) -> bool {
        let is_there = |segment: &CloudSegment| {
            segment.is_complete() && spread.is_none_or(|it| it.has_everywhere(segment))
        };
        self.segment.as_ref().is_none_or(is_there)
    }
}

struct Suspended {
    pass: BatchPass,
    rows: Vec<ScheduledRow>,
}

impl Engine {
    /// An engine without work; takes the memory of all its blocks at once.
    pub fn new(model: Arc<Model>, limits: EngineLimits) -> Self {
        let shape = ShardShape::of(&model, 1, &limits);
        Self {
            shard: Shard::whole(shape, &model),
            spread: None,
            scheduler: Scheduler::new(limits),
            sequences: BTreeMap::new(),
            suspended: Vec::new(),
            model,
        }
    }

    /// Takes a generation in.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(&mut self, generation: Generation) -> Result<SequenceId, SubmitError> {
        if generation.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        let cloud_len = generation.segment.as_ref().map_or(0, |s| s.range().len());
        let prompt_len = generation.prompt.len();
        let context_len_max = self.model.config.context_len_max;
        let room = context_len_max.saturating_sub(cloud_len + prompt_len);
        if room == 0 {
            return Err(SubmitError::ContextTooShort {
                token_count: cloud_len + prompt_len + 1,
                context_len_max,
            });
        }
        // The last token of an answer takes no position.
        let max_tokens = generation.max_tokens.clamp(1, room + 1);
        let id = match generation.session {
            Some(session) => {
                let prompt = &generation.prompt;
                self.scheduler.submit_in(session, prompt, max_tokens)?
            }
            None => self.scheduler.submit(prompt_len, max_tokens)?,
        };
        self.sequences.insert(
            id,
            State {
                tokens: generation.prompt,
                prompt_len,
                shared_len: None,
                segment: generation.segment,
                sampler: generation.sampler,
                max_tokens,
                end_tokens: generation.end_tokens,
            },
        );
        Ok(id)
    }

    /// Ends a generation early; its blocks are free at once.
    pub fn cancel(&mut self, id: SequenceId) {
        self.drop_rows(&[id]);
        self.scheduler.end(id);
        self.sequences.remove(&id);
    }

    /// Positions of the model.
    pub fn context_len_max(&self) -> usize {
        self.model.config.context_len_max
    }

    /// Tokens of the model's vocabulary.
    pub fn vocab_len(&self) -> usize {
        self.model.config.vocab_size
    }

    /// Whether any generation is under way.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Blocks in use, and all of them.
    pub fn block_usage(&self) -> (usize, usize) {
        self.scheduler.block_usage()
    }

    /// Generations that compute, and those that wait for their turn.
    pub fn counts(&self) -> (usize, usize) {
        (
            self.scheduler.running_count(),
            self.scheduler.waiting_count(),
        )
    }

    /// Computes one step. `None` if there was nothing to compute: without work, or as long as every
    /// generation waits for layers of its cloud prompt.
    pub fn step(&mut self) -> Option<Vec<Output>> {
        self.step_told(&mut |_, _| {})
    }

    /// As [`Engine::step`]; tells `tell` what happens to which rows, as it happens.
    pub fn step_told(
        &mut self,
        tell: &mut (impl FnMut(PassEvent, &[ScheduledRow]) + Send),
    ) -> Option<Vec<Output>> {
        if self.model.decoder.is_on_cpu() {
            // Among the threads that compute: handing each product over to them takes longer than
            // some products.
            rayon::scope(|_| self.step_here(tell))
        } else {
            self.step_here(tell)
        }
    }

    fn step_here(
        &mut self,
        tell: &mut impl FnMut(PassEvent, &[ScheduledRow]),
    ) -> Option<Vec<Output>> {
        if !self.tend() {
            return Some(Vec::new());
        }
        let (sequences, spread) = (&self.sequences, self.spread.as_ref());
        let arriving = |id| {
            let state: Option<&State> = sequences.get(&id);
            state.is_some_and(|state| !state.is_ready(spread))
        };
        let Step { preempted, rows } = self.scheduler.next_step(arriving);
        self.drop_rows(&preempted);
        for row in &rows {
            if let Some(state) = self.sequences.get_mut(&row.id) {
                state.shared_len.get_or_insert(row.start);
            }
        }
        let mut progressed = !rows.is_empty();
        let (ready, waiting): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|row| self.sequences[&row.id].is_ready(self.spread.as_ref()));
        let mut outputs = Vec::new();
        if !ready.is_empty() {
            let mut ready = self.begin(ready);
            match self.advance(&mut ready, tell) {
                Ok((Progress::Complete, _)) => self.complete(ready, &mut outputs),
                Ok(_) => self.suspended.push(ready),
                Err(losses) => {
                    self.recover(losses);
                    return Some(outputs);
                }
            }
        }
        // Those that wait for a cloud prompt do so each for itself, and hold up nobody else.
        for row in waiting {
            let waiting = self.begin(vec![row]);
            self.suspended.push(waiting);
        }
        match self.resume(tell, &mut outputs) {
            Ok(resumed) => progressed |= resumed,
            Err(losses) => {
                self.recover(losses);
                progressed = true;
            }
        }
        progressed.then_some(outputs)
    }

    /// Goes on with passes whose layers have come: with one at least, and with no more tokens than a
    /// step may have beside that; the others are the first in the next step. Whether anything was
    /// computed.
    fn resume(
        &mut self,
        tell: &mut impl FnMut(PassEvent, &[ScheduledRow]),
        outputs: &mut Vec<Output>,
    ) -> Result<bool, Losses> {
        let token_count_max = self.scheduler.limits().max_num_batched_tokens.get();
        let mut token_count = 0;
        let (mut put_off, mut tried) = (Vec::new(), Vec::new());
        for mut suspended in std::mem::take(&mut self.suspended) {
            let row_tokens: usize = suspended.rows.iter().map(|row| row.len).sum();
            if token_count > 0 && token_count + row_tokens > token_count_max {
                put_off.push(suspended);
                continue;
            }
            let (progress, layers_done) = self.advance(&mut suspended, tell)?;
            if progress == Progress::Complete {
                token_count += row_tokens;
                self.complete(suspended, outputs);
                continue;
            }
            if layers_done > 0 {
                token_count += row_tokens;
            }
            tried.push(suspended);
        }
        put_off.append(&mut tried);
        self.suspended = put_off;
        Ok(token_count > 0)
    }

    /// As far as the layers at hand allow; also how many layers that were.
    fn advance(
        &mut self,
        Suspended { pass, rows }: &mut Suspended,
        tell: &mut impl FnMut(PassEvent, &[ScheduledRow]),
    ) -> Result<(Progress, usize), Losses> {
        let mut layers_done = 0;
        tell(PassEvent::Resumed, rows);
        loop {
            let progress = match &mut self.spread {
                Some(spread) if spread.is_used() => {
                    pass.advance_spread(&self.model, &mut self.shard, spread)?
                }
                Some(_) | None => pass.advance(&self.model, &mut self.shard),
            };
            tell(self.event(progress), rows);
            match progress {
                Progress::LayerDone(_) => layers_done += 1,
                ended => return Ok((ended, layers_done)),
            }
        }
    }

    fn event(&self, progress: Progress) -> PassEvent {
        match progress {
            Progress::LayerDone(layer) => PassEvent::Computed(layer),
            Progress::NeedsLayer(layer) => PassEvent::Missing(layer),
            Progress::Complete => {
                PassEvent::Computed(LayerIndex(self.model.geometry.layer_count() - 1))
            }
        }
    }

    fn begin(&self, mut rows: Vec<ScheduledRow>) -> Suspended {
        // Rows on one cloud prompt side by side; within it in the order of arrival.
        let mut order: Vec<&CloudSegment> = Vec::new();
        let mut key = |row: &ScheduledRow| {
            let segment = self.sequences[&row.id].segment.as_ref()?;
            let known = order
                .iter()
                .position(|other| segment.layers.is_same(&other.layers));
            Some(known.unwrap_or_else(|| {
                order.push(segment);
                order.len() - 1
            }))
        };
        rows.sort_by_cached_key(|row| key(row));
        let batch = rows.iter().map(|row| {
            let state = &self.sequences[&row.id];
            let tokens = state.tokens[row.start..row.start + row.len].to_vec();
            let table = self.scheduler.table(row.id);
            let table = table.expect("a scheduled sequence has a table");
            BatchRow::new(tokens, row.start, state.segment.clone(), table)
        });
        Suspended {
            pass: BatchPass::start(&self.model, batch.collect()),
            rows,
        }
    }

    fn complete(&mut self, done: Suspended, outputs: &mut Vec<Output>) {
        let whole =
            |row: &ScheduledRow| row.start + row.len == self.sequences[&row.id].tokens.len();
        let chosen: Vec<usize> = (0..done.rows.len())
            .filter(|index| whole(&done.rows[*index]))
            .collect();
        let score = || done.pass.logits(&self.model, &chosen);
        let logits = match &self.spread {
            Some(spread) if spread.is_used() => spread.paced(score),
            Some(_) | None => score(),
        };
        for row in &done.rows {
            self.scheduler.computed(row.id);
        }
        for (index, logits) in chosen.into_iter().zip(logits) {
            let output = self.choose(done.rows[index].id, &logits);
            outputs.push(output);
        }
    }

    fn choose(&mut self, id: SequenceId, logits: &[f32]) -> Output {
        let state = self.sequences.get_mut(&id).expect("its row was computed");
        let chosen = state.sampler.choose(logits);
        state.tokens.push(chosen.token);
        let generated = state.tokens.len() - state.prompt_len;
        let shared_len = state.shared_len.unwrap_or(0);
        let finish = if state.end_tokens.contains(&chosen.token) {
            Some(Finish::EndToken)
        } else if generated >= state.max_tokens {
            Some(Finish::Length)
        } else {
            None
        };
        if finish.is_some() {
            self.scheduler.end(id);
            self.sequences.remove(&id);
        } else {
            self.scheduler.appended(id, chosen.token);
        }
        Output {
            id,
            chosen,
            finish,
            shared_len,
        }
    }

    /// Voids what is under way for some sequences: a pass that waits has the row of one sequence.
    fn drop_rows(&mut self, ids: &[SequenceId]) {
        self.suspended
            .retain(|suspended| !suspended.rows.iter().any(|row| ids.contains(&row.id)));
    }
}

#[cfg(test)]
mod tests;
