//! Which processor this is, as far as it decides how a graph is optimised: blocked layouts differ by instruction set.

use std::sync::OnceLock;

/// Lines of `/proc/cpuinfo` that tell one kind of processor from another, on x86 and on ARM.
const KEYS: [&str; 7] = ["vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant"];

/// The processor's kind and its instruction sets; the architecture alone where the system does not say.
pub(super) fn description() -> &'static str {
    static DESCRIPTION: OnceLock<String> = OnceLock::new();
    DESCRIPTION.get_or_init(|| describe(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()))
}

fn describe(cpuinfo: &str) -> String {
    let first = cpuinfo.lines().take_while(|line| !line.trim().is_empty());
    let told = first.filter_map(|line| line.split_once(':')).filter(|(key, _)| KEYS.contains(&key.trim()));
    told.fold(std::env::consts::ARCH.to_owned(), |text, (_, value)| format!("{text};{}", value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_differ_by_their_instruction_sets_and_not_by_their_clock() {
        let cpuinfo =
            |mhz: &str, flags: &str| format!("processor\t: 0\nmodel name\t: X\ncpu MHz\t: {mhz}\nflags\t: {flags}\n\nprocessor\t: 1\n");
        assert_eq!(describe(&cpuinfo("1", "avx2")), describe(&cpuinfo("2", "avx2")));
        assert_ne!(describe(&cpuinfo("1", "avx2")), describe(&cpuinfo("1", "avx2 avx512f")));
        assert_eq!(describe(""), std::env::consts::ARCH);
    }
}
