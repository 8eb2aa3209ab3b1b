//! One forward pass over tokens of many sequences: a row each, of one token or of many.
//!
//! Weights are read once for all rows, and so is the cloud prompt that rows share (RelayAttention,
//! arXiv 2402.14808). Private keys and values lie in blocks.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{Tensor, TensorData};
use edgeprompt_kv::{BlockTable, LayerIndex, TokenId};
use edgeprompt_model::Model;

use crate::pass_plan::{PassPlan, Prefix, RowPlan};
use crate::shard::Shard;
use crate::spread::{Losses, PassId, Spread};
use crate::{CloudSegment, Progress};

/// Private tokens of one sequence to compute.
///
/// Deliberately not `Debug`: it holds private tokens.
pub(crate) struct BatchRow {
    /// The tokens; at least one.
    pub(crate) tokens: Vec<TokenId>,
    /// Private tokens before them, whose keys and values are in the blocks.
    pub(crate) start: usize,
    /// The cloud prompt before all of them.
    pub(crate) segment: Option<CloudSegment>,
    /// Blocks with room for all of them.
    pub(crate) blocks: Vec<usize>,
    /// Tokens of one block.
    pub(crate) block_len: usize,
}

impl BatchRow {
    /// A row of the tokens after the first `start` of a sequence whose private tokens lie where
    /// `table` says.
    pub(crate) fn new(
        tokens: Vec<TokenId>,
        start: usize,
        segment: Option<CloudSegment>,
        table: &BlockTable,
    ) -> Self {
        let blocks = table.blocks().iter().map(|block| block.as_usize());
        Self {
            tokens,
            start,
            segment,
            blocks: blocks.collect(),
            block_len: table.block_len(),
        }
    }

    fn plan(&self) -> RowPlan<CloudSegment> {
        RowPlan {
            len: self.tokens.len(),
            start: self.start,
            prefix: self.segment.clone(),
            blocks: self.blocks.clone(),
        }
    }
}

impl Prefix for CloudSegment {
    fn is_same(&self, other: &Self) -> bool {
        self.layers.is_same(&other.layers)
    }

    fn token_count(&self) -> u32 {
        self.range().end().0
    }
}

/// A pass, suspendable before every layer's attention.
///
/// Deliberately not `Debug`: its hidden states and queries count as private text.
pub(crate) struct BatchPass {
    id: PassId,
    hidden: Tensor<2>,
    plan: PassPlan<CloudSegment>,
    /// For other devices.
    rows: Vec<RowPlan<CloudSegment>>,
    layer: LayerIndex,
    queries: Option<Tensor<3>>,
}

/// Tells passes of this process from each other.
static PASSES: AtomicU64 = AtomicU64::new(0);

impl BatchPass {
    /// A pass over `rows`. Rows on the same cloud prompt should stand side by side: each run of
    /// them reads it once.
    ///
    /// # Panics
    /// If there are no rows or one has no tokens.
    pub(crate) fn start(model: &Model, rows: Vec<BatchRow>) -> Self {
        let block_len = rows.first().expect("a pass needs rows").block_len;
        let device = model.decoder.device();
        let tokens = rows.iter().flat_map(|row| &row.tokens);
        let ids: Vec<i64> = tokens.map(|token| i64::from(token.0)).collect();
        let ids = Tensor::from_data(TensorData::new(ids.clone(), [ids.len()]), &device);
        let rows: Vec<_> = rows.iter().map(BatchRow::plan).collect();
        Self {
            id: PassId(PASSES.fetch_add(1, Ordering::Relaxed)),
            hidden: model.decoder.embed(ids),
            plan: PassPlan::new(&model.rope, rows.clone(), block_len, &device),
            rows,
            layer: LayerIndex(0),
            queries: None,
        }
    }

    /// Goes on by one layer, or says which layer of a cloud prompt is missing.
    pub(crate) fn advance(&mut self, model: &Model, shard: &mut Shard) -> Progress {
        let layer = self.layer;
        self.project(model, shard);
        if self.is_missing(layer) {
            return Progress::NeedsLayer(layer);
        }
        self.attend(model, shard);
        self.progress(model, layer)
    }

    /// As [`BatchPass::advance`], with heads and slices wherever `spread` has them.
    ///
    /// # Errors
    /// [`Losses`] if devices are lost: what others computed for this pass is of no use then.
    pub(crate) fn advance_spread(
        &mut self,
        model: &Model,
        shard: &mut Shard,
        spread: &mut Spread,
    ) -> Result<Progress, Losses> {
        let layer = self.layer;
        // What was projected ahead is projected again, wherever its heads are now.
        self.queries = None;
        if self.is_missing(layer) || !spread.can_compute(layer, self.plan.prefixes()) {
            return Ok(Progress::NeedsLayer(layer));
        }
        let weights = &model.decoder.layers()[layer.as_usize()];
        spread.begin(self.id, &self.rows, layer, shard);
        let input = weights.attention_input(self.hidden.clone());
        let plan = &self.plan;
        let sum = spread.heads(layer, &input, |keys| {
            shard.heads(layer, input.clone(), plan, keys)
        })?;
        let hidden = self.hidden.clone() + sum;
        let input = weights.feed_forward_input(hidden.clone());
        let sum =
            spread.feed_forward(layer, &input, || shard.feed_forward(layer, input.clone()))?;
        self.hidden = hidden + sum;
        self.layer = LayerIndex(layer.0 + 1);
        Ok(self.progress(model, layer))
    }

    fn is_missing(&self, layer: LayerIndex) -> bool {
        let mut prefixes = self.plan.prefixes();
        prefixes.any(|segment| segment.layers.get(layer).is_none())
    }

    const fn progress(&self, model: &Model, done: LayerIndex) -> Progress {
        if self.layer.0 == model.geometry.layer_count() {
            return Progress::Complete;
        }
        Progress::LayerDone(done)
    }

    fn project(&mut self, model: &Model, shard: &mut Shard) {
        if self.queries.is_some() {
            return;
        }
        let layer = &model.decoder.layers()[self.layer.as_usize()];
        let qkv = layer.project(self.hidden.clone(), self.plan.rotary());
        let kv = shard.whole_kv(self.layer);
        kv.write(self.plan.places(), &qkv.k, &qkv.v);
        self.queries = Some(qkv.q);
    }

    fn attend(&mut self, model: &Model, shard: &mut Shard) {
        let queries = self.queries.take().expect("projected above");
        let kv = shard.whole_kv(self.layer);
        // Missing layers were looked for before.
        let view = |segment: &CloudSegment| segment.layers.get(self.layer).cloned();
        let attended = self.plan.attend(&queries, kv, view);
        let layer = &model.decoder.layers()[self.layer.as_usize()];
        self.hidden = layer.finish(self.hidden.clone(), attended);
        self.layer = LayerIndex(self.layer.0 + 1);
    }

    /// The scores after the last token of each row in `rows`, in that order.
    ///
    /// # Shapes
    /// `[vocab]` each, f32.
    ///
    /// # Panics
    /// If the pass is not complete.
    pub(crate) fn logits(self, model: &Model, rows: &[usize]) -> Vec<Vec<f32>> {
        assert_eq!(
            self.layer.as_usize(),
            model.decoder.layers().len(),
            "the pass is complete"
        );
        if rows.is_empty() {
            return Vec::new();
        }
        let ends = self.plan.ends();
        let last = rows.iter().map(|row| {
            let last = i64::try_from(ends[*row] - 1);
            last.expect("rows are those of a tensor in memory")
        });
        let last: Vec<i64> = last.collect();
        let last = TensorData::new(last, [rows.len()]);
        let last = Tensor::from_data(last, &self.hidden.device());
        let logits = model.decoder.logits(self.hidden.select(0, last));
        let vocab_size = logits.dims()[1];
        let numbers: Vec<f32> = logits
            .into_data()
            .try_to_vec()
            .expect("the decoder computes in f32");
        numbers.chunks(vocab_size).map(<[f32]>::to_vec).collect()
    }
}
