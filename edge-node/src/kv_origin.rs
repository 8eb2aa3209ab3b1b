//! Where keys and values of a cloud prompt came from, in one word and in bytes. Pure.

/// Where layers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvOrigin {
    /// They were in memory already.
    Memory,
    /// This edge's disk cache.
    Disk,
    /// A neighbour edge.
    Peer,
    /// The cloud.
    Cloud,
    /// They were computed here.
    Local,
}

impl KvOrigin {
    /// Every place there is.
    pub const ALL: [Self; 5] = [
        Self::Memory,
        Self::Disk,
        Self::Peer,
        Self::Cloud,
        Self::Local,
    ];

    /// As a metric's label and as clients are told.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Peer => "peer",
            Self::Cloud => "cloud",
            Self::Local => "local",
        }
    }

    /// Whether layers come over the network.
    pub const fn is_remote(self) -> bool {
        match self {
            Self::Peer | Self::Cloud => true,
            Self::Memory | Self::Disk | Self::Local => false,
        }
    }
}

/// Bytes of keys and values by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginBytes([u64; KvOrigin::ALL.len()]);

impl OriginBytes {
    /// Counts bytes.
    pub fn add(&mut self, origin: KvOrigin, bytes: u64) {
        self.0[origin as usize] += bytes;
    }

    /// Bytes from one place.
    pub const fn of(&self, origin: KvOrigin) -> u64 {
        self.0[origin as usize]
    }

    /// Bytes that came over the network.
    pub fn received(&self) -> u64 {
        self.iter()
            .filter(|(origin, _)| origin.is_remote())
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// Where most of the bytes came from; `None` if there are none.
    pub fn main(&self) -> Option<KvOrigin> {
        let (origin, bytes) = self.iter().max_by_key(|(_, bytes)| *bytes)?;
        (bytes > 0).then_some(origin)
    }

    /// Every place with its bytes.
    pub fn iter(&self) -> impl Iterator<Item = (KvOrigin, u64)> {
        KvOrigin::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_most_bytes_is_the_main_one() {
        let mut bytes = OriginBytes::default();
        assert_eq!(bytes.main(), None);
        for (origin, count) in [
            (KvOrigin::Disk, 3),
            (KvOrigin::Cloud, 2),
            (KvOrigin::Cloud, 2),
            (KvOrigin::Peer, 1),
        ] {
            bytes.add(origin, count);
        }
        assert_eq!(bytes.main(), Some(KvOrigin::Cloud));
        assert_eq!((bytes.received(), bytes.of(KvOrigin::Disk)), (5, 3));
    }
}
