//! What the machine says of memory: how much there is, how much this process holds, and how to give some back.

pub(in crate::control) use crate::engine::free_memory::give_back;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The machine's memory, or what the control group leaves of it.
pub(super) fn total_bytes() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let total = system.total_memory();
    system.cgroup_limits().map_or(total, |limits| if limits.total_memory > 0 { limits.total_memory.min(total) } else { total })
}

/// What this process holds in memory now; 0 where the system does not tell.
pub(in crate::control) fn resident_bytes() -> u64 {
    // One small file on Linux. The library reads every thread's, which is slow with thousands of models.
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => resident_kib(&status).unwrap_or(0) << 10,
        Err(_) => resident_bytes_elsewhere(),
    }
}

fn resident_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

fn resident_bytes_elsewhere() -> u64 {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing().with_memory());
    system.process(pid).map_or(0, sysinfo::Process::memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_this_process_holds_a_part_of_it() {
        let (total, held) = (total_bytes(), resident_bytes());
        assert!(total > 64 << 20, "{total}");
        assert!(held > 0 && held < total, "{held} of {total}");
    }

    #[test]
    fn linux_and_the_library_agree_on_what_the_process_holds() {
        let (ours, theirs) = (resident_bytes(), resident_bytes_elsewhere());
        assert!(ours.abs_diff(theirs) < 16 << 20, "{ours} and {theirs}");
        assert_eq!(resident_kib("VmPeak:\t  9 kB\nVmRSS:\t   1234 kB\n"), Some(1234));
    }

    #[test]
    fn giving_memory_back_leaves_what_is_in_use_alone() {
        let kept = vec![7_u8; 1 << 20];
        drop(vec![1_u8; 8 << 20]);
        give_back();
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
