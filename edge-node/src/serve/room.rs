//! How many cloud prompts may be on their way, and how large they may be together: names come from
//! requests, and each prompt takes a task, a thread and memory until it is complete.

use std::sync::Arc;
use std::time::Duration;

use edgeprompt_kv::{KvDtype, KvGeometry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::serve::segments::SharedPromptError;

/// Prompts on their way at a time.
const PLACES_MAX: usize = 32;

/// How long a prompt waits for others to be complete.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes are counted in units of so many.
const UNIT_BYTES: u64 = 1024;

/// Room for prompts on their way. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    geometry: KvGeometry,
    bytes_max: u64,
    places: Arc<Semaphore>,
    units: Arc<Semaphore>,
}

/// One prompt's room, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Room,
    _place: OwnedSemaphorePermit,
    units: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for prompts that together have at most `bytes_max` bytes of keys and values.
    pub(crate) fn new(geometry: KvGeometry, bytes_max: u64) -> Self {
        Self {
            geometry,
            bytes_max,
            places: Arc::new(Semaphore::new(PLACES_MAX)),
            units: Arc::new(Semaphore::new(units(bytes_max) as usize)),
        }
    }

    /// Bytes of the keys and values of a prompt.
    pub(crate) fn bytes(&self, token_count: usize) -> u64 {
        self.bytes_in(token_count, KvDtype::F32)
    }

    fn bytes_in(&self, token_count: usize, codec: KvDtype) -> u64 {
        let layer = self.geometry.layer_bytes(token_count, codec) as u64;
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
        let place = Arc::clone(&self.places).try_acquire_owned();
        Ok(Place {
            room: self.clone(),
            _place: place.map_err(|_| SharedPromptError::Busy)?,
            units: None,
        })
    }
}

impl Place {
    /// Takes room for a prompt that comes in a number format, in the place of what was taken before;
    /// waits until others are complete, in turn.
    ///
    /// What loses something is in memory twice until it is complete: as it is read, and as it came, to
    /// be kept so. A prompt that fits alone has room all the same.
    ///
    /// # Errors
    /// [`SharedPromptError::TooLarge`] if there can never be so much, [`SharedPromptError::Busy`]
    /// if others take too long.
    pub(crate) async fn take(
        &mut self,
        token_count: usize,
        codec: KvDtype,
    ) -> Result<(), SharedPromptError> {
        let (bytes, bytes_max) = (self.room.bytes(token_count), self.room.bytes_max);
        if bytes > bytes_max {
            return Err(SharedPromptError::TooLarge { bytes, bytes_max });
        }
        let encoded = match codec.is_exact() {
            true => 0,
            false => self.room.bytes_in(token_count, codec),
        };
        let count = units(bytes.saturating_add(encoded).min(bytes_max));
        let taken = self.units.as_ref();
        if taken.is_some_and(|taken| taken.num_permits() == count as usize) {
            return Ok(());
        }
        // Whoever waits holds nothing that others wait for.
        self.units = None;
        let units = Arc::clone(&self.room.units).acquire_many_owned(count);
        match timeout(PATIENCE, units).await {
            Ok(Ok(units)) => {
                self.units = Some(units);
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(SharedPromptError::Busy),
        }
    }
}

/// More than can be counted is as much as can be.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
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

    #[tokio::test]
    async fn prompts_on_their_way_share_the_room() {
        let room = room(25);
        let (mut first, mut second) = (room.enter().unwrap(), room.enter().unwrap());
        let exact = KvDtype::F32;
        assert_eq!(first.take(10, exact).await, Ok(()));
        assert_eq!(
            first.take(20, exact).await,
            Ok(()),
            "in the place of the 10"
        );
        let waiting = timeout(Duration::ZERO, second.take(6, exact));
        assert!(waiting.await.is_err(), "it waits for the first");
        let too_large = second.take(26, exact).await.unwrap_err();
        assert!(matches!(too_large, SharedPromptError::TooLarge { .. }));
        assert!(too_large.to_string().contains("--cloud-kv-mib"));
        let ended = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        assert_eq!(tokio::join!(second.take(25, exact), ended).0, Ok(()));
        assert!(room.fits(25) && !room.fits(26));
    }

    #[tokio::test]
    async fn what_is_there_twice_takes_room_twice() {
        let room = room(100);
        let (mut first, mut second) = (room.enter().unwrap(), room.enter().unwrap());
        assert_eq!(first.take(40, KvDtype::F16).await, Ok(()));
        // 40 and half of that are taken.
        let waiting = timeout(Duration::ZERO, second.take(50, KvDtype::F32));
        assert!(waiting.await.is_err(), "it waits for the first");
        assert_eq!(second.take(40, KvDtype::F32).await, Ok(()));
        drop(first);
        drop(second);
        let mut alone = room.enter().unwrap();
        assert_eq!(alone.take(100, KvDtype::F16).await, Ok(()), "it fits alone");
    }
}
