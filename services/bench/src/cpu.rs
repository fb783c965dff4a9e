//! The CPU time of a measurement by process: this one, which is the load, the NATS server, and the platform. On a machine that does other
//! work as well a rate says little, and the ratio of two CPU times much: with all of them on one machine, CPU time is what limits the rate.

use std::fs;

/// Clock ticks of a second in `/proc`, on every common Linux.
const TICKS: f64 = 100.0;

/// CPU time so far, seconds. That of a process that cannot be seen is no number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    pub(crate) load: f64,
    pub(crate) nats: f64,
    pub(crate) platform: f64,
}

impl CpuTime {
    /// Without a platform its time is 0.
    pub(crate) fn now(nats_url: &str, platform: Option<u32>) -> Self {
        let nats = port(nats_url).and_then(listener);
        Self {
            load: seconds(std::process::id()).unwrap_or(f64::NAN),
            nats: nats.and_then(seconds).unwrap_or(f64::NAN),
            platform: platform.map_or(0.0, |pid| seconds(pid).unwrap_or(f64::NAN)),
        }
    }

    /// What each of `count` messages took since `before`.
    pub(crate) fn each_since(self, before: Self, count: f64) -> Self {
        let each = |now: f64, before: f64| (now - before) / count;
        Self {
            load: each(self.load, before.load),
            nats: each(self.nats, before.nats),
            platform: each(self.platform, before.platform),
        }
    }

    pub(crate) fn sum(self) -> f64 {
        self.load + self.nats + self.platform
    }

    /// In microseconds.
    pub(crate) fn text(self) -> String {
        let [platform, nats, load] = [self.platform, self.nats, self.load].map(|seconds| seconds * 1e6);
        format!("platform {platform:.1}, NATS {nats:.1}, load {load:.1} µs")
    }
}

/// User and system time of a process.
fn seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have spaces in it.
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

fn port(url: &str) -> Option<u16> {
    url.trim_end_matches('/').rsplit(':').next()?.parse().ok()
}

/// The process of this user that listens on a TCP port of this machine.
fn listener(port: u16) -> Option<u32> {
    let sockets: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let socket = sockets.iter().flat_map(|text| text.lines()).find_map(|line| listening_on(line, port))?;
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|to| to.to_str() == Some(socket.as_str()))
    };
    pids.into_iter().find(holds)
}

/// The socket of a line of `/proc/net/tcp`, as `/proc/<process>/fd` names it, if it listens on the port.
fn listening_on(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (*fields.get(1)?, *fields.get(3)?, *fields.get(9)?);
    let is_port = u16::from_str_radix(local.rsplit(':').next()?, 16) == Ok(port);
    (is_port && state == "0A").then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_port_and_its_time_grows() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = socket.local_addr().unwrap().port();
        assert_eq!(listener(own), Some(std::process::id()));
        assert_eq!((port("nats://127.0.0.1:4222"), port("nats://somewhere/")), (Some(4222), None));
        let before = CpuTime::now(&format!("nats://127.0.0.1:{own}"), None);
        while seconds(std::process::id()).unwrap() < before.load + 0.02 {
            std::hint::black_box([0u64; 1_000].iter().sum::<u64>());
        }
        let each = CpuTime::now(&format!("nats://127.0.0.1:{own}"), None).each_since(before, 2.0);
        assert!(each.load > 0.009 && each.nats > 0.009 && each.platform == 0.0, "{each:?}");
        assert!((each.sum() - each.load - each.nats).abs() < 1e-9);
    }
}
