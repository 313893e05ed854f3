//! What connections say: established, lost, streams, datagrams; and dialling them again.

use std::time::Duration;

use quinn_proto::{ConnectionError, Dir, Event as QuicEvent, StreamEvent};

use super::{Engine, MAX_EVENTS_WAITING, PeerRuntime, RETRY_FIRST, RETRY_LIMIT, Retry, Unheard};
use crate::api::{DatagramClass, Event, FailCode, Failure, PeerState};
use crate::config::{PeerId, Role};
use crate::messages::Messages;
use crate::port::FrameBuf;
use crate::session::{MIN_SESSION_VERSION, Message, SESSION_VERSION, Session, SessionError};
use crate::time::Nanos;
use crate::transport::tls::plain;
use crate::transport::{Handle, Lane, PeerTransport};

/// How long a peer that has shown who it is may take to say hello, of its path's time …
const HELLO_WAIT: Duration = Duration::from_secs(60);
/// … and as many round trips more, for links of minutes.
const HELLO_ROUND_TRIPS: u32 = 8;
const LANES: [Lane; 2] = [Lane::Control, Lane::Bulk];

impl<F: FrameBuf> Engine<F> {
    /// Look at every connection that something was done to.
    pub(super) fn service(&mut self, now: Nanos) {
        while let Some(handle) = self.transport.take_dirty() {
            self.service_one(now, handle);
        }
    }

    fn service_one(&mut self, now: Nanos, handle: Handle) {
        let Some(conn) = self.transport.conn(handle) else { return };
        let (peer, lane) = (conn.peer, conn.lane);
        let mut last_readable = None;
        while let Some(event) = self.transport.conn(handle).and_then(|conn| conn.quic.poll()) {
            // quinn-proto says so for every packet. What came with all of a burst was read at the first.
            if let QuicEvent::Stream(StreamEvent::Readable { id }) = event
                && last_readable.replace(id) == Some(id)
            {
                continue;
            }
            match event {
                QuicEvent::Connected => self.established(now, handle, peer, lane),
                QuicEvent::ConnectionLost { reason } => self.lost(now, handle, peer, lane, &reason),
                QuicEvent::Stream(event) => self.stream(now, handle, peer, lane, &event),
                QuicEvent::DatagramReceived => {
                    let Some(conn) = self.transport.conn(handle) else { continue };
                    let runtime = &mut self.peers[usize::from(peer.0)];
                    while let Some(datagram) = conn.quic.datagrams().recv() {
                        if lane == Lane::Control && Messages::is_ours(&datagram) {
                            runtime.messages.datagram_received(now, &mut conn.quic, &datagram, &mut self.urgent);
                        } else {
                            runtime.datagrams.received(class_of(lane), &datagram, &mut self.events);
                        }
                    }
                }
                QuicEvent::HandshakeDataReady | QuicEvent::DatagramsUnblocked => {}
            }
        }
        self.read_session(now, handle, peer, lane);
        self.transport.settle(handle);
        self.mark_ready(peer, lane);
    }

    fn established(&mut self, now: Nanos, handle: Handle, peer: PeerId, lane: Lane) {
        if let Some(old) = self.transport.establish(now, handle) {
            self.disconnected(old, peer, lane);
        }
        let hello = Message::Hello {
            version: SESSION_VERSION,
            min_version: MIN_SESSION_VERSION,
            class: lane as u8,
            node: self.node.to_string(),
        };
        let runtime = &mut self.peers[usize::from(peer.0)];
        runtime.retry[lane as usize] = Retry::default();
        let Some(conn) = self.transport.conn(handle) else { return };
        let session = match lane {
            Lane::Control => &mut runtime.control.entry(handle).or_default().session,
            Lane::Bulk => &mut runtime.bulk.entry(handle).or_default().session,
        };
        if conn.quic.side().is_client() {
            session.open(&mut conn.quic);
        }
        if !self.mute {
            session.push(&hello);
        }
        let waits = HELLO_WAIT + conn.quic.rtt().saturating_mul(HELLO_ROUND_TRIPS);
        if let Some(state) = self.transport.peer(peer) {
            let until = state.clock.instant(now) + waits;
            runtime.unheard.push(Unheard { handle, lane, waits, until });
        }
    }

    fn lost(&mut self, now: Nanos, handle: Handle, peer: PeerId, lane: Lane, reason: &ConnectionError) {
        let current = self.transport.current(peer, lane) == Some(handle);
        let established = self.disconnected(handle, peer, lane);
        if let Some(state) = self.transport.peer_mut(peer) {
            if established {
                state.stats.lost += 1;
            } else {
                state.stats.handshake_failures += 1;
            }
            tracing::info!(peer = %state.config.name, ?lane, reason = plain(&reason.to_string()), "connection lost");
        }
        if current {
            self.transport.unset_current(peer, lane);
            self.set_peer_state(peer, PeerState::Lost(plain(&reason.to_string()).into()));
            self.schedule_dial(now, peer, lane);
        }
    }

    /// Forget a connection's session. Says whether there was one.
    fn disconnected(&mut self, handle: Handle, peer: PeerId, lane: Lane) -> bool {
        let runtime = &mut self.peers[usize::from(peer.0)];
        runtime.unheard.retain(|waiting| waiting.handle != handle);
        let was = match lane {
            Lane::Control => runtime.control.remove(&handle).is_some(),
            Lane::Bulk => {
                let was = runtime.bulk.remove(&handle).is_some();
                if was {
                    runtime.relay.disconnected();
                }
                was
            }
        };
        if was {
            runtime.datagrams.flush(class_of(lane));
        }
        was
    }

    fn stream(&mut self, now: Nanos, handle: Handle, peer: PeerId, lane: Lane, event: &StreamEvent) {
        let Some(conn) = self.transport.conn(handle) else { return };
        let quic = &mut conn.quic;
        let runtime = &mut self.peers[usize::from(peer.0)];
        let result = match lane {
            Lane::Control => {
                let Some(state) = runtime.control.get_mut(&handle) else { return };
                let (messages, events) = (&mut runtime.messages, &mut self.urgent);
                match *event {
                    StreamEvent::Opened { dir: Dir::Uni } => messages.streams_opened(state, quic, events),
                    StreamEvent::Readable { id } if !state.session.is(id) => messages.readable(state, quic, id, events),
                    StreamEvent::Finished { id } => messages.stream_finished(now, state, quic, id, events),
                    StreamEvent::Stopped { id, .. } => messages.stream_stopped(state, quic, id, events),
                    _ => {}
                }
                session_event(&mut state.session, quic, event)
            }
            Lane::Bulk => {
                let Some(state) = runtime.bulk.get_mut(&handle) else { return };
                let (relay, events) = (&mut runtime.relay, &mut self.events);
                match *event {
                    StreamEvent::Opened { dir: Dir::Uni } => relay.stripes_opened(state, quic, events),
                    StreamEvent::Readable { id } if !state.session.is(id) => relay.readable(state, quic, id, events),
                    _ => {}
                }
                session_event(&mut state.session, quic, event)
            }
        };
        if let Err(error) = result {
            self.close_session(now, handle, peer, lane, &error);
        }
    }

    /// Read what the peer says in a session, while the gateways keep up, and see whether it reads its answers.
    fn read_session(&mut self, now: Nanos, handle: Handle, peer: PeerId, lane: Lane) {
        let Some(open) = session(&mut self.peers[usize::from(peer.0)], handle, lane) else { return };
        let mut result = open.check();
        while result.is_ok() {
            let open = session(&mut self.peers[usize::from(peer.0)], handle, lane);
            let Some(open) = open.filter(|open| open.unread) else { return };
            // What a control session brings is bounded by our own waiting messages, and bulk must not hold it up.
            if lane == Lane::Bulk && self.events.len() >= MAX_EVENTS_WAITING {
                if !self.paused.contains(&handle) {
                    self.paused.push(handle);
                }
                return;
            }
            result = match open.next() {
                Ok(Some(message)) => self.session_message(now, handle, peer, lane, message),
                Ok(None) => {
                    let came = self.transport.conn(handle).map_or(Ok(false), |conn| open.receive(&mut conn.quic));
                    came.map(|came| open.unread = came)
                }
                Err(error) => Err(error),
            };
            if let (Ok(()), Some(open)) = (&result, session(&mut self.peers[usize::from(peer.0)], handle, lane)) {
                result = open.check();
            }
        }
        if let Err(error) = result {
            self.close_session(now, handle, peer, lane, &error);
        }
    }

    fn close_session(&mut self, now: Nanos, handle: Handle, peer: PeerId, lane: Lane, error: &SessionError) {
        tracing::warn!(peer = peer.0, ?lane, %error, "session ended");
        if let Some(state) = self.transport.peer_mut(peer) {
            state.stats.session_errors += 1;
        }
        // The peer is told why.
        self.transport.close(now, handle, error.to_string());
        self.lost_by_us(now, handle, peer, lane, error);
    }

    /// Closed from this end: quinn-proto says nothing more about it.
    fn lost_by_us(&mut self, now: Nanos, handle: Handle, peer: PeerId, lane: Lane, error: &SessionError) {
        let current = self.transport.current(peer, lane) == Some(handle);
        self.disconnected(handle, peer, lane);
        if current {
            self.transport.unset_current(peer, lane);
            self.set_peer_state(peer, PeerState::Lost(error.to_string().into()));
            self.schedule_dial(now, peer, lane);
        }
    }

    fn session_message(
        &mut self,
        now: Nanos,
        handle: Handle,
        peer: PeerId,
        lane: Lane,
        message: Message,
    ) -> Result<(), SessionError> {
        let runtime = &mut self.peers[usize::from(peer.0)];
        let Some(session) = session(runtime, handle, lane) else { return Ok(()) };
        if !session.ready {
            session.greet(&message, lane as u8)?;
            runtime.unheard.retain(|waiting| waiting.handle != handle);
            match lane {
                Lane::Control => runtime.messages.connected(),
                Lane::Bulk => {
                    if let Some(state) = runtime.bulk.get_mut(&handle) {
                        runtime.relay.connected(state, &mut self.events);
                    }
                }
            }
            self.check_connected(peer);
            return Ok(());
        }
        let Some(conn) = self.transport.conn(handle) else { return Ok(()) };
        if lane == Lane::Control {
            runtime.messages.message(now, &mut conn.quic, &message, &mut self.urgent);
            return Ok(());
        }
        let Some(state) = runtime.bulk.get_mut(&handle) else { return Ok(()) };
        let offered = if matches!(message, Message::Offer { .. } | Message::OfferStream { .. }) {
            message.transfer()
        } else {
            None
        };
        if let Some(id) = offered
            && self.transfers.get(&id).is_some_and(|of| *of != peer)
        {
            let reason = "a transfer with this id is running with another peer";
            state.session.push_failure(id, &Failure::new(FailCode::Refused, reason));
            return Ok(());
        }
        runtime.relay.message(state, &mut conn.quic, message, &mut self.events);
        // Not for an offer that was refused: nothing would ever take its entry away.
        if let Some(id) = offered.filter(|id| runtime.relay.knows(*id)) {
            self.transfers.insert(id, peer);
        }
        Ok(())
    }

    /// Close connections whose peers have said no hello for too long: nothing else would ever end them. (QUIC's own
    /// messages keep them alive.)
    pub(super) fn close_unheard(&mut self, now: Nanos) {
        let due = |(peer, waiting): (&PeerTransport, &Unheard)| {
            (!peer.dark && peer.clock.instant(now) >= waiting.until).then_some((peer.config.id, *waiting))
        };
        // Mostly there is none, and nothing is allocated.
        let due: Vec<_> = self.unheard().filter_map(due).collect();
        for (peer, Unheard { handle, lane, waits, .. }) in due {
            if let Some(state) = self.transport.peer_mut(peer) {
                state.stats.hello_timeouts += 1;
            }
            self.close_session(now, handle, peer, lane, &SessionError::NoHello(waits));
        }
    }

    pub(super) fn unheard(&self) -> impl Iterator<Item = (&PeerTransport, &Unheard)> {
        let peers = self.transport.peers.iter().zip(&self.peers);
        peers.flat_map(|(peer, runtime)| runtime.unheard.iter().map(move |waiting| (peer, waiting)))
    }

    /// The peer is connected once both sessions are.
    pub(super) fn check_connected(&mut self, peer: PeerId) {
        let ready = LANES.iter().all(|lane| {
            let runtime = &self.peers[usize::from(peer.0)];
            self.transport.current(peer, *lane).is_some_and(|handle| match lane {
                Lane::Control => runtime.control.get(&handle).is_some_and(|state| state.session.ready),
                Lane::Bulk => runtime.bulk.get(&handle).is_some_and(|state| state.session.ready),
            })
        });
        if ready && self.transport.peer(peer).is_some_and(|state| !state.dark) {
            self.set_peer_state(peer, PeerState::Connected);
        }
    }

    pub(super) fn set_peer_state(&mut self, peer: PeerId, state: PeerState) {
        let runtime = &mut self.peers[usize::from(peer.0)];
        if runtime.state != state {
            runtime.state = state.clone();
            self.events.push_back(Event::Peer { peer, state });
        }
    }

    /// Dial now, if this end dials and there is no connection.
    pub(super) fn dial(&mut self, now: Nanos, peer: PeerId) {
        for lane in LANES {
            self.peers[usize::from(peer.0)].retry[lane as usize].at = None;
            let Some(state) = self.transport.peer(peer) else { return };
            let wanted = state.config.role == Role::Originator && !state.dark;
            if wanted && self.transport.current(peer, lane).is_none() {
                self.transport.connect(now, peer, lane);
                self.mark_ready(peer, lane);
            }
        }
    }

    fn schedule_dial(&mut self, now: Nanos, peer: PeerId, lane: Lane) {
        if self.transport.peer(peer).is_none_or(|state| state.config.role == Role::Acceptor) {
            return;
        }
        let retry = &mut self.peers[usize::from(peer.0)].retry[lane as usize];
        retry.at = Some(now + retry.wait);
        retry.wait = (retry.wait * 2).clamp(RETRY_FIRST, RETRY_LIMIT);
    }

    pub(super) fn retry(&mut self, now: Nanos) {
        for index in 0..self.peers.len() {
            if self.peers[index].retry.iter().any(|retry| retry.at.is_some_and(|at| at <= now)) {
                self.dial(now, PeerId(index as u16));
            }
        }
    }

    pub(super) fn confirmations(&mut self, now: Nanos) {
        for index in 0..self.peers.len() {
            let peer = PeerId(index as u16);
            if self.peers[index].relay.next_timeout().is_none_or(|at| at > now) {
                continue;
            }
            let handle = self.transport.current(peer, Lane::Bulk);
            let runtime = &mut self.peers[index];
            if let Some(state) = handle.and_then(|handle| runtime.bulk.get_mut(&handle)) {
                runtime.relay.handle_timeout(now, state);
                if let Some(handle) = handle {
                    // Whether the peer reads them is looked at, and the packet asked for.
                    self.transport.mark_dirty(handle);
                }
            }
        }
    }
}

fn class_of(lane: Lane) -> DatagramClass {
    match lane {
        Lane::Control => DatagramClass::Control,
        Lane::Bulk => DatagramClass::Bulk,
    }
}

/// The session of a connection.
fn session(runtime: &mut PeerRuntime, handle: Handle, lane: Lane) -> Option<&mut Session> {
    match lane {
        Lane::Control => runtime.control.get_mut(&handle).map(|state| &mut state.session),
        Lane::Bulk => runtime.bulk.get_mut(&handle).map(|state| &mut state.session),
    }
}

/// Let the session stream take its share of an event; what it brings is read afterwards.
fn session_event(
    session: &mut Session,
    quic: &mut quinn_proto::Connection,
    event: &StreamEvent,
) -> Result<(), SessionError> {
    match *event {
        StreamEvent::Opened { dir: Dir::Bi } => session.accept(quic),
        StreamEvent::Readable { id } if session.is(id) => {}
        StreamEvent::Stopped { id, .. } if session.is(id) => return Err(SessionError::Ended),
        _ => return Ok(()),
    }
    session.unread = true;
    Ok(())
}
