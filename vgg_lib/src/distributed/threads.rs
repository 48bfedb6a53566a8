//! Ranks on one machine must not fight for its CPUs.
//!
//! If `mpirun` binds each rank to CPUs of its own, rayon starts as many threads as there are of these. Ranks that may use
//! the same CPUs divide them.

use super::ranks::Ranks;
use std::{env, fs, thread};

/// Sets the number of threads of this rank, if others use its CPUs and nobody has set it.
pub(super) fn divide(ranks: &Ranks) {
    let others = ranks.texts(&format!("{} {}", ranks.host, cpus()));
    let sharing = others.iter().filter(|other| **other == others[ranks.share.rank]).count();
    if sharing < 2 || env::var_os("RAYON_NUM_THREADS").is_some() {
        return;
    }
    let all = thread::available_parallelism().map_or(1, usize::from);
    // It fails only if the program has used its threads before, and then it keeps them.
    rayon::ThreadPoolBuilder::new().num_threads((all / sharing).max(1)).build_global().ok();
}

/// The CPUs that this process may use, such as "0-3,8"; empty where the system does not tell. Linux does.
fn cpus() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default().trim().to_string()
}
