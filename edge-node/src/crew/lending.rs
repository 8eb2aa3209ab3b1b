//! How much memory a worker can lend now: what it promised, as long as its device has that much.

use std::time::Duration;

use edgeprompt_telemetry::memory::bytes_of;

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
    /// Of this machine, or of what this process may have of it, where the system says.
    pub fn of_this_machine() -> Option<Self> {
        let machine = Self::parse(&read("/proc/meminfo")?)?;
        Some(match Self::of_this_group() {
            None => machine,
            Some(group) => Self {
                total: machine.total.min(group.total),
                available: machine.available.min(group.available),
            },
        })
    }

    /// Of the control group of this process (version 2), if that has a limit.
    fn of_this_group() -> Option<Self> {
        let groups = read("/proc/self/cgroup")?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let folder = format!("/sys/fs/cgroup{}", path.trim_end_matches('/'));
        Self::parse_group(
            &read(&format!("{folder}/memory.max"))?,
            &read(&format!("{folder}/memory.current"))?,
            &read(&format!("{folder}/memory.stat"))?,
        )
    }

    /// Of a group's limit, what it uses, and what that is: files that nobody has looked at for long are as
    /// good as free.
    fn parse_group(max: &str, current: &str, stat: &str) -> Option<Self> {
        let total: u64 = max.trim().parse().ok()?;
        let used: u64 = current.trim().parse().ok()?;
        let files = stat
            .lines()
            .find_map(|it| it.strip_prefix("inactive_file "));
        let files = files.and_then(|it| it.trim().parse().ok()).unwrap_or(0);
        Some(Self {
            total,
            available: total.saturating_sub(used.saturating_sub(files)),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        Some(Self {
            total: bytes_of(text, "MemTotal:")?,
            available: bytes_of(text, "MemAvailable:")?,
        })
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
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
    fn a_group_of_processes_has_what_it_is_limited_to() {
        let stat = "anon 100\nfile 300\ninactive_file 200\n";
        let (total, available) = (1000, 700);
        let expected = DeviceMemory { total, available };
        assert_eq!(
            DeviceMemory::parse_group("1000\n", "500\n", stat),
            Some(expected)
        );
        assert_eq!(DeviceMemory::parse_group("max\n", "500\n", stat), None);
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
