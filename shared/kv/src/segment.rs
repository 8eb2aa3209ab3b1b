//! The slots of one segment: a layer each, empty until its keys and values are there.

use std::sync::{Arc, OnceLock};

use crate::LayerIndex;

/// Why a slot could not be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The model has no such layer.
    #[error("layer {layer} of a segment with {layer_count} layers")]
    OutOfRange {
        /// The layer asked for.
        layer: u32,
        /// Layers of the segment.
        layer_count: usize,
    },
    /// The slot was filled before; a filled slot never changes.
    #[error("layer {0} is filled already")]
    Filled(u32),
}

/// Per-layer slots of a segment, shared by whoever fills them and whoever reads them.
///
/// Slots are written once, in any order, so a reader needs no lock and can hold on to what it saw.
#[derive(Debug)]
pub struct SegmentSlots<T> {
    slots: Arc<[OnceLock<T>]>,
}

impl<T> Clone for SegmentSlots<T> {
    fn clone(&self) -> Self {
        Self {
            slots: Arc::clone(&self.slots),
        }
    }
}

impl<T> SegmentSlots<T> {
    /// Empty slots for `layer_count` layers.
    pub fn empty(layer_count: usize) -> Self {
        Self {
            slots: (0..layer_count).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Fills one slot.
    ///
    /// # Errors
    /// [`SlotError`] if there is no such slot or it is filled.
    pub fn fill(&self, layer: LayerIndex, value: T) -> Result<(), SlotError> {
        let slot = self
            .slots
            .get(layer.as_usize())
            .ok_or(SlotError::OutOfRange {
                layer: layer.0,
                layer_count: self.slots.len(),
            })?;
        slot.set(value).map_err(|_| SlotError::Filled(layer.0))
    }

    /// What a slot holds; an empty one is filled with what `make` makes, once: whoever comes
    /// meanwhile waits for that. `None` if there is no such slot.
    pub fn get_or_fill(&self, layer: LayerIndex, make: impl FnOnce() -> T) -> Option<&T> {
        let slot = self.slots.get(layer.as_usize())?;
        Some(slot.get_or_init(make))
    }

    /// What a slot holds, if it is filled.
    pub fn get(&self, layer: LayerIndex) -> Option<&T> {
        self.slots.get(layer.as_usize())?.get()
    }

    /// Whether both are the same slots, not only equal ones.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots)
    }

    /// Layers in all.
    pub fn layer_count(&self) -> usize {
        self.slots.len()
    }

    /// Whether every layer is there.
    pub fn is_complete(&self) -> bool {
        self.slots.iter().all(|slot| slot.get().is_some())
    }

    /// The layers that are still missing.
    pub fn missing(&self) -> impl Iterator<Item = LayerIndex> {
        (0u32..)
            .map(LayerIndex)
            .zip(self.slots.iter())
            .filter_map(|(layer, slot)| {
                if slot.get().is_none() {
                    Some(layer)
                } else {
                    None
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fill_once_in_any_order() {
        let slots = SegmentSlots::empty(3);
        slots.fill(LayerIndex(2), "c").unwrap();
        slots.fill(LayerIndex(0), "a").unwrap();
        assert_eq!(slots.get(LayerIndex(1)), None);
        assert_eq!(slots.missing().collect::<Vec<_>>(), [LayerIndex(1)]);
        assert_eq!(slots.fill(LayerIndex(0), "x"), Err(SlotError::Filled(0)));
        assert_eq!(
            slots.fill(LayerIndex(3), "x"),
            Err(SlotError::OutOfRange {
                layer: 3,
                layer_count: 3
            })
        );
        slots.clone().fill(LayerIndex(1), "b").unwrap();
        assert_eq!(slots.get_or_fill(LayerIndex(1), || "x"), Some(&"b"));
        assert_eq!(slots.get_or_fill(LayerIndex(3), || "x"), None);
        assert!(slots.is_complete());
        assert_eq!(slots.get(LayerIndex(0)), Some(&"a"));
    }
}
