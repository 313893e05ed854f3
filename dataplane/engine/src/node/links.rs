//! How links and paths come and go: liveness, administrative state, carrier, alarms from beyond the next node,
//! and what that means for the clocks of connections.

use std::sync::Arc;
use std::time::Duration;

use florelay_wire::ach::ChannelType;
use florelay_wire::oam::{Alarm, Role as TraceRole, TraceReply, alarm_reason};

use super::{Engine, LinkNotice, PathTrace};
use crate::api::{DatagramClass, Event, LinkState, PeerState};
use crate::config::{LinkId, PeerId};
use crate::fib::DropReason;
use crate::oam::{
    ALARM_FRAME_BYTES, DownReason, LIVENESS_FRAME_BYTES, LivenessState, PathState, TRACE_REPLY_BYTES,
    TRACE_REQUEST_BYTES, Trace, TraceHop, trace_reply,
};
use crate::port::{FrameBuf, Port};
use crate::time::Nanos;
use crate::transport::Lane;

/// A hop of a trace has this much more than the path's assumed round trip to answer.
const TRACE_SLACK: Duration = Duration::from_secs(1);
/// Traces at once; more are answered as silent.
const MAX_TRACES: usize = 64;

impl<F: FrameBuf> Engine<F> {
    /// What operator and adapter say about a link has changed.
    pub(super) fn hold_or_release(&mut self, now: Nanos, index: usize) {
        let link = &mut self.links[index];
        if !link.admin_up {
            link.liveness.hold(now, DownReason::Admin);
        } else if link.carrier.is_err() {
            link.liveness.hold(now, DownReason::Carrier);
        } else if !link.contacts.is_open() {
            link.liveness.hold(now, DownReason::Contact);
        } else {
            link.liveness.release(now);
        }
        self.refresh_link(now, index);
    }

    /// Act on a change of a link's state, if there is one.
    pub(super) fn refresh_link(&mut self, now: Nanos, index: usize) {
        let link = &mut self.links[index];
        let state = match (link.liveness.state(), &link.carrier) {
            (LivenessState::Connecting, _) => LinkState::Connecting,
            (LivenessState::Up, _) => LinkState::Up,
            (LivenessState::Down(DownReason::Carrier), Err(reason)) => LinkState::Down(reason.clone()),
            (LivenessState::Down(DownReason::Contact), _) => LinkState::Down(link.contacts.reason(now)),
            (LivenessState::Down(reason), _) => LinkState::Down(reason.to_string().into()),
        };
        if state == link.state {
            return;
        }
        let was_up = link.state == LinkState::Up;
        let up = state == LinkState::Up;
        link.state = state.clone();
        let id = link.config.id;
        if up && !was_up {
            link.sequence.resume();
        }
        self.note_condition(now, index);
        self.events.push_back(Event::Link { link: id, state });
        let down = match self.links[index].liveness.state() {
            LivenessState::Up => None,
            LivenessState::Down(reason) => Some(reason.alarm_code()),
            LivenessState::Connecting => Some(DownReason::Timeout.alarm_code()),
        };
        let notice = LinkNotice { link: id, down };
        self.handle_notice(now, notice);
        self.tell_workers(notice);
        if was_up != up {
            self.links[index].egress.set_open(up);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].link == id {
                self.refresh_path(now, PeerId(peer as u16));
            }
        }
    }

    pub(super) fn check_links(&mut self, now: Nanos) {
        for index in 0..self.links.len() {
            if self.links[index].next_look().is_some_and(|at| at <= now) {
                self.look(now, index);
            }
            if self.links[index].liveness.check(now).is_some() {
                self.refresh_link(now, index);
            }
        }
    }

    pub(super) fn send_alarms(&mut self, now: Nanos) {
        let mut bytes = [0; ALARM_FRAME_BYTES];
        while let Some((link, length)) = self.alarms.poll_transmit(now, &mut bytes) {
            self.queue_oam(link, &bytes[..length]);
        }
    }

    /// A valid frame came over the link.
    pub(super) fn heard(&mut self, now: Nanos, index: usize) {
        if self.links[index].liveness.heard(now).is_some() {
            self.refresh_link(now, index);
        }
    }

    pub(super) fn link_oam(&mut self, now: Nanos, index: usize, message: &[u8]) {
        let link = &mut self.links[index];
        match link.liveness.handle(now, message) {
            Ok(seen) => {
                if seen.peer_restarted {
                    tracing::info!(link = %link.config.name, "the neighbour has restarted");
                    link.sequence.restart();
                    let id = link.config.id;
                    self.neighbour_restarted(id);
                }
                self.refresh_link(now, index);
                // A link that has just come up is measured from this message on.
                if let Some(exchange) = &seen.exchange {
                    self.links[index].condition.heard(now, exchange, seen.peer_restarted, self.wall_at_zero_ns);
                }
            }
            Err(error) => {
                tracing::debug!(link = %link.config.name, %error, "liveness refused");
                self.count_drop(index, error.into());
            }
        }
    }

    /// A changed boot id: connections with the neighbour itself are gone; do not wait for their timers.
    /// (Peers further away are told by their own stateless resets.)
    fn neighbour_restarted(&mut self, link: LinkId) {
        for index in 0..self.peers.len() {
            if self.peers[index].link == link {
                self.probe(PeerId(index as u16));
            }
        }
    }

    /// Ask a peer's connections for a sign of life: a restarted peer answers with a stateless reset.
    fn probe(&mut self, peer: PeerId) {
        for lane in [Lane::Control, Lane::Bulk] {
            if let Some(handle) = self.transport.current(peer, lane)
                && let Some(conn) = self.transport.conn(handle)
            {
                conn.quic.ping();
                self.transport.mark_dirty(handle);
                self.mark_ready(peer, lane);
            }
        }
    }

    /// Derive whether a peer's path is dark, and stop or start its clock.
    fn refresh_path(&mut self, now: Nanos, peer: PeerId) {
        let runtime = &self.peers[usize::from(peer.0)];
        let link = runtime.link;
        let reason: Option<Arc<str>> = match self.index(link).map(|index| &self.links[index].state) {
            None => Some("its link belongs to another worker".into()),
            Some(LinkState::Connecting) => Some("the link is connecting".into()),
            Some(LinkState::Down(reason)) => Some(reason.clone()),
            Some(LinkState::Up) => match runtime.alarm.state() {
                PathState::Clear => None,
                PathState::Dark { reason: alarm_reason::CONTACT, .. } => {
                    Some("a link beyond the next node is outside its contact".into())
                }
                PathState::Dark { .. } => Some("a link beyond the next node is down".into()),
            },
        };
        let Some(state) = self.transport.peer_mut(peer) else { return };
        let was_dark = state.dark;
        state.dark = reason.is_some();
        match (was_dark, reason) {
            (false, Some(reason)) => {
                state.clock.stop(now);
                for class in [DatagramClass::Control, DatagramClass::Bulk] {
                    self.peers[usize::from(peer.0)].datagrams.flush(class);
                }
                self.set_peer_state(peer, PeerState::Dark(reason));
            }
            (true, None) => {
                state.clock.start(now);
                self.set_peer_state(peer, PeerState::Connecting);
                self.check_connected(peer);
                self.dial(now, peer);
                self.probe(peer);
                self.transport.probe_lost(now, peer);
            }
            (true, Some(reason)) if matches!(self.peers[usize::from(peer.0)].state, PeerState::Dark(_)) => {
                self.set_peer_state(peer, PeerState::Dark(reason));
            }
            _ => {}
        }
    }

    pub(super) fn check_paths(&mut self, now: Nanos) {
        for index in 0..self.peers.len() {
            if self.peers[index].alarm.expire(now).is_some() {
                self.refresh_path(now, PeerId(index as u16));
            }
        }
    }

    /// An associated-channel message on a path that ends here.
    pub(super) fn path_oam(
        &mut self,
        now: Nanos,
        index: usize,
        peer: PeerId,
        channel: ChannelType,
        bytes: &[u8],
        offset: usize,
    ) {
        let message = &bytes[offset..];
        let result = match channel {
            ChannelType::Alarm => Alarm::parse(message).map(|alarm| {
                if self.peers[usize::from(peer.0)].alarm.handle(now, &alarm).is_some() {
                    self.refresh_path(now, peer);
                }
            }),
            ChannelType::TraceReply => TraceReply::parse(message).map(|reply| self.trace_reply(now, &reply)),
            ChannelType::TraceRequest => {
                self.answer_trace(index, bytes, TraceRole::Egress);
                Ok(())
            }
            // The FIB lets liveness through at link scope only.
            ChannelType::Liveness => Ok(()),
        };
        if let Err(error) = result {
            self.count_drop(index, DropReason::Parse(error));
        }
    }

    /// If the frame is a trace request, say who we are along its backward label. `false` = it is not one.
    pub(super) fn answer_trace(&mut self, index: usize, bytes: &[u8], role: TraceRole) -> bool {
        let mut reply = [0; TRACE_REPLY_BYTES];
        let Ok(length) = trace_reply(bytes, &self.node, role, &mut reply) else { return false };
        let link = self.links[index].config.id;
        self.queue_oam(link, &reply[..length]);
        true
    }

    pub(super) fn start_trace(&mut self, now: Nanos, peer: PeerId, token: u64) {
        match self.transport.peer(peer) {
            Some(state) if self.traces.len() < MAX_TRACES => {
                let timeout = state.config.initial_rtt + TRACE_SLACK;
                self.traces
                    .push(PathTrace { link: state.config.link, trace: Trace::new(&state.config, token, timeout) });
                self.poll_traces(now);
            }
            _ => {
                let rtt = Duration::ZERO;
                self.events.push_back(Event::TraceHop { token, hop: 1, node: None, rtt, last: true });
            }
        }
    }

    fn trace_reply(&mut self, now: Nanos, reply: &TraceReply<'_>) {
        let Some(traced) = self.traces.iter_mut().find(|traced| traced.trace.token() == reply.token) else { return };
        if let Some(hop) = traced.trace.handle(now, reply) {
            self.events.push_back(hop_event(reply.token, hop));
            self.poll_traces(now);
        }
    }

    pub(super) fn poll_traces(&mut self, now: Nanos) {
        let mut bytes = [0; TRACE_REQUEST_BYTES];
        for index in 0..self.traces.len() {
            let traced = &mut self.traces[index];
            if let Some(hop) = traced.trace.check(now) {
                let token = traced.trace.token();
                self.events.push_back(hop_event(token, hop));
            }
            let traced = &mut self.traces[index];
            if let Some(length) = traced.trace.poll_transmit(now, &mut bytes) {
                let link = traced.link;
                self.queue_oam(link, &bytes[..length]);
            }
        }
        self.traces.retain(|traced| !traced.trace.is_done());
    }

    /// Put waiting OAM, and liveness when it is due, into frames.
    pub(super) fn oam_frames<P: Port<Frame = F>>(&mut self, now: Nanos, index: usize, port: &mut P) {
        let link = &mut self.links[index];
        let id = link.config.id;
        while link.egress.oam_room() > 0
            && let Some(bytes) = link.oam_out.front()
        {
            let Some(mut frame) = port.alloc(id) else { return };
            frame.set_len(bytes.len());
            frame.bytes_mut().copy_from_slice(bytes);
            link.oam_out.pop_front();
            if let Err(frame) = link.egress.enqueue_oam(frame) {
                port.free(frame);
            }
        }
        // Also while the operator holds the link down: the neighbour shall know why.
        if link.carrier.is_ok() && link.liveness.next_timeout() <= now && link.egress.oam_room() > 0 {
            let Some(mut frame) = port.alloc(id) else { return };
            frame.set_len(LIVENESS_FRAME_BYTES);
            let extension = link.extension(now, self.wall_at_zero_ns);
            let written = link.liveness.poll_transmit(now, extension, frame.bytes_mut());
            if written.is_none() {
                port.free(frame);
            } else if let Err(frame) = link.egress.enqueue_oam(frame) {
                port.free(frame);
            }
        }
    }
}

fn hop_event(token: u64, hop: TraceHop) -> Event {
    Event::TraceHop { token, hop: hop.hop, node: hop.node, rtt: hop.rtt, last: hop.last }
}
