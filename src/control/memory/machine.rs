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
    fn giving_memory_back_leaves_what_is_in_use_alone() {
        let kept = vec![7_u8; 1 << 20];
        drop(vec![1_u8; 8 << 20]);
        give_back();
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
