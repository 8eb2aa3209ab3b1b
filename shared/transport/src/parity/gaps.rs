//! Which bytes of a run are missing.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most gaps that are kept track of: one packet in eleven lost of the largest layer. A reader gives up
/// beyond it, so that a peer that sends every other byte cannot fill a node's memory.
pub(crate) const GAPS_MAX: usize = 1 << 16;

/// Ranges that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gaps {
    end_by_start: BTreeMap<usize, usize>,
}

impl Gaps {
    /// Nothing of `range` is there.
    pub(crate) fn of(range: Range<usize>) -> Self {
        let whole = (!range.is_empty()).then_some((range.start, range.end));
        Self {
            end_by_start: whole.into_iter().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end_by_start.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.end_by_start.len()
    }

    /// Those that overlap `range`, as far as they do, in order.
    pub(crate) fn within(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let before = self.end_by_start.range(..range.start).next_back();
        let inside = self.end_by_start.range(range.clone());
        before
            .into_iter()
            .chain(inside)
            .map(move |(start, end)| (*start).max(range.start)..(*end).min(range.end))
            .filter(|overlap| !overlap.is_empty())
    }

    /// `range` is there now; returns how many bytes of it were missing.
    pub(crate) fn fill(&mut self, range: Range<usize>) -> usize {
        let overlaps: Vec<_> = self.within(range.clone()).collect();
        let mut filled = 0;
        for overlap in overlaps {
            filled += overlap.len();
            let upto = self.end_by_start.range(..=overlap.start).next_back();
            let Some((start, end)) = upto.map(|(start, end)| (*start, *end)) else {
                continue;
            };
            self.end_by_start.remove(&start);
            if start < overlap.start {
                self.end_by_start.insert(start, overlap.start);
            }
            if overlap.end < end {
                self.end_by_start.insert(overlap.end, end);
            }
        }
        filled
    }
}
