//! Durations in JSON: a number of milliseconds, as a person reads them.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    (duration.as_secs_f64() * 1e3).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let ms = f64::deserialize(deserializer)?;
    // Negative, endless and what is not a number are refused here.
    Duration::try_from_secs_f64(ms / 1e3).map_err(D::Error::custom)
}

/// The same, or nothing.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration
            .map(|duration| duration.as_secs_f64() * 1e3)
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let Some(ms) = Option::<f64>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let duration = Duration::try_from_secs_f64(ms / 1e3);
        duration.map(Some).map_err(D::Error::custom)
    }
}
