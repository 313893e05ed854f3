//! The privileged part of a dataplane's work, over a unix socket: attach, register, steer, detach.
//!
//! One request, one answer, in order. The dataplane is trusted with its own interfaces only as far as its plan names them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Mutex, MutexGuard, PoisonError};

use florelay_wire::maps::{STEER_KEY_BYTES, STEER_VALUE_BYTES, SteerKey, SteerValue};
use serde::{Deserialize, Serialize};

use super::Setup;
use crate::attach::Mode;
use crate::broker::{Broker, LocalBroker};
use crate::ipc_codec::{IpcError, IpcStream};
use crate::plan::{AdapterPlan, NodePlan};

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Attach { interface: String, native: bool },
    Register { interface: String, queue: u32 },
    Steer { interface: String, entries: Vec<([u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES])> },
    Counters { interface: String },
    Detach { interface: String },
}

/// Counters, where they were asked for.
type Reply = Result<Vec<(String, u64)>, String>;

pub(super) fn lock(broker: &Mutex<LocalBroker>) -> MutexGuard<'_, LocalBroker> {
    // Consistent after every statement.
    broker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry_out(broker: &mut LocalBroker, plan: &NodePlan, ask: Ask, descriptor: Option<&OwnedFd>) -> Reply {
    let done = match ask {
        Ask::Attach { interface, native } => {
            let planned = plan.links.iter().any(|link| match &link.adapter {
                AdapterPlan::Xdp { interface: name, .. } => *name == interface,
                AdapterPlan::Udp | AdapterPlan::Sim(_) => false,
            });
            if !planned {
                return Err(format!("no link of this node is on interface `{interface}`"));
            }
            broker.attach(&interface, if native { Mode::Native } else { Mode::Generic })
        }
        Ask::Register { interface, queue } => {
            let socket = descriptor.ok_or("no socket came with the request")?;
            broker.register(&interface, queue, socket.as_fd())
        }
        Ask::Steer { interface, entries } => {
            let parse = |(key, value): &([u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES])| {
                Some((SteerKey::from_bytes(key)?, SteerValue::from_bytes(value)))
            };
            let entries: Option<Vec<_>> = entries.iter().map(parse).collect();
            broker.steer(&interface, entries.ok_or("a steering key does not parse")?)
        }
        Ask::Counters { interface } => return broker.counters(&interface),
        Ask::Detach { interface } => broker.detach(&interface),
    };
    done.map(|()| Vec::new())
}

/// Serve one dataplane until it goes away.
pub(super) fn serve(
    stream: &IpcStream,
    setup: &Setup,
    listener: &UnixListener,
    local: &Mutex<LocalBroker>,
) -> Result<(), IpcError> {
    stream.greet()?;
    stream.send(setup, Some(listener.as_fd()))?;
    while let Some((ask, descriptor)) = stream.receive::<Ask>()? {
        let reply = carry_out(&mut lock(local), &setup.plan, ask, descriptor.as_ref());
        stream.send(&reply, None)?;
    }
    Ok(())
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

    fn ask(&mut self, ask: &Ask, descriptor: Option<BorrowedFd<'_>>) -> Reply {
        let answer = self.stream.send(ask, descriptor).and_then(|()| self.stream.receive::<Reply>());
        match answer {
            Ok(Some((reply, _))) => reply,
            Ok(None) => Err("the supervisor is gone".into()),
            Err(error) => Err(format!("the supervisor does not answer: {error}")),
        }
    }
}

impl Broker for RemoteBroker {
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String> {
        self.ask(&Ask::Attach { interface: interface.to_owned(), native: mode == Mode::Native }, None).map(drop)
    }

    fn register(&mut self, interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        self.ask(&Ask::Register { interface: interface.to_owned(), queue }, Some(socket)).map(drop)
    }

    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String> {
        let entries = entries.iter().map(|(key, value)| (key.to_bytes(), value.to_bytes())).collect();
        self.ask(&Ask::Steer { interface: interface.to_owned(), entries }, None).map(drop)
    }

    fn counters(&mut self, interface: &str) -> Reply {
        self.ask(&Ask::Counters { interface: interface.to_owned() }, None)
    }

    fn detach(&mut self, interface: &str) -> Result<(), String> {
        self.ask(&Ask::Detach { interface: interface.to_owned() }, None).map(drop)
    }
}
