//! On which CPUs rayon's threads run.

/// Gives each of rayon's threads a CPU of its own, once per process, if there are as many of one as of the other.
///
/// Otherwise Linux often wakes two of them on one CPU after a pause, and moves one only milliseconds later: on two CPUs,
/// single images of 224×224 took up to half as long again. Other systems are left to decide.
pub fn pin() {
    #[cfg(target_os = "linux")]
    {
        static PINNED: std::sync::Once = std::sync::Once::new();
        PINNED.call_once(linux::pin);
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub fn pin() {
        // An error, such as in a sandbox, leaves the threads as they are.
        let Ok(allowed) = sched_getaffinity(None) else { return };
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        if cpus.len() == rayon::current_num_threads() {
            rayon::broadcast(|thread| {
                let mut own = CpuSet::new();
                own.set(cpus[thread.index()]);
                sched_setaffinity(None, &own).ok();
            });
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// The CPUs that each of `threads` threads may use after [`pin`].
        fn cpus(threads: usize) -> Vec<u32> {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            threads.install(pin);
            threads.broadcast(|_| sched_getaffinity(None).unwrap().count())
        }

        #[test]
        fn as_many_threads_as_cpus_get_one_each() {
            let all = sched_getaffinity(None).unwrap().count();
            assert_eq!(cpus(all as usize), vec![1; all as usize]);
            assert_eq!(cpus(all as usize + 1), vec![all; all as usize + 1]);
        }
    }
}
