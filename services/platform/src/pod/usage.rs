//! What the process uses of its machine, from /proc/self. The parsers are pure.

use std::time::Duration;

use crate::world::World;

/// Clock ticks of /proc/self/stat in a second: USER_HZ, which is 100 on every architecture that Rust has.
const TICKS_PER_S: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    /// Resident memory.
    pub(super) memory_bytes: u64,
    /// Processor time in user and system mode since the process began.
    cpu: Duration,
}

impl Usage {
    /// `None` without /proc, and in a seeded world, where each run must be like the other.
    pub(super) fn of_this_process(world: &World) -> Option<Self> {
        if !world.is_real() {
            return None;
        }
        let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
        Some(Self { memory_bytes: memory_bytes(&read("status")?)?, cpu: cpu(&read("stat")?)? })
    }
}

/// The processor time from `before` to `now`, in percent of `passed`, to a tenth; 100 is one core, and 0 without a `before`.
pub(super) fn cpu_percent(before: Option<&Usage>, now: &Usage, passed: Duration) -> f64 {
    let (Some(before), false) = (before, passed.is_zero()) else { return 0.0 };
    let (used, passed_s) = (now.cpu.saturating_sub(before.cpu), passed.as_secs_f64());
    (used.as_secs_f64() / passed_s * 1_000.0).round() / 10.0
}

/// `VmRSS` of /proc/self/status, which is in KiB.
fn memory_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// `utime` and `stime`, the 14th and 15th field of /proc/self/stat. The second field is the program's name in brackets, which may hold
/// anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let all = ticks.next()??.checked_add(ticks.next()??)?;
    Some(Duration::from_millis(all.checked_mul(1_000 / TICKS_PER_S)?))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        assert_eq!(memory_bytes("Name:\tx\nVmRSS:\t   12 kB\nThreads: 3\n"), Some(12_288));
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        for broken in ["", "VmRSS: x kB", "VmRSS: 1", ")", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 1 1 0 0 0 x 1"] {
            assert_eq!((memory_bytes(broken), cpu(broken)), (None, None), "{broken}");
        }
    }

    #[test]
    fn percent_is_of_one_core_since_the_last_time() {
        let usage = |ms| Usage { memory_bytes: 1, cpu: Duration::from_millis(ms) };
        let five = Duration::from_secs(5);
        assert_eq!(cpu_percent(None, &usage(9_000), five), 0.0);
        assert_eq!(cpu_percent(Some(&usage(1_000)), &usage(3_500), five), 50.0);
        assert_eq!(cpu_percent(Some(&usage(1_000)), &usage(16_000), five), 300.0);
        assert_eq!(cpu_percent(Some(&usage(1_000)), &usage(1_001), five), 0.0);
        assert_eq!(cpu_percent(Some(&usage(1_000)), &usage(1_500), Duration::ZERO), 0.0);
    }

    #[test]
    fn only_the_real_world_has_figures() {
        assert_eq!(Usage::of_this_process(&World::seeded(DateTime::UNIX_EPOCH, 1)), None);
        if std::path::Path::new("/proc/self/stat").exists() {
            assert!(Usage::of_this_process(&World::real()).unwrap().memory_bytes > 100_000);
        }
    }
}
