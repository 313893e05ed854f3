//! The `sim` adapter: an impaired link between two nodes of one machine, without privileges.
//!
//! ```text
//!   send ─► staged ─► Line (loss, rate, delay …) ─► due ─► unix datagram ─► the neighbour's socket ─► receive
//! ```
//!
//! Each end binds its own socket and connects it to the other's path, so that the kernel lets nobody else in, and does not
//! hold the queue of a connected pair to its few datagrams (`unix_dgram_sendmsg`, net/unix/af_unix.c). Whoever comes first
//! waits for the other; a neighbour that was restarted is found again.
//!
//! A datagram is a link payload. There is no IP here, so the control word carries ECN. What a frame meets is decided when it
//! is sent, at this end; the neighbour decides for its own direction.
//!
//! Owner of the frames under way is the [`Line`]; they are copies in buffers of this link, so a long delay holds none of the
//! worker's frames. A full line stops the scheduler and loses nothing; a neighbour that reads too slowly makes frames late,
//! never lost. Clock: the worker's, zero when the dataplane started; so outages and steps count from there.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use florelay_engine::Nanos;
use florelay_engine::port::Ecn;
use florelay_impair::Line;
use florelay_wire::link;
use rustix::net::sockopt;

use super::BURST_FRAMES;
use crate::plan::SimPlan;
use crate::worker::frame::HEAP_FRAME_BYTES;

/// Frames under way on one link: 0.3 s of full frames at 2 Gbit/s, 100 MB. Buffers are made as they are needed.
const HELD_FRAMES: usize = 65_536;
/// The neighbour's socket is looked for this often while it is not there.
const CONNECT_NS: u64 = 20_000_000;
/// A neighbour that had no room is tried again after this.
const BLOCKED_NS: u64 = 1_000_000;
/// Asked of SO_SNDBUF; the kernel grants what wmem_max allows.
const SEND_BUFFER_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
struct Counters {
    syscalls: u64,
    /// Due, but nobody was at the other end.
    no_peer: u64,
    /// Times that the neighbour had no room.
    blocked: u64,
    /// Times that the neighbour was found.
    connected: u64,
}

/// One end of a `sim` link.
pub(crate) struct SimLink {
    socket: UnixDatagram,
    path: PathBuf,
    peer: PathBuf,
    /// Bytes at layer 2 beside a link payload.
    overhead: u32,
    line: Line<Vec<u8>>,
    /// Sent in this burst: the time is known at `flush`.
    staged: Vec<Vec<u8>>,
    staged_bytes: usize,
    /// Due, with the times that it has to go out, but the neighbour had no room.
    blocked: Option<(Vec<u8>, u8)>,
    free: Vec<Vec<u8>>,
    connected: bool,
    retry_at: u64,
    buffer: Box<[u8]>,
    counters: Counters,
}

impl SimLink {
    /// Bind this end's socket. The neighbour need not be there yet.
    ///
    /// # Errors
    /// The path, and why it cannot be used: a running node has it, it is no socket, or what the kernel says.
    pub(crate) fn open(plan: &SimPlan, overhead: u16) -> Result<Self, (PathBuf, String)> {
        let failed = |error: io::Error| (plan.socket.clone(), error.to_string());
        if let Some(folder) = plan.socket.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        clear(&plan.socket).map_err(|reason| (plan.socket.clone(), reason))?;
        let socket = UnixDatagram::bind(&plan.socket).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES);
        Ok(Self {
            socket,
            path: plan.socket.clone(),
            peer: plan.peer.clone(),
            overhead: overhead.into(),
            line: Line::new(plan.model.clone(), plan.seed, HELD_FRAMES),
            staged: Vec::with_capacity(BURST_FRAMES),
            staged_bytes: 0,
            blocked: None,
            free: Vec::new(),
            connected: false,
            retry_at: 0,
            // A longer datagram shows as one that fits no frame.
            buffer: vec![0; HEAP_FRAME_BYTES + 1].into(),
            counters: Counters::default(),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn room(&self) -> usize {
        self.line.room().saturating_sub(self.staged.len())
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.staged_bytes
    }

    pub(crate) fn syscalls(&self) -> u64 {
        self.counters.syscalls
    }

    pub(crate) fn send(&mut self, datagram: &[u8], ecn: Ecn) -> bool {
        if self.room() == 0 {
            return false;
        }
        let mut frame = self.free.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(datagram);
        link::set_ecn(&mut frame, ecn.bits());
        self.staged_bytes += datagram.len();
        self.staged.push(frame);
        true
    }

    pub(crate) fn flush(&mut self, now_ns: u64) {
        let now = Nanos(now_ns);
        let mut staged = std::mem::take(&mut self.staged);
        for frame in staged.drain(..) {
            // A frame has at most 9216 bytes.
            let l2_bytes = frame.len() as u32 + self.overhead;
            if let Err(refused) = self.line.offer(now, l2_bytes, frame) {
                self.free.push(refused.frame);
            }
        }
        self.staged = staged;
        self.staged_bytes = 0;
        if !self.connected && now_ns >= self.retry_at {
            self.connect(now_ns);
        }
        self.release(now_ns);
    }

    /// Send what is due.
    fn release(&mut self, now_ns: u64) {
        let now = Nanos(now_ns);
        if self.blocked.is_some() && now_ns < self.retry_at {
            return;
        }
        loop {
            let next = self.blocked.take().or_else(|| self.line.poll(now).map(|due| (due.frame, due.copies)));
            let Some((frame, mut copies)) = next else { return };
            while copies > 0 && self.connected {
                self.counters.syscalls += 1;
                match self.socket.send(&frame) {
                    Ok(_) => copies -= 1,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // ENOBUFS, raw: the kernel's memory for such sockets is used up.
                    Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(ENOBUFS) => {
                        self.counters.blocked += 1;
                        self.retry_at = now_ns + BLOCKED_NS;
                        self.blocked = Some((frame, copies));
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(peer = %self.peer.display(), %error, "the neighbour has gone");
                        self.connected = false;
                        self.retry_at = now_ns;
                    }
                }
            }
            self.counters.no_peer += u64::from(copies);
            self.free.push(frame);
        }
    }

    fn connect(&mut self, now_ns: u64) {
        self.counters.syscalls += 1;
        self.connected = self.socket.connect(&self.peer).is_ok();
        self.counters.connected += u64::from(self.connected);
        self.retry_at = if self.connected { now_ns } else { now_ns + CONNECT_NS };
    }

    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        match &self.blocked {
            Some(_) => Some(self.retry_at),
            None => self.line.next_due().map(|due| due.0),
        }
    }

    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8], Ecn)) -> usize {
        for count in 0..BURST_FRAMES {
            self.counters.syscalls += 1;
            match self.socket.recv(&mut self.buffer) {
                Ok(len) => {
                    let payload = &mut self.buffer[..len];
                    let ecn = Ecn::from_bits(link::take_ecn(payload));
                    each(payload, ecn);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // ECONNRESET says that the neighbour went away with unread frames; `release` finds out by itself.
                Err(_) => return count,
            }
        }
        BURST_FRAMES
    }

    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        let line = self.line.counters();
        vec![
            ("sim_offered", line.offered),
            ("sim_delivered", line.delivered),
            ("sim_held", self.line.held() as u64),
            ("sim_lost", line.lost),
            ("sim_dark", line.dark),
            ("sim_queue_dropped", line.queue_dropped),
            ("sim_corrupt_dropped", line.corrupt_dropped),
            ("sim_corrupt_delivered", line.corrupt_delivered),
            ("sim_duplicated", line.duplicated),
            ("sim_reordered", line.reordered),
            ("sim_queue_high_bytes", line.queue_high_bytes),
            ("sim_no_peer", self.counters.no_peer),
            ("sim_blocked", self.counters.blocked),
            ("sim_connected", self.counters.connected),
        ]
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        // The next start removes what is left here.
        let _ = fs::remove_file(&self.path);
    }
}

/// ENOBUFS, asm-generic/errno.h.
const ENOBUFS: i32 = 105;

/// Remove the socket that a dead node left behind.
fn clear(path: &Path) -> Result<(), String> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !kind.is_socket() {
        return Err("there is something that is not a socket".into());
    }
    let probe = UnixDatagram::unbound().map_err(|error| error.to_string())?;
    match probe.connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| error.to_string())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // EPERM: its owner is connected to a neighbour.
        _ => Err("a running node has this socket; the ends of a link need different ones".into()),
    }
}

#[cfg(test)]
mod tests;
