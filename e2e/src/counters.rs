//! Interface counters over time, and rates from them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::namespace::Namespace;
use crate::veth::{has_driver_xdp, layer2_tx_bytes};

/// Time between two samples: ten in the shortest window that is judged (100 ms).
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// What the kernel counted on an interface, as it counts it; see [`Sampler`] for layer 2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
}

impl Counters {
    /// Reads them in the calling thread's network namespace.
    ///
    /// # Errors
    /// No such interface.
    pub fn read_here(interface: &str) -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/net/dev")?, interface)
    }

    /// Reads them in a namespace.
    ///
    /// # Errors
    /// No such interface, or no such namespace.
    pub fn read(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.enter(|| Self::read_here(interface))
    }

    /// The format of /proc/net/dev: eight receive columns, then eight transmit columns.
    fn parse(text: &str, interface: &str) -> Result<Self> {
        let columns = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == interface)
            .map(|(_, columns)| columns)
            .with_context(|| format!("no interface {interface}"))?;
        let numbers: Vec<u64> = columns.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let [rx_bytes, rx_packets, _, _, _, _, _, _, tx_bytes, tx_packets, ..] = numbers[..] else {
            bail!("/proc/net/dev has fewer columns than expected: {columns}");
        };
        Ok(Self { rx_bytes, rx_packets, tx_bytes, tx_packets })
    }
}

/// Bytes sent on an interface since sampling began, at an instant.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Since sampling began.
    pub at: Duration,
    /// Layer-2 bytes since sampling began, the Ethernet header included.
    pub bytes: u64,
}

/// Samples what an end of a veth pair sends, on a thread of its own inside the namespace.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Sample>>>>,
}

impl Sampler {
    /// Starts. The receiving end is asked once whether it runs XDP in driver mode, because that decides what the
    /// kernel's byte counter leaves out: attach before, and do not detach meanwhile.
    ///
    /// # Errors
    /// An interface does not exist.
    pub fn start(sender: (&Namespace, &str), receiver: (&Namespace, &str)) -> Result<Self> {
        let driver_xdp = has_driver_xdp(receiver.0, receiver.1)?;
        // Here, not on the thread: everything that is sent after this returns has to be counted.
        let began = Instant::now();
        let first = layer2_tx_bytes(Counters::read(sender.0, sender.1)?, driver_xdp);
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, interface) = (Arc::clone(&stop), sender.1.to_owned());
        let inside = fs::File::open(sender.0.path())?;
        let thread = thread::spawn(move || {
            use std::os::fd::AsFd as _;
            let net = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(inside.as_fd(), Some(net))?;
            let read = || Ok::<_, anyhow::Error>(layer2_tx_bytes(Counters::read_here(&interface)?, driver_xdp));
            let mut samples = Vec::new();
            loop {
                let last = flag.load(Ordering::Relaxed);
                // The time is read after the counter: a delay between them makes a rate look lower, never higher,
                // at the window's end, and the same amount higher at its start; over a window it cancels on average.
                let bytes = read()?.saturating_sub(first);
                samples.push(Sample { at: began.elapsed(), bytes });
                if last {
                    return Ok(samples);
                }
                thread::sleep(SAMPLE_INTERVAL);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends sampling.
    ///
    /// # Errors
    /// The interface went away.
    pub fn finish(mut self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("sampling has ended")?;
        thread.join().unwrap_or_else(|_| bail!("the sampling thread panicked"))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Mean rate in bit/s while the middle part of all bytes was sent: the first and the last tenth are left out, because
/// slow start and the tail say nothing about the cap. `None` if nothing was sent or there are too few samples.
#[must_use]
pub fn mean_rate_bps(samples: &[Sample]) -> Option<f64> {
    let total = samples.last().map(|last| last.bytes).filter(|&bytes| bytes > 0)?;
    let from = samples.iter().find(|sample| sample.bytes >= total / 10)?;
    let to = samples.iter().rev().find(|sample| sample.bytes <= total - total / 10)?;
    rate_bps(from, to)
}

/// Highest rate in bit/s over any window of at least `window`. `None` if sampling was shorter.
#[must_use]
pub fn busiest_window_bps(samples: &[Sample], window: Duration) -> Option<f64> {
    let mut end = 0;
    let mut highest: Option<f64> = None;
    for from in samples {
        while end < samples.len() && samples[end].at < from.at + window {
            end += 1;
        }
        let Some(to) = samples.get(end) else { break };
        if let Some(rate) = rate_bps(from, to) {
            highest = Some(highest.map_or(rate, |so_far| so_far.max(rate)));
        }
    }
    highest
}

fn rate_bps(from: &Sample, to: &Sample) -> Option<f64> {
    let seconds = to.at.checked_sub(from.at)?.as_secs_f64();
    // Exact below 2^53 bits, a petabyte.
    (seconds > 0.0 && to.bytes >= from.bytes).then(|| (to.bytes - from.bytes) as f64 * 8.0 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n    lo:  1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  w0: 10 20 0 0 0 0 0 0 30 40 0 0 0 0 0 0\n";
        let found = Counters::parse(text, "w0").unwrap();
        assert_eq!(found, Counters { rx_bytes: 10, rx_packets: 20, tx_bytes: 30, tx_packets: 40 });
        assert!(Counters::parse(text, "w").is_err());
    }

    #[test]
    fn rates_leave_out_the_ends_and_find_the_peak() {
        // Idle for 1 s, 1000 bytes each 10 ms for 1 s with a double one in the middle, idle for 1 s.
        let mut samples = Vec::new();
        let mut bytes = 0;
        for step in 0..300_u64 {
            if (100..200).contains(&step) {
                bytes += if step == 150 { 2000 } else { 1000 };
            }
            samples.push(Sample { at: Duration::from_millis(step * 10), bytes });
        }
        let mean = mean_rate_bps(&samples).unwrap();
        assert!((mean / 800_000.0 - 1.0).abs() < 0.03, "{mean}");
        let peak = busiest_window_bps(&samples, Duration::from_millis(100)).unwrap();
        assert!((peak - 880_000.0).abs() < 1.0, "{peak}");
        assert_eq!(busiest_window_bps(&samples, Duration::from_secs(60)), None);
        assert_eq!(mean_rate_bps(&samples[..50]), None, "nothing was sent");
    }
}
