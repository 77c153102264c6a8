//! Keeps the process on small pages but where it asks for huge ones: else each thread and each small model would cost megabytes.
//!
//! Some systems give huge pages to whoever has room for them, and a worker thread that needs 100 KiB then takes 2 MiB. Measured
//! with 100 small models: 94 MiB instead of 189. A language model's weights do ask, and gain (`generation::weights`).

/// Asks the system for small pages from now on. Where it refuses, more memory is used and all works.
///
/// Linux before 6.18 knows only all or nothing: nothing is asked of it where programs get huge pages only if they wish for
/// them, and where they get them unasked nobody has any from now on.
#[cfg(target_os = "linux")]
pub fn avoid() {
    if refuses(DISABLED_UNLESS_ADVISED) && are_given_unasked() && refuses(DISABLED) {
        tracing::debug!("the system keeps huge pages on");
    }
}

#[cfg(target_os = "linux")]
const DISABLED: libc::c_ulong = 0;
/// `PR_THP_DISABLE_EXCEPT_ADVISED`.
#[cfg(target_os = "linux")]
const DISABLED_UNLESS_ADVISED: libc::c_ulong = 1 << 1;

#[cfg(target_os = "linux")]
fn refuses(how: libc::c_ulong) -> bool {
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    // SAFETY: this request takes plain numbers, and changes only how pages are made that are not there yet.
    let refused = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, how, 0, 0) } != 0;
    refused
}

/// Where the system does not say, it does not have them.
#[cfg(target_os = "linux")]
fn are_given_unasked() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|modes| modes.contains("[always]"))
}

/// Where there is nothing to ask.
#[cfg(not(target_os = "linux"))]
pub const fn avoid() {}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use memmap2::MmapMut;

    /// KiB of huge pages in the mapping of an address.
    fn huge_kib(address: usize) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((from, to)) = range.and_then(|(from, to)| Some((number(from)?, number(to)?))) {
                within = (from..to).contains(&address);
            }
            if let (true, Some(kib)) = (within, line.strip_prefix("AnonHugePages:")) {
                return kib.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("no mapping has the address");
    }

    fn number(hexadecimal: &str) -> Option<usize> {
        usize::from_str_radix(hexadecimal, 16).ok()
    }

    #[test]
    fn memory_that_nobody_asks_huge_pages_for_is_of_small_ones() {
        super::avoid();
        let mut memory = MmapMut::map_anon(16 << 20).unwrap();
        memory.fill(1);
        assert_eq!(huge_kib(memory.as_ptr().addr()), 0);
    }
}
