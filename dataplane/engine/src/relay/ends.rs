//! Transfers that one end gives up: the other hears of each, also if a connection, or the end that gave up, is lost meanwhile.
//!
//! ```text
//!   gives up, its gateway keeps it ─ Fail ──►  ends it, its gateway keeps it
//!   forgets it                     ◄─ Heard ──
//! ```
//!
//! Until it is heard of, the end of an own transfer is said at the beginning of each session, before the offers. That of an
//! incoming one is the answer to its offer; where its sender does not offer it any more, it has heard. Peers before session
//! version 3 do not say that they have heard: there, an own end that was said once has to do.

use std::collections::VecDeque;

use quinn_proto::Connection;

use super::receive::Incoming;
use super::{BulkConn, MAX_REASON_BYTES, Relay, ended, truncate};
use crate::api::{Event, FailCode, Failure, TransferId};
use crate::session::Message;

/// Own ends said at the beginning of a session; of older ones the receiver learns without a reason, as they are not offered.
const MAX_TOLD: usize = 1024;

/// A transfer that was given up here.
pub(super) struct Unheard {
    /// It was sent from here.
    own: bool,
    failure: Failure,
    /// The peer was told: of an own one, at all; of another, on this session, and what it offers afterwards is new.
    told: bool,
}

impl Relay {
    /// The peer gives a transfer up.
    pub(super) fn given_up_there(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        id: TransferId,
        code: FailCode,
        mut reason: String,
        events: &mut VecDeque<Event>,
    ) {
        truncate(&mut reason, MAX_REASON_BYTES);
        let failure = Failure { code, reason };
        // A file that is here whole is the gateway's to complete.
        let whole = self.incoming.get(&id).is_some_and(Incoming::is_whole_file);
        if !self.knows(id) || whole {
            return self.end_kept(Some(conn), id);
        }
        self.end_outgoing(conn, quic, id, Err(failure.clone()), events);
        self.end_incoming(conn, quic, id, Err(failure), events);
    }

    /// Either end gives a transfer up.
    pub(crate) fn cancel(
        &mut self,
        conn: Option<(&mut BulkConn, &mut Connection)>,
        id: TransferId,
        failure: &Failure,
        events: &mut VecDeque<Event>,
    ) {
        // One that its sender has not offered on this session yet is answered when it does: told now as well, it would be
        // taken for a new one, whose offer is on its way.
        let offered = self.incoming.get(&id).map(|transfer| transfer.offered);
        if let Some(offered) = offered {
            self.give_up(id, false, failure, conn.is_some() && offered, events);
        }
        let hears = conn.as_ref().is_none_or(|(conn, _)| conn.session.says_heard());
        if self.outgoing.contains_key(&id) && hears {
            self.give_up(id, true, failure, conn.is_some(), events);
        }
        let Some((conn, quic)) = conn else {
            if let Some(transfer) = self.remove_outgoing(id) {
                events.push_back(ended(id, Err(failure.clone()), transfer.wire_bytes));
            }
            if let Some(transfer) = self.incoming.remove(&id) {
                events.push_back(ended(id, Err(failure.clone()), transfer.wire_bytes));
            }
            return;
        };
        if self.outgoing.contains_key(&id) || offered == Some(true) {
            conn.session.push_failure(id, failure);
        }
        self.end_outgoing(conn, quic, id, Err(failure.clone()), events);
        self.end_incoming(conn, quic, id, Err(failure.clone()), events);
    }

    /// This end gives a transfer up.
    pub(super) fn give_up(
        &mut self,
        id: TransferId,
        own: bool,
        failure: &Failure,
        told: bool,
        events: &mut VecDeque<Event>,
    ) {
        self.unheard.insert(id, Unheard { own, failure: failure.clone(), told });
        events.push_back(Event::GivenUp { id });
    }

    /// It did so before a restart.
    pub(crate) fn gave_up(&mut self, conn: Option<&mut BulkConn>, id: TransferId, own: bool, failure: Failure) {
        let told = own && conn.is_some();
        if let Some(conn) = conn.filter(|_| own) {
            conn.session.push_failure(id, &failure);
        }
        self.unheard.insert(id, Unheard { own, failure, told });
    }

    /// The gateway keeps the end of a transfer that the peer may have given up.
    pub(crate) fn end_kept(&mut self, conn: Option<&mut BulkConn>, id: TransferId) {
        if let Some(conn) = conn.filter(|conn| conn.session.says_heard()) {
            conn.session.push(&Message::Heard { id: id.0 });
        }
    }

    /// The peer knows that a transfer has ended.
    pub(super) fn heard(&mut self, id: TransferId, events: &mut VecDeque<Event>) {
        if self.unheard.get(id).is_some_and(|end| end.told) {
            self.forget_end(id, events);
        }
    }

    fn forget_end(&mut self, id: TransferId, events: &mut VecDeque<Event>) {
        if let Some(end) = self.unheard.take(id) {
            events.push_back(Event::Heard { peer: self.peer, id, own: end.own });
        }
    }

    /// A session begins.
    pub(super) fn tell_ends(&mut self, conn: &mut BulkConn, events: &mut VecDeque<Event>) {
        let mut own = Vec::new();
        for id in self.unheard.ids() {
            match self.unheard.get_mut(id) {
                Some(end) if end.own => own.push(id),
                Some(end) => end.told = false,
                None => {}
            }
        }
        let beyond = own.len().saturating_sub(MAX_TOLD);
        for (at, id) in own.into_iter().enumerate() {
            let again = self.outgoing.contains_key(&id);
            let Some(end) = self.unheard.get_mut(id) else { continue };
            // One that was told and is sent again since: said now, it would end what may have begun.
            let skip = at < beyond || (end.told && again);
            if !skip {
                end.told = true;
                conn.session.push_failure(id, &end.failure);
            }
            if skip || !conn.session.says_heard() {
                self.forget_end(id, events);
            }
        }
    }

    /// An offer of a transfer that was given up here is answered with its end, unless its sender was told on this session.
    pub(super) fn answered_with_its_end(
        &mut self,
        conn: &mut BulkConn,
        id: TransferId,
        events: &mut VecDeque<Event>,
    ) -> bool {
        match self.unheard.get_mut(id).filter(|end| !end.own) {
            None => false,
            Some(end) if end.told => {
                self.forget_end(id, events);
                false
            }
            Some(end) => {
                end.told = true;
                conn.session.push_failure(id, &end.failure);
                true
            }
        }
    }

    /// The sender has offered all that it has: what was given up here, and it has not offered, it has heard of.
    pub(super) fn ends_not_offered(&mut self, events: &mut VecDeque<Event>) {
        for id in self.unheard.ids() {
            if self.unheard.get(id).is_some_and(|end| !end.own && !end.told) {
                self.forget_end(id, events);
            }
        }
    }
}

#[cfg(test)]
mod tests;
