//! What is kept in memory by name, bounded in bytes; what was unused for longest goes first. Pure.

use std::collections::BTreeMap;

use edgeprompt_kv::PromptId;
use edgeprompt_protocol::PromptName;

/// Values by name. What goes lives on with whoever still uses it.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    bytes_max: u64,
    /// Counts uses.
    now: u64,
    kept: BTreeMap<PromptName, Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    weight: Weight,
    used: u64,
}

/// What a value takes; names of one prompt share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    /// What it is of.
    pub(crate) prompt: PromptId,
    /// How much that is.
    pub(crate) bytes: u64,
}

impl<T> Shelf<T> {
    /// An empty shelf for `bytes_max` bytes.
    pub(crate) const fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            now: 0,
            kept: BTreeMap::new(),
        }
    }

    /// Bytes of what may be put on it.
    pub(crate) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Puts a value in the place of an earlier one of its name, and takes off what there is no room
    /// for any more, this value included if it is too large for all of the shelf.
    pub(crate) fn put(&mut self, name: PromptName, value: T, weight: Weight) {
        self.now += 1;
        let kept = Kept {
            value,
            weight,
            used: self.now,
        };
        self.kept.insert(name, kept);
        while self.bytes() > self.bytes_max {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.kept.remove(&name);
        }
    }

    /// What is kept under a name; that is a use.
    pub(crate) fn get(&mut self, name: &PromptName) -> Option<&T> {
        self.now += 1;
        let kept = self.kept.get_mut(name)?;
        kept.used = self.now;
        Some(&kept.value)
    }

    /// Takes a value off.
    pub(crate) fn remove(&mut self, name: &PromptName) {
        self.kept.remove(name);
    }

    /// Everything kept, by name; that is no use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PromptName, &T)> {
        self.kept.iter().map(|(name, kept)| (name, &kept.value))
    }

    /// Bytes of everything kept.
    pub(crate) fn bytes(&self) -> u64 {
        let weights = self.kept.values().map(|kept| kept.weight);
        let by_prompt: BTreeMap<_, _> = weights.map(|it| (it.prompt, it.bytes)).collect();
        by_prompt.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(index: u8) -> PromptName {
        format!("p{index}").parse().unwrap()
    }

    fn weight(index: u8, bytes: u64) -> Weight {
        let prompt = PromptId::new([index; 32]);
        Weight { prompt, bytes }
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let mut shelf = Shelf::new(10);
        for index in 0..3 {
            shelf.put(name(index), index, weight(index, 3));
        }
        assert_eq!(shelf.get(&name(0)), Some(&0));
        shelf.put(name(3), 3, weight(3, 3));
        let left: Vec<u8> = shelf.iter().map(|(_, value)| *value).collect();
        assert_eq!(left, [0, 2, 3]);
        shelf.remove(&name(2));
        assert_eq!(shelf.bytes(), 6);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let mut shelf = Shelf::new(10);
        shelf.put(name(0), 0, weight(0, 11));
        assert_eq!(shelf.get(&name(0)), None);
    }

    #[test]
    fn names_of_one_prompt_are_counted_once() {
        let mut shelf = Shelf::new(10);
        for index in 0..5 {
            shelf.put(name(index), index, weight(7, 9));
        }
        assert_eq!((shelf.bytes(), shelf.iter().count()), (9, 5));
        shelf.put(name(5), 5, weight(8, 2));
        assert_eq!((shelf.bytes(), shelf.iter().count()), (2, 1));
    }

    proptest! {
        #[test]
        fn bytes_stay_bounded_and_the_last_that_fits_stays(
            puts in proptest::collection::vec((0u8..6, 0u64..15), 1..30),
        ) {
            let mut shelf = Shelf::new(10);
            for (index, bytes) in puts {
                shelf.put(name(index), index, weight(index, bytes));
                prop_assert!(shelf.bytes() <= shelf.bytes_max());
                prop_assert_eq!(shelf.get(&name(index)).is_some(), bytes <= 10);
            }
        }
    }
}
