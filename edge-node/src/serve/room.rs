//! How many cloud prompts may be on their way, and how large they may be together: names come from
//! requests, and each prompt takes a task, a thread and memory until it is complete. Pure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgeprompt_kv::{KvDtype, KvGeometry};

use crate::serve::segments::SharedPromptError;

/// Prompts on their way at a time.
const PLACES_MAX: usize = 32;

/// Room for prompts on their way. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    geometry: KvGeometry,
    bytes_max: u64,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    places: usize,
    bytes: u64,
}

/// One prompt's room, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Room,
    bytes: u64,
}

impl Room {
    /// Room for prompts that together have at most `bytes_max` bytes of keys and values.
    pub(crate) fn new(geometry: KvGeometry, bytes_max: u64) -> Self {
        Self {
            geometry,
            bytes_max,
            taken: Arc::default(),
        }
    }

    /// Bytes of the keys and values of a prompt.
    pub(crate) fn bytes(&self, token_count: usize) -> u64 {
        let layer = self.geometry.layer_bytes(token_count, KvDtype::F32) as u64;
        layer.saturating_mul(u64::from(self.geometry.layer_count()))
    }

    /// Whether there can ever be room for a prompt.
    pub(crate) fn fits(&self, token_count: usize) -> bool {
        self.bytes(token_count) <= self.bytes_max
    }

    /// A place for a prompt whose size is still to be told.
    ///
    /// # Errors
    /// [`SharedPromptError::Busy`].
    pub(crate) fn enter(&self) -> Result<Place, SharedPromptError> {
        let mut taken = self.taken();
        if taken.places == PLACES_MAX {
            return Err(SharedPromptError::Busy);
        }
        taken.places += 1;
        Ok(Place {
            room: self.clone(),
            bytes: 0,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes room for a prompt, in the place of what was taken before.
    ///
    /// # Errors
    /// [`SharedPromptError::TooLarge`] if there can never be so much, [`SharedPromptError::Busy`]
    /// if others have taken it.
    pub(crate) fn take(&mut self, token_count: usize) -> Result<(), SharedPromptError> {
        let (bytes, bytes_max) = (self.room.bytes(token_count), self.room.bytes_max);
        if bytes > bytes_max {
            return Err(SharedPromptError::TooLarge { bytes, bytes_max });
        }
        let mut taken = self.room.taken();
        let others = taken.bytes - self.bytes;
        if bytes > bytes_max - others {
            return Err(SharedPromptError::Busy);
        }
        taken.bytes = others + bytes;
        drop(taken);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.places -= 1;
        taken.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use edgeprompt_model::{Model, ModelShape};

    fn room(token_count: usize) -> Room {
        let geometry = Model::dummy(ModelShape::Tiny, &Device::flex()).geometry;
        let bytes = Room::new(geometry, 0).bytes(token_count);
        Room::new(geometry, bytes)
    }

    #[test]
    fn places_are_few_and_free_again_when_they_are_left() {
        let room = room(1);
        let mut places: Vec<_> = (0..PLACES_MAX).map(|_| room.enter().unwrap()).collect();
        assert_eq!(room.enter().unwrap_err(), SharedPromptError::Busy);
        places.pop();
        assert!(room.enter().is_ok());
    }

    #[test]
    fn prompts_on_their_way_share_the_room() {
        let room = room(25);
        let (mut first, mut second) = (room.enter().unwrap(), room.enter().unwrap());
        assert_eq!(first.take(10), Ok(()));
        assert_eq!(first.take(20), Ok(()), "in the place of the 10");
        assert_eq!(second.take(6), Err(SharedPromptError::Busy));
        assert_eq!(second.take(5), Ok(()));
        let too_large = second.take(26).unwrap_err();
        assert!(matches!(too_large, SharedPromptError::TooLarge { .. }));
        assert!(too_large.to_string().contains("--cloud-kv-mib"));
        drop(first);
        assert_eq!(second.take(25), Ok(()));
        assert!(room.fits(25) && !room.fits(26));
    }
}
