//! What one address sends on an interface, by tcpdump: each frame's time and length.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use florelay_e2e::{Deadline, Job, Namespace};
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(30);
/// Headers are enough; the length is kept besides.
const SNAP_BYTES: &str = "64";
/// KiB in the kernel, so that tcpdump may wait for its core.
const BUFFER_KIB: &str = "65536";
/// pcap files with nanoseconds (draft-ietf-opsawg-pcap, section 4).
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;

/// A frame that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// Nanoseconds of the kernel's wall clock.
    pub(crate) at_ns: u64,
    /// At layer 2, without FCS.
    pub(crate) bytes: u64,
}

/// A running capture.
pub(crate) struct Capture {
    job: Job,
    file: PathBuf,
}

impl Capture {
    pub(crate) fn start(place: &Namespace, interface: &str, from: Ipv4Addr, port: u16, folder: &Path) -> Self {
        let file = folder.join("capture.pcap");
        let mut command = place.command("tcpdump");
        command.args(["-i", interface, "-n", "-s", SNAP_BYTES, "-B", BUFFER_KIB, "-Q", "in", "-Z", "root"]);
        command.args(["--time-stamp-precision=nano", "-w"]).arg(&file);
        command.arg(format!("udp and src host {from} and src port {port}"));
        let job = Job::start(&command, folder, "tcpdump").unwrap();
        let listens = || Ok(job.said().contains("listening on").then_some(()));
        Deadline::after(SOON)
            .wait("tcpdump to listen", listens)
            .unwrap_or_else(|error| panic!("{error:#}: {}", job.said()));
        Self { job, file }
    }

    /// Ends it. Every frame that the kernel saw is in it.
    pub(crate) fn finish(mut self) -> Vec<Frame> {
        let pid = Pid::from_raw(self.job.pid().cast_signed()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.job.wait(Deadline::after(SOON)).unwrap();
        let said = self.job.said();
        assert!(said.contains("\n0 packets dropped by kernel"), "the capture has gaps: {said}");
        let bytes = fs::read(&self.file).unwrap();
        fs::remove_file(&self.file).unwrap();
        parse(&bytes)
    }
}

fn parse(file: &[u8]) -> Vec<Frame> {
    let word = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
    assert_eq!(word(0), MAGIC_NANOS, "this machine writes captures otherwise");
    let mut at = FILE_HEADER_BYTES;
    let mut frames = Vec::new();
    while at + RECORD_HEADER_BYTES <= file.len() {
        let [seconds, nanos, kept, bytes] = [0, 4, 8, 12].map(|offset| word(at + offset));
        frames.push(Frame { at_ns: u64::from(seconds) * 1_000_000_000 + u64::from(nanos), bytes: bytes.into() });
        at += RECORD_HEADER_BYTES + kept as usize;
    }
    frames
}
