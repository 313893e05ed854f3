//! The stations' configurations, as an operator would write them for these links.

use std::fmt::{self, Write as _};
use std::time::Duration;

use florelay_engine::oam::LIVENESS_FRAME_BYTES;

use super::stage::{Stage, TO_LEFT, TO_RIGHT};
use crate::node_config::{Store, node_table};

/// Realm of the run.
pub(super) const REALM: &str = "bench.rete";
/// RFC 7510.
pub(super) const PORT: u16 = 6635;
/// Ethernet, IPv4, UDP.
const OVERHEAD_BYTES: usize = 42;
/// The smallest burst that the configuration allows at an MTU of 1500: one frame.
const FRAME_BYTES: u64 = 1518;
/// Below this rate a frame is a noticeable time: the burst is little more than one, and liveness may step back behind traffic.
const SLOW_BPS: u64 = 200_000;
/// Frames of liveness may take this share of a link.
const LIVENESS_SHARE: f64 = 0.01;

/// What the operator says of a hop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hop {
    /// Caps of the left and of the right end; `None` = uncapped.
    pub(super) rates: [Option<u64>; 2],
    /// One way.
    pub(super) delay: Duration,
}

impl Hop {
    /// A link with a cap at either end.
    pub(super) const fn capped(left_bps: u64, right_bps: u64, delay_ms: u64) -> Self {
        Self { rates: [Some(left_bps), Some(right_bps)], delay: Duration::from_millis(delay_ms) }
    }

    /// A wire.
    pub(super) const fn wire() -> Self {
        Self { rates: [None, None], delay: Duration::from_micros(100) }
    }

    fn slowest(&self) -> Option<u64> {
        self.rates.into_iter().flatten().min()
    }
}

/// CBS: one frame on slow links and what a 64th of a second carries, otherwise two frames, or 4 ms if that is more.
///
/// With one frame alone, every moment by which the worker wakes late is lost for good: the bucket is full meanwhile.
pub(super) fn burst_bytes(rate_bps: u64) -> u64 {
    if rate_bps < SLOW_BPS { FRAME_BYTES + rate_bps / 8 / 64 } else { (2 * FRAME_BYTES).max(rate_bps / 8 / 250) }
}

/// Labels of path `path` on a hop: to the right, and to the left.
pub(super) fn labels(hop: usize, path: usize) -> (u32, u32) {
    // There are a handful of hops and of paths.
    let forward = (1000 * (hop + 1) + 10 * path) as u32;
    (forward, forward + 1)
}

/// Key file of a hop, in the PKI's folder.
pub(super) fn key_file(hop: usize) -> String {
    format!("hop-{hop}.link")
}

/// The TOML of station `index`. Paths lead from station 0 to each station of `ends`.
pub(super) fn toml(stage: &Stage, hops: &[Hop], ends: &[usize], store: &Store, index: usize) -> String {
    let mut text = node_table(&stage.node(index), REALM, "", store);
    // Writing to a String cannot fail.
    let _ = write_node(&mut text, stage, hops, ends, index);
    text
}

fn write_node(out: &mut String, stage: &Stage, hops: &[Hop], ends: &[usize], index: usize) -> fmt::Result {
    if index > 0 {
        write_link(out, stage, hops, index - 1, 1)?;
    }
    if index < hops.len() {
        write_link(out, stage, hops, index, 0)?;
    }
    for (path, &end) in ends.iter().enumerate() {
        if index == 0 {
            let (forward, backward) = labels(0, path);
            let peer = (stage.node(end), TO_RIGHT, "originator", forward, backward);
            write_peer(out, peer, &hops[..end], 0)?;
        } else if index == end {
            let (forward, backward) = labels(end - 1, path);
            let peer = (stage.node(0), TO_LEFT, "acceptor", backward, forward);
            write_peer(out, peer, &hops[..end], 1)?;
        } else if index < end {
            let ((left_in, left_out), (right_out, right_in)) = (labels(index - 1, path), labels(index, path));
            writeln!(out, "\n[[transit]]")?;
            writeln!(out, "a = {{ link = \"{TO_LEFT}\", in-label = {left_in}, out-label = {left_out} }}")?;
            writeln!(out, "b = {{ link = \"{TO_RIGHT}\", in-label = {right_in}, out-label = {right_out} }}")?;
        }
    }
    Ok(())
}

fn write_link(out: &mut String, stage: &Stage, hops: &[Hop], hop: usize, end: usize) -> fmt::Result {
    let interface = if end == 0 { TO_RIGHT } else { TO_LEFT };
    let (local, remote) = (stage.address(hop, end), stage.address(hop, 1 - end));
    writeln!(
        out,
        "\n[[link]]\nname = \"{interface}\"\nadapter = \"xdp\"\ninterface = \"{interface}\"\nfallback = false"
    )?;
    writeln!(out, "local = \"{local}:{PORT}\"\nremote = \"{remote}:{PORT}\"\nmtu = 1500")?;
    match hops[hop].rates[end] {
        Some(bps) => writeln!(out, "rate = \"{bps} bit/s\"\nburst = \"{} B\"", burst_bytes(bps))?,
        None => writeln!(out, "rate = \"uncapped\"")?,
    }
    writeln!(out, "delay = \"{} us\"", hops[hop].delay.as_micros())?;
    let (interval, detect) = liveness(hops[hop].slowest());
    let key = key_file(hop);
    let interval = interval.as_millis();
    writeln!(out, "liveness = {{ interval = \"{interval} ms\", detect = {detect}, key-file = \"../pki/{key}\" }}")
}

/// 100 ms, or longer where that would take more than its share of the link; and how many silent ones mean down.
fn liveness(slowest_bps: Option<u64>) -> (Duration, u8) {
    let least = Duration::from_millis(100);
    let Some(bps) = slowest_bps else { return (least, 3) };
    let bits = (LIVENESS_FRAME_BYTES + OVERHEAD_BYTES) as f64 * 8.0;
    let interval = Duration::from_secs_f64(bits / (bps as f64 * LIVENESS_SHARE)).max(least);
    (interval, if bps < SLOW_BPS { 6 } else { 3 })
}

type Peer = (String, &'static str, &'static str, u32, u32);

/// `end` is the end of the hops at which this node is.
fn write_peer(
    out: &mut String,
    (name, link, role, out_label, in_label): Peer,
    hops: &[Hop],
    end: usize,
) -> fmt::Result {
    let rtt: Duration = hops.iter().map(|hop| hop.delay * 2).sum();
    writeln!(out, "\n[[peer]]\nname = \"{name}\"\nlink = \"{link}\"\nrole = \"{role}\"")?;
    writeln!(out, "out-label = {out_label}\nin-label = {in_label}\nrtt = \"{} us\"", rtt.as_micros())?;
    for (key, end) in [("path-rate", end), ("return-rate", 1 - end)] {
        if let Some(bps) = hops.iter().filter_map(|hop| hop.rates[end]).min() {
            writeln!(out, "{key} = \"{bps} bit/s\"")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liveness_takes_its_share_of_a_slow_link_and_the_burst_is_little_more_than_a_frame() {
        let (slow, detect) = liveness(Some(100_000));
        let bits = (LIVENESS_FRAME_BYTES + OVERHEAD_BYTES) as f64 * 8.0;
        assert!(bits / slow.as_secs_f64() <= 1_001.0 && detect == 6, "{slow:?}");
        assert_eq!(liveness(Some(10_000_000)), (Duration::from_millis(100), 3));
        assert_eq!([80_000, 1_000_000, 1_000_000_000].map(burst_bytes), [1674, 3036, 500_000]);
    }
}
