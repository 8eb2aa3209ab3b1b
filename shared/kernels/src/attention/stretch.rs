//! Keys of a span, taken stretch by stretch from where they lie.

use super::{Chunk, SPAN_LEN};

/// Keys that become weights together, counted from the first of the segment: where keys are cut must
/// not show in the numbers. With their values and the scores of all rows they stay in the nearest cache.
pub(super) const STRETCH_LEN: usize = 64;

const _: () = assert!(SPAN_LEN.is_multiple_of(STRETCH_LEN));

/// Keys and values yet to be read.
pub(super) struct Stretches<'a> {
    /// Of the first chunk, what is left.
    chunks: &'a [Chunk<'a>],
    /// Numbers of the first chunk that are read already.
    done: usize,
    /// Numbers left in all.
    left: usize,
    head_dim: usize,
    /// Where the keys of the stretch lie.
    pieces: Vec<Chunk<'a>>,
}

impl<'a> Stretches<'a> {
    /// Of the first `count` keys.
    pub(super) const fn new(chunks: &'a [Chunk<'a>], head_dim: usize, count: usize) -> Self {
        Self {
            chunks,
            done: 0,
            left: count * head_dim,
            head_dim,
            pieces: Vec::new(),
        }
    }

    /// The keys and values of the next stretch, where they lie; nothing when there is none.
    pub(super) fn next(&mut self) -> &[Chunk<'a>] {
        self.pieces.clear();
        let mut wanted = self.left.min(STRETCH_LEN * self.head_dim);
        while let Some((chunk, later)) = self.chunks.split_first()
            && wanted > 0
        {
            let place = self.done..chunk.keys.len().min(self.done + wanted);
            wanted -= place.len();
            self.left -= place.len();
            self.done = place.end;
            if self.done == chunk.keys.len() {
                (self.chunks, self.done) = (later, 0);
            }
            self.pieces.push(Chunk {
                keys: &chunk.keys[place.clone()],
                values: &chunk.values[place],
            });
        }
        &self.pieces
    }
}
