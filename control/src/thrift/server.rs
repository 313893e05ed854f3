//! The connections by which clients call: each has a thread, and their number has a limit.

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::agent::Agent;
use super::clients::{Caller, ConnectionId};
use super::{calls, small_thread, wire};

/// Connections at once. For one more, the oldest that has never made a call makes room.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// How long a client may take between two bytes of one call, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error of the listener: descriptors are short, and others will be closed.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections by age, and whether they have made a call.
type Connections = Arc<Mutex<BTreeMap<ConnectionId, (TcpStream, bool)>>>;

/// Serves for ever.
pub(super) fn serve(listener: &TcpListener, agent: &Arc<Agent>) {
    let connections = Connections::default();
    for (number, socket) in (1..).zip(listener.incoming()) {
        match socket {
            Ok(socket) => admit(ConnectionId(number), socket, &connections, agent),
            Err(error) => {
                tracing::warn!("thrift: accepting a client: {error}");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn admit(id: ConnectionId, socket: TcpStream, connections: &Connections, agent: &Arc<Agent>) {
    let Ok(other) = socket.try_clone() else { return };
    {
        let mut connections = lock(connections);
        if connections.len() >= MAX_CONNECTIONS {
            let Some(silent) = connections.iter().find(|(_, (_, called))| !called).map(|(id, _)| *id) else {
                tracing::warn!("thrift: {MAX_CONNECTIONS} clients; one more is turned away");
                return;
            };
            if let Some((socket, _)) = connections.remove(&silent) {
                // Its thread finds the end.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        connections.insert(id, (other, false));
    }
    let (own, agent) = (Arc::clone(connections), Arc::clone(agent));
    let spawned = small_thread("thrift-client", move || {
        if let Err(error) = talk(id, &socket, &own, &agent) {
            tracing::debug!("thrift: connection {}: {error}", id.0);
        }
        lock(&own).remove(&id);
    });
    if !spawned {
        lock(connections).remove(&id);
    }
}

fn lock(connections: &Connections) -> std::sync::MutexGuard<'_, BTreeMap<ConnectionId, (TcpStream, bool)>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers calls until the client goes.
fn talk(id: ConnectionId, socket: &TcpStream, connections: &Connections, agent: &Arc<Agent>) -> ::thrift::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let caller = Caller { connection: id, address: socket.peer_addr()?.ip() };
    let mut input = wire::input(BufReader::new(socket));
    let mut called = false;
    loop {
        // Between calls a client may be silent as long as it likes, in a call not.
        if wire::source(&mut input).buffer().is_empty() {
            socket.set_read_timeout(None)?;
            match socket.peek(&mut [0]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        wire::begin(&mut input);
        let mut question = calls::read(&mut input)?;
        if !called && question.call.is_ok() {
            called = true;
            if let Some((_, called)) = lock(connections).get_mut(&id) {
                *called = true;
            }
        }
        let call = std::mem::replace(&mut question.call, Err(calls::Exception::unknown("")));
        let result = call.and_then(|call| agent.call(caller, call));
        if let Err(calls::Exception { reason, .. }) = &result {
            tracing::info!("thrift: {}: {reason}", caller.address);
        }
        if !question.oneway {
            (&mut &*socket).write_all(&question.answer(&result)?)?;
        }
    }
}
