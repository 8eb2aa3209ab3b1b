//! What attention needs to know of a pass: whose tokens are where, and what they see. The same for
//! every device that computes heads of it.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use edgeprompt_attention::{
    BlockPlace, BlockRow, KvBlocks, KvView, Mask, PartialAttention, merge, partial_attention,
};
use edgeprompt_kv::TokenRange;
use edgeprompt_model::{RopeTable, Rotary};

/// A cloud prompt of rows, in whatever way its keys and values are found.
pub(crate) trait Prefix: Clone {
    /// Whether both are the same, not only equal.
    fn is_same(&self, other: &Self) -> bool;

    /// Tokens of it.
    fn token_count(&self) -> u32;
}

/// Private tokens of one sequence in a pass, without saying which they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowPlan<P> {
    /// How many, at least one.
    pub(crate) len: usize,
    /// Private tokens before them.
    pub(crate) start: usize,
    /// The cloud prompt before all of them.
    pub(crate) prefix: Option<P>,
    /// Blocks with room for all of them.
    pub(crate) blocks: Vec<usize>,
}

impl<P: Prefix> RowPlan<P> {
    pub(crate) const fn end(&self) -> usize {
        self.start + self.len
    }

    /// Positions of the private tokens `from..to`, counted from the sequence's beginning.
    fn positions(&self, from: usize, to: usize) -> TokenRange {
        let cloud_len = self.prefix.as_ref().map_or(0, Prefix::token_count);
        let position = |token: usize| {
            let token = u32::try_from(token).expect("a sequence fits in u32 positions");
            cloud_len + token
        };
        TokenRange::new(position(from), position(to))
    }

    fn places(&self, block_len: usize) -> impl Iterator<Item = BlockPlace> + '_ {
        (self.start..self.end()).map(move |token| BlockPlace {
            block: self.blocks[token / block_len],
            slot: token % block_len,
        })
    }
}

/// Rows that share a cloud prompt, side by side in the pass.
struct Group<P> {
    prefix: Option<P>,
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

/// A pass's rows, made ready for attention.
pub(crate) struct PassPlan<P> {
    rotary: Rotary,
    /// Of each row, the pass's tokens up to its end.
    ends: Vec<usize>,
    groups: Vec<Group<P>>,
    /// With the pass's tokens each of them covers.
    private: Vec<(Range<usize>, PrivatePart)>,
    places: Arc<[BlockPlace]>,
}

impl<P: Prefix> PassPlan<P> {
    /// Of rows whose private tokens lie in blocks of `block_len`.
    ///
    /// # Panics
    /// If a row has no tokens or too few blocks.
    pub(crate) fn new(
        rope: &RopeTable,
        rows: Vec<RowPlan<P>>,
        block_len: usize,
        device: &Device,
    ) -> Self {
        let mut positions = Vec::new();
        for row in &rows {
            assert!(row.len > 0, "a row needs tokens");
            let new = row.positions(row.start, row.end());
            positions.extend(new.start().0..new.end().0);
        }
        Self {
            rotary: rope.rotary(positions, device),
            ends: token_ranges(&rows).map(|tokens| tokens.end).collect(),
            groups: groups(&rows),
            places: rows.iter().flat_map(|row| row.places(block_len)).collect(),
            private: private_parts(rows, device),
        }
    }

    pub(crate) const fn rotary(&self) -> &Rotary {
        &self.rotary
    }

    /// Where the keys and values of the pass's tokens go.
    pub(crate) const fn places(&self) -> &Arc<[BlockPlace]> {
        &self.places
    }

    /// Of each row, the pass's tokens up to its end.
    pub(crate) fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// Tokens of the pass.
    pub(crate) fn token_count(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The cloud prompts of the rows.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &P> {
        self.groups.iter().filter_map(|group| group.prefix.as_ref())
    }

    /// Attends to the private tokens in `kv` and to the cloud prompts, as `view` shows each.
    ///
    /// # Shapes
    /// `queries` and the result: `[token, q_head, head_dim]`.
    pub(crate) fn attend(
        &self,
        queries: &Tensor<3>,
        kv: &KvBlocks,
        view: impl Fn(&P) -> Option<KvView>,
    ) -> Tensor<3> {
        let private = self.private.iter().map(|(tokens, part)| {
            let q = narrow(queries, tokens);
            match part {
                PrivatePart::Single(rows) => kv.attend(&q, rows),
                PrivatePart::Many(row, mask) => {
                    let view = kv.gather(&row.blocks, row.token_count);
                    partial_attention(&q, &view, mask)
                }
            }
        });
        let private = PartialAttention::concat(private.collect());
        if self.groups.iter().all(|group| group.prefix.is_none()) {
            return private.output;
        }
        let cloud = self.groups.iter().map(|group| {
            let q = narrow(queries, &group.tokens);
            match group.prefix.as_ref().and_then(&view) {
                Some(layer) => partial_attention(&q, &layer, &Mask::all_visible()),
                None => PartialAttention::empty(q.dims(), &q.device()),
            }
        });
        merge(PartialAttention::concat(cloud.collect()), private).output
    }
}

fn narrow(queries: &Tensor<3>, tokens: &Range<usize>) -> Tensor<3> {
    if *tokens == (0..queries.dims()[0]) {
        return queries.clone();
    }
    queries.clone().narrow(0, tokens.start, tokens.len())
}

/// Of each row, its range of the pass's tokens.
fn token_ranges<P>(rows: &[RowPlan<P>]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut end = 0;
    rows.iter().map(move |row| {
        let start = end;
        end += row.len;
        start..end
    })
}

/// Runs of rows on the same cloud prompt.
fn groups<P: Prefix>(rows: &[RowPlan<P>]) -> Vec<Group<P>> {
    let mut groups: Vec<Group<P>> = Vec::new();
    for (row, tokens) in rows.iter().zip(token_ranges(rows)) {
        match groups.last_mut() {
            Some(group) if is_same(group.prefix.as_ref(), row.prefix.as_ref()) => {
                group.tokens.end = tokens.end;
            }
            Some(_) | None => groups.push(Group {
                prefix: row.prefix.clone(),
                tokens,
            }),
        }
    }
    groups
}

/// Runs of rows of one token, and each row of more by itself.
fn private_parts<P: Prefix>(
    rows: Vec<RowPlan<P>>,
    device: &Device,
) -> Vec<(Range<usize>, PrivatePart)> {
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
        end += row.len;
        let mask = Mask::causal(
            row.positions(row.start, row.end()),
            row.positions(0, row.end()),
            device,
        );
        let is_single = row.len == 1;
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

fn is_same<P: Prefix>(a: Option<&P>, b: Option<&P>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.is_same(b),
        (Some(_), None) | (None, Some(_)) => false,
    }
}
