//! The codec of [`crate::ipc`] on a blocking unix stream socket; control, dataplane and command line all use it.
//!
//! ```text
//!   sendmsg  ┌ u32 LE length ┬ postcard value ┐   + at most one descriptor, attached to the first byte
//!            └───────────────┴────────────────┘
//! ```
//!
//! Invariants:
//! - A read never goes past the end of a message, so a descriptor that arrives belongs to the message being read.
//! - Memory grows with what arrived, not with the length a peer claims.
//! - Once a message has begun, the rest follows within [`STALL`], and a send makes progress within [`STALL`]: nobody
//!   hangs on a peer that stopped halfway. Waiting for the *first* byte has no limit.
//! - After any error but [`IpcError::TooLarge`] from `send`, the stream is out of step: drop it.
//!
//! Ownership: a received descriptor is an `OwnedFd` (close-on-exec) of the caller; a sent one is borrowed.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ipc::{Hello, IPC_VERSION, MAX_IPC_BYTES};

/// Longest pause inside a message, in either direction, and longest wait for the peer's `Hello`.
pub const STALL: Duration = Duration::from_secs(5);

/// Bytes read at once; bounds what a false length makes us allocate.
const CHUNK_BYTES: usize = 64 << 10;

/// What goes wrong on the socket.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The system refused.
    #[error("unix socket: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a message.
    #[error("the other side closed the socket in the middle of a message")]
    Truncated,
    /// The peer stopped inside a message, or takes nothing any more.
    #[error("the other side stopped in the middle of a message for {} s", STALL.as_secs())]
    Stalled,
    /// A message is longer than [`MAX_IPC_BYTES`].
    #[error("message of {bytes} bytes; at most {MAX_IPC_BYTES} are allowed")]
    TooLarge {
        /// Its length, or the length it claims.
        bytes: u64,
    },
    /// The bytes are not a message of the expected type.
    #[error("not a message of this protocol: {0}")]
    Malformed(&'static str),
    /// More than one descriptor came with one message.
    #[error("more than one descriptor with one message")]
    TooManyDescriptors,
    /// The other executable is a different one.
    #[error(
        "the other side speaks version {theirs} (build {build}), this one {IPC_VERSION}; both must come from one executable"
    )]
    Version {
        /// `Hello::version` of the peer.
        theirs: u32,
        /// `Hello::build` of the peer.
        build: String,
    },
}

impl IpcError {
    /// The peer went away, rather than misbehaved.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Truncated => true,
            Self::Io(e) => {
                matches!(
                    e.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
                )
            }
            _ => false,
        }
    }
}

/// A message stream. Clones share the socket; one may read while another writes, but only one of each.
#[derive(Debug)]
pub struct IpcStream {
    socket: UnixStream,
}

impl IpcStream {
    /// Takes over a connected socket: blocking, with [`STALL`] as its timeout.
    ///
    /// # Errors
    /// When the socket's options cannot be set.
    pub fn new(socket: UnixStream) -> Result<Self, IpcError> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(STALL))?;
        socket.set_write_timeout(Some(STALL))?;
        Ok(Self { socket })
    }

    /// Both sides say `Hello` and compare versions. Call it first, at both ends.
    ///
    /// # Errors
    /// When nothing comes within [`STALL`], or versions differ.
    pub fn greet(&self) -> Result<Hello, IpcError> {
        self.greet_within(Patience::Stall)
    }

    /// Like [`Self::greet`], but waits for the other side's `Hello` as long as the socket is open: the other side may
    /// still be starting, with this connection in its listener's backlog.
    ///
    /// # Errors
    /// When the socket closes, or versions differ.
    pub fn greet_patiently(&self) -> Result<Hello, IpcError> {
        self.greet_within(Patience::Forever)
    }

    fn greet_within(&self, patience: Patience) -> Result<Hello, IpcError> {
        self.send(&Hello { version: IPC_VERSION, build: env!("CARGO_PKG_VERSION").to_owned() }, None)?;
        let Some((hello, _)) = self.receive_within::<Hello>(patience)? else {
            return Err(IpcError::Truncated);
        };
        if hello.version == IPC_VERSION {
            Ok(hello)
        } else {
            Err(IpcError::Version { theirs: hello.version, build: hello.build })
        }
    }

    /// Sends one message, with a descriptor if given.
    ///
    /// # Errors
    /// [`IpcError::TooLarge`] (nothing was sent), or the socket's.
    pub fn send<T: Serialize>(&self, message: &T, descriptor: Option<BorrowedFd<'_>>) -> Result<(), IpcError> {
        let frame = encode(message)?;
        let mut sent = 0;
        if let Some(fd) = descriptor {
            let fds = [fd];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            // The buffer was made for exactly one descriptor, so it always fits.
            let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
            debug_assert!(fits);
            sent = loop {
                match rustix::net::sendmsg(&self.socket, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL) {
                    Ok(n) => break n,
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(stalled_or(e.into())),
                }
            };
        }
        (&self.socket).write_all(&frame[sent..]).map_err(stalled_or)
    }

    /// Waits for the next message. `None` when the peer closed between messages.
    ///
    /// # Errors
    /// See [`IpcError`]; drop the stream after one.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Option<OwnedFd>)>, IpcError> {
        self.receive_within(Patience::Forever)
    }

    /// A second handle on the same socket, for another thread.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Ends both directions; a thread that waits in [`Self::receive`] returns.
    pub fn shutdown(&self) {
        // Already disconnected is what we want.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn receive_within<T: DeserializeOwned>(
        &self,
        patience: Patience,
    ) -> Result<Option<(T, Option<OwnedFd>)>, IpcError> {
        let mut descriptor = None;
        let mut length = [0_u8; 4];
        let mut have = 0;
        while have < length.len() {
            match self.read(&mut length[have..], &mut descriptor) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(IpcError::Truncated),
                Ok(n) => have += n,
                Err(IpcError::Stalled) if have == 0 && patience == Patience::Forever => {}
                Err(e) => return Err(e),
            }
        }
        let length = u32::from_le_bytes(length);
        if length > MAX_IPC_BYTES {
            return Err(IpcError::TooLarge { bytes: u64::from(length) });
        }
        let length = length as usize;
        let mut body = Vec::new();
        while body.len() < length {
            let start = body.len();
            body.resize(length.min(start + CHUNK_BYTES), 0);
            let n = self.read(&mut body[start..], &mut descriptor)?;
            if n == 0 {
                return Err(IpcError::Truncated);
            }
            body.truncate(start + n);
        }
        Ok(Some((decode(&body)?, descriptor)))
    }

    /// One read, at most `into`; a descriptor that comes with it goes to `descriptor`.
    fn read(&self, into: &mut [u8], descriptor: &mut Option<OwnedFd>) -> Result<usize, IpcError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            match rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(into)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(e) => return Err(stalled_or(e.into())),
            }
        };
        let mut excess = got.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    excess |= descriptor.is_some();
                    descriptor.get_or_insert(fd);
                }
            }
        }
        if excess { Err(IpcError::TooManyDescriptors) } else { Ok(got.bytes) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Forever,
    Stall,
}

/// A whole frame: length and value.
///
/// # Errors
/// [`IpcError::TooLarge`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, IpcError> {
    let frame = postcard::to_extend(message, vec![0_u8; 4]).map_err(|_| IpcError::Malformed("cannot be encoded"))?;
    let bytes = (frame.len() - 4) as u64;
    let length = u32::try_from(bytes).ok().filter(|&l| l <= MAX_IPC_BYTES).ok_or(IpcError::TooLarge { bytes })?;
    let mut frame = frame;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// The value of a frame, without its length.
///
/// # Errors
/// [`IpcError::Malformed`], also when bytes are left over.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, IpcError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(IpcError::Malformed("bytes left over")),
        Err(_) => Err(IpcError::Malformed("cannot be decoded")),
    }
}

/// A socket timeout shows as `WouldBlock`.
fn stalled_or(error: io::Error) -> IpcError {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        IpcError::Stalled
    } else {
        IpcError::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, SeekFrom};
    use std::os::fd::AsFd as _;

    use proptest::prelude::*;

    use super::*;
    use crate::ipc::{Request, RequestBody, Response, TransferOrder};

    fn pair() -> (IpcStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        (IpcStream::new(a).unwrap(), b)
    }

    fn watch(tag: u64) -> Request {
        Request { tag, body: RequestBody::Watch { id: u128::from(tag) } }
    }

    fn file_with(text: &str) -> File {
        let fd = rustix::fs::memfd_create("ipc-codec-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(text.as_bytes()).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    #[test]
    fn descriptor_belongs_to_its_own_message() {
        let (a, b) = pair();
        let b = IpcStream::new(b).unwrap();
        let file = file_with("contents");
        // All three lie in the socket before the first is read: the middle one alone must get the descriptor.
        a.send(&watch(1), None).unwrap();
        a.send(&watch(2), Some(file.as_fd())).unwrap();
        a.send(&watch(3), None).unwrap();
        let (first, none) = b.receive::<Request>().unwrap().unwrap();
        assert!(none.is_none());
        assert_eq!(first, watch(1));
        let (second, fd) = b.receive::<Request>().unwrap().unwrap();
        assert_eq!(second, watch(2));
        let mut text = String::new();
        File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "contents");
        let (third, none) = b.receive::<Request>().unwrap().unwrap();
        assert!(none.is_none());
        assert_eq!(third, watch(3));
        drop(a);
        assert!(b.receive::<Request>().unwrap().is_none());
    }

    #[test]
    fn large_message_with_descriptor_crosses_a_small_buffer() {
        let (a, b) = pair();
        let b = IpcStream::new(b).unwrap();
        let payload: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let request = Request { tag: 9, body: RequestBody::Message { to: "b".into(), payload } };
        let sent = request.clone();
        let writer = std::thread::spawn(move || a.send(&sent, Some(file_with("x").as_fd())).unwrap());
        let (got, fd) = b.receive::<Request>().unwrap().unwrap();
        writer.join().unwrap();
        assert!(got == request && fd.is_some());
    }

    #[test]
    fn two_descriptors_are_refused() {
        let (a, raw) = pair();
        let (x, y) = (file_with("x"), file_with("y"));
        let fds = [x.as_fd(), y.as_fd(), x.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let frame = encode(&watch(1)).unwrap();
        rustix::net::sendmsg(&raw, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
        assert!(matches!(a.receive::<Request>(), Err(IpcError::TooManyDescriptors)));
    }

    #[test]
    fn false_length_and_truncation_are_errors() {
        let (a, mut raw) = pair();
        raw.write_all(&(MAX_IPC_BYTES + 1).to_le_bytes()).unwrap();
        assert!(matches!(a.receive::<Request>(), Err(IpcError::TooLarge { .. })));
        let (a, mut raw) = pair();
        raw.write_all(&[9, 0, 0, 0, 1]).unwrap();
        drop(raw);
        assert!(matches!(a.receive::<Request>(), Err(IpcError::Truncated)));
        let too_long = vec![0_u8; MAX_IPC_BYTES as usize + 1];
        assert!(matches!(encode(&too_long), Err(IpcError::TooLarge { .. })));
    }

    #[test]
    fn other_version_is_refused() {
        let (a, raw) = pair();
        let raw = IpcStream::new(raw).unwrap();
        raw.send(&Hello { version: IPC_VERSION + 1, build: "9.9".into() }, None).unwrap();
        assert!(matches!(a.greet(), Err(IpcError::Version { theirs, .. }) if theirs == IPC_VERSION + 1));
    }

    proptest! {
        /// Whatever bytes come, reading ends (the peer has closed) and nothing panics.
        #[test]
        fn garbage_ends(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let (a, mut raw) = pair();
            raw.write_all(&bytes).unwrap();
            drop(raw);
            while let Ok(Some(_)) = a.receive::<Request>() {}
        }

        /// Well-framed garbage reaches the decoder of every message type.
        #[test]
        fn garbage_bodies_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
            let _ = decode::<Hello>(&bytes);
        }

        /// Encoding round-trips.
        #[test]
        fn round_trip(tag: u64, id: u128, name in ".{0,40}", priority: u8) {
            let body = RequestBody::SendFile { order: TransferOrder::new("b", id, name, priority), path: None };
            let request = Request { tag, body };
            let frame = encode(&request).unwrap();
            prop_assert_eq!(decode::<Request>(&frame[4..]).unwrap(), request);
        }
    }
}
