//! What each call does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use florelay_dataplane::ipc::{Answer, PeerStatus, QueueStatus, Refusal, RequestBody, Status, TransferOrder};
use uuid::Uuid;

use super::STREAM_NAME;
use super::callback::Callback;
use super::calls::{Call, Exception, Reply};
use super::clients::{Caller, resolve};
use super::outbox::Outbox;
use super::plan::ThriftPlan;
use super::relay::{Relay, RelayError};
use super::transfers::{NotEntered, State};
use super::types::{ConnStats, LinkState, StartReturn, StartStatus, StreamInfo};

/// The attribute of a stream that says whom it is for.
pub(super) const TO: &str = "florelay.to";
/// What Quelay's agent takes as the size of a chunk.
const MAX_CHUNK_BYTES: i32 = 65_535;
/// Ports that stay open a moment longer than their streams.
const MAX_LINGERING: usize = 64;

/// The service, behind its connections.
pub(super) struct Agent {
    pub(super) plan: ThriftPlan,
    pub(super) relay: Arc<dyn Relay>,
    state: Mutex<State>,
    /// Held while a stream is ordered, so that the place at which it entered is that.
    ordering: Mutex<()>,
    lingering: AtomicUsize,
}

impl Agent {
    pub(super) fn new(plan: ThriftPlan, relay: Arc<dyn Relay>) -> Arc<Self> {
        Arc::new(Self {
            plan,
            relay,
            state: Mutex::default(),
            ordering: Mutex::default(),
            lingering: AtomicUsize::new(0),
        })
    }

    /// Carries out a call.
    pub(super) fn call(self: &Arc<Self>, caller: Caller, call: Call) -> Result<Reply, Exception> {
        match call {
            Call::GetVersion => Ok(Reply::Text(self.plan.version.clone())),
            Call::StreamStart { uuid, info, priority } => {
                self.stream_start(caller, &uuid, info, priority).map(Reply::Start)
            }
            Call::SetCallback(endpoint) => {
                Ok(Reply::Text(self.set_callback(caller, endpoint).err().unwrap_or_default()))
            }
            Call::GetLinkState => Ok(Reply::Link(self.lock().link_state(&self.plan))),
            Call::GetBandwidthCapMbps => self.cap_bps().map(|bps| Reply::I32(mbps(bps))),
            Call::GetBandwidthCapBps => self.cap_bps().map(|bps| Reply::I64(i64::try_from(bps).unwrap_or(i64::MAX))),
            Call::GetConnStats => self.conn_stats().map(Reply::Stats),
            Call::LinkEnable(up) => self.hook("link_enable", |agent| agent.link_enable(up)),
            Call::SetMaxConcurrent(n) => self.hook("set_max_concurrent", |agent| agent.set_max_concurrent(n)),
            Call::SetChunkSizeBytes(n) => self.hook("set_chunk_size_bytes", |_| {
                // Streams are not cut into chunks here.
                if (0..=MAX_CHUNK_BYTES).contains(&n) {
                    return Ok(());
                }
                Err(Exception::refused(format!("chunk_size_bytes {n} is not 0 to {MAX_CHUNK_BYTES}")))
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream_start(
        self: &Arc<Self>,
        caller: Caller,
        uuid: &str,
        info: StreamInfo,
        priority: i8,
    ) -> Result<StartReturn, Exception> {
        let id = Uuid::parse_str(uuid).map_err(|error| Exception::refused(format!("{uuid:?} is no UUID: {error}")))?;
        let id = id.as_u128();
        let priority = u8::try_from(priority)
            .map_err(|_| Exception::refused(format!("a priority is 0 to 127, not {priority}")))?;
        let declared = match info.size_bytes.map(u64::try_from) {
            None => None,
            Some(Ok(size)) => Some(size),
            Some(Err(_)) => return Err(Exception::refused("size_bytes is below 0")),
        };
        let to = self.peer_of(&info.attrs)?;
        let mut order = TransferOrder::new(&to, id, STREAM_NAME, priority);
        order.attributes = info.attrs.clone().into_iter().collect();

        let _one_at_a_time = self.ordering.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut state = self.lock();
            let client = state.clients.of(caller).map(|client| client.id);
            let client = client
                .ok_or_else(|| Exception::refused("call set_callback first: nobody could be told of the port"))?;
            match state.enter(id, client, info) {
                Ok(()) => {}
                Err(NotEntered::Duplicate) => return Err(duplicate(uuid)),
                Err(NotEntered::Full) => return Ok(FULL),
                Err(NotEntered::System(reason)) => return Err(Exception::unavailable(reason)),
            }
        }
        let (writer, status) = match self.relay.open(order, declared) {
            Ok(opened) => opened,
            Err(error) => {
                self.lock().withdraw(id);
                return match error {
                    RelayError::Refused { refusal: Refusal::QueueFull | Refusal::Limit, reason } => {
                        tracing::warn!("thrift: stream {uuid} is not taken: {reason}");
                        Ok(FULL)
                    }
                    RelayError::Refused { refusal: Refusal::Duplicate, .. } => Err(duplicate(uuid)),
                    RelayError::Refused { reason, .. } | RelayError::Failed(reason) => Err(Exception::refused(reason)),
                    RelayError::Unavailable(reason) => Err(Exception::unavailable(reason)),
                };
            }
        };
        let runs = self.opened(id, writer, &status);
        let unknown_peer = self.lock().is_never_reached(&to);
        let status = match (runs, unknown_peer) {
            (true, false) => return Ok(StartReturn { status: StartStatus::Running, queue_position: None }),
            (_, true) => StartStatus::NotConnected,
            (false, false) => StartStatus::Pending,
        };
        Ok(StartReturn { status, queue_position: Some(self.depth(&to)) })
    }

    /// How many wait, at least the one that has just come.
    fn depth(&self, peer: &str) -> i32 {
        let waiting = self.queue(peer).map_or(1, |queue| queue.pending.len().max(1));
        i32::try_from(waiting).unwrap_or(i32::MAX)
    }

    fn queue(&self, peer: &str) -> Result<QueueStatus, Exception> {
        match self.relay.ask(RequestBody::Queues).map_err(exception)? {
            Answer::Queues(queues) => queues.into_iter().find(|queue| queue.peer == peer),
            _ => None,
        }
        .ok_or_else(|| Exception::unavailable(format!("the node says nothing of the queue for {peer}")))
    }

    fn peer_of(&self, attributes: &BTreeMap<String, String>) -> Result<String, Exception> {
        let peer = attributes.get(TO).map(String::as_str).or_else(|| self.plan.default_peer());
        peer.map(str::to_owned).ok_or_else(|| {
            Exception::refused(format!(
                "which peer is it for? The attribute {TO} or thrift.peer in the configuration says it"
            ))
        })
    }

    /// The peer that calls without one are about.
    fn peer(&self) -> Result<&str, Exception> {
        self.plan
            .default_peer()
            .ok_or_else(|| Exception::unavailable("there are several peers, and thrift.peer names none"))
    }

    fn set_callback(self: &Arc<Self>, caller: Caller, endpoint: String) -> Result<(), String> {
        let at = resolve(&endpoint, caller.address)?;
        let callback = Callback::dial(at, Outbox::default(), self.plan.ping)
            .map_err(|error| format!("cannot connect to {at}: {error}"))?;
        let mut state = self.lock();
        let known = state.clients.known(caller, &endpoint);
        let outbox = known.map_or_else(|| state.new_outbox(), |known| state.outbox(known));
        callback.tell(|empty| *empty = outbox);
        state.register(caller, endpoint, callback)?;
        self.claim(&mut state);
        Ok(())
    }

    fn cap_bps(&self) -> Result<u64, Exception> {
        let peer = self.peer()?;
        let link = self.plan.link_to(peer);
        let status = self.status()?;
        let link = status.links.iter().find(|l| Some(l.name.as_str()) == link);
        let link =
            link.ok_or_else(|| Exception::unavailable(format!("the node says nothing of the link to {peer}")))?;
        Ok(link.rate_bps.unwrap_or(0))
    }

    fn conn_stats(&self) -> Result<ConnStats, Exception> {
        let peer = self.peer()?;
        let status = self.status()?;
        let peer = status.peers.iter().find(|p| p.name == peer);
        Ok(stats(peer.ok_or_else(|| Exception::unavailable("the node says nothing of its peer"))?))
    }

    fn status(&self) -> Result<Box<Status>, Exception> {
        match self.relay.ask(RequestBody::Status).map_err(exception)? {
            Answer::Status(status) => Ok(status),
            _ => Err(Exception::unavailable("the node does not say how it is")),
        }
    }

    fn hook(
        self: &Arc<Self>,
        name: &str,
        act: impl FnOnce(&Arc<Self>) -> Result<(), Exception>,
    ) -> Result<Reply, Exception> {
        if !self.plan.test_hooks {
            return Err(Exception::unknown(format!("{name} is a test hook, and thrift.test-hooks is not set")));
        }
        act(self).map(|()| Reply::Void)
    }

    fn link_enable(&self, up: bool) -> Result<(), Exception> {
        let peer = self.peer()?;
        let link = self.plan.link_to(peer).unwrap_or_default().to_owned();
        self.order(RequestBody::SetAdmin { link, up })
    }

    fn set_max_concurrent(&self, n: i32) -> Result<(), Exception> {
        let n = u32::try_from(n).map_err(|_| Exception::refused(format!("{n} streams at once")))?;
        let peer = self.peer()?.to_owned();
        let before = self.queue(&peer)?.max_concurrent;
        let default = *self.lock().max_concurrent.entry(peer.clone()).or_insert(before);
        let max_concurrent = Some(if n == 0 { default } else { n });
        self.order(RequestBody::SetQueue { to: Some(peer), max_concurrent, max_pending: None })
    }

    fn order(&self, body: RequestBody) -> Result<(), Exception> {
        self.relay.ask(body).map(|_| ()).map_err(exception)
    }

    /// Gives a transfer up, as far as the node still has it.
    pub(super) fn cancel(&self, id: u128) {
        if let Err(error) = self.relay.ask(RequestBody::Cancel { id }) {
            tracing::debug!("thrift: giving up {}: {error}", Uuid::from_u128(id));
        }
    }

    /// The state of a link has changed.
    pub(super) fn link_is(&self, link: String, is: String) {
        let mut state = self.lock();
        state.links.insert(link, is);
        state.say_link(&self.plan);
    }

    /// The state of a peer has changed.
    pub(super) fn peer_is(&self, peer: String, is: String) {
        let mut state = self.lock();
        state.peers.insert(peer, is);
        state.say_link(&self.plan);
    }

    /// The node is not heard: what is known of links is not true any more.
    pub(super) fn deaf(&self) {
        let mut state = self.lock();
        state.links.clear();
        state.peers.clear();
        state.say_link(&self.plan);
    }

    /// Keeps something for a while, unless too many such things are kept.
    pub(super) fn linger(&self, while_: Duration) {
        if self.lingering.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING {
            std::thread::sleep(while_);
        }
        self.lingering.fetch_sub(1, Ordering::Relaxed);
    }
}

const FULL: StartReturn = StartReturn { status: StartStatus::QueueFull, queue_position: None };

fn duplicate(uuid: &str) -> Exception {
    Exception::refused(format!("UUID {uuid} is in use, or was"))
}

fn exception(error: RelayError) -> Exception {
    match error {
        RelayError::Refused { reason, .. } | RelayError::Failed(reason) => Exception::refused(reason),
        RelayError::Unavailable(reason) => Exception::unavailable(reason),
    }
}

impl State {
    /// What `get_link_state` says: of the way to the configured peer, or of the best of several.
    pub(super) fn link_state(&self, plan: &ThriftPlan) -> LinkState {
        let state_to = |peer: &str| match self.peers.get(peer).map(String::as_str) {
            Some("connected") => match plan.link_to(peer).and_then(|link| self.links.get(link)).map(String::as_str) {
                Some("degraded") => LinkState::Degraded,
                Some("failed") => LinkState::Failed,
                Some("connecting") => LinkState::Connecting,
                _ => LinkState::Normal,
            },
            Some("dark" | "lost") => LinkState::Failed,
            _ => LinkState::Connecting,
        };
        if let Some(peer) = plan.default_peer() {
            return state_to(peer);
        }
        let rank = |state: &LinkState| {
            [LinkState::Normal, LinkState::Degraded, LinkState::Connecting, LinkState::Failed]
                .iter()
                .position(|s| s == state)
        };
        plan.peers.iter().map(|(peer, _)| state_to(peer)).min_by_key(rank).unwrap_or(LinkState::Connecting)
    }

    /// Tells the clients, if it is another one.
    fn say_link(&mut self, plan: &ThriftPlan) {
        let now = self.link_state(plan);
        if self.link.replace(now) != Some(now) {
            for client in self.clients.iter() {
                client.callback.tell(|outbox| outbox.link(now));
            }
        }
    }

    /// Nothing was ever heard of it.
    fn is_never_reached(&self, peer: &str) -> bool {
        self.peers.get(peer).is_some_and(|state| state == "connecting")
    }
}

/// At least 1 if there is a cap: 0 is none.
fn mbps(bps: u64) -> i32 {
    let rounded = (bps + 500_000) / 1_000_000;
    i32::try_from(rounded.max(u64::from(bps > 0))).unwrap_or(i32::MAX)
}

fn stats(peer: &PeerStatus) -> ConnStats {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let sum = |wanted: &dyn Fn(&str) -> bool| {
        number(peer.counters.iter().filter(|(name, _)| wanted(name)).map(|(_, n)| n).sum())
    };
    let one = |name: &str| sum(&|counter| counter == name);
    ConnStats {
        sent_packets: one("quic_sent_packets"),
        lost_packets: one("quic_lost_packets"),
        congestion_events: sum(&|counter| counter.starts_with("congestion_")),
        rtt_ms: number(peer.rtt_ns.unwrap_or(0).div_ceil(1_000_000)),
        cwnd: one("quic_cwnd_bytes"),
        lost_bytes: one("quic_lost_bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_never_shown_as_none() {
        assert_eq!([0, 1, 80_000, 1_499_999, 1_500_000, 10_000_000].map(mbps), [0, 1, 1, 1, 2, 10]);
        assert_eq!(mbps(u64::MAX / 2), i32::MAX);
    }

    #[test]
    fn the_state_of_the_link_is_that_of_the_way_to_the_peer() {
        let plan = ThriftPlan { peers: vec![("b".into(), "to-b".into())], ..ThriftPlan::default() };
        let mut state = State::default();
        assert_eq!(state.link_state(&plan), LinkState::Connecting);
        let mut with = |peer: &str, link: &str| {
            state.peers.insert("b".into(), peer.into());
            state.links.insert("to-b".into(), link.into());
            state.link_state(&plan)
        };
        assert_eq!(with("connecting", "normal"), LinkState::Connecting);
        assert_eq!(with("connected", "normal"), LinkState::Normal);
        assert_eq!(with("connected", "degraded"), LinkState::Degraded);
        assert_eq!(with("connected", "failed"), LinkState::Failed, "the peer's state follows");
        assert_eq!(with("dark", "normal"), LinkState::Failed, "a hop behind it is dark");
        assert_eq!(with("lost", "failed"), LinkState::Failed);
    }
}
