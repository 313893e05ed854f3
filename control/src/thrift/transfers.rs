//! Who has which stream, and what its client is told of it.
//!
//! ```text
//!  stream_start ─► opening ─► pending ─► running (port, thread) ─► ended: taken out, said once
//!  offered by a peer ──────────────────► running (port, thread) ─┘
//!          └► unclaimed, until a client registers
//! ```
//!
//! Whoever takes a transfer out of the table says its end: there is one place, so there is one end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use florelay_dataplane::ipc::{QueueStatus, TransferKind, TransferState, TransferStatus};

use super::STREAM_NAME;
use super::agent::Agent;
use super::callback::Callback;
use super::clients::{Caller, ClientId, Clients};
use super::outbox::{Outbox, text};
use super::port::{Port, Stop};
use super::relay::Writer;
use super::types::{Event, FailReason, LinkState, Queue, StreamInfo};
use super::{THREAD_REFUSED, receiving, sending, small_thread};

/// Streams at once in both directions; orders beyond are answered with `QueueFull`, offers beyond wait.
pub(super) const MAX_TRANSFERS: usize = 1024;
/// Progress is said when so many more bytes have arrived.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Offers without a client that are remembered; the node has a limit of its own.
const MAX_UNCLAIMED: usize = 4096;

/// What is known at present.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) clients: Clients,
    pub(super) transfers: HashMap<u128, Transfer>,
    /// Offered by a peer, for nobody yet.
    unclaimed: BTreeMap<u128, TransferStatus>,
    /// States of links and peers, by name.
    pub(super) links: HashMap<String, String>,
    pub(super) peers: HashMap<String, String>,
    /// Of the way to the peer, as it was said last.
    pub(super) link: Option<LinkState>,
    /// `max_concurrent` of each peer before a test hook changed it.
    pub(super) max_concurrent: HashMap<String, u32>,
}

/// A stream of a client.
pub(super) struct Transfer {
    client: ClientId,
    outgoing: bool,
    info: StreamInfo,
    declared: Option<u64>,
    stage: Stage,
    said_bytes: u64,
    stop: Arc<Stop>,
}

enum Stage {
    /// The node was asked. `true`: it runs already, as was heard.
    Opening(bool),
    /// Its turn will come.
    Pending(Box<dyn Writer>),
    /// Its client was told of a port.
    Running,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = match self.stage {
            Stage::Opening(_) => "opening",
            Stage::Pending(_) => "pending",
            Stage::Running => "running",
        };
        f.debug_struct("Transfer").field("client", &self.client).field("stage", &stage).finish_non_exhaustive()
    }
}

/// Why no stream was entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotEntered {
    Duplicate,
    Full,
    System(String),
}

impl State {
    /// A stream that the node is going to be asked for.
    pub(super) fn enter(&mut self, id: u128, client: ClientId, info: StreamInfo) -> Result<(), NotEntered> {
        if self.transfers.contains_key(&id) {
            return Err(NotEntered::Duplicate);
        }
        if self.transfers.len() >= MAX_TRANSFERS {
            return Err(NotEntered::Full);
        }
        let declared = info.size_bytes.and_then(|size| u64::try_from(size).ok());
        let stop = Arc::new(Stop::new().map_err(|error| NotEntered::System(error.to_string()))?);
        let stage = Stage::Opening(false);
        self.transfers.insert(id, Transfer { client, outgoing: true, info, declared, stage, said_bytes: 0, stop });
        self.tell(client, |outbox| outbox.ordered(id));
        Ok(())
    }

    /// The node has refused it.
    pub(super) fn withdraw(&mut self, id: u128) {
        if let Some(transfer) = self.transfers.remove(&id) {
            self.tell(transfer.client, |outbox| outbox.refused(id));
        }
    }

    /// A new outbox for a client, which may have streams already.
    pub(super) fn outbox(&self, client: ClientId) -> Outbox {
        let of = |outgoing: bool| -> BTreeSet<u128> {
            let own = |(_, t): &(&u128, &Transfer)| t.client == client && t.outgoing == outgoing;
            self.transfers.iter().filter(own).map(|(id, _)| *id).collect()
        };
        Outbox::new(of(true), of(false), self.link.unwrap_or(LinkState::Connecting))
    }

    pub(super) fn tell(&self, client: ClientId, change: impl FnOnce(&mut Outbox)) {
        if let Some(client) = self.clients.get(client) {
            client.callback.tell(change);
        }
    }

    fn address(&self, client: ClientId) -> Option<IpAddr> {
        self.clients.get(client).map(|client| client.address)
    }

    /// Streams whose end must not be missed: all that the node was told of.
    pub(super) fn under_way(&self) -> Vec<u128> {
        let told = |(_, t): &(&u128, &Transfer)| !matches!(t.stage, Stage::Opening(_));
        self.transfers.iter().filter(told).map(|(id, _)| *id).collect()
    }

    /// Offers that are not there any more are for nobody.
    pub(super) fn offers_are(&mut self, present: &BTreeSet<u128>) {
        self.unclaimed.retain(|id, _| present.contains(id));
    }

    /// For a client that is new here.
    pub(super) fn new_outbox(&self) -> Outbox {
        Outbox::new(BTreeSet::new(), BTreeSet::new(), self.link.unwrap_or(LinkState::Connecting))
    }

    /// A client has registered.
    pub(super) fn register(
        &mut self,
        caller: Caller,
        endpoint: String,
        callback: Callback,
    ) -> Result<ClientId, String> {
        let busy: BTreeSet<ClientId> = self.transfers.values().map(|transfer| transfer.client).collect();
        self.clients.register(caller, endpoint, callback, |client| busy.contains(&client))
    }

    /// A queue has changed.
    pub(super) fn queue(&self, status: &QueueStatus) {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let queue = Queue {
            active_count: number(status.active),
            max_concurrent: number(status.max_concurrent),
            max_pending: number(status.max_pending),
            pending: status.pending.iter().map(|id| text(*id)).collect(),
        };
        for client in self.clients.iter() {
            client.callback.tell(|outbox| outbox.queue(queue.clone()));
        }
    }
}

impl Agent {
    /// The node has taken an order. `true` = it runs.
    pub(super) fn opened(self: &Arc<Self>, id: u128, writer: Box<dyn Writer>, status: &TransferStatus) -> bool {
        let mut state = self.lock();
        // Gone: it has ended already, and its client has heard so.
        let Some(transfer) = state.transfers.get_mut(&id) else { return true };
        let pending = matches!(status.state, TransferState::Pending { .. });
        if pending && !matches!(transfer.stage, Stage::Opening(true)) {
            transfer.stage = Stage::Pending(writer);
            return false;
        }
        self.run(&mut state, id, Some(writer));
        true
    }

    /// A transfer is new, or has changed.
    pub(super) fn changed(self: &Arc<Self>, status: &TransferStatus) {
        if status.ended.is_some() {
            return self.ended(status);
        }
        let mut state = self.lock();
        let state = &mut *state;
        let Some(transfer) = state.transfers.get_mut(&status.id) else {
            let stream = !status.outgoing && status.kind == TransferKind::Stream && status.name == STREAM_NAME;
            if stream && status.state == TransferState::NoReader {
                if state.unclaimed.len() < MAX_UNCLAIMED {
                    state.unclaimed.insert(status.id, status.clone());
                }
                self.claim(state);
            }
            return;
        };
        if status.state == TransferState::Running {
            match std::mem::replace(&mut transfer.stage, Stage::Running) {
                Stage::Opening(_) => transfer.stage = Stage::Opening(true),
                Stage::Pending(writer) => return self.run(state, status.id, Some(writer)),
                Stage::Running => {}
            }
        }
        if matches!(transfer.stage, Stage::Running) && status.confirmed >= transfer.said_bytes + PROGRESS_BYTES {
            transfer.said_bytes = status.confirmed;
            let (client, size) = (transfer.client, transfer.info.size_bytes);
            state.tell(client, |outbox| outbox.progress(status.id, signed(status.confirmed), size));
        }
    }

    /// A transfer has ended, as the node says.
    pub(super) fn ended(self: &Arc<Self>, status: &TransferStatus) {
        let uuid = text(status.id);
        let end = match &status.ended {
            None => return,
            Some(Ok(_)) => {
                let bytes = status.size.unwrap_or(status.confirmed).max(status.confirmed);
                // The receiver does not count what its sender had to send again.
                Event::Done { uuid, bytes: signed(bytes), wire: signed(status.wire_bytes.max(bytes)) }
            }
            Some(Err(failure)) => Event::Failed { uuid, code: failure.code.into(), reason: failure.reason.clone() },
        };
        self.close(status.id, end);
    }

    /// A transfer has failed for a reason that the node does not know.
    pub(super) fn failed(self: &Arc<Self>, id: u128, code: FailReason, reason: impl Into<String>) {
        self.close(id, Event::Failed { uuid: text(id), code, reason: reason.into() });
    }

    /// Takes a transfer out and says its end, if nobody has.
    fn close(self: &Arc<Self>, id: u128, end: Event) {
        let mut state = self.lock();
        state.unclaimed.remove(&id);
        let Some(transfer) = state.transfers.remove(&id) else { return };
        transfer.stop.stop(matches!(end, Event::Done { .. }));
        state.tell(transfer.client, |outbox| outbox.ended(id, end));
        // There may be room for an offer that waits.
        self.claim(&mut state);
        drop(state);
        // A writer that never ran is given up here, where nothing is locked.
        drop(transfer);
    }

    /// Gives the offers of peers to who is there.
    pub(super) fn claim(self: &Arc<Self>, state: &mut State) {
        while state.transfers.len() < MAX_TRANSFERS
            && let Some(client) = state.clients.receiver().map(|client| client.id)
            && let Some((id, status)) = state.unclaimed.pop_first()
        {
            let stop = match Stop::new() {
                Ok(stop) => Arc::new(stop),
                Err(error) => {
                    // Descriptors are short; the next end or client tries again.
                    tracing::error!("thrift: taking a stream of {}: {error}", status.peer);
                    state.unclaimed.insert(id, status);
                    return;
                }
            };
            let size_bytes = status.declared.map(signed);
            let info = StreamInfo { size_bytes, attrs: status.attributes.into_iter().collect() };
            let (declared, stage) = (status.declared, Stage::Running);
            state
                .transfers
                .insert(id, Transfer { client, outgoing: false, info, declared, stage, said_bytes: 0, stop });
            self.run(state, id, None);
        }
    }

    /// Its client has gone before it read a byte: another one may have it.
    pub(super) fn unclaim(self: &Arc<Self>, id: u128) {
        let Ok(status) = self.relay.status(id) else {
            return self.failed(id, FailReason::Unknown, "it is not known any more");
        };
        let mut state = self.lock();
        if state.transfers.remove(&id).is_some() {
            state.unclaimed.insert(id, status);
            self.claim(&mut state);
        }
    }

    /// The client of this transfer can be called.
    pub(super) fn has_client(&self, id: u128) -> bool {
        let state = self.lock();
        let client = state.transfers.get(&id).and_then(|transfer| state.clients.get(transfer.client));
        client.is_some_and(|client| client.callback.is_open())
    }

    /// Opens the port, tells the client, starts the thread.
    fn run(self: &Arc<Self>, state: &mut State, id: u128, writer: Option<Box<dyn Writer>>) {
        let Some(transfer) = state.transfers.get_mut(&id) else { return };
        transfer.stage = Stage::Running;
        let (client, declared, outgoing) = (transfer.client, transfer.declared, transfer.outgoing);
        let (info, stop) = (transfer.info.clone(), Arc::clone(&transfer.stop));
        // Whose client was replaced by others: nobody can be called, and nobody will come.
        let address = state.address(client).unwrap_or(self.plan.data_bind);
        let started = Port::open(self.plan.data_bind, address, self.plan.connect_timeout).map_err(|e| e.to_string());
        let started = started.and_then(|port| {
            state.tell(client, |outbox| outbox.started(id, outgoing, info, port.number()));
            let agent = Arc::clone(self);
            let spawned = match writer {
                Some(writer) => {
                    small_thread("thrift-send", move || sending::send(&agent, id, &port, declared, &stop, writer))
                }
                None => small_thread("thrift-receive", move || receiving::receive(&agent, id, &port, &stop)),
            };
            spawned.then_some(()).ok_or_else(|| THREAD_REFUSED.to_owned())
        });
        if let Err(reason) = started {
            // Not `failed`, which locks. The writer was dropped, which gives the transfer up.
            let reason = format!("no data port at this node: {reason}");
            if let Some(transfer) = state.transfers.remove(&id) {
                let end = Event::Failed { uuid: text(id), code: FailReason::Unknown, reason };
                state.tell(transfer.client, |outbox| outbox.ended(id, end));
            }
        }
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
