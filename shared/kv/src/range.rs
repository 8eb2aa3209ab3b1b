//! Half-open ranges of tokens and layers, and the small integers they are made of.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A token of a model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

/// A token's absolute place in its sequence: what RoPE rotates by.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TokenPosition(pub u32);

/// A layer of the model, counted from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LayerIndex(pub u32);

impl LayerIndex {
    /// As an index into a slice of layers.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// The tokens `start..end` of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenRange {
    start: u32,
    end: u32,
}

impl TokenRange {
    /// The range `start..end`.
    ///
    /// # Panics
    /// If `start > end`.
    pub const fn new(start: u32, end: u32) -> Self {
        assert!(start <= end, "a token range starts before it ends");
        Self { start, end }
    }

    /// The first `len` tokens.
    pub const fn prefix(len: u32) -> Self {
        Self { start: 0, end: len }
    }

    /// The first position in the range.
    pub const fn start(self) -> TokenPosition {
        TokenPosition(self.start)
    }

    /// The first position after the range.
    pub const fn end(self) -> TokenPosition {
        TokenPosition(self.end)
    }

    /// How many tokens.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// The layers `start..end` of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerRange {
    start: u32,
    end: u32,
}

impl LayerRange {
    /// The range `start..end`, or `None` if it ends before it starts.
    pub const fn new(start: u32, end: u32) -> Option<Self> {
        if start <= end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// The first `count` layers: all of a model that has `count`.
    pub const fn first(count: u32) -> Self {
        Self {
            start: 0,
            end: count,
        }
    }

    /// How many layers.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `layer` lies in the range.
    pub const fn contains(self, layer: LayerIndex) -> bool {
        self.start <= layer.0 && layer.0 < self.end
    }

    /// The bounds as plain integers.
    pub const fn bounds(self) -> Range<u32> {
        self.start..self.end
    }

    /// Every layer in order.
    pub fn iter(self) -> impl Iterator<Item = LayerIndex> {
        self.bounds().map(LayerIndex)
    }
}
