//! Trace of a path, hop by hop: requests with rising TTL, answered along the backward label.
//!
//! ```text
//!   asker ── TTL 1 ──► relay: expired ──► reply(role transit, name)
//!   asker ── TTL 2 ──► relay ── TTL 1 ──► far end ──► reply(role egress, name): done
//! ```
//!
//! The responder is a pure function over the received bytes: whoever gets the request back-labels it. Replies are matched by token,
//! hop and send time, so a late one of an earlier hop or trace changes nothing.
//!
//! Limits: one request per hop; a silent hop costs one timeout. Tracing is not authenticated: names are what nodes say they are.

use std::time::Duration;

use florelay_wire::ParseError;
use florelay_wire::ach::{AchHeader, ChannelType};
use florelay_wire::link::{self, Body, PATH_HEADER_BYTES, write_path_channel};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::oam::{Role, TraceReply, TraceRequest};

use crate::config::PeerConfig;
use crate::fib::PATH_TTL;
use crate::time::Nanos;

/// Hops after which a trace gives up.
pub const MAX_HOPS: u8 = 32;
/// Silent hops in a row after which a trace gives up.
pub const MAX_SILENT_HOPS: u8 = 3;
/// Length of a request frame from LSE 0 on.
pub const TRACE_REQUEST_BYTES: usize = PATH_HEADER_BYTES + TraceRequest::LEN;
/// Length of the longest reply frame from LSE 0 on.
pub const TRACE_REPLY_BYTES: usize = PATH_HEADER_BYTES + TraceReply::LEN;

/// What is known of one hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceHop {
    /// 1 = the next node.
    pub hop: u8,
    /// Who answered; `None` = nobody in time.
    pub node: Option<String>,
    /// Round-trip time; the timeout if nobody answered.
    pub rtt: Duration,
    /// The path's end answered, or the trace gave up.
    pub last: bool,
}

/// A trace under way.
#[derive(Debug, Clone)]
pub struct Trace {
    token: u64,
    forward: Label,
    backward: Label,
    timeout: Duration,
    hop: u8,
    silent: u8,
    /// When the current hop's request was sent; `None` = it is to be sent.
    sent: Option<Nanos>,
    done: bool,
}

impl Trace {
    /// A trace of the path to `peer`; the first request is due at once. `token` must be unique among this node's traces;
    /// `timeout` is for each hop.
    #[must_use]
    pub fn new(peer: &PeerConfig, token: u64, timeout: Duration) -> Self {
        Self {
            token,
            forward: peer.out_label,
            backward: peer.in_label,
            timeout,
            hop: 1,
            silent: 0,
            sent: None,
            done: false,
        }
    }

    /// Writes the request that is due, a complete link payload; its length. `buf` should have
    /// [`TRACE_REQUEST_BYTES`]; if it is shorter the hop will be silent.
    pub fn poll_transmit(&mut self, now: Nanos, buf: &mut [u8]) -> Option<usize> {
        if self.done || self.sent.is_some() {
            return None;
        }
        self.sent = Some(now);
        let lse = |label, ttl| Lse { label, tc: Tc::OAM, bottom: false, ttl };
        let ach = AchHeader { channel: ChannelType::TraceRequest };
        let header = write_path_channel(buf, lse(self.forward, self.hop), lse(self.backward, PATH_TTL), ach)?;
        let request = TraceRequest { token: self.token, sent_ns: now.0, hop: self.hop };
        Some(header + request.write(buf.get_mut(header..)?)?)
    }

    /// A trace reply arrived on the traced path. `None` if it is not the answer to the request under way.
    pub fn handle(&mut self, now: Nanos, reply: &TraceReply<'_>) -> Option<TraceHop> {
        let sent = self.sent.filter(|_| !self.done)?;
        if reply.token != self.token || reply.hop != self.hop || reply.sent_ns != sent.0 {
            return None;
        }
        self.silent = 0;
        let last = reply.role == Role::Egress || self.hop >= MAX_HOPS;
        Some(self.advance(Some(reply.name.to_owned()), now.since(sent), last))
    }

    /// The hop under way did not answer in time.
    pub fn check(&mut self, now: Nanos) -> Option<TraceHop> {
        let sent = self.sent.filter(|sent| !self.done && now >= *sent + self.timeout)?;
        self.silent += 1;
        let last = self.silent >= MAX_SILENT_HOPS || self.hop >= MAX_HOPS;
        Some(self.advance(None, now.since(sent), last))
    }

    /// When to call [`check`](Self::check), or [`poll_transmit`](Self::poll_transmit) (`ZERO`: at once); `MAX` when done.
    #[must_use]
    pub fn next_timeout(&self) -> Nanos {
        match self.sent {
            _ if self.done => Nanos::MAX,
            Some(sent) => sent + self.timeout,
            None => Nanos::ZERO,
        }
    }

    /// True after the last hop.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The token given at the start.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    fn advance(&mut self, node: Option<String>, rtt: Duration, last: bool) -> TraceHop {
        let hop = TraceHop { hop: self.hop, node, rtt, last };
        self.hop += 1;
        self.sent = None;
        self.done = last;
        hop
    }
}

/// Answers the trace request in `frame`, a link payload as it was received (after [`Verdict::TtlExpired`] as
/// `Role::Transit`, after [`Verdict::Local`] as `Role::Egress`): writes the reply, a complete link payload to be sent on the
/// link the request came from, into `buf` (at least [`TRACE_REPLY_BYTES`]) and returns its length.
///
/// [`Verdict::TtlExpired`]: crate::fib::Verdict::TtlExpired
/// [`Verdict::Local`]: crate::fib::Verdict::Local
///
/// # Errors
/// What is wrong with the frame; `UnknownChannel` if it is not a trace request; `FieldRange` if `name` is not a node
/// name or `buf` too short.
pub fn trace_reply(frame: &[u8], name: &str, role: Role, buf: &mut [u8]) -> Result<usize, ParseError> {
    let received = link::parse(frame)?;
    let backward = received.backward.ok_or(ParseError::StackDepth)?;
    let Body::Channel { ach, message } = received.body else {
        return Err(ParseError::UnknownChannel);
    };
    if ach.channel != ChannelType::TraceRequest {
        return Err(ParseError::UnknownChannel);
    }
    let request = TraceRequest::parse(message)?;
    let lse = |label| Lse { label, tc: Tc::OAM, bottom: false, ttl: PATH_TTL };
    let ach = AchHeader { channel: ChannelType::TraceReply };
    let reply = TraceReply { token: request.token, sent_ns: request.sent_ns, hop: request.hop, role, name };
    let header =
        write_path_channel(buf, lse(backward.label), lse(received.forward.label), ach).ok_or(ParseError::FieldRange)?;
    let body = buf.get_mut(header..).and_then(|rest| reply.write(rest));
    body.map(|len| header + len).ok_or(ParseError::FieldRange)
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
