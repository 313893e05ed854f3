//! What is decided about a transfer while it runs: where an own one goes on, how urgent it is, whether it goes at all; how far
//! the sender of an incoming stream may be ahead.

use std::collections::VecDeque;

use quinn_proto::Connection;

use super::send::{Outgoing, STRICT_PRIORITY};
use super::{BulkConn, Relay, StripeEnd};
use crate::api::{Event, FailCode, Failure, TransferId};

/// Bytes that gateways may have supplied of all own transfers that write, together …
const ALL_SUPPLY_BYTES: u64 = 64 << 20;
/// … but so much of each, also before it has written: they supply pieces of 64 KiB, and hear of a new limit when an eighth of
/// it has gone.
const LEAST_SUPPLY_BYTES: u32 = 128 << 10;
/// Of stripes that are open, so many may be of bulk: a peer allows 4096 at least. What is strict finds some free, and does not
/// wait until others end.
const MOST_BULK_STRIPES: usize = 4096 - 64;
/// Highest priority (COMPAT, part A).
pub(super) const MAX_PRIORITY: u8 = 127;

impl Outgoing {
    /// Whether it may open one more stripe.
    pub(super) fn may_open(&self, conn: &BulkConn) -> bool {
        self.meta.priority >= STRICT_PRIORITY || conn.open_stripes < MOST_BULK_STRIPES
    }
}

impl Relay {
    /// Bytes that may be supplied of a transfer before it has its turn. A gateway has read them of all transfers before a slow
    /// link has taken any.
    pub(super) fn first_supply_bytes(&self) -> u64 {
        LEAST_SUPPLY_BYTES.min(self.limits.supply_bytes).into()
    }

    /// The same of one that writes: less where many do.
    pub(super) fn supply_bytes(&self) -> u64 {
        let share = ALL_SUPPLY_BYTES / (self.turns.len() as u64).max(1);
        share.min(self.limits.supply_bytes.into()).max(self.first_supply_bytes())
    }

    /// Whether a stream can go on from `offset`. What was confirmed is gone. Nobody has what was not sent; but what was
    /// sent before a restart of this end is not known here, so the first place that a receiver says is believed.
    pub(super) fn check_place(&self, id: TransferId, offset: u64) -> Result<(), Failure> {
        let Some(stream) = self.outgoing.get(&id).filter(|t| t.meta.size.is_none() && !t.flowing) else {
            return Ok(());
        };
        let most = match stream.meta.declared {
            Some(declared) if !stream.placed => declared,
            None if !stream.placed => u64::MAX,
            _ => stream.high,
        };
        if (stream.confirmed..=most).contains(&offset) {
            return Ok(());
        }
        let reason = format!(
            "the receiver has lost its place in the stream: it asks for byte {offset}, bytes {} to {most} are kept",
            stream.confirmed
        );
        Err(Failure::new(FailCode::LostPlace, reason))
    }

    /// An own transfer has another priority from its next packet on.
    pub(crate) fn set_priority(&mut self, id: TransferId, priority: u8) {
        let Some(transfer) = self.outgoing.get_mut(&id).filter(|_| priority <= MAX_PRIORITY) else { return };
        let before = transfer.lane();
        transfer.meta.priority = priority;
        if transfer.lane() == before {
            transfer.deficit = transfer.deficit.min(transfer.quantum());
        } else if let Some(turn) = transfer.turn.take() {
            self.leave_turn(turn);
            self.queue(id);
        }
    }

    /// From the next credit on, the sender of a stream may be so much ahead of its reader. What it has more already is handed
    /// on as before.
    pub(crate) fn set_credit(&mut self, id: TransferId, bytes: u32) {
        if let Some(stream) = self.incoming.get_mut(&id) {
            stream.credit = bytes.clamp(1, self.limits.stream_credit_bytes).into();
        }
    }

    /// Begin or end to hold an own transfer.
    pub(crate) fn hold(
        &mut self,
        conn: Option<(&mut BulkConn, &mut Connection)>,
        id: TransferId,
        held: bool,
        events: &mut VecDeque<Event>,
    ) {
        let supply = self.first_supply_bytes();
        let Some(transfer) = self.outgoing.get_mut(&id).filter(|transfer| transfer.held != held) else { return };
        transfer.held = held;
        if held {
            // Others may need the place of an open stripe: a peer allows so many.
            if let Some((conn, quic)) = conn {
                conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Finish);
            }
            return;
        }
        let limit = transfer.sent.saturating_add(supply);
        if transfer.flowing && transfer.limit < limit {
            transfer.limit = limit;
            events.push_back(Event::SupplyUpTo { id, limit });
        }
        self.queue(id);
    }
}
