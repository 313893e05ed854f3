//! Time as it is charged: wall clock per part, CPU time per thread.
//!
//! A part's wall time is read by `Instant` (vDSO). The CPU clock of a thread is a system call, too dear around each
//! burst: it is read at both ends of a run, and [`Shares::per_packet`] scales a part's wall time by the share of the run that
//! the thread was really on a CPU. On a quiet machine both agree; on a busy one the CPU figure is the better one.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this thread has used.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall time of the sending and the receiving side, both in one thread.
#[derive(Debug)]
pub struct Shares {
    began: Instant,
    /// `None`: CPU time is not of interest.
    began_cpu: Option<Duration>,
    /// Charged to the sender.
    pub sender: Duration,
    /// Charged to the receiver.
    pub receiver: Duration,
}

impl Shares {
    /// Starts now, with nothing charged.
    #[must_use]
    pub fn start() -> Self {
        Self { began_cpu: Some(thread_cpu()), ..Self::wall_only() }
    }

    /// Starts now, without the CPU clock: rustix looks for the vDSO, which is not there under valgrind.
    #[must_use]
    pub fn wall_only() -> Self {
        Self { began: Instant::now(), began_cpu: None, sender: Duration::ZERO, receiver: Duration::ZERO }
    }

    /// What a packet costs either side.
    #[must_use]
    pub fn per_packet(&self, packets: u64, stream_bytes: u64) -> PacketCost {
        let wall = self.began.elapsed().as_secs_f64();
        let on_cpu = match self.began_cpu {
            Some(began) if wall > 0.0 => (thread_cpu() - began).as_secs_f64() / wall,
            _ => 1.0,
        };
        let per = |time: Duration| time.as_secs_f64() * 1e9 / packets.max(1) as f64;
        PacketCost {
            send_ns: per(self.sender),
            receive_ns: per(self.receiver),
            send_cpu_ns: per(self.sender) * on_cpu,
            receive_cpu_ns: per(self.receiver) * on_cpu,
            stream_bytes: stream_bytes as f64 / packets.max(1) as f64,
            packets,
        }
    }
}

/// What one data packet costs, acknowledgements and everything else included.
#[derive(Debug, Clone, Copy)]
pub struct PacketCost {
    /// Wall time at the sender, ns.
    pub send_ns: f64,
    /// Wall time at the receiver, ns.
    pub receive_ns: f64,
    /// CPU time at the sender, ns.
    pub send_cpu_ns: f64,
    /// CPU time at the receiver, ns.
    pub receive_cpu_ns: f64,
    /// Stream bytes that a packet carried.
    pub stream_bytes: f64,
    /// Data packets counted: those of [`DATA_PACKET_MIN_BYTES`](crate::DATA_PACKET_MIN_BYTES) and more.
    pub packets: u64,
}
