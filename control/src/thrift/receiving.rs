//! One stream of a peer: from the node to a client's data connection.
//!
//! A client that only probes the port must not cost a byte, and shows itself only when it is written to. So the first
//! [`KEPT_BYTES`] are kept, and a connection that breaks before there were more is taken for a probe: the next one begins
//! with byte 0. What was written to the client is confirmed when more is read. At the end, the client's own close says that it has read everything: a close with unread bytes breaks.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;

use super::agent::Agent;
use super::port::{CHUNK_BYTES, Came, Port, Stop, happens};
use super::relay::Reader;
use super::sending::ended;
use super::types::FailReason;

/// Bytes that can be read again by another connection.
const KEPT_BYTES: usize = 256 << 10;
/// How long a client that has closed its half may take to show that it has closed both.
const PROBE_TIME: Duration = Duration::from_millis(200);
/// How long after the last byte a client's close is waited for. One that stays connected has read everything as well.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Carries a stream to its end.
pub(super) fn receive(agent: &Arc<Agent>, id: u128, port: &Port, stop: &Stop) {
    let mut delivery = Delivery { kept: Vec::new(), written: 0 };
    let mut reader = None;
    loop {
        let mut socket = match port.reader(stop) {
            Came::Client(socket, _) => socket,
            Came::Stopped => return,
            Came::Nobody | Came::Empty if reader.is_none() && !agent.has_client(id) => return agent.unclaim(id),
            Came::Nobody | Came::Empty => {
                give_up(agent, id, port);
                return;
            }
        };
        stop.covers(&socket);
        if socket.set_nonblocking(false).is_err() {
            continue;
        }
        let reader = match &mut reader {
            Some(reader) => reader,
            None => match agent.relay.read(id) {
                Ok(opened) => reader.insert(opened),
                Err(error) => return ended(agent, id, &error),
            },
        };
        match delivery.to(&mut socket, reader.as_mut()) {
            Delivered::Whole => break,
            Delivered::Broken(_) if delivery.can_be_repeated() && !stop.is_stopped() => {}
            Delivered::Broken(reason) => return agent.failed(id, FailReason::Unknown, reason),
            Delivered::Ended(error) => return ended(agent, id, &error),
        }
    }
    let Some(reader) = reader else { return };
    match reader.take() {
        Ok(status) => agent.ended(&status),
        Err(error) => ended(agent, id, &error),
    }
}

/// Nobody reads it: the sender hears so too.
fn give_up(agent: &Arc<Agent>, id: u128, port: &Port) {
    let timeout = agent.plan.connect_timeout;
    let reason = format!("nobody has connected to data port {} within {timeout:?}", port.number());
    agent.failed(id, FailReason::Timeout, reason);
    agent.cancel(id);
}

struct Delivery {
    /// The beginning of the stream.
    kept: Vec<u8>,
    /// Bytes that were read from the node.
    written: u64,
}

enum Delivered {
    Whole,
    Broken(String),
    Ended(super::relay::RelayError),
}

impl Delivery {
    fn can_be_repeated(&self) -> bool {
        self.written == self.kept.len() as u64
    }

    /// Writes the stream, from its beginning if that is still there.
    fn to(&mut self, socket: &mut TcpStream, reader: &mut dyn Reader) -> Delivered {
        if let Err(reason) = write(socket, &self.kept, true) {
            return Delivered::Broken(reason);
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => return Delivered::Ended(error),
            };
            if self.can_be_repeated() && self.kept.len() + n <= KEPT_BYTES {
                self.kept.extend_from_slice(&buffer[..n]);
            }
            self.written += n as u64;
            if let Err(reason) = write(socket, &buffer[..n], self.can_be_repeated()) {
                return Delivered::Broken(reason);
            }
        }
        match close(socket) {
            Ok(()) => Delivered::Whole,
            Err(reason) => Delivered::Broken(reason),
        }
    }
}

/// Writes, and while it `may_be_a_probe`, looks whether it was one.
fn write(socket: &mut TcpStream, bytes: &[u8], may_be_a_probe: bool) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("the client has broken its data connection: {error}");
    socket.write_all(bytes).map_err(broken)?;
    if may_be_a_probe && has_ended(socket) && happens(socket, PollFlags::empty(), PROBE_TIME) {
        return Err("the client has closed its data connection".into());
    }
    Ok(())
}

/// The client has closed at least its half.
fn has_ended(socket: &TcpStream) -> bool {
    use rustix::net::RecvFlags;
    matches!(rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 0)))
}

/// Says the end, and waits for the client's.
fn close(socket: &mut TcpStream) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("the client has not read the end: {error}");
    let ended = has_ended(socket);
    socket.shutdown(Shutdown::Write).map_err(broken)?;
    if !ended {
        socket.set_read_timeout(Some(CLOSE_TIME)).map_err(broken)?;
        let mut rest = [0; 512];
        loop {
            match socket.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(broken(error)),
            }
        }
    }
    // A connection that was reset behind its end does not say so by reading.
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => Err(broken(error)),
        Ok(None) => Ok(()),
    }
}
