//! One stream of a client: from its data port to the node.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::sync::Arc;

use super::agent::Agent;
use super::port::{CHUNK_BYTES, Came, EMPTY_AFTER, Port, Stop};
use super::relay::{RelayError, Writer};
use super::types::FailReason;

/// Carries a stream to its end.
pub(super) fn send(
    agent: &Arc<Agent>,
    id: u128,
    port: &Port,
    declared: Option<u64>,
    stop: &Stop,
    mut writer: Box<dyn Writer>,
) {
    match port.writer(declared, stop) {
        Came::Stopped => {}
        Came::Nobody => {
            let reason =
                format!("nobody has connected to data port {} within {:?}", port.number(), agent.plan.connect_timeout);
            agent.failed(id, FailReason::SenderClosed, reason);
        }
        Came::Empty => {
            finish(agent, id, writer);
            // Whoever has only probed so far still finds the port; the kernel accepts for it.
            agent.linger(EMPTY_AFTER);
        }
        Came::Client(socket, first) => {
            stop.covers(&socket);
            match copy(socket, &first, writer.as_mut()) {
                Copied::All => finish(agent, id, writer),
                Copied::Broken(reason) => agent.failed(id, FailReason::SenderClosed, reason),
                // How it has ended is heard from the node.
                Copied::Ended(error) => ended(agent, id, &error),
            }
        }
    }
}

enum Copied {
    All,
    /// The client has broken the connection off.
    Broken(String),
    /// The node takes no more.
    Ended(RelayError),
}

fn copy(mut socket: TcpStream, first: &[u8], writer: &mut dyn Writer) -> Copied {
    if let Err(error) = writer.write_all(first) {
        return Copied::Ended(error);
    }
    if let Err(error) = socket.set_nonblocking(false) {
        return Copied::Broken(error.to_string());
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Copied::All,
            Ok(n) => {
                if let Err(error) = writer.write_all(&buffer[..n]) {
                    return Copied::Ended(error);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Copied::Broken(format!("the client has broken its data connection: {error}")),
        }
    }
}

fn finish(agent: &Arc<Agent>, id: u128, writer: Box<dyn Writer>) {
    match writer.finish() {
        Ok(status) => agent.ended(&status),
        Err(error) => ended(agent, id, &error),
    }
}

/// The node has not said how it ended: it is asked.
pub(super) fn ended(agent: &Arc<Agent>, id: u128, error: &RelayError) {
    match agent.relay.status(id) {
        Ok(status) if status.ended.is_some() => agent.ended(&status),
        // It runs, and nobody here carries it any more.
        _ => agent.failed(id, FailReason::Unknown, error.to_string()),
    }
}
