//! Where and when a figure was taken. No figure is printed without it.

use std::fs;

use serde::Serialize;

/// What is the same for all rows of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// `model name` of /proc/cpuinfo.
    pub cpu: String,
    /// CPUs of this machine.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// Whether the CPU has vectorised AES: it decides what a QUIC packet costs.
    pub vaes: bool,
    /// Whether a hypervisor is underneath.
    pub virtual_machine: bool,
    /// Nice value of this process; below 0 it went before others' work.
    pub nice: i32,
    /// `release` or `debug`: a debug figure compares with nothing.
    pub build: &'static str,
    /// Load average over one minute at the start of the run.
    pub load_at_start: f64,
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        let has = |flag: &str| flags.split(' ').any(|found| found == flag);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: kernel.trim().to_owned(),
            vaes: has("vaes"),
            virtual_machine: has("hypervisor"),
            nice: rustix::process::getpriority_process(None).unwrap_or(0),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            load_at_start: load(),
        }
    }
}

/// Load average over one minute; 0 where /proc does not say.
#[must_use]
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
