//! One interface of the emulator: the XDP program that diverts its frames, and its AF_XDP sockets.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Ebpf;
use aya::maps::XskMap;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use florelay_dataplane::attach::OBJECT;
use florelay_wire::maps::XSK_MAP;
use florelay_xsk::{BindMode, Frame, FrameSize, OpenOptions, RingSizes, Socket, Umem, UmemOptions};

use super::report::SideReport;
use florelay_impair::Nanos;

/// In the eBPF object, beside the nodes' program.
const PROGRAM: &str = "florelay_divert";
/// RX queues of one interface that are looked for.
const MAX_QUEUES: u32 = 16;
const RINGS: RingSizes = RingSizes { rx: 2048, tx: 2048 };
/// The whole fill ring: twice RX.
const FILL_FRAMES: u32 = 4096;
/// Fill rings and TX rings of two interfaces of a few queues; grows with nothing.
const FRAMES: u32 = 1 << 15;
/// EINVAL, asm-generic/errno-base.h: a queue beyond the active ones.
const EINVAL: i32 = 22;

/// The memory that both sides share.
pub(super) fn umem_options() -> UmemOptions {
    UmemOptions { frame_size: FrameSize::Bytes4096, frame_count: FRAMES, rings: RINGS, huge_pages: false }
}

/// See the module. Fields drop in order: sockets before the program, whose link ends with its object.
pub(super) struct Side {
    interface: String,
    /// By queue; the first sends.
    sockets: Vec<Socket>,
    native: bool,
    refused: u64,
    scratch: Vec<Frame>,
    _xsks: XskMap<aya::maps::MapData>,
    _ebpf: Ebpf,
}

impl Side {
    /// Attach, bind, and let frames in.
    pub(super) fn open(interface: &str, umem: &mut Umem) -> Result<Self> {
        ensure!(!OBJECT.is_empty(), "this build is without the eBPF program: run `cargo xtask setup` and build again");
        let (mut ebpf, native) = match attach(interface, XdpMode::Driver) {
            Ok(ebpf) => (ebpf, true),
            Err(driver) => match attach(interface, XdpMode::Skb) {
                Ok(ebpf) => (ebpf, false),
                Err(_) => return Err(driver),
            },
        };
        let map = ebpf.take_map(XSK_MAP).ok_or_else(|| anyhow!("the eBPF object has no {XSK_MAP}"))?;
        let mut xsks = XskMap::try_from(map)?;
        let mut sockets = Vec::new();
        for queue in 0..MAX_QUEUES {
            let options = OpenOptions { fill: FILL_FRAMES, ..OpenOptions::new(interface, queue, BindMode::Copy) };
            match Socket::open(umem, options) {
                Ok(socket) => {
                    xsks.set(queue, socket.fd(), 0)?;
                    sockets.push(socket);
                }
                Err(error) if queue > 0 && error.errno() == Some(EINVAL) => break,
                Err(error) => return Err(error).with_context(|| format!("queue {queue} of {interface}")),
            }
        }
        Ok(Self {
            interface: interface.to_owned(),
            sockets,
            native,
            refused: 0,
            scratch: Vec::with_capacity(super::BURST_FRAMES),
            _xsks: xsks,
            _ebpf: ebpf,
        })
    }

    /// How the program is attached.
    pub(super) fn mode(&self) -> &'static str {
        if self.native { "driver copy" } else { "generic" }
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.as_fd())
    }

    /// Show `each` what has come, at most `max` frames a queue, with a time at which it was there. Returns how many.
    pub(super) fn receive(
        &mut self,
        umem: &mut Umem,
        max: usize,
        clock: impl Fn() -> Nanos,
        mut each: impl FnMut(Nanos, &[u8]),
    ) -> usize {
        let mut count = 0;
        for socket in &mut self.sockets {
            let rings = socket.rings();
            rings.completion.reap(umem, usize::MAX);
            count += rings.rx.receive(umem, &mut self.scratch, max);
            // Read after the ring: a clock read before it makes frames that came meanwhile older than they are,
            // and the link shorter than the profile says, by as long as this process was kept off its core.
            let now = clock();
            for frame in self.scratch.drain(..) {
                each(now, frame.bytes());
                umem.free(frame);
            }
            let missing = FILL_FRAMES.saturating_sub(rings.fill.in_kernel(umem));
            rings.fill.refill(umem, missing as usize);
            rings.fill.wake();
        }
        count
    }

    /// Put a frame on the ring. `false`: there is no room now.
    pub(super) fn send(&mut self, umem: &mut Umem, bytes: &[u8]) -> bool {
        let Some(socket) = self.sockets.first_mut() else { return false };
        let tx = socket.tx();
        if tx.room() == 0 {
            return false;
        }
        let Some(mut frame) = umem.alloc() else { return false };
        let fits = frame.set_len(bytes.len());
        if fits {
            frame.bytes_mut().copy_from_slice(bytes);
        }
        if let Err(refused) = tx.send(umem, frame) {
            // It will never do: counted, and out of the way.
            self.refused += 1;
            umem.free(refused.into_frame());
        }
        true
    }

    /// Have the kernel send what is on the ring.
    pub(super) fn kick(&mut self, now_ns: u64) -> Result<()> {
        let Some(socket) = self.sockets.first_mut() else { return Ok(()) };
        let tx = socket.tx();
        tx.publish();
        if tx.pending() > 0 {
            tx.kick_now(now_ns).with_context(|| format!("{} cannot send", self.interface))?;
        }
        Ok(())
    }

    /// Take everything down.
    pub(super) fn close(self, umem: &mut Umem) -> SideReport {
        let statistics = self.sockets.iter().filter_map(|socket| socket.statistics().ok());
        let rx_dropped = statistics.map(|s| s.rx_dropped + s.rx_ring_full + s.rx_fill_ring_empty_descs).sum();
        let report =
            SideReport { interface: String::new(), mode: self.mode().to_owned(), rx_dropped, tx_refused: self.refused };
        for socket in self.sockets {
            socket.close(umem);
        }
        report
    }
}

fn attach(interface: &str, mode: XdpMode) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(OBJECT).context("the eBPF object")?;
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| anyhow!("the eBPF object has no {PROGRAM}"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().context("loading the XDP program (root?)")?;
    program.attach(interface, mode).with_context(|| format!("attaching the XDP program to {interface}"))?;
    Ok(ebpf)
}
