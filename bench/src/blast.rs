//! Raw AF_XDP: how many frames of a size cross one veth hop when nothing is done with them.
//!
//! Sender and receiver are set up as a worker sets up a link: our XDP program on both interfaces in driver mode,
//! steering by UDP port; one socket a side on queue 0, copy mode; kicks as the ring asks. A frame is a valid link
//! frame, so that it takes the whole way through the program; its payload is whatever the chunk held.
//!
//! ```text
//!   core 0: alloc · 54 header bytes · TX ring · sendto ( skb · veth · NAPI · XDP · copy ) · reap
//!   core 1: RX ring · count · free · fill ring
//! ```
//!
//! The sender sends as fast as it can, so frames may be dropped on the way; only frames that arrive are counted as rate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use florelay_dataplane::attach::{Attachment, Mode, OBJECT};
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};
use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::outer::{NextHop, OuterTemplate};
use florelay_xsk::{BindMode, OpenOptions, Socket, Umem, UmemOptions};

use crate::bed::{Bed, Offloads, Side};
use crate::clock::thread_cpu;

/// RFC 7510.
const PORT: u16 = 6635;
/// Frames that the receiver's fill ring holds: a UMEM's worth less some to spare.
const FILL_FRAMES: usize = 4096;
/// Frames put on the TX ring before the kick is asked for.
const BURST_FRAMES: usize = 64;
/// After the sender's end the receiver goes on until nothing has come for this long.
const QUIET: Duration = Duration::from_millis(50);

/// One blast.
#[derive(Debug, Clone)]
pub struct Blast {
    /// Frames per second that arrived.
    pub received_per_s: f64,
    /// Frames per second that the kernel took.
    pub sent_per_s: f64,
    /// CPU time of the sending thread per frame sent, ns.
    pub sender_cpu_ns: f64,
    /// `sendto` calls per frame sent.
    pub kicks_per_frame: f64,
    /// As the kernel says it was bound.
    pub mode: BindMode,
}

/// Blasts frames of `frame_bytes` (layer 2, no FCS) from A to B for `duration`.
///
/// # Errors
/// No root, no AF_XDP, nothing arrived.
pub fn run(frame_bytes: usize, duration: Duration) -> Result<Blast> {
    let bed = Bed::new(Offloads::Off)?;
    let header = header(&bed, frame_bytes)?;
    let (ready, stop) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            // Both sides get to the barrier whatever happens, or one would wait for ever.
            let end = End::open(&bed, Side::B);
            ready.wait();
            receive(end?, &stop)
        });
        let sender = scope.spawn(|| {
            let end = End::open(&bed, Side::A);
            ready.wait();
            let sent = end.and_then(|end| send(end, &header, frame_bytes, duration));
            stop.store(true, Ordering::Release);
            sent
        });
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("sender")?;
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?.context("receiver")?;
        ensure!(received.frames > 1, "no frame arrived");
        let frames = sent.frames.max(1) as f64;
        Ok(Blast {
            received_per_s: (received.frames - 1) as f64 / received.span.as_secs_f64(),
            sent_per_s: frames / sent.span.as_secs_f64(),
            sender_cpu_ns: sent.cpu.as_secs_f64() * 1e9 / frames,
            kicks_per_frame: sent.kicks as f64 / frames,
            mode: received.mode,
        })
    })
}

/// A side's program, memory and socket. Fields drop in order: the socket before its program.
struct End {
    socket: Socket,
    umem: Umem,
    attachment: Attachment,
}

impl End {
    fn open(bed: &Bed, side: Side) -> Result<Self> {
        bed.settle(side)?;
        let interface = bed.interface(side);
        let mut attachment = Attachment::attach(&interface, &bed.node(side), Mode::Native, OBJECT)?;
        let mut umem = Umem::new(UmemOptions::default())?;
        let socket = Socket::open(
            &mut umem,
            OpenOptions { interface, queue: 0, mode: BindMode::Copy, fill: FILL_FRAMES as u32 },
        )?;
        attachment.register_socket(0, socket.fd())?;
        let key = SteerKey { vlan: 0, port: PORT, address: IpAddr::V4(side.address()) };
        attachment.set_steering(&[(key, SteerValue { link: 0, flags: 0 })])?;
        Ok(Self { socket, umem, attachment })
    }

    fn close(self) -> Result<()> {
        let Self { socket, mut umem, attachment } = self;
        socket.close(&mut umem);
        Ok(attachment.detach()?)
    }
}

struct Sent {
    frames: u64,
    span: Duration,
    cpu: Duration,
    kicks: u64,
}

fn send(mut end: End, header: &[u8], frame_bytes: usize, duration: Duration) -> Result<Sent> {
    let (began, began_cpu) = (Instant::now(), thread_cpu());
    let umem = &mut end.umem;
    loop {
        let elapsed = began.elapsed();
        if elapsed >= duration {
            break;
        }
        end.socket.completion().reap(umem, usize::MAX);
        let tx = end.socket.tx();
        for _ in 0..BURST_FRAMES.min(tx.room()) {
            let Some(mut frame) = umem.alloc() else { break };
            ensure!(frame.set_len(frame_bytes), "a frame of {frame_bytes} bytes does not fit a chunk");
            frame.bytes_mut()[..header.len()].copy_from_slice(header);
            if let Err(refused) = tx.send(umem, frame) {
                umem.free(refused.into_frame());
                break;
            }
        }
        tx.kick(umem, elapsed.as_nanos() as u64)?;
    }
    let (span, cpu) = (began.elapsed(), thread_cpu() - began_cpu);
    let tx = end.socket.tx();
    let frames = tx.counters().frames - u64::from(tx.pending());
    let kicks = tx.kicks().calls;
    end.close()?;
    Ok(Sent { frames, span, cpu, kicks })
}

struct Received {
    frames: u64,
    span: Duration,
    mode: BindMode,
}

fn receive(mut end: End, stop: &AtomicBool) -> Result<Received> {
    let mut batch = Vec::with_capacity(BURST_FRAMES);
    let (mut frames, mut first, mut last) = (0, None, Instant::now());
    loop {
        let rings = end.socket.rings();
        let count = rings.rx.receive(&mut end.umem, &mut batch, BURST_FRAMES);
        if count == 0 {
            rings.fill.wake();
            if stop.load(Ordering::Acquire) && last.elapsed() >= QUIET {
                break;
            }
            std::hint::spin_loop();
            continue;
        }
        last = Instant::now();
        first.get_or_insert(last);
        frames += count as u64;
        for frame in batch.drain(..) {
            end.umem.free(frame);
        }
        rings.fill.refill(&mut end.umem, count);
    }
    let mode = end.socket.bound_mode()?;
    end.close()?;
    Ok(Received { frames, span: first.map_or(Duration::ZERO, |first| last - first), mode })
}

/// Ethernet to control word. No UDP checksum (legal over IPv4): the payload is not written, so it has no sum.
fn header(bed: &Bed, frame_bytes: usize) -> Result<Vec<u8>> {
    let address = |side: Side| SocketAddr::new(IpAddr::V4(side.address()), PORT);
    let hop = NextHop {
        src_mac: bed.mac(Side::A)?,
        dst_mac: bed.mac(Side::B)?,
        vlan: None,
        src: address(Side::A),
        dst: address(Side::B),
    };
    let template = OuterTemplate::new(&hop)?;
    let outer = template.header_len();
    let payload = frame_bytes.checked_sub(outer).context("the frame is shorter than its headers")?;
    let mut bytes = vec![0; outer + PATH_HEADER_BYTES];
    let (front, back) = bytes.split_at_mut(outer);
    template.write(front, &vec![0; payload], 0, 0).context("the outer header does not fit")?;
    let checksum = outer - 2;
    front[checksum..].fill(0);
    let lse = |label| -> Result<Lse> {
        let label = Label::new(label).context("a label of 20 bits")?;
        Ok(Lse { label, tc: Tc::BULK, bottom: false, ttl: 64 })
    };
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 };
    write_path_header(back, lse(100)?, lse(101)?, cw).context("the path header does not fit")?;
    Ok(bytes)
}
