//! Where the parts of a quantised layer lie: everything follows from geometry, tokens and bits.
//!
//! ```text
//! first token    keys, then values, f16 each                        2 · channels · 2
//! key scales     f16 [key_group, channel]                           key_groups · channels · 2
//! key zeros      f16 [key_group, channel]                           key_groups · channels · 2
//! value scales   f16 [token, value_group]                           tokens · value_groups · 2
//! key codes      [kv_head, token, row]                              kv_heads · tokens · row_bytes
//! value codes    [kv_head, token, row]                              kv_heads · tokens · row_bytes
//! ```
//! `tokens` are those after the first; a channel is a number of a KV head, `head · head_dim + dim`.
//! A row is one head's numbers of one token: a byte each, or two in a byte, the first half of the
//! row in the low bits and the second half in the high ones. All integers are little-endian.
//!
//! Keys have a scale and a zero for each channel of a group of tokens, values a scale for each token
//! and group of channels (KIVI, arXiv 2402.02750), which may span heads: heads of few numbers would
//! spend as many bits on scales as on codes. The first token stays in f16, for it draws attention
//! and its keys are unlike all others (KVQuant, arXiv 2401.18079). Unlike KIVI's cache, which grows,
//! a cloud prompt is complete: its last group is a group like any other.

use std::ops::Range;

use crate::KvGeometry;

/// Bits of one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    Four,
    Eight,
}

/// Channels of a group of values, or up to twice as many.
const VALUE_GROUP: usize = 32;

impl Bits {
    /// Tokens of a group of keys, or up to twice as many. Fewer bits leave more room for scales.
    const fn key_group(self) -> usize {
        match self {
            Self::Four => 28,
            Self::Eight => 64,
        }
    }

    /// The largest code.
    pub(crate) const fn code_max(self) -> u8 {
        match self {
            Self::Four => 15,
            Self::Eight => 255,
        }
    }

    /// The code of zero where codes have a sign.
    pub(crate) const fn middle(self) -> u8 {
        self.code_max() / 2 + 1
    }
}

/// The parts of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) bits: Bits,
    pub(crate) heads: usize,
    pub(crate) dim: usize,
    /// Tokens in f16: the first, if there is any.
    pub(crate) firsts: usize,
    /// Tokens in codes.
    pub(crate) tokens: usize,
    pub(crate) key_groups: usize,
    pub(crate) value_groups: usize,
    pub(crate) row_bytes: usize,
}

impl Layout {
    pub(crate) const fn new(geometry: &KvGeometry, token_count: usize, bits: Bits) -> Self {
        let (heads, dim) = (geometry.kv_head_count(), geometry.head_dim());
        let firsts = if token_count == 0 { 0 } else { 1 };
        let tokens = token_count - firsts;
        Self {
            bits,
            heads,
            dim,
            firsts,
            tokens,
            key_groups: group_count(tokens, bits.key_group()),
            value_groups: group_count(heads * dim, VALUE_GROUP),
            row_bytes: match bits {
                Bits::Four => dim.div_ceil(2),
                Bits::Eight => dim,
            },
        }
    }

    pub(crate) const fn channels(&self) -> usize {
        self.heads * self.dim
    }

    /// Bytes of the first token's keys, or values.
    pub(crate) const fn first_bytes(&self) -> usize {
        self.firsts * self.channels() * 2
    }

    /// Bytes of the scales of keys, or their zeros.
    pub(crate) const fn key_params_bytes(&self) -> usize {
        self.key_groups * self.channels() * 2
    }

    /// Bytes of the scales of values.
    pub(crate) const fn value_scales_bytes(&self) -> usize {
        self.tokens * self.value_groups * 2
    }

    /// Bytes of the codes of keys, or values.
    pub(crate) const fn codes_bytes(&self) -> usize {
        self.heads * self.tokens * self.row_bytes
    }

    /// Bytes of the whole layer.
    pub(crate) const fn bytes(&self) -> usize {
        2 * (self.first_bytes() + self.key_params_bytes() + self.codes_bytes())
            + self.value_scales_bytes()
    }

    /// The tokens of each group of keys, counted from the first in codes.
    pub(crate) fn key_groups(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        groups(self.tokens, self.key_groups)
    }

    /// The channels of each group of values.
    pub(crate) fn value_groups(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        groups(self.channels(), self.value_groups)
    }
}

/// As many groups of at least `len` as there are, and one of what there is if that is less.
const fn group_count(count: usize, len: usize) -> usize {
    match count {
        0 => 0,
        _ if count < len => 1,
        _ => count / len,
    }
}

/// `count` things in groups that differ by one at most.
fn groups(count: usize, group_count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    (0..group_count)
        .map(move |group| count * group / group_count..count * (group + 1) / group_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_everything_once_and_none_is_short() {
        for count in 0..500 {
            let mut next = 0;
            for group in groups(count, group_count(count, 32)) {
                assert_eq!(group.start, next);
                assert!(group.len() >= 32.min(count) && group.len() < 64);
                next = group.end;
            }
            assert_eq!(next, count);
        }
    }
}
