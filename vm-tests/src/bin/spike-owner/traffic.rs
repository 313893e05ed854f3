//! The neighbours: a source that sends numbered frames from one namespace and a sink that checks every one in the other.
//!
//! The source keeps at most [`WINDOW`] frames between itself and the sink, so that nothing on the way may be dropped for want of
//! room, and every missing frame is a fault of the node.

use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::eth::{EthHeader, MacAddr};
use florelay_wire::link::{self, Body, PATH_HEADER_BYTES};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::{checksum, outer};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::topology::{Link, PORT};

/// Frames on the way at most; half of the smallest ring between source and sink.
const WINDOW: u32 = 64;

/// Flows, told apart by source port, so that RSS has something to spread.
const FLOWS: u16 = 16;

/// Source port of flow `n`. The RSS hash is linear: neighbouring ports differ in few bits, and one key in sixteen would put all of them
/// on one queue.
fn source_port(flow: u16) -> u16 {
    20_000 + flow * 2_657
}

/// TTL of both label stack entries as sent.
const TTL: u8 = 64;

/// Sizes of what follows the path header, in turn: short, long, and the longest that Ethernet 1500 carries
/// (1500 − 20 − 8 − 12).
const BODY_BYTES: [usize; 5] = [8, 64, 333, 1000, 1460];

/// How long the sink waits without any frame before it gives up. Emulated, a frame takes about 1 ms.
const SILENCE: Duration = Duration::from_secs(8);

/// Ethernet addresses that the far side must see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Macs {
    /// The node's interface.
    pub(crate) node: MacAddr,
    /// The receiving neighbour's.
    pub(crate) peer: MacAddr,
}

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Frames that were right, each counted once.
    pub(crate) good: u32,
    /// Frames of this run that came more than once.
    pub(crate) twice: u32,
    /// The first few wrong frames, described.
    pub(crate) wrong: Vec<String>,
}

/// Sends `count` frames from `from`'s neighbour to `to`'s neighbour, through the node, while `forward` runs on this thread until told to
/// stop.
///
/// # Errors
/// If a namespace cannot be entered or a socket cannot be made; wrong traffic is a result, not an error.
pub(crate) fn run(
    from: &'static Link,
    to: &'static Link,
    macs: Macs,
    count: u32,
    forward: impl FnOnce(&AtomicBool),
) -> Result<Received> {
    let progress = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let sink = scope.spawn({
            let (progress, stop) = (&progress, &stop);
            move || {
                let received = receive(to, macs, count, &ready, progress);
                stop.store(true, Ordering::Release);
                received
            }
        });
        let source = scope.spawn({
            let (progress, stop) = (&progress, &stop);
            move || {
                // The sink's socket is open, or its thread has ended and says why.
                if is_ready.recv().is_ok() { send(from, count, progress, stop) } else { Ok(()) }
            }
        });
        forward(&stop);
        source.join().map_err(|_| anyhow::anyhow!("the source panicked"))??;
        sink.join().map_err(|_| anyhow::anyhow!("the sink panicked"))?
    })
}

/// Moves the calling thread into a named network namespace.
fn enter(namespace: &str) -> Result<()> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {namespace}"))
}

fn send(from: &Link, count: u32, progress: &AtomicU32, stop: &AtomicBool) -> Result<()> {
    enter(from.namespace)?;
    let node: SocketAddr = SocketAddrV4::new(from.local, PORT).into();
    let flows = (0..FLOWS)
        .map(|flow| UdpSocket::bind(SocketAddrV4::new(from.peer, source_port(flow))))
        .collect::<std::io::Result<Vec<_>>>()
        .context("cannot bind the source's ports")?;
    let mut frame = Vec::new();
    for index in 0..count {
        while index.wrapping_sub(progress.load(Ordering::Acquire)) >= WINDOW {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            thread::yield_now();
        }
        write_payload(&mut frame, from, index).context("a label does not fit")?;
        flows[usize::from(flow_of(index))].send_to(&frame, node).context("cannot send")?;
    }
    Ok(())
}

fn flow_of(index: u32) -> u16 {
    u16::try_from(index % u32::from(FLOWS)).unwrap_or(0)
}

fn write_payload(frame: &mut Vec<u8>, from: &Link, index: u32) -> Option<()> {
    let lse = |label, bottom| Some(Lse { label: Label::new(label)?, tc: Tc::BULK, bottom, ttl: TTL }.to_bytes());
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: sequence(index) };
    frame.clear();
    frame.extend_from_slice(&lse(from.label_in, false)?);
    frame.extend_from_slice(&lse(from.label_out, true)?);
    frame.extend_from_slice(&cw.to_bytes());
    frame.extend_from_slice(&body(index));
    Some(())
}

fn sequence(index: u32) -> u16 {
    u16::try_from(index & 0xFFFF).unwrap_or(0)
}

/// The number of the frame and its complement, then bytes that depend on number and place.
fn body(index: u32) -> Vec<u8> {
    let length = BODY_BYTES[index as usize % BODY_BYTES.len()];
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(&index.to_be_bytes());
    body.extend_from_slice(&(!index).to_be_bytes());
    let mut state = index;
    while body.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        body.push(state.to_be_bytes()[0]);
    }
    body
}

fn receive(to: &Link, macs: Macs, count: u32, ready: &mpsc::Sender<()>, progress: &AtomicU32) -> Result<Received> {
    enter(to.namespace)?;
    // Unbound, so it hears every interface of the namespace, of which there is one. ETH_P_IP, linux/if_ether.h.
    let protocol = NonZero::new(u32::from(0x0800_u16.to_be())).map(Protocol::from_raw);
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
        .context("cannot open a packet socket")?;
    sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(SILENCE))?;
    let _ = ready.send(());

    let mut received = Received::default();
    let mut seen = vec![false; count as usize];
    let mut buffer = vec![0_u8; 4096];
    let mut last = Instant::now();
    while received.good < count && last.elapsed() < SILENCE {
        let length = match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) => length,
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => bail!("cannot receive: {error}"),
        };
        let frame = &buffer[..length.min(buffer.len())];
        match inspect(frame, to, macs) {
            Ok(None) => {}
            Ok(Some(index)) => match seen.get_mut(index as usize) {
                Some(seen) if !*seen => {
                    *seen = true;
                    received.good += 1;
                    last = Instant::now();
                    progress.store(received.good, Ordering::Release);
                }
                Some(_) => received.twice += 1,
                None => received.wrong.push(format!("number {index} was never sent")),
            },
            Err(why) => {
                if received.wrong.len() < 5 {
                    received.wrong.push(format!("{why:#}"));
                }
            }
        }
    }
    Ok(received)
}

/// The number of a frame of this run; `None` for a frame that is something else (the probe that provokes resolution).
fn inspect(frame: &[u8], to: &Link, macs: Macs) -> Result<Option<u32>> {
    let Ok(outer) = outer::parse(frame) else {
        return Ok(None);
    };
    if outer.dst_port != PORT || outer.dst != to.peer || outer.payload.len < PATH_HEADER_BYTES {
        return Ok(None);
    }
    let (eth, _) = EthHeader::parse(frame).map_err(|why| anyhow::anyhow!("Ethernet: {why}"))?;
    if (eth.src, eth.dst) != (macs.node, macs.peer) {
        bail!("MAC addresses {:?} to {:?}, expected {macs:?}", eth.src, eth.dst);
    }
    if outer.src != to.local || outer.src_port != PORT {
        bail!("comes from {}:{}", outer.src, outer.src_port);
    }
    let ip = frame.get(eth.header_len()..eth.header_len() + 20).context("no IP header")?;
    if !checksum::verify(ip) {
        bail!("IP checksum is wrong");
    }
    outer::verify_udp_checksum(frame, &outer).map_err(|why| anyhow::anyhow!("UDP checksum: {why}"))?;
    if outer.udp_checksum == 0 {
        bail!("no UDP checksum");
    }
    let payload = outer.payload.of(frame).context("short frame")?;
    let parsed = link::parse(payload).map_err(|why| anyhow::anyhow!("link payload: {why}"))?;
    if (parsed.forward.label.get(), parsed.forward.ttl) != (to.label_out, TTL - 1) {
        bail!("forward entry is {:?}", parsed.forward);
    }
    if parsed.backward.map(|lse| lse.label.get()) != Some(to.label_in) {
        bail!("backward entry is {:?}", parsed.backward);
    }
    let Body::Payload { cw, payload } = parsed.body else { bail!("not a payload") };
    let number = payload.first_chunk::<4>().context("no number")?;
    let index = u32::from_be_bytes(*number);
    if payload != body(index) || cw.sequence != sequence(index) {
        bail!("frame {index} has other contents than were sent");
    }
    Ok(Some(index))
}
