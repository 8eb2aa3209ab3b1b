//! How many packets of a link are lost of late.

/// Packets of one period; the last whole one and the one under way count. Some 24 MB: at one lost in
/// 10,000 a period has seen it.
const PERIOD_PACKETS: u64 = 16_384;

/// Packets sent, and those of them that were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PacketCounts {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

/// Remembers enough of a link's counts to say what is recent.
#[derive(Debug, Default)]
pub(crate) struct LossMeter {
    /// The counts when the period began.
    begun: PacketCounts,
    /// What the period before it saw.
    earlier: PacketCounts,
}

impl PacketCounts {
    /// What was counted since `earlier`, unless the counts began anew.
    fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            sent: self.sent.checked_sub(earlier.sent)?,
            lost: self.lost.checked_sub(earlier.lost)?,
        })
    }
}

impl LossMeter {
    /// The recent counts, if the link has counted `total` since it began, or since it moved to another
    /// path.
    pub(crate) fn recent(&mut self, total: PacketCounts) -> PacketCounts {
        let Some(period) = total.since(self.begun) else {
            *self = Self::default();
            return total;
        };
        let recent = PacketCounts {
            sent: self.earlier.sent + period.sent,
            lost: self.earlier.lost + period.lost,
        };
        if period.sent >= PERIOD_PACKETS {
            (self.begun, self.earlier) = (total, period);
        }
        recent
    }
}
