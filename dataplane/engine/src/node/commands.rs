//! What gateways want.

use super::Engine;
use crate::api::{Command, DatagramClass, DatagramRefusal, Event, FailCode, Failure, TransferId};
use crate::config::PeerId;
use crate::port::FrameBuf;
use crate::time::Nanos;
use crate::transport::Lane;

impl<F: FrameBuf> Engine<F> {
    /// Carry out one command. Answers come as events.
    pub fn handle_command(&mut self, now: Nanos, command: Command) {
        match command {
            Command::Send { peer, id, meta, kept } => {
                let refusal = if usize::from(peer.0) >= self.peers.len() {
                    Some("no such peer")
                } else if self.transfers.get(&id).is_some_and(|of| *of != peer) {
                    Some("a transfer with this id is running with another peer")
                } else {
                    None
                };
                if let Some(reason) = refusal {
                    let result = Err(Failure::new(FailCode::Refused, reason));
                    self.events.push_back(Event::TransferEnded { id, result, wire_bytes: 0 });
                    return;
                }
                self.transfers.insert(id, peer);
                let handle = self.transport.current(peer, Lane::Bulk);
                let runtime = &mut self.peers[usize::from(peer.0)];
                let conn = handle.and_then(|handle| runtime.bulk.get(&handle));
                let connected = conn.is_some_and(|conn| conn.session.ready);
                runtime.relay.send(connected, id, meta, kept, &mut self.events);
                self.mark_ready(peer, Lane::Bulk);
            }
            Command::Supply { id, offset, data } => {
                let Some(peer) = self.owner(id) else { return };
                let result = self.peers[usize::from(peer.0)].relay.supply(id, offset, data);
                self.supplied(peer, id, result);
            }
            Command::SupplyEnd { id, size, digest } => {
                let Some(peer) = self.owner(id) else { return };
                let result = self.peers[usize::from(peer.0)].relay.supply_end(id, size, digest);
                self.supplied(peer, id, result);
            }
            Command::Accept { id, offset } => {
                let Some(peer) = self.owner(id) else { return };
                let handle = self.transport.current(peer, Lane::Bulk);
                let runtime = &mut self.peers[usize::from(peer.0)];
                let conn = handle.and_then(|handle| runtime.bulk.get_mut(&handle));
                runtime.relay.accept(conn, id, offset);
                self.mark_ready(peer, Lane::Bulk);
            }
            Command::Cancel { id, failure } => self.with_bulk(id, |relay, conn, events| {
                relay.cancel(conn, id, &failure, events);
            }),
            Command::GaveUp { peer, id, own, failure } => self.with_peer(peer, |relay, conn, _| {
                relay.gave_up(conn.map(|(conn, _)| conn), id, own, failure);
            }),
            Command::EndKept { peer, id } => self.with_peer(peer, |relay, conn, _| {
                relay.end_kept(conn.map(|(conn, _)| conn), id);
            }),
            Command::SetPriority { id, priority } => {
                let Some(peer) = self.owner(id) else { return };
                self.peers[usize::from(peer.0)].relay.set_priority(id, priority);
            }
            Command::Hold { id, held } => self.with_bulk(id, |relay, conn, events| {
                relay.hold(conn, id, held, events);
            }),
            Command::Written { id, offset } => self.with_bulk(id, |relay, conn, events| {
                relay.written(now, conn, id, offset, events);
            }),
            Command::Credit { id, bytes } => self.with_bulk(id, |relay, _, _| relay.set_credit(id, bytes)),
            Command::Synced { id, offset } => self.with_bulk(id, |relay, conn, events| {
                relay.synced(now, conn, id, offset, events);
            }),
            Command::Complete { id, result } => self.with_bulk(id, |relay, conn, events| {
                relay.complete(conn, id, result, events);
            }),
            Command::Message { peer, id, payload } => {
                let Some(runtime) = self.peers.get_mut(usize::from(peer.0)) else {
                    self.events.push_back(Event::MessageFailed { id, reason: "no such peer".into() });
                    return;
                };
                runtime.messages.send(now, id, payload, &mut self.urgent);
                self.mark_ready(peer, Lane::Control);
            }
            Command::Datagram { peer, port, class, payload } => self.send_datagram(peer, port, class, &payload),
            Command::MessageWritten { peer, id } => self.message_written(peer, id),
            Command::SetRate { link, rate } => self.set_rate(now, link, rate),
            Command::SetContacts { link, contacts } => self.set_contacts(now, link, contacts),
            Command::SetWallClock { at_zero_ns } => self.set_wall_clock(at_zero_ns),
            Command::SetAdmin { link, up } => {
                if let Some(index) = self.index(link) {
                    self.links[index].admin_up = up;
                    self.hold_or_release(now, index);
                }
            }
            Command::SetCarrier { link, state } => {
                if let Some(index) = self.index(link) {
                    self.links[index].carrier = state;
                    self.hold_or_release(now, index);
                }
            }
            Command::Trace { peer, token } => self.start_trace(now, peer, token),
        }
    }

    /// The gateway has supplied something to send, or what ends the transfer at both ends.
    fn supplied(&mut self, peer: PeerId, id: TransferId, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.mark_ready(peer, Lane::Bulk),
            Err(failure) => self.with_bulk(id, |relay, conn, events| relay.cancel(conn, id, &failure, events)),
        }
    }

    fn send_datagram(&mut self, peer: PeerId, port: u16, class: DatagramClass, payload: &[u8]) {
        let lane = match class {
            DatagramClass::Control => Lane::Control,
            DatagramClass::Bulk => Lane::Bulk,
        };
        let Some(runtime) = self.peers.get_mut(usize::from(peer.0)) else {
            let reason = DatagramRefusal::NoSuchPeer;
            self.events.push_back(Event::DatagramRefused { peer, port, reason });
            return;
        };
        let lit = self.transport.peer(peer).is_some_and(|state| !state.dark);
        let open = lit
            && self.transport.current(peer, lane).is_some_and(|handle| match lane {
                Lane::Control => runtime.control.get(&handle).is_some_and(|conn| conn.session.ready),
                Lane::Bulk => runtime.bulk.get(&handle).is_some_and(|conn| conn.session.ready),
            });
        runtime.datagrams.send(open, port, class, payload, &mut self.events);
        self.mark_ready(peer, lane);
    }

    fn owner(&self, id: TransferId) -> Option<PeerId> {
        self.transfers.get(&id).copied()
    }

    /// Run `act` on the relay of a transfer's peer, with its bulk connection if there is one.
    fn with_bulk(
        &mut self,
        id: TransferId,
        act: impl FnOnce(
            &mut crate::relay::Relay,
            Option<(&mut crate::relay::BulkConn, &mut quinn_proto::Connection)>,
            &mut std::collections::VecDeque<Event>,
        ),
    ) {
        let Some(peer) = self.owner(id) else { return };
        self.with_peer(peer, act);
    }

    /// The same of a peer.
    fn with_peer(
        &mut self,
        peer: PeerId,
        act: impl FnOnce(
            &mut crate::relay::Relay,
            Option<(&mut crate::relay::BulkConn, &mut quinn_proto::Connection)>,
            &mut std::collections::VecDeque<Event>,
        ),
    ) {
        let handle = self.transport.current(peer, Lane::Bulk);
        let Some(runtime) = self.peers.get_mut(usize::from(peer.0)) else { return };
        let mut quic = handle.and_then(|handle| self.transport.conn(handle));
        let conn = handle
            .and_then(|handle| runtime.bulk.get_mut(&handle))
            .zip(quic.as_mut().map(|conn| &mut conn.quic))
            .filter(|(state, _)| state.session.ready);
        act(&mut runtime.relay, conn, &mut self.events);
        if let Some(handle) = handle {
            // Reading has opened flow control, writing has made work.
            self.transport.mark_dirty(handle);
        }
    }

    fn message_written(&mut self, peer: PeerId, id: u64) {
        let handle = self.transport.current(peer, Lane::Control);
        let Some(runtime) = self.peers.get_mut(usize::from(peer.0)) else { return };
        let mut quic = handle.and_then(|handle| self.transport.conn(handle));
        let conn =
            handle.and_then(|handle| runtime.control.get_mut(&handle)).zip(quic.as_mut().map(|conn| &mut conn.quic));
        runtime.messages.written(conn, id, &mut self.urgent);
        if let Some(handle) = handle {
            // Reading has opened flow control, and there is something to acknowledge.
            self.transport.mark_dirty(handle);
        }
    }
}
