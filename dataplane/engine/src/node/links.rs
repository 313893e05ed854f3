//! How links and paths come and go: liveness, administrative state, carrier, alarms from beyond the next node,
//! and what that means for the clocks of connections.

use std::sync::Arc;

use florelay_wire::ach::{AchHeader, ChannelType};
use florelay_wire::link::{Body, LinkFrame};
use florelay_wire::oam::{Alarm, Role as TraceRole, TraceReply, TraceRequest};

use super::Engine;
use crate::api::{Event, LinkState, PeerState};
use crate::config::{LinkId, PeerId};
use crate::egress::Class;
use crate::fib::DropReason;
use crate::oam::{self, LivenessEvent};
use crate::port::{FrameBuf, Port};
use crate::time::Nanos;

impl<F: FrameBuf> Engine<F> {
    /// Derive a link's state from what the operator, the adapter and liveness say, and act on a change.
    pub(super) fn refresh_link(&mut self, now: Nanos, index: usize) {
        let link = &mut self.links[index];
        let state = if !link.admin_up {
            LinkState::Down("set down by the operator".into())
        } else if let Err(reason) = &link.carrier {
            LinkState::Down(reason.clone())
        } else {
            link.liveness.state()
        };
        if state == link.state {
            return;
        }
        let was_up = link.state == LinkState::Up;
        let up = state == LinkState::Up;
        link.state = state.clone();
        let id = link.config.id;
        tracing::info!(link = %link.config.name, ?state, "link state");
        self.events.push_back(Event::Link { link: id, state });
        if was_up == up {
            return;
        }
        link.egress.set_open(now, up);
        self.alarms.link_changed(now, id, up);
        while let Some((link, bytes)) = self.alarms.poll_transmit(now) {
            self.queue_oam(link, bytes);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].link == id {
                self.refresh_path(now, PeerId(peer as u16));
            }
        }
    }

    pub(super) fn check_links(&mut self, now: Nanos) {
        for index in 0..self.links.len() {
            if self.links[index].liveness.check(now).is_some() {
                self.refresh_link(now, index);
            }
        }
    }

    /// A valid frame came over the link.
    pub(super) fn heard(&mut self, now: Nanos, index: usize) {
        if self.links[index].liveness.heard(now).is_some() {
            self.refresh_link(now, index);
        }
    }

    pub(super) fn link_oam(&mut self, now: Nanos, index: usize, bytes: &[u8]) {
        let Ok(LinkFrame { body: Body::Channel { ach, message }, .. }) = LinkFrame::parse(bytes) else { return };
        if ach.channel != ChannelType::Liveness {
            self.count_drop(index, DropReason::UnknownChannel);
            return;
        }
        let link = &mut self.links[index];
        match link.liveness.handle(now, message) {
            Ok(seen) => {
                if let Some(rtt) = seen.rtt {
                    link.rtt = Some(rtt);
                }
                if matches!(seen.event, Some(LivenessEvent::PeerRestarted)) {
                    tracing::info!(link = %link.config.name, "the neighbour has restarted");
                    let id = link.config.id;
                    self.neighbour_restarted(now, id);
                }
                self.refresh_link(now, index);
            }
            Err(error) => {
                tracing::debug!(link = %link.config.name, %error, "liveness refused");
                self.count_drop(index, DropReason::LivenessRefused);
            }
        }
    }

    /// A changed boot id: connections with the neighbour itself are gone; do not wait for their timers.
    /// (Peers further away are told by their own stateless resets.)
    fn neighbour_restarted(&mut self, now: Nanos, link: LinkId) {
        for index in 0..self.peers.len() {
            if self.peers[index].link == link {
                self.probe(now, PeerId(index as u16));
            }
        }
    }

    /// Ask a peer's connections for a sign of life: a restarted peer answers with a stateless reset.
    fn probe(&mut self, _now: Nanos, peer: PeerId) {
        for class in [Class::Control, Class::Bulk] {
            if let Some(handle) = self.transport.current(peer, class)
                && let Some(conn) = self.transport.conn(handle)
            {
                conn.quic.ping();
                self.transport.mark_dirty(handle);
                self.mark_ready(peer, class);
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
            Some(LinkState::Up) => runtime.alarm.is_down().then(|| "a link beyond the next node is down".into()),
        };
        let Some(state) = self.transport.peer_mut(peer) else { return };
        let was_dark = state.dark;
        state.dark = reason.is_some();
        match (was_dark, reason) {
            (false, Some(reason)) => {
                state.clock.stop(now);
                self.set_peer_state(peer, PeerState::Dark(reason));
            }
            (true, None) => {
                state.clock.start(now);
                self.set_peer_state(peer, PeerState::Connecting);
                self.check_connected(peer);
                self.dial(now, peer);
                self.probe(now, peer);
            }
            (true, Some(reason)) if matches!(self.peers[usize::from(peer.0)].state, PeerState::Dark(_)) => {
                self.set_peer_state(peer, PeerState::Dark(reason));
            }
            _ => {}
        }
    }

    pub(super) fn check_paths(&mut self, now: Nanos) {
        for index in 0..self.peers.len() {
            if self.peers[index].alarm.check(now) {
                self.refresh_path(now, PeerId(index as u16));
            }
        }
    }

    pub(super) fn path_heard(&mut self, now: Nanos, peer: PeerId) {
        let Some(runtime) = self.peers.get_mut(usize::from(peer.0)) else { return };
        if runtime.alarm.is_down() && runtime.alarm.heard() {
            self.refresh_path(now, peer);
        }
    }

    /// An associated-channel message on a path that ends here.
    pub(super) fn path_oam(&mut self, now: Nanos, index: usize, peer: PeerId, frame: &LinkFrame<'_>, ach: AchHeader, message: &[u8]) {
        match ach.channel {
            ChannelType::Alarm => match Alarm::parse(message) {
                Ok(alarm) => {
                    if self.peers[usize::from(peer.0)].alarm.handle(now, &alarm) {
                        self.refresh_path(now, peer);
                    }
                }
                Err(_) => self.count_drop(index, DropReason::MalformedOam),
            },
            ChannelType::TraceRequest => match TraceRequest::parse(message) {
                Ok(request) => self.answer_trace(index, frame, &request, TraceRole::Egress),
                Err(_) => self.count_drop(index, DropReason::MalformedOam),
            },
            ChannelType::TraceReply => match TraceReply::parse(message) {
                Ok(reply) => {
                    self.traces.reply(now, &reply, &mut self.events);
                    self.poll_traces(now);
                }
                Err(_) => self.count_drop(index, DropReason::MalformedOam),
            },
            ChannelType::Liveness => self.count_drop(index, DropReason::UnknownChannel),
        }
    }

    /// A frame expired here: if it is a trace request, say who we are.
    pub(super) fn trace_transit(&mut self, index: usize, bytes: &[u8]) {
        if let Ok(frame) = LinkFrame::parse(bytes)
            && let Body::Channel { ach: AchHeader { channel: ChannelType::TraceRequest }, message } = frame.body
            && let Ok(request) = TraceRequest::parse(message)
        {
            self.answer_trace(index, &frame, &request, TraceRole::Transit);
        }
    }

    fn answer_trace(&mut self, index: usize, frame: &LinkFrame<'_>, request: &TraceRequest, role: TraceRole) {
        let link = self.links[index].config.id;
        if let Some(bytes) = oam::trace_reply(frame, request, role, &self.node) {
            self.queue_oam(link, bytes);
        }
    }

    pub(super) fn start_trace(&mut self, now: Nanos, peer: PeerId, token: u64) {
        let Some(state) = self.transport.peer(peer) else {
            let event = Event::TraceHop { token, hop: 1, node: None, rtt: std::time::Duration::ZERO, last: true };
            self.events.push_back(event);
            return;
        };
        self.traces.start(now, token, &state.config);
        self.poll_traces(now);
    }

    pub(super) fn poll_traces(&mut self, now: Nanos) {
        while let Some((link, bytes)) = self.traces.poll_transmit(now) {
            self.queue_oam(link, bytes);
        }
    }

    /// Put waiting OAM, and liveness when it is due, into frames.
    pub(super) fn oam_frames<P: Port<Frame = F>>(&mut self, now: Nanos, index: usize, port: &mut P) {
        let link = &mut self.links[index];
        let id = link.config.id;
        while let Some(bytes) = link.oam_out.front() {
            let Some(mut frame) = port.alloc(id) else { return };
            if bytes.len() > frame.capacity() {
                link.oam_dropped += 1;
                port.free(frame);
            } else {
                frame.set_len(bytes.len());
                frame.bytes_mut().copy_from_slice(bytes);
                if let Err(frame) = link.egress.enqueue_oam(frame) {
                    port.free(frame);
                    return;
                }
            }
            link.oam_out.pop_front();
        }
        if link.admin_up && link.carrier.is_ok() && link.liveness.next_timeout() <= now {
            let Some(mut frame) = port.alloc(id) else { return };
            frame.set_len(frame.capacity());
            match link.liveness.poll_transmit(now, frame.bytes_mut()) {
                Some(length) => {
                    frame.set_len(length);
                    if let Err(frame) = link.egress.enqueue_oam(frame) {
                        port.free(frame);
                    }
                }
                None => port.free(frame),
            }
        }
    }
}
