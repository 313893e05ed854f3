//! The privileged part of a dataplane's work, over a unix socket: sockets made and bound, programs attached and steered.
//!
//! One request, one answer, in order. Each is checked against the plan first ([`Warrant`]): the dataplane is trusted with its
//! own interfaces, queues and addresses, and nothing else.
//!
//! ```text
//!   dataplane                         supervisor
//!   Socket{if, queue}        ───►     socket(AF_XDP), busy polling       ───► descriptor
//!   Lend + memory            ───►     kept for the next request
//!   Pin{bytes} + socket      ───►     XDP_UMEM_REG
//!   rings, filling
//!   Lend + a bound socket    ───►     kept for the next request
//!   Bind{if, queue} + socket ───►     bind
//!   Register{…} + socket     ───►     XSKMAP
//! ```
//!
//! No copy of a descriptor stays here beyond its request: a socket that the dataplane closes is closed.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use florelay_wire::maps::{STEER_KEY_BYTES, STEER_VALUE_BYTES, SteerKey, SteerValue};
use florelay_xsk::BindMode;
use florelay_xsk::unbound::{Binding, Memory};
use rustix::net::{AddressFamily, sockopt};
use serde::{Deserialize, Serialize};

use super::warrant::Warrant;
use super::{PREDECESSOR_LOOK, Setup};
use crate::attach::Mode;
use crate::broker::{Broker, FreshSocket, bind_udp, why_not_bound};
use crate::ipc_codec::{IpcError, IpcStream};
use crate::plan::NodePlan;

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Attach { interface: String, native: bool },
    Socket { interface: String, queue: u32, busy: bool },
    Lend,
    Pin { bytes: u64, chunk: u32 },
    Bind { interface: String, queue: u32, zero_copy: bool },
    Register { interface: String, queue: u32 },
    Udp { local: SocketAddr },
    ThreadNapi { interface: String, on: bool },
    Steer { interface: String, entries: Vec<([u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES])> },
    Counters { interface: String },
    Detach { interface: String },
    Started { outcome: Result<(), String> },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    /// With the descriptor.
    Socket {
        no_busy_poll: Option<String>,
    },
    Counters(Vec<(String, u64)>),
}

/// For [`crate::fuzzing`].
pub(crate) fn is_request(body: &[u8]) -> bool {
    match crate::ipc_codec::decode(body) {
        Ok(Ask::Steer { entries, .. }) => entries.iter().all(|(key, value)| {
            let _ = SteerValue::from_bytes(value);
            SteerKey::from_bytes(key).is_some()
        }),
        other => other.is_ok(),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    /// Where it was the kernel that refused and the dataplane acts on its answer.
    errno: Option<i32>,
    reason: String,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { errno: None, reason }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error(), reason: error.to_string() }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        refusal.errno.map_or_else(|| Self::other(refusal.reason), Self::from_raw_os_error)
    }
}

type Reply = Result<Answer, Refusal>;
/// An answer, and a descriptor to go with it.
type Outcome = Result<(Answer, Option<OwnedFd>), Refusal>;

pub(super) fn lock<B>(broker: &Mutex<B>) -> MutexGuard<'_, B> {
    // Consistent after every statement.
    broker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one dataplane.
pub(super) struct Office<'a, B> {
    /// What it gets, and the socket on which control will come.
    pub(super) setup: &'a Setup,
    pub(super) listener: &'a UnixListener,
    pub(super) local: &'a Mutex<B>,
    pub(super) warrant: Warrant,
    /// Until then, a port that is taken may be that of a dataplane that is on its way out.
    pub(super) ports_free_by: Instant,
    /// Hears how the start went.
    pub(super) started: &'a dyn Fn(Result<(), String>),
}

impl<B: Broker> Office<'_, B> {
    /// Until the dataplane goes away.
    pub(super) fn serve(mut self, stream: &IpcStream) -> Result<(), IpcError> {
        stream.greet()?;
        stream.send(self.setup, Some(self.listener.as_fd()))?;
        let mut lent = None;
        while let Some((ask, descriptor)) = stream.receive::<Ask>()? {
            let outcome = match ask {
                Ask::Lend => descriptor.ok_or_else(no_socket).map(|socket| {
                    lent = Some(socket);
                    (Answer::Done, None)
                }),
                Ask::Udp { local } => self.udp(local),
                Ask::Started { outcome } => {
                    (self.started)(outcome);
                    Ok((Answer::Done, None))
                }
                ask => self.carry_out(ask, descriptor, lent.take()),
            };
            let (reply, descriptor): (Reply, _) = match outcome {
                Ok((answer, descriptor)) => (Ok(answer), descriptor),
                Err(refusal) => (Err(refusal), None),
            };
            stream.send(&reply, descriptor.as_ref().map(AsFd::as_fd))?;
        }
        Ok(())
    }

    fn carry_out(&mut self, ask: Ask, descriptor: Option<OwnedFd>, lent: Option<OwnedFd>) -> Outcome {
        let warrant = &mut self.warrant;
        let mut broker = lock(self.local);
        match ask {
            Ask::Attach { interface, native } => {
                warrant.interface(&interface)?;
                broker.attach(&interface, if native { Mode::Native } else { Mode::Generic })?;
            }
            Ask::Socket { interface, queue, busy } => {
                warrant.socket(&interface, queue, busy, Instant::now())?;
                let FreshSocket { fd, no_busy_poll } = broker.xdp_socket(&interface, queue, busy)?;
                return Ok((Answer::Socket { no_busy_poll }, Some(fd)));
            }
            Ask::Pin { bytes, chunk } => {
                let bytes = warrant.memory(bytes)?;
                let socket = af_xdp(descriptor)?;
                let file = lent.ok_or("no memory came before the request")?;
                broker.register_umem(socket.as_fd(), &Memory { file: file.as_fd(), bytes, chunk })?;
            }
            Ask::Bind { interface, queue, zero_copy } => {
                warrant.queue(&interface, queue)?;
                let socket = af_xdp(descriptor)?;
                let mode = if zero_copy { BindMode::ZeroCopy } else { BindMode::Copy };
                let lender = lent.as_ref().map(AsFd::as_fd);
                broker.bind_xdp(socket.as_fd(), &Binding { interface: &interface, queue, mode, lender })?;
            }
            Ask::Register { interface, queue } => {
                warrant.queue(&interface, queue)?;
                broker.register(&interface, queue, af_xdp(descriptor)?.as_fd())?;
            }
            Ask::ThreadNapi { interface, on } => {
                warrant.threads(&interface)?;
                broker.thread_napi(&interface, on)?;
            }
            Ask::Steer { interface, entries } => {
                warrant.interface(&interface)?;
                let parse = |(key, value): &([u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES])| {
                    Some((SteerKey::from_bytes(key)?, SteerValue::from_bytes(value)))
                };
                let entries: Option<Vec<_>> = entries.iter().map(parse).collect();
                broker.steer(&interface, entries.ok_or("a steering key does not parse")?)?;
            }
            Ask::Counters { interface } => {
                warrant.interface(&interface)?;
                return Ok((Answer::Counters(broker.counters(&interface)?), None));
            }
            Ask::Detach { interface } => {
                warrant.interface(&interface)?;
                broker.detach(&interface)?;
            }
            Ask::Lend | Ask::Udp { .. } | Ask::Started { .. } => {}
        }
        Ok((Answer::Done, None))
    }

    fn udp(&self, local: SocketAddr) -> Outcome {
        self.warrant.local(local)?;
        loop {
            match bind_udp(local) {
                Ok(socket) => return Ok((Answer::Socket { no_busy_poll: None }, Some(socket.into()))),
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < self.ports_free_by => {
                    std::thread::sleep(PREDECESSOR_LOOK);
                }
                Err(error) => return Err(why_not_bound(&error).into()),
            }
        }
    }
}

fn no_socket() -> Refusal {
    "no socket came with the request".into()
}

/// Anything else has no business in a bind or a socket map.
fn af_xdp(descriptor: Option<OwnedFd>) -> Result<OwnedFd, Refusal> {
    let socket = descriptor.ok_or_else(no_socket)?;
    if sockopt::socket_domain(&socket) == Ok(AddressFamily::XDP) {
        Ok(socket)
    } else {
        Err("what came with the request is no AF_XDP socket".into())
    }
}

/// The dataplane's end.
pub struct RemoteBroker {
    stream: IpcStream,
}

impl RemoteBroker {
    /// Greet the supervisor and take the instructions: the plan, and the socket on which control will come.
    ///
    /// # Errors
    /// When the other end is not a supervisor of the same version.
    pub fn connect(stream: IpcStream) -> Result<(Self, NodePlan, UnixListener), IpcError> {
        stream.greet()?;
        match stream.receive::<Setup>()? {
            Some((setup, Some(listener))) => Ok((Self { stream }, setup.plan, UnixListener::from(listener))),
            Some((_, None)) => Err(IpcError::Malformed("no socket came with the set-up")),
            None => Err(IpcError::Truncated),
        }
    }

    fn ask(&mut self, ask: &Ask, descriptor: Option<BorrowedFd<'_>>) -> Outcome {
        let answer = self.stream.send(ask, descriptor).and_then(|()| self.stream.receive::<Reply>());
        match answer {
            Ok(Some((reply, descriptor))) => reply.map(|answer| (answer, descriptor)),
            Ok(None) => Err("the supervisor is gone".into()),
            Err(error) => Err(format!("the supervisor does not answer: {error}").into()),
        }
    }

    /// A request that is answered by the deed alone.
    fn order(&mut self, ask: &Ask, descriptor: Option<BorrowedFd<'_>>) -> Result<(), String> {
        self.ask(ask, descriptor).map(drop).map_err(|refusal| refusal.reason)
    }

    fn ask_for_socket(&mut self, ask: &Ask) -> Result<FreshSocket, String> {
        match self.ask(ask, None).map_err(|refusal| refusal.reason)? {
            (Answer::Socket { no_busy_poll }, Some(fd)) => Ok(FreshSocket { fd, no_busy_poll }),
            _ => Err("the supervisor sent no socket".into()),
        }
    }
}

impl Broker for RemoteBroker {
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String> {
        self.order(&Ask::Attach { interface: interface.to_owned(), native: mode == Mode::Native }, None)
    }

    fn xdp_socket(&mut self, interface: &str, queue: u32, busy: bool) -> Result<FreshSocket, String> {
        self.ask_for_socket(&Ask::Socket { interface: interface.to_owned(), queue, busy })
    }

    fn register_umem(&mut self, socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()> {
        self.ask(&Ask::Lend, Some(memory.file))?;
        let ask = Ask::Pin { bytes: memory.bytes as u64, chunk: memory.chunk };
        Ok(self.ask(&ask, Some(socket)).map(drop)?)
    }

    fn bind_xdp(&mut self, socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()> {
        if let Some(lender) = to.lender {
            self.ask(&Ask::Lend, Some(lender))?;
        }
        let zero_copy = to.mode == BindMode::ZeroCopy;
        let ask = Ask::Bind { interface: to.interface.to_owned(), queue: to.queue, zero_copy };
        Ok(self.ask(&ask, Some(socket)).map(drop)?)
    }

    fn udp_socket(&mut self, local: SocketAddr) -> Result<UdpSocket, String> {
        self.ask_for_socket(&Ask::Udp { local }).map(|socket| UdpSocket::from(socket.fd))
    }

    fn thread_napi(&mut self, interface: &str, on: bool) -> Result<(), String> {
        self.order(&Ask::ThreadNapi { interface: interface.to_owned(), on }, None)
    }

    fn started(&mut self, outcome: Result<(), String>) {
        if let Err(reason) = self.order(&Ask::Started { outcome }, None) {
            tracing::warn!(reason, "the supervisor does not know how the start went");
        }
    }

    fn register(&mut self, interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        self.order(&Ask::Register { interface: interface.to_owned(), queue }, Some(socket))
    }

    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String> {
        let entries = entries.iter().map(|(key, value)| (key.to_bytes(), value.to_bytes())).collect();
        self.order(&Ask::Steer { interface: interface.to_owned(), entries }, None)
    }

    fn counters(&mut self, interface: &str) -> Result<Vec<(String, u64)>, String> {
        match self.ask(&Ask::Counters { interface: interface.to_owned() }, None).map_err(|refusal| refusal.reason)? {
            (Answer::Counters(counters), _) => Ok(counters),
            _ => Err("the supervisor sent no counters".into()),
        }
    }

    fn detach(&mut self, interface: &str) -> Result<(), String> {
        self.order(&Ask::Detach { interface: interface.to_owned() }, None)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    use super::super::testing::{Recorder, plan, two_queues};
    use super::*;
    use crate::plan::PollMode;

    /// What a dataplane asks through a real socket, what is done of it, and what the start was said to be.
    fn asked(poll: PollMode, ask: impl FnOnce(&mut RemoteBroker)) -> (Vec<String>, Vec<Result<(), String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("dataplane.sock")).unwrap();
        let setup = Setup { plan: plan(poll) };
        let (local, (said, heard)) = (Mutex::new(Recorder::default()), channel());
        std::thread::scope(|scope| {
            let (setup, listener, local) = (&setup, &listener, &local);
            scope.spawn(move || {
                let warrant = Warrant::with_queues(&setup.plan, Instant::now(), two_queues);
                let started = move |outcome| said.send(outcome).unwrap();
                let ports_free_by = Instant::now();
                let office = Office { setup, listener, local, warrant, ports_free_by, started: &started };
                office.serve(&IpcStream::new(ours).unwrap()).unwrap();
            });
            let (mut remote, received, _) = RemoteBroker::connect(IpcStream::new(theirs).unwrap()).unwrap();
            assert_eq!(received, setup.plan);
            ask(&mut remote);
        });
        (local.into_inner().unwrap().0, heard.iter().collect())
    }

    fn file() -> OwnedFd {
        rustix::fs::memfd_create("no-socket", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn nothing_is_done_for_a_foreign_interface_or_queue() {
        let (done, _) = asked(PollMode::Adaptive, |remote| {
            let fd = file();
            for (interface, queue) in [("eth0", 0), ("lo", 0), ("eth1", 2), ("eth1", u32::MAX)] {
                let to = Binding { interface, queue, mode: BindMode::Copy, lender: Some(fd.as_fd()) };
                assert!(remote.xdp_socket(interface, queue, false).is_err());
                assert!(remote.bind_xdp(fd.as_fd(), &to).is_err());
                assert!(remote.register(interface, queue, fd.as_fd()).is_err());
            }
            for interface in ["eth0", "lo"] {
                assert!(remote.attach(interface, Mode::Native).unwrap_err().contains(interface));
                assert!(remote.detach(interface).is_err() && remote.counters(interface).is_err());
                assert!(remote.steer(interface, vec![]).is_err() && remote.thread_napi(interface, true).is_err());
            }
            assert!(remote.udp_socket("127.0.0.1:9".parse().unwrap()).unwrap_err().contains("127.0.0.1:9"));
            assert!(remote.xdp_socket("eth1", 0, true).unwrap_err().contains("busily"));
            assert!(remote.thread_napi("eth1", true).is_err());
            // Its own queue, but no AF_XDP socket.
            let to = Binding { interface: "eth1", queue: 0, mode: BindMode::Copy, lender: None };
            assert!(remote.bind_xdp(fd.as_fd(), &to).unwrap_err().to_string().contains("no AF_XDP socket"));
            assert!(remote.register("eth1", 0, fd.as_fd()).is_err());
            let memory = |bytes| Memory { file: fd.as_fd(), bytes, chunk: 2048 };
            let refused = remote.register_umem(fd.as_fd(), &memory(1 << 20)).unwrap_err().to_string();
            assert!(refused.contains("no AF_XDP socket"), "{refused}");
            let refused = remote.register_umem(fd.as_fd(), &memory(1 << 40)).unwrap_err().to_string();
            assert!(refused.contains("at most"), "{refused}");
        });
        assert_eq!(done, [""; 0]);
    }

    #[test]
    fn its_own_is_done_and_a_kernels_answer_keeps_its_number() {
        let (done, started) = asked(PollMode::Busy, |remote| {
            remote.attach("eth1", Mode::Generic).unwrap();
            // The recorder's socket is an ordinary file: it says what is passed, not what the kernel does with it.
            remote.xdp_socket("eth1", 1, true).unwrap();
            let udp = remote.udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
            assert_ne!(udp.local_addr().unwrap().port(), 0);
            remote.steer("eth1", vec![]).unwrap();
            assert_eq!(remote.counters("eth1").unwrap(), [("passed".to_owned(), 7)]);
            remote.started(Err("no core 9".into()));
            remote.started(Ok(()));
        });
        assert_eq!(done, ["attach eth1 Generic", "socket eth1 1 true", "steer eth1 0", "counters eth1"]);
        assert_eq!(started, [Err("no core 9".to_owned()), Ok(())]);
        let (done, _) = asked(PollMode::ThreadedNapi, |remote| remote.thread_napi("eth1", true).unwrap());
        assert_eq!(done, ["napi eth1 true"]);
        let busy = io::Error::from(Refusal::from(io::Error::from_raw_os_error(libc::EBUSY)));
        assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    }
}
