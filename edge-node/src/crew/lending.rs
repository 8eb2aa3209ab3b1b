//! How much memory a worker can lend now: what it promised, as long as its device has that much.

use std::time::Duration;

/// Between two looks.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// One part in so many of a device's memory stays free, for whatever else it does.
const KEPT_FREE: u64 = 20;

/// A change of what is lent is told if it is more than one part in so many of what was promised.
const TOLD_FROM: u64 = 20;

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All of it.
    pub total: u64,
    /// What could be taken now.
    pub available: u64,
}

impl DeviceMemory {
    /// Of this machine, where it says.
    pub fn of_this_machine() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib = line.trim().strip_suffix("kB")?.trim();
            kib.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self {
            total: bytes("MemTotal:")?,
            available: bytes("MemAvailable:")?,
        })
    }
}

/// What is lent, as the leader was told last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lending {
    promised: u64,
    told: u64,
}

impl Lending {
    pub(crate) const fn new(promised: u64) -> Self {
        Self {
            promised,
            told: promised,
        }
    }

    /// What the leader is to be told, if that is news: `used` bytes are taken now.
    pub(crate) fn news(&mut self, used: u64, memory: Option<DeviceMemory>) -> Option<u64> {
        let now = memory.map_or(self.promised, |memory| {
            let could_have = used.saturating_add(memory.available);
            let kept_free = memory.total / KEPT_FREE;
            could_have.saturating_sub(kept_free).min(self.promised)
        });
        let is_back = now == self.promised && self.told != now;
        let is_news = is_back || now.abs_diff(self.told) > self.promised / TOLD_FROM;
        is_news.then(|| {
            self.told = now;
            now
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let text = "MemTotal:       24689764 kB\nMemFree:  1 kB\nMemAvailable:   24000000 kB\n";
        let memory = DeviceMemory::parse(text).unwrap();
        assert_eq!(memory.total, 24_689_764 * 1024);
        assert_eq!(memory.available, 24_000_000 * 1024);
        for nonsense in ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB"] {
            assert_eq!(DeviceMemory::parse(nonsense), None);
        }
    }

    #[test]
    fn a_worker_lends_less_while_its_device_has_less() {
        let mut lending = Lending::new(1000);
        let memory = |available| {
            Some(DeviceMemory {
                total: 2000,
                available,
            })
        };
        assert_eq!(lending.news(0, None), None);
        assert_eq!(lending.news(0, memory(1100)), None, "as promised");
        assert_eq!(lending.news(400, memory(300)), Some(600));
        assert_eq!(lending.news(400, memory(300)), None, "it is known");
        assert_eq!(
            lending.news(200, memory(500)),
            None,
            "what it lets go it has"
        );
        assert_eq!(lending.news(200, memory(460)), None, "too little to tell");
        assert_eq!(lending.news(200, memory(0)), Some(100), "others take it");
        assert_eq!(lending.news(0, memory(0)), Some(0));
        assert_eq!(lending.news(0, memory(1080)), Some(980));
        assert_eq!(lending.news(0, memory(1100)), Some(1000), "all is back");
    }
}
