//! The `process_*` metrics that every Prometheus client has, read from `/proc`. Elsewhere than on Linux there are none.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Reads the process's state anew for each scrape.
pub(super) struct Process {
    cpu_seconds: Counter,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    threads: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    start_time: Gauge,
}

impl Process {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            cpu_seconds: Counter::new("process_cpu_seconds_total", "Processor time used, in seconds.")?,
            resident_bytes: Gauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            virtual_bytes: Gauge::new("process_virtual_memory_bytes", "Virtual memory, in bytes.")?,
            threads: Gauge::new("process_threads", "Threads.")?,
            open_fds: Gauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Most file descriptors allowed.")?,
            start_time: Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970.")?,
        })
    }

    #[cfg(target_os = "linux")]
    fn read(&self) -> Option<()> {
        use std::fs::read_to_string;
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        let stat = read_to_string("/proc/self/stat").ok()?;
        // proc(5): the second field is the name in parentheses and may itself hold spaces and parentheses.
        let fields: Vec<f64> =
            stat.rsplit_once(')')?.1.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0.0)).collect();
        // `fields[0]` is field 4 of proc(5).
        let field = |number: usize| fields.get(number - 4).copied();
        self.cpu_seconds.reset();
        self.cpu_seconds.inc_by((field(14)? + field(15)?) / ticks);
        self.threads.set(field(20)?);
        self.virtual_bytes.set(field(23)?);
        self.resident_bytes.set(field(24)? * page);
        let boot = read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
        self.start_time.set(boot + field(22)? / ticks);
        self.open_fds.set(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds.set(limit.map_or(f64::INFINITY, |n| n as f64));
        Some(())
    }

    #[cfg(not(target_os = "linux"))]
    fn read(&self) -> Option<()> {
        None
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.threads,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self.read() {
            Some(()) => self.parts().into_iter().flat_map(Collector::collect).collect(),
            None => Vec::new(),
        }
    }
}
