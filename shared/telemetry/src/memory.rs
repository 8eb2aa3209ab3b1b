//! What this process holds, as the system counts it.

/// The most bytes of physical memory that this process has held at a time, mapped files included;
/// `None` where the system does not tell.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    bytes_of(&status, "VmHWM:")
}

/// The bytes of a line of Linux's files on memory: `VmHWM:   123456 kB`.
pub fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        let status = "Name:\tedge-node\nVmPeak:\t   99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t  7 kB\n";
        let high_water_mark = |status| bytes_of(status, "VmHWM:");
        assert_eq!(high_water_mark(status), Some(2 << 20));
        assert_eq!(high_water_mark("VmHWM:\t many kB\n"), None);
        assert_eq!(high_water_mark("VmRSS:\t  7 kB\n"), None);
    }
}
