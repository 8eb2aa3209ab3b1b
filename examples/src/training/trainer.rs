//! One step after another: draw a batch, follow the gradient, keep the score.
//!
//! The data of a step are a function of seed and step alone. A step is cut into a fixed number of
//! shards, each computed by one thread from beginning to end, and their gradients are added in
//! order. So the weights do not depend on how many cores there are; they do depend, in their last
//! bits, on the vector instructions of the processor.

use std::collections::HashMap;
use std::thread;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{
    AdamWConfig, AdjustLrFn, GradientsAccumulator, GradientsParams, ModuleOptimizer, MuonConfig,
};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor};
use edgeprompt_model::{Decoder, ModelConfig, RopeTable};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::attention::forward;
use super::batch::{Batch, Prompt};
use super::checkpoint::Progress;
use super::curriculum::{Curriculum, Stage};
use super::init::initialise;
use super::tasks::Tasks;
use crate::shop_desk::Case;

/// Weight of one step in the running share of right answers.
const MASTERY_WEIGHT: f64 = 0.1;
/// Threads that share a step. One thread on half the batch is nearly as fast as two on all of it.
pub(super) const SHARD_COUNT: usize = 2;
/// How fast unused weights fade, times the learning rate.
const WEIGHT_DECAY: f32 = 0.01;
/// Cases scored in one pass: bounds the memory of an evaluation.
const SCORE_CASES_MAX: usize = 64;

/// How many answers were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Answers of which every token was right.
    pub right: usize,
    /// All answers.
    pub of: usize,
}

impl Score {
    /// The share of right answers.
    pub fn share(self) -> f64 {
        as_f64(self.right) / as_f64(self.of.max(1))
    }
}

/// What one step found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean cross-entropy of the scored tokens, in nats.
    pub loss: f64,
    /// Before the step was taken.
    pub score: Score,
    /// Tokens that went through the model.
    pub token_count: usize,
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    pub(super) decoder: Decoder,
    pub(super) optimizer: Optimizer,
    /// Where the run is.
    pub progress: Progress,
    tasks: Tasks,
    curriculum: Curriculum,
    rope: RopeTable,
    device: Device,
    /// One thread each: tensor operations stay on the thread of their shard.
    pools: Vec<ThreadPool>,
}

/// What one thread contributes to a step.
struct Shard {
    gradients: GradientsParams,
    /// Its part of the mean over the whole step.
    loss: f64,
    score: Score,
}

/// Muon and AdamW, which have no `Debug` of their own.
pub(super) struct Optimizer(pub(super) ModuleOptimizer);

impl std::fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Muon and AdamW")
    }
}

/// Muon for the matrices of the layers, AdamW for the embedding and the norms.
///
/// With AdamW alone the look-up takes several times as many steps. Muon's steps are scaled to the
/// size of AdamW's, so one learning rate serves both.
fn optimizer() -> ModuleOptimizer {
    let matrices = ParamGroup::from_regex(r"^layers\.\d+\.(qkv|output|gate_up|down)\.weight$");
    let muon = MuonConfig::new()
        .with_weight_decay(Some(WeightDecayConfig::new(WEIGHT_DECAY)))
        .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
        .build();
    AdamWConfig::new()
        .with_beta_2(0.98)
        .with_epsilon(1e-8)
        .with_weight_decay(WEIGHT_DECAY)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init()
        .with_group(matrices.expect("the pattern is well-formed"), muon, None)
}

impl Trainer {
    /// A model of random weights.
    pub fn new(config: &ModelConfig, tasks: Tasks, curriculum: Curriculum, seed: u64) -> Self {
        assert_eq!(
            config.vocab_size,
            tasks.vocab_size(),
            "model and tokenizer agree"
        );
        let device = Device::flex().autodiff();
        Self {
            decoder: initialise(Decoder::init(config, &device), config, seed),
            optimizer: Optimizer(optimizer()),
            progress: Progress::new(seed),
            tasks,
            curriculum,
            rope: RopeTable::new(&config.rope, config.head_dim),
            device,
            pools: (0..SHARD_COUNT).map(|_| single_thread()).collect(),
        }
    }

    /// The stage of the next step, or nothing when training is over.
    pub fn stage(&self) -> Option<&Stage> {
        self.curriculum.stages.get(self.progress.stage_index)
    }

    /// The curriculum the run follows.
    pub const fn curriculum(&self) -> &Curriculum {
        &self.curriculum
    }

    /// The weights, without gradients.
    pub fn decoder(&self) -> Decoder {
        self.decoder.valid()
    }

    /// Takes one step and moves on to the next stage if this one is mastered; nothing is left to
    /// do when it returns nothing.
    pub fn step(&mut self) -> Option<StepReport> {
        let Progress {
            seed,
            step,
            stage_index,
            stage_step,
            ..
        } = self.progress;
        let stage = self.curriculum.stages.get(stage_index)?;
        let batches = self.tasks.batches(stage, seed, step);
        let (mastered_at, steps_max) = (stage.mastered_at, stage.steps_max);
        let rate = self.curriculum.rate(step, stage_index, stage_step);

        let (gradients, report) = self.gradients(&batches);
        let decoder = self.decoder.clone();
        let optimizer = &mut self.optimizer.0;
        self.decoder = self.pools[0].install(|| optimizer.step(rate, decoder, gradients));

        self.progress.advance(report.score.share(), MASTERY_WEIGHT);
        let mastered = mastered_at.is_some_and(|share| self.progress.mastery >= share);
        if mastered || self.progress.stage_step >= steps_max {
            self.progress.next_stage();
        }
        Some(report)
    }

    /// The gradients of the mean loss over all `batches`, each computed by one thread.
    fn gradients(&self, batches: &[Batch]) -> (GradientsParams, StepReport) {
        let target_count: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        let shards: Vec<Shard> = thread::scope(|scope| {
            let mut running = Vec::new();
            for (batch, pool) in batches.iter().zip(&self.pools) {
                // A fork has a graph of its own: threads on one graph would wait for each other.
                let decoder = self.decoder.clone().fork(&self.device);
                let share = as_f64(batch.targets.len()) / as_f64(target_count);
                let shard = move || pool.install(|| self.shard(decoder, batch, share));
                running.push(scope.spawn(shard));
            }
            let join = |shard: thread::ScopedJoinHandle<'_, Shard>| {
                shard.join().expect("a shard that panics ends the run")
            };
            running.into_iter().map(join).collect()
        });
        let mut sum = GradientsAccumulator::new();
        let mut report = StepReport::default();
        for (shard, batch) in shards.into_iter().zip(batches) {
            sum.accumulate(&self.decoder, shard.gradients);
            report.loss += shard.loss;
            report.score.right += shard.score.right;
            report.score.of += shard.score.of;
            report.token_count += batch.tokens.len();
        }
        (sum.grads(), report)
    }

    fn shard(&self, decoder: Decoder, batch: &Batch, share: f64) -> Shard {
        let (loss, logits) = losses(&decoder, &self.rope, batch, &self.device);
        let loss = loss * share;
        Shard {
            gradients: GradientsParams::from_grads(loss.backward(), &decoder),
            loss: f64::from(loss.into_scalar::<f32>()),
            score: score(&logits.inner(), batch),
        }
    }

    /// How many of `cases` the model would answer exactly right, decoding greedily.
    ///
    /// A greedy answer is right exactly if every token is the likeliest after the right tokens
    /// before it, so one pass over the right answer decides it.
    pub fn score(&self, decoder: &Decoder, cases: &[Case]) -> Score {
        let mut by_prefix_len: HashMap<usize, Vec<Prompt>> = HashMap::new();
        for case in cases {
            let prompt = self.tasks.prompt(case);
            by_prefix_len
                .entry(prompt.prefix.len())
                .or_default()
                .push(prompt);
        }
        let mut total = Score::default();
        for prompts in by_prefix_len
            .values()
            .flat_map(|p| p.chunks(SCORE_CASES_MAX))
        {
            let batch = Batch::new(prompts);
            let device = decoder.device();
            let (_, logits) = losses(decoder, &self.rope, &batch, &device);
            let found = score(&logits, &batch);
            total.right += found.right;
            total.of += found.of;
        }
        total
    }
}

fn single_thread() -> ThreadPool {
    let pool = ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("the system has a thread to give")
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

/// Mean loss of the scored tokens, and their logits.
pub(super) fn losses(
    decoder: &Decoder,
    rope: &RopeTable,
    batch: &Batch,
    device: &Device,
) -> (Tensor<1>, Tensor<2>) {
    let hidden = forward(decoder, rope, batch, device);
    let to_i64 = |i: usize| i64::try_from(i).expect("batches are small");
    let rows: Vec<i64> = batch.targets.iter().map(|t| to_i64(t.row)).collect();
    let tokens: Vec<i64> = batch.targets.iter().map(|t| i64::from(t.token)).collect();
    let rows = Tensor::<1, Int>::from_data(rows.as_slice(), device);
    let tokens = Tensor::<1, Int>::from_data(tokens.as_slice(), device);
    let logits = decoder.logits(hidden.select(0, rows));
    let chosen = log_softmax(logits.clone(), 1).gather(1, tokens.unsqueeze_dim(1));
    (chosen.mean().neg(), logits)
}

/// Compares the likeliest tokens with the right ones.
fn score(logits: &Tensor<2>, batch: &Batch) -> Score {
    let likeliest = logits.clone().argmax(1).into_data();
    let mut wrong = vec![false; batch.answer_count()];
    for (target, found) in batch.targets.iter().zip(likeliest.iter::<i64>()) {
        if found != i64::from(target.token) {
            wrong[target.answer] = true;
        }
    }
    Score {
        right: wrong.iter().filter(|wrong| !**wrong).count(),
        of: wrong.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_desk::FactRange;
    use crate::training::{MODEL_CONFIG, StageKind};
    use burn::module::{ModuleMapper, Param, ParamId};

    /// Moves one parameter along a direction.
    struct Nudge<'a> {
        gradients: &'a GradientsParams,
        only: ParamId,
        by: f64,
    }

    impl ModuleMapper for Nudge<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if param.id != self.only {
                return param;
            }
            let gradient = self.gradients.get::<D>(param.id).unwrap();
            param.map(|value| value + gradient * self.by)
        }
    }

    #[derive(Default)]
    struct Norms<'a> {
        gradients: Option<&'a GradientsParams>,
        found: Vec<(String, ParamId, f64)>,
        path: Vec<String>,
    }

    impl burn::module::ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.unwrap().get::<D>(param.id).unwrap();
            let squared = gradient.square().sum().into_scalar::<f32>();
            self.found
                .push((self.path.join("."), param.id, f64::from(squared)));
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        let config = ModelConfig::from_json(MODEL_CONFIG).unwrap();
        let trainer = Trainer::new(&config, Tasks::new().unwrap(), Curriculum::shop_desk(), 1);
        let stage = Stage {
            name: "test",
            kind: StageKind::Desk(FactRange::new(2..=2)),
            prompt_count: 2,
            suffix_count: 2,
            mastered_at: None,
            steps_max: 1,
        };
        let batch = &trainer.tasks.batches(&stage, 1, 0)[0];
        let (loss, _) = losses(&trainer.decoder, &trainer.rope, batch, &trainer.device);
        let gradients = GradientsParams::from_grads(loss.backward(), &trainer.decoder);
        let mut norms = Norms {
            gradients: Some(&gradients),
            ..Norms::default()
        };
        trainer.decoder.visit(&mut norms);
        let plain = trainer.decoder();
        let device = plain.device();
        for (path, only, squared) in norms.found {
            let by = 2e-2 / squared.sqrt();
            let at = |by| {
                let nudge = &mut Nudge {
                    gradients: &gradients,
                    only,
                    by,
                };
                let (loss, _) = losses(&plain.clone().map(nudge), &trainer.rope, batch, &device);
                f64::from(loss.into_scalar::<f32>())
            };
            let slope = (at(by) - at(-by)) / (2.0 * by);
            // f32 losses and the curvature along 0.02 allow for two per cent.
            assert!(
                (slope / squared - 1.0).abs() < 0.02,
                "{path}: {slope} against {squared}"
            );
        }
    }
}
