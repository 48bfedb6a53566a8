//! What the operating system says about the memory of this process.

/// Bytes that this process may still take before the machine swaps or its container's limit (cgroup v2) is reached;
/// `None` where the system does not tell (it does on Linux).
pub(crate) fn available_memory() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let field = |text: &str, name: &str| -> Option<usize> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    let machine = field(&read("/proc/meminfo")?, "MemAvailable:")? << 10;
    let cgroup = |file: &str| read(&format!("/sys/fs/cgroup/{file}"));
    let container = || -> Option<usize> {
        let limit: usize = cgroup("memory.max")?.trim().parse().ok()?; // "max" is no limit
        let used: usize = cgroup("memory.current")?.trim().parse().ok()?;
        let cache = field(&cgroup("memory.stat")?, "inactive_file ")?;
        Some((limit + cache).saturating_sub(used))
    };
    Some(container().map_or(machine, |left| left.min(machine)))
}

/// The most memory that this process has had since it started or since [`reset_peak_memory`], in bytes; `None` where the
/// system does not tell (it does on Linux).
pub fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Lets [`peak_memory`] begin at what the process has now, and returns that; `None` where the system cannot.
pub fn reset_peak_memory() -> Option<usize> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_memory()
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_that_of_the_process() {
        let before = super::reset_peak_memory().unwrap();
        let block = std::hint::black_box(vec![1u8; 512 << 20]);
        drop(block);
        assert!(super::peak_memory().unwrap() >= before + (500 << 20));
    }
}
