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
    /// In a process of its own: other tests allocate and free memory while they run.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_that_of_the_process() {
        const ALONE: &str = "VGG_TEST_PEAK";
        const BLOCK: usize = 64 << 20;
        if std::env::var_os(ALONE).is_none() {
            let mut test = std::process::Command::new(std::env::current_exe().unwrap());
            test.args(["process::tests::the_peak_is_that_of_the_process", "--exact", "--test-threads=1"]);
            let output = test.env(ALONE, "1").output().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
            return;
        }
        let before = super::reset_peak_memory().unwrap();
        drop(std::hint::black_box(vec![1u8; BLOCK]));
        let peak = super::peak_memory().unwrap();
        assert!(peak >= before + BLOCK / 10 * 9, "{before} bytes before, {peak} at the peak");
    }
}
