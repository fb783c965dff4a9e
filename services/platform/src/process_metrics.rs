//! CPU, memory and descriptors of this process, under the names that every Prometheus client library has for them. Linux alone says so,
//! in `/proc`; elsewhere these metrics are missing.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// Ticks of a second in `/proc/<pid>/stat`: USER_HZ, which Linux has fixed for its user space.
const TICKS_PER_S: f64 = 100.0;

/// What `/proc` says.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Process {
    cpu_s: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    threads: f64,
    open_fds: f64,
    /// Infinite if there is no limit.
    max_fds: f64,
    /// Unix time, seconds.
    started_s: f64,
}

impl Process {
    fn read() -> Option<Self> {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).ok();
        let mut process =
            Self::parse(&file("self/stat")?, &file("self/status")?, &file("self/limits")?, &file("stat")?)?;
        // Without the descriptor by which the folder is read.
        process.open_fds = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64;
        Some(process)
    }

    /// From the texts of `/proc/self/stat`, `status` and `limits`, and of `/proc/stat`.
    fn parse(stat: &str, status: &str, limits: &str, machine: &str) -> Option<Self> {
        // The name of the program, in brackets, may have anything in it. The field after it is the third.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let line = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let kilobytes = |name: &str| line(status, name)?.parse::<f64>().ok().map(|kb| kb * 1_024.0);
        Some(Self {
            cpu_s: (field(14)? + field(15)?) / TICKS_PER_S,
            resident_bytes: kilobytes("VmRSS:")?,
            virtual_bytes: kilobytes("VmSize:")?,
            threads: field(20)?,
            open_fds: 0.0,
            max_fds: match line(limits, "Max open files")?.as_str() {
                "unlimited" => f64::INFINITY,
                number => number.parse().ok()?,
            },
            started_s: line(machine, "btime")?.parse::<f64>().ok()? + field(22)? / TICKS_PER_S,
        })
    }
}

/// Reads `/proc` each time that the metrics are read.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    threads: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    started: Gauge,
}

impl ProcessMetrics {
    pub(crate) fn new() -> Self {
        let gauge = |name: &str, help: &str| {
            Gauge::with_opts(Opts::new(format!("process_{name}"), help)).expect("metric names are valid")
        };
        Self {
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time.")
                .expect("metric names are valid"),
            resident: gauge("resident_memory_bytes", "Resident memory."),
            virtual_memory: gauge("virtual_memory_bytes", "Virtual memory."),
            threads: gauge("threads", "Threads."),
            open_fds: gauge("open_fds", "Open file descriptors."),
            max_fds: gauge("max_fds", "The most file descriptors that may be open."),
            started: gauge("start_time_seconds", "Start of the process, Unix time."),
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        let Self { cpu, resident, virtual_memory, threads, open_fds, max_fds, started } = self;
        [cpu, resident, virtual_memory, threads, open_fds, max_fds, started]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(process) = Process::read() else { return Vec::new() };
        // The kernel's count never decreases.
        self.cpu.inc_by((process.cpu_s - self.cpu.get()).max(0.0));
        self.resident.set(process.resident_bytes);
        self.virtual_memory.set(process.virtual_bytes);
        self.threads.set(process.threads);
        self.open_fds.set(process.open_fds);
        self.max_fds.set(process.max_fds);
        self.started.set(process.started_s);
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_linux_are_read() {
        let stat = "4242 (a (odd) name) S 1 4242 4242 0 -1 4194560 9 0 0 0 1234 66 0 0 20 0 17 0 250000 1 2 3";
        let status = "Name:\tx\nVmSize:\t  2000 kB\nVmRSS:\t  1000 kB\n";
        let limits = "Limit                     Soft Limit  Hard Limit  Units\nMax open files            1024        4096        files\n";
        let machine = "cpu  1 2 3\nbtime 1700000000\n";
        let expected = Process {
            cpu_s: 13.0,
            resident_bytes: 1_024_000.0,
            virtual_bytes: 2_048_000.0,
            threads: 17.0,
            open_fds: 0.0,
            max_fds: 1_024.0,
            started_s: 1_700_002_500.0,
        };
        assert_eq!(Process::parse(stat, status, limits, machine), Some(expected));
        let unlimited = limits.replace("1024", "unlimited");
        assert_eq!(Process::parse(stat, status, &unlimited, machine).unwrap().max_fds, f64::INFINITY);
        for (stat, status, limits, machine) in [
            ("", status, limits, machine),
            (stat, "", limits, machine),
            (stat, status, "", machine),
            (stat, status, limits, ""),
        ] {
            assert_eq!(Process::parse(stat, status, limits, machine), None);
        }
    }

    #[test]
    fn this_process_has_them() {
        let names: Vec<String> =
            ProcessMetrics::new().collect().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.contains(&"process_open_fds".to_owned()) || !cfg!(target_os = "linux"), "{names:?}");
    }
}
