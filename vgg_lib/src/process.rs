//! This process, as the operating system reports it: its memory, and who started it.

use crate::text::bytes;
use crate::{Error, Result};

/// Bytes that this process can still allocate before the machine swaps or the container's limit (cgroup v2) is
/// reached. `None` if the system does not report it; Linux does.
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

/// Lets other threads go first: this one runs on what they leave. On Linux only.
pub(crate) fn step_back() {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn setpriority(which: i32, who: u32, priority: i32) -> i32;
        }
        const PRIO_PROCESS: i32 = 0;
        // SAFETY: it changes nothing but the priority of this thread, which `who` = 0 means. Whether it can does not matter.
        unsafe { setpriority(PRIO_PROCESS, 0, 19) };
    }
}

/// The process that started this one; another one if it has ended. `None` where the system does not tell.
pub(crate) fn parent() -> Option<u32> {
    #[cfg(unix)]
    return Some(std::os::unix::process::parent_id());
    #[cfg(not(unix))]
    None
}

/// Returns an error if `what` needs more memory than there is: the system would end the process, and a notebook would
/// lose all its variables. `reused` bytes are this process's own, to be used again. `advice` gets the bytes that are
/// free.
///
/// # Errors
/// [`Error::Config`] with the sentence.
pub(crate) fn check_memory(what: &str, need: usize, reused: usize, advice: impl FnOnce(usize) -> String) -> Result<()> {
    const SMALL: usize = 64 << 20;
    if need <= SMALL {
        return Ok(()); // asking the system would take longer than the work
    }
    let new = need.saturating_sub(reused);
    let free = match available_memory() {
        Some(free) if new > free => free.saturating_add(reused),
        None if Vec::<u8>::new().try_reserve_exact(new).is_err() => {
            let need = bytes(need);
            return Err(Error::Config(format!(
                "{what} needs {need} of memory, more than the system gives: {}",
                advice(0)
            )));
        }
        _ => return Ok(()),
    };
    Err(too_little(what, need, free, advice))
}

/// The sentence for `what`, which needs more memory than is `free`; `advice(free)` says what to do.
pub(crate) fn too_little(what: &str, need: usize, free: usize, advice: impl FnOnce(usize) -> String) -> Error {
    let (need, available) = (bytes(need), bytes(free));
    Error::Config(format!("{what} needs {need} of memory, but {available} are free: {}", advice(free)))
}

/// The peak memory (resident set size) of this process in bytes, since it started or since the last call of
/// [`reset_peak_memory`]. `None` if the system does not report it; Linux does.
pub fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Resets [`peak_memory`] to the memory that the process uses now, and returns that. `None` if the system cannot do
/// it; Linux can.
pub fn reset_peak_memory() -> Option<usize> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_memory()
}

#[cfg(test)]
mod tests {
    #[test]
    fn more_memory_than_there_is_is_refused_with_a_sentence() {
        super::check_memory("a small thing", 1 << 20, 0, |_| unreachable!()).unwrap();
        super::check_memory("a thing in used memory", usize::MAX, usize::MAX, |_| unreachable!()).unwrap();
        let error =
            super::check_memory("a large thing", usize::MAX, 0, |_| "take less".into()).unwrap_err().to_string();
        assert!(error.starts_with("a large thing needs 16,777,216 TiB of memory, "), "{error}");
        assert!(error.ends_with(": take less"), "{error}");
    }

    /// Other tests of this process allocate and free memory at the same time, so this only asks for the block's size,
    /// not for a difference.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_counts_memory_that_is_in_use() {
        const SIZE: usize = 512 << 20;
        super::reset_peak_memory().unwrap();
        let block = std::hint::black_box(vec![1u8; SIZE]);
        assert!(super::peak_memory().unwrap() >= SIZE);
        drop(block);
    }
}
