//! How many threads one run may use, as people write it for the servers that KServe starts.
//!
//! `--intra_op_threads` among the runtime's arguments wins (also with dashes), then the environment variable
//! `OMP_NUM_THREADS`, which is what KServe's users set for their runtimes; else 1, which gives the most answers a second:
//! several requests run side by side instead. Never more than `resources.limits.cpu` rounded up to whole cores.

use super::revision::RevisionSpec;
use std::collections::BTreeMap;

/// The argument's name, without leading dashes and with underscores.
const ARGUMENT: &str = "intra_op_threads";
/// The variable of OpenMP, which ONNX Runtime's builds used once and runtimes still read.
const VARIABLE: &str = "OMP_NUM_THREADS";

impl RevisionSpec {
    /// Threads of one run, 1 at least. A value that is no positive number is passed over.
    #[must_use]
    pub fn intra_op_threads(&self) -> usize {
        threads_of(&self.args, &self.env, self.cpu_limit_millis, 1)
    }

    /// Threads of a model that answers all its requests in common steps: as many as it may have, where nothing says less.
    #[must_use]
    pub fn step_threads(&self) -> usize {
        threads_of(&self.args, &self.env, self.cpu_limit_millis, usize::MAX)
    }

    /// Runs side by side that the CPU limit leaves room for, 1 at least.
    #[must_use]
    pub fn runs_max(&self) -> usize {
        (cores(self.cpu_limit_millis) / self.intra_op_threads()).max(1)
    }
}

fn threads_of(args: &[String], env: &BTreeMap<String, String>, cpu_limit_millis: Option<u64>, unsaid: usize) -> usize {
    let wanted = from_args(args).or_else(|| env.get(VARIABLE).and_then(|text| positive(text)));
    wanted.unwrap_or(unsaid).min(cores(cpu_limit_millis))
}

/// A CPU limit in whole cores, 1 at least.
fn cores(limit_millis: Option<u64>) -> usize {
    limit_millis.map_or(usize::MAX, |millis| usize::try_from(millis.div_ceil(1000)).unwrap_or(usize::MAX).max(1))
}

/// The last `--intra_op_threads=N` or `--intra_op_threads N` counts.
fn from_args(args: &[String]) -> Option<usize> {
    let named = args.iter().enumerate().filter_map(|(at, arg)| {
        let (name, value) = arg.split_once('=').map_or((arg.as_str(), None), |(name, value)| (name, Some(value)));
        let is_it = name.starts_with("--") && name.trim_start_matches('-').replace('-', "_") == ARGUMENT;
        if is_it { value.or_else(|| args.get(at + 1).map(String::as_str)) } else { None }
    });
    named.filter_map(positive).next_back()
}

fn positive(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|&count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], variable: Option<&str>, cpu_limit_millis: Option<u64>, threads: usize) {
        let env = variable.map(|value| (VARIABLE.to_owned(), value.to_owned())).into_iter().collect();
        let words: Vec<String> = args.iter().map(ToString::to_string).collect();
        assert_eq!(threads_of(&words, &env, cpu_limit_millis, 1), threads, "{args:?} {variable:?} {cpu_limit_millis:?}");
    }

    #[test]
    fn arguments_win_over_the_environment_and_both_over_one() {
        check(&[], None, None, 1);
        check(&[], Some("4"), None, 4);
        check(&["--intra_op_threads=2"], Some("4"), None, 2);
        check(&["--intra-op-threads", "3", "--model_name=iris"], None, None, 3);
        check(&["--intra_op_threads=2", "--intra_op_threads=5"], None, None, 5);
    }

    #[test]
    fn the_cpu_limit_bounds_the_threads_of_a_run() {
        check(&[], None, Some(1500), 1);
        check(&["--intra_op_threads=8"], None, Some(4000), 4);
        check(&["--intra_op_threads=2"], None, Some(4000), 2);
        check(&[], Some("2"), Some(100), 1);
    }

    #[test]
    fn a_model_that_answers_all_in_common_steps_uses_what_it_may_have() {
        let none = BTreeMap::new();
        assert_eq!(threads_of(&[], &none, None, usize::MAX), usize::MAX);
        assert_eq!(threads_of(&[], &none, Some(1500), usize::MAX), 2);
        assert_eq!(threads_of(&["--intra_op_threads=1".to_owned()], &none, Some(4000), usize::MAX), 1);
    }

    #[test]
    fn what_is_no_number_of_threads_is_passed_over() {
        check(&["--intra_op_threads=many"], Some("2"), None, 2);
        check(&["--intra_op_threads"], Some("0"), None, 1);
        check(&["intra_op_threads=7", "--inter_op_threads=7"], None, None, 1);
    }
}
