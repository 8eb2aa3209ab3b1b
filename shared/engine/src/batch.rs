//! One forward pass over tokens of many sequences: a row each, of one token or of many.
//!
//! Weights are read once for all rows, and so is the cloud prompt that rows share (RelayAttention,
//! arXiv 2402.14808). Private keys and values lie in blocks.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use edgeprompt_attention::{
    BlockPlace, BlockRow, KvBlocks, Mask, PartialAttention, merge, partial_attention,
};
use edgeprompt_kv::{BlockTable, LayerIndex, TokenId, TokenRange};
use edgeprompt_model::{Model, Rotary};

use crate::{CloudSegment, Progress};

/// Private tokens of one sequence to compute.
///
/// Deliberately not `Debug`: it holds private tokens.
pub struct BatchRow {
    /// The tokens; at least one.
    pub tokens: Vec<TokenId>,
    /// Private tokens before them, whose keys and values are in the blocks.
    pub start: usize,
    /// The cloud prompt before all of them.
    pub segment: Option<CloudSegment>,
    /// Blocks with room for all of them.
    pub blocks: Vec<usize>,
    /// Tokens of one block.
    pub block_len: usize,
}

impl BatchRow {
    /// A row of the tokens after the first `start` of a sequence whose private tokens lie where
    /// `table` says.
    pub fn new(
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

    fn end(&self) -> usize {
        self.start + self.tokens.len()
    }

    fn cloud_len(&self) -> u32 {
        self.segment
            .as_ref()
            .map_or(0, |segment| segment.range().end().0)
    }

    /// Positions of the private tokens `from..to`, counted from the sequence's beginning.
    fn positions(&self, from: usize, to: usize) -> TokenRange {
        let position = |token: usize| {
            let token = u32::try_from(token).expect("a sequence fits in u32 positions");
            self.cloud_len() + token
        };
        TokenRange::new(position(from), position(to))
    }

    fn places(&self) -> impl Iterator<Item = BlockPlace> + '_ {
        (self.start..self.end()).map(|token| BlockPlace {
            block: self.blocks[token / self.block_len],
            slot: token % self.block_len,
        })
    }
}

/// Rows that share a cloud prompt, side by side in the pass.
struct Group {
    segment: Option<CloudSegment>,
    /// Of the pass's tokens.
    tokens: Range<usize>,
}

/// Private tokens that are attended to in one go.
enum PrivatePart {
    /// Rows of one token each: every query sees all tokens of its row.
    Single(Arc<[BlockRow]>),
    /// One row of many tokens, and what its queries see.
    Many(BlockRow, Mask),
}

/// A pass, suspendable before every layer's attention.
///
/// Deliberately not `Debug`: its hidden states and queries count as private text.
pub struct BatchPass {
    hidden: Tensor<2>,
    rotary: Rotary,
    /// Of each row, the pass's tokens up to its end.
    ends: Vec<usize>,
    groups: Vec<Group>,
    /// With the pass's tokens each of them covers.
    private: Vec<(Range<usize>, PrivatePart)>,
    places: Arc<[BlockPlace]>,
    layer: LayerIndex,
    queries: Option<Tensor<3>>,
}

impl BatchPass {
    /// A pass over `rows`. Rows on the same cloud prompt should stand side by side: each run of
    /// them reads it once.
    ///
    /// # Panics
    /// If there are no rows or one has no tokens.
    pub fn start(model: &Model, rows: Vec<BatchRow>) -> Self {
        assert!(!rows.is_empty(), "a pass needs rows");
        let device = model.decoder.device();
        let tokens = rows.iter().flat_map(|row| &row.tokens);
        let ids: Vec<i64> = tokens.map(|token| i64::from(token.0)).collect();
        let ids = Tensor::from_data(TensorData::new(ids.clone(), [ids.len()]), &device);
        let mut positions = Vec::new();
        for row in &rows {
            assert!(!row.tokens.is_empty(), "a row needs tokens");
            let new = row.positions(row.start, row.end());
            positions.extend(new.start().0..new.end().0);
        }
        Self {
            hidden: model.decoder.embed(ids),
            rotary: model.rope.rotary(positions, &device),
            ends: token_ranges(&rows).map(|tokens| tokens.end).collect(),
            groups: groups(&rows),
            places: rows.iter().flat_map(BatchRow::places).collect(),
            private: private_parts(rows, &device),
            layer: LayerIndex(0),
            queries: None,
        }
    }

    /// Goes on by one layer, or says which layer of a cloud prompt is missing.
    ///
    /// `kv`: the blocks of every layer.
    pub fn advance(&mut self, model: &Model, kv: &mut [KvBlocks]) -> Progress {
        let layer = self.layer;
        self.project(model, &mut kv[layer.as_usize()]);
        let missing = |group: &Group| {
            let segment = group.segment.as_ref();
            segment.is_some_and(|segment| segment.layers.get(layer).is_none())
        };
        if self.groups.iter().any(missing) {
            return Progress::NeedsLayer(layer);
        }
        self.attend(model, &kv[layer.as_usize()]);
        if self.layer.as_usize() == model.decoder.layers().len() {
            return Progress::Complete;
        }
        Progress::LayerDone(layer)
    }

    fn project(&mut self, model: &Model, kv: &mut KvBlocks) {
        if self.queries.is_some() {
            return;
        }
        let layer = &model.decoder.layers()[self.layer.as_usize()];
        let qkv = layer.project(self.hidden.clone(), &self.rotary);
        kv.write(&self.places, &qkv.k, &qkv.v);
        self.queries = Some(qkv.q);
    }

    fn attend(&mut self, model: &Model, kv: &KvBlocks) {
        let queries = self.queries.take().expect("projected above");
        let private = self.private.iter().map(|(tokens, part)| {
            let q = narrow(&queries, tokens);
            match part {
                PrivatePart::Single(rows) => kv.attend(&q, rows),
                PrivatePart::Many(row, mask) => {
                    let view = kv.gather(&row.blocks, row.token_count);
                    partial_attention(&q, &view, mask)
                }
            }
        });
        let private = PartialAttention::concat(private.collect());
        let cloud = self.groups.iter().map(|group| {
            let q = narrow(&queries, &group.tokens);
            let segment = group.segment.as_ref();
            // Missing layers were looked for before.
            match segment.and_then(|segment| segment.layers.get(self.layer)) {
                Some(layer) => partial_attention(&q, layer, &Mask::all_visible()),
                None => PartialAttention::empty(q.dims(), &q.device()),
            }
        });
        let attended = match self.groups.iter().all(|group| group.segment.is_none()) {
            true => private,
            false => merge(PartialAttention::concat(cloud.collect()), private),
        };
        let layer = &model.decoder.layers()[self.layer.as_usize()];
        self.hidden = layer.finish(self.hidden.clone(), attended.output);
        self.layer = LayerIndex(self.layer.0 + 1);
    }

    /// The scores after the last token of each row in `rows`, in that order.
    ///
    /// # Shapes
    /// `[vocab]` each, f32.
    ///
    /// # Panics
    /// If the pass is not complete.
    pub fn logits(self, model: &Model, rows: &[usize]) -> Vec<Vec<f32>> {
        assert_eq!(
            self.layer.as_usize(),
            model.decoder.layers().len(),
            "the pass is complete"
        );
        if rows.is_empty() {
            return Vec::new();
        }
        let last = rows.iter().map(|row| {
            let last = i64::try_from(self.ends[*row] - 1);
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

fn narrow(queries: &Tensor<3>, tokens: &Range<usize>) -> Tensor<3> {
    if *tokens == (0..queries.dims()[0]) {
        return queries.clone();
    }
    queries.clone().narrow(0, tokens.start, tokens.len())
}

/// Of each row, its range of the pass's tokens.
fn token_ranges(rows: &[BatchRow]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut end = 0;
    rows.iter().map(move |row| {
        let start = end;
        end += row.tokens.len();
        start..end
    })
}

/// Runs of rows on the same cloud prompt.
fn groups(rows: &[BatchRow]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (row, tokens) in rows.iter().zip(token_ranges(rows)) {
        match groups.last_mut() {
            Some(group) if is_same(group.segment.as_ref(), row.segment.as_ref()) => {
                group.tokens.end = tokens.end;
            }
            Some(_) | None => groups.push(Group {
                segment: row.segment.clone(),
                tokens,
            }),
        }
    }
    groups
}

/// Runs of rows of one token, and each row of more by itself.
fn private_parts(rows: Vec<BatchRow>, device: &Device) -> Vec<(Range<usize>, PrivatePart)> {
    let mut parts = Vec::new();
    let mut singles: Vec<BlockRow> = Vec::new();
    let mut end = 0;
    let single = |end: usize, singles: &mut Vec<BlockRow>| {
        let tokens = end - singles.len()..end;
        let rows = std::mem::take(singles);
        (!tokens.is_empty()).then(|| (tokens, PrivatePart::Single(rows.into())))
    };
    for row in rows {
        let start = end;
        end += row.tokens.len();
        let mask = Mask::causal(
            row.positions(row.start, row.end()),
            row.positions(0, row.end()),
            device,
        );
        let is_single = row.tokens.len() == 1;
        let row = BlockRow {
            token_count: row.end(),
            blocks: row.blocks,
        };
        if is_single {
            singles.push(row);
            continue;
        }
        parts.extend(single(start, &mut singles));
        parts.push((start..end, PrivatePart::Many(row, mask)));
    }
    parts.extend(single(end, &mut singles));
    parts
}

fn is_same(a: Option<&CloudSegment>, b: Option<&CloudSegment>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.layers.is_same(&b.layers),
        (Some(_), None) | (None, Some(_)) => false,
    }
}
