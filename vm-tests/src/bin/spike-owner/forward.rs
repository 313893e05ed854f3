//! The worker in small: one UMEM, a socket on every queue of both NICs, and a loop that turns a received frame into the frame to send.
//!
//! ```text
//!   p0a q0 RX ─► rewrite the same chunk ─► p1a q0 TX ─► completion of p1a q0 ─► pool ─► fill of any
//! ```
//!
//! Invariants: no frame is ever taken from the pool to send, so every frame that leaves is one that came; queue i sends on queue i.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use florelay_dataplane::netlink::NextHop;
use florelay_wire::mpls::{self, LSE_BYTES, Label};
use florelay_wire::outer::{self, OuterTemplate};
use florelay_xsk::{
    BATCH_FRAMES, BindMode, Frame, FrameAccount, OpenOptions, RingSizes, Socket, Umem, UmemOptions, quirks,
};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::topology::{LINKS, MAX_QUEUES, PORT};

/// Small rings, so that a test of thousands of frames turns them over many times.
const RINGS: RingSizes = RingSizes { rx: 256, tx: 256 };

/// Enough for four full fill rings and four full TX rings, and some that stay in the pool.
const FRAMES: u32 = 4096;

/// Frames kept in each fill ring.
const FILL_LEVEL: u32 = 256;

/// What the worker counted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    /// Frames received, by link and queue.
    pub(crate) received: [[u64; MAX_QUEUES]; 2],
    /// Frames sent on, by the link they came from.
    pub(crate) forwarded: [u64; 2],
    /// Frames whose chunk or start of data was another one when sent than when received.
    pub(crate) moved: u64,
    /// Frames that were not for this node.
    pub(crate) refused: u64,
    /// Frames freed because the TX ring stayed full.
    pub(crate) overrun: u64,
}

/// One worker.
pub(crate) struct Worker {
    umem: Umem,
    /// By link, then by queue.
    sockets: [Vec<Socket>; 2],
    templates: [Option<OuterTemplate>; 2],
    batch: Vec<Frame>,
    start: Instant,
    /// What happened so far.
    pub(crate) counts: Counts,
}

impl Worker {
    /// A UMEM, not yet on any socket.
    pub(crate) fn new() -> Result<Self> {
        let sizes = LINKS.iter().map(|link| quirks::frame_size(&florelay_xsk::driver_name(link.interface)));
        let frame_size = sizes.max().unwrap_or_default();
        let umem = Umem::new(UmemOptions { frame_size, frame_count: FRAMES, rings: RINGS, huge_pages: false })?;
        Ok(Self {
            umem,
            sockets: [Vec::new(), Vec::new()],
            templates: [None, None],
            batch: Vec::with_capacity(BATCH_FRAMES),
            start: Instant::now(),
            counts: Counts::default(),
        })
    }

    /// Opens a zero-copy socket on the next queue of a link, with frames for the kernel to receive into.
    pub(crate) fn open(&mut self, link: usize) -> Result<&Socket> {
        let queue = u32::try_from(self.sockets[link].len())?;
        let interface = LINKS[link].interface.to_owned();
        let options = OpenOptions { interface, queue, mode: BindMode::ZeroCopy, fill: FILL_LEVEL };
        let mut socket = Socket::open(&mut self.umem, options)?;
        let filled = socket.fill().in_kernel(&self.umem);
        if filled != FILL_LEVEL {
            bail!("only {filled} of {FILL_LEVEL} frames went into the fill ring");
        }
        self.sockets[link].push(socket);
        self.sockets[link].last().context("just pushed")
    }

    /// Whether a copy-mode socket may share this UMEM; it must not.
    pub(crate) fn copy_mode_refused(&mut self) -> bool {
        let options = OpenOptions::new("lo", 0, BindMode::Copy);
        matches!(Socket::open(&mut self.umem, options), Err(florelay_xsk::Error::ModeConflict { .. }))
    }

    /// How to reach the neighbour of a link.
    pub(crate) fn set_next_hop(&mut self, link: usize, hop: &NextHop) -> Result<()> {
        let template = OuterTemplate::new(&outer::NextHop {
            src_mac: hop.src_mac,
            dst_mac: hop.dst_mac,
            vlan: hop.vlan,
            src: SocketAddr::V4(SocketAddrV4::new(LINKS[link].local, PORT)),
            dst: SocketAddr::V4(SocketAddrV4::new(LINKS[link].peer, PORT)),
        });
        self.templates[link] = Some(template.map_err(|why| anyhow::anyhow!("next hop: {why}"))?);
        Ok(())
    }

    /// Forwards until told to stop, then until everything sent is completed. Sleeps in `poll` when there is nothing to do.
    pub(crate) fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Acquire) {
            if self.turn()? == 0 {
                self.wait()?;
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.umem.account().tx > 0 && Instant::now() < deadline {
            if self.turn()? == 0 {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Serves every socket once; how many frames were moved.
    fn turn(&mut self) -> Result<usize> {
        let now_ns = u64::try_from(self.start.elapsed().as_nanos())?;
        let mut moved = 0;
        for link in 0..2 {
            for queue in 0..self.sockets[link].len() {
                moved += self.serve(link, queue, now_ns)?;
            }
        }
        Ok(moved)
    }

    fn serve(&mut self, link: usize, queue: usize, now_ns: u64) -> Result<usize> {
        let Self { umem, sockets, templates, batch, counts, .. } = self;
        let (left, right) = sockets.split_at_mut(1);
        let (from, to) = if link == 0 { (&mut left[0], &mut right[0]) } else { (&mut right[0], &mut left[0]) };
        let (from, to) = (&mut from[queue], &mut to[queue]);

        let received = from.rx().receive(umem, batch, BATCH_FRAMES);
        counts.received[link][queue] += received as u64;
        for mut frame in batch.drain(..) {
            let before = (frame.index(), frame.bytes().as_ptr());
            if !templates[1 - link].as_ref().is_some_and(|template| rewrite(&mut frame, link, template)) {
                counts.refused += 1;
                umem.free(frame);
                continue;
            }
            counts.moved += u64::from(before != (frame.index(), frame.bytes().as_ptr()));
            match to.tx().send(umem, frame) {
                Ok(()) => counts.forwarded[link] += 1,
                Err(refused) => {
                    counts.overrun += 1;
                    umem.free(refused.into_frame());
                }
            }
        }
        to.tx().kick(umem, now_ns).context("sendto on the AF_XDP socket")?;
        let completed = to.completion().reap(umem, BATCH_FRAMES);
        let missing = FILL_LEVEL.saturating_sub(from.fill().in_kernel(umem)) as usize;
        if missing > 0 {
            from.fill().refill(umem, missing);
        }
        from.fill().wake();
        Ok(received + completed)
    }

    /// Until a socket has something, at most 2 ms: a waiting tail needs its kick.
    fn wait(&self) -> Result<()> {
        let sockets = self.sockets.iter().flatten();
        let mut fds: Vec<_> = sockets.map(|socket| PollFd::from_borrowed_fd(socket.fd(), PollFlags::IN)).collect();
        let pause = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        match rustix::event::poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("poll"),
        }
    }

    /// Where the frames are: by running counters, and counted chunk by chunk.
    pub(crate) fn accounts(&self) -> (FrameAccount, FrameAccount) {
        (self.umem.account(), self.umem.audit())
    }

    /// The UMEM and the sockets, to be asked.
    pub(crate) fn parts(&mut self) -> (&Umem, impl Iterator<Item = &mut Socket>) {
        (&self.umem, self.sockets.iter_mut().flatten())
    }

    /// Closes all sockets and opens them again; the mode of each afterwards.
    pub(crate) fn reopen(&mut self) -> Result<Vec<BindMode>> {
        let queues = self.sockets.each_ref().map(Vec::len);
        for socket in self.sockets.iter_mut().flat_map(|sockets| sockets.drain(..)) {
            socket.close(&mut self.umem);
        }
        let mut modes = Vec::new();
        for (link, queues) in queues.into_iter().enumerate() {
            for _ in 0..queues {
                modes.push(self.open(link)?.bound_mode()?);
            }
        }
        Ok(modes)
    }
}

/// Makes a frame from `link` one for the other link, in its own bytes: labels swapped, TTL lowered, outer headers written over the old ones.
/// `false`, with the frame unchanged or half changed, if it is not a frame of this node.
fn rewrite(frame: &mut Frame, link: usize, template: &OuterTemplate) -> bool {
    let Ok(outer) = outer::parse(frame.bytes()) else {
        return false;
    };
    let (from, to) = (&LINKS[link], &LINKS[1 - link]);
    if outer.dst_port != PORT || outer.dst != from.local {
        return false;
    }
    let bytes = frame.bytes_mut();
    let Some((header, payload)) = bytes.split_at_mut_checked(outer.payload.offset) else {
        return false;
    };
    let payload = &mut payload[..outer.payload.len];
    let ttl = |payload: &[u8], entry: usize| payload.get(entry * LSE_BYTES + 3).copied();
    let (Some(forward_ttl), Some(backward_ttl)) = (ttl(payload, 0), ttl(payload, 1)) else {
        return false;
    };
    let (Some(forward), Some(backward)) = (Label::new(to.label_out), Label::new(to.label_in)) else {
        return false;
    };
    let swapped = mpls::swap_at(payload, 0, forward, forward_ttl.saturating_sub(1))
        .and_then(|()| mpls::swap_at(payload, LSE_BYTES, backward, backward_ttl));
    swapped.is_some() && template.write(header, payload, outer.ecn, 0).is_some()
}
