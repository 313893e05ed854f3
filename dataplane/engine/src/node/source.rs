//! How a link's scheduler pulls packets out of the connections (invariant 3): what QUIC has to send by itself
//! first (retransmissions, acknowledgements, handshakes), then one packet's worth of new data, never more.

use std::collections::VecDeque;

use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};
use florelay_wire::mpls::{Lse, Tc};

use super::PeerRuntime;
use crate::api::{DatagramClass, Event};
use crate::config::{PeerConfig, PeerId};
use crate::egress::{Class, FlowKey, PacketSource};
use crate::fib::PATH_TTL;
use crate::port::{Ecn, FrameBuf, Port};
use crate::time::Nanos;
use crate::transport::{Handle, Lane, Transport};

pub(super) struct Source<'a> {
    pub(super) transport: &'a mut Transport,
    pub(super) peers: &'a mut [PeerRuntime],
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) urgent: &'a mut VecDeque<Event>,
}

impl<P: Port> PacketSource<P> for Source<'_> {
    fn next_packet(&mut self, now: Nanos, key: FlowKey, class: Class, port: &mut P) -> Option<(P::Frame, Ecn)> {
        let (FlowKey::Peer(peer), Some(lane)) = (key, lane_of(class)) else { return None };
        let state = self.transport.peer(peer)?;
        if state.dark {
            return None;
        }
        // The frame first: a packet that quinn-proto has built cannot be put back.
        let mut frame = port.alloc(state.config.link)?;
        if lane == Lane::Control
            && let Some(packet) = self.transport.poll_response(peer)
            && let Some(state) = self.transport.peer(peer)
        {
            write_frame(&mut frame, &state.config, lane, &packet);
            return Some((frame, Ecn::NotEct));
        }
        let mut index = 0;
        while let Some(handle) = self.transport.nth(peer, lane, index) {
            if let Some(ecn) = self.packet(now, handle, peer, lane, &mut frame) {
                return Some((frame, ecn));
            }
            index += 1;
        }
        port.free(frame);
        None
    }
}

impl Source<'_> {
    fn packet<F: FrameBuf>(
        &mut self,
        now: Nanos,
        handle: Handle,
        peer: PeerId,
        lane: Lane,
        frame: &mut F,
    ) -> Option<Ecn> {
        if !self.transport.is_quiet(handle)
            && let Some(ecn) = self.poll(now, handle, peer, lane, frame)
        {
            return Some(ecn);
        }
        if !self.transport.may_feed(handle) {
            return None;
        }
        if !self.feed(handle, peer, lane) {
            // It may have reset a stream.
            self.transport.unquiet(handle);
            return None;
        }
        let polled = self.poll(now, handle, peer, lane, frame);
        match polled {
            Some(_) => self.transport.fed_packet_left(handle, frame.bytes().len() - PATH_HEADER_BYTES),
            None => self.transport.fed(handle),
        }
        polled
    }

    /// One copy out of quinn-proto's buffer into the frame: its `poll_transmit` fills a `Vec` and nothing else.
    fn poll<F: FrameBuf>(
        &mut self,
        now: Nanos,
        handle: Handle,
        peer: PeerId,
        lane: Lane,
        frame: &mut F,
    ) -> Option<Ecn> {
        let config = &self.transport.peer(peer)?.config;
        let headers = path_headers(config, lane);
        let (packet, ecn) = self.transport.poll_packet(now, handle)?;
        write_packet(frame, headers, packet);
        Some(ecn)
    }

    fn feed(&mut self, handle: Handle, peer: PeerId, lane: Lane) -> bool {
        let limit = self.transport.packet_payload(peer);
        let Some(conn) = self.transport.conn_to_feed(handle) else { return false };
        let runtime = &mut self.peers[usize::from(peer.0)];
        match lane {
            Lane::Control => runtime.control.get_mut(&handle).is_some_and(|state| {
                runtime.messages.feed(state, &mut conn.quic, limit, self.urgent)
                    || runtime.datagrams.feed(&mut conn.quic, DatagramClass::Control)
            }),
            Lane::Bulk => runtime.bulk.get_mut(&handle).is_some_and(|state| {
                if runtime.datagrams.has_turn() && runtime.datagrams.feed(&mut conn.quic, DatagramClass::Bulk) {
                    return true;
                }
                if runtime.relay.feed(state, &mut conn.quic, limit, self.events) {
                    runtime.datagrams.give_turn();
                    return true;
                }
                runtime.datagrams.feed(&mut conn.quic, DatagramClass::Bulk)
            }),
        }
    }
}

fn lane_of(class: Class) -> Option<Lane> {
    match class {
        Class::Oam => None,
        Class::Control => Some(Lane::Control),
        Class::Bulk => Some(Lane::Bulk),
    }
}

type PathHeaders = (Lse, Lse, ControlWord);

fn path_headers(config: &PeerConfig, lane: Lane) -> PathHeaders {
    let tc = if lane == Lane::Bulk { Tc::BULK } else { Tc::CONTROL };
    (
        Lse { label: config.out_label, tc, bottom: false, ttl: PATH_TTL },
        Lse { label: config.in_label, tc, bottom: true, ttl: PATH_TTL },
        // The sequence is the link's; egress stamps it when the frame leaves.
        ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 },
    )
}

fn write_frame<F: FrameBuf>(frame: &mut F, config: &PeerConfig, lane: Lane, packet: &[u8]) {
    write_packet(frame, path_headers(config, lane), packet);
}

fn write_packet<F: FrameBuf>(frame: &mut F, (forward, backward, cw): PathHeaders, packet: &[u8]) {
    frame.set_len(PATH_HEADER_BYTES + packet.len());
    let bytes = frame.bytes_mut();
    // Both fit: the port gives frames of the link's MTU, the path's MTU is no larger.
    let _ = write_path_header(bytes, forward, backward, cw);
    bytes[PATH_HEADER_BYTES..].copy_from_slice(packet);
}
