//! Forwarding information base: what becomes of a frame, by the link it came on and its label.
//!
//! ```text
//!   (in link, LSE 0 label) ──► Pop   the path ends here: to the peer's connections
//!                              Swap  the path goes on: LSE 0 and LSE 1 rewritten in place, to the out link
//! ```
//!
//! A table is built once from a configuration snapshot and never changes; a new snapshot is a new table.
//!
//! Invariants
//! - A label means something only on its link; labels below 16 have no row.
//! - A frame whose backward label is not the row's is dropped: a label that was reused, or a frame that took a wrong turn.
//! - Lookup is O(1) and does not allocate: one indexed read where a link's labels are compact, one hash probe where not.
//!
//! A worker has rows for frames that arrive on its own links; where they leave, any link of the node may be. Of another
//! worker's link the table knows the MTU, so that everything that can be refused is refused before a frame crosses.

mod drop_reason;
mod error;
mod sequence;

use std::sync::Arc;

use florelay_wire::ach::ChannelType;
use florelay_wire::cw::ControlWord;
use florelay_wire::link::{self, Body, LINK_OAM_HEADER_BYTES, PATH_HEADER_BYTES};
use florelay_wire::mpls::{self, LSE_BYTES, Label, Tc};
use rustc_hash::FxHashMap;

use crate::config::{ForeignLink, LinkConfig, LinkId, PeerConfig, PeerId, TransitConfig, TransitEnd};

pub use drop_reason::DropReason;
pub use error::{FibError, Owner};
pub use sequence::{SequenceMonitor, WINDOW_FRAMES, stamp_sequence};

/// TTL that path frames start with: far above any sensible path, low enough that a loop ends soon.
pub const PATH_TTL: u8 = 64;

/// A link's table is dense while it has at most this many slots per row, or fits `DENSE_SLOTS_MIN`.
const DENSE_SLOTS_PER_ROW: usize = 4;
/// Slots that a dense table may always have (20 bytes each).
const DENSE_SLOTS_MIN: usize = 4096;

/// What becomes of frames with one label on one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// The path ends here.
    Pop {
        /// Whose path it is.
        peer: PeerId,
        /// What LSE 1 must be.
        expect_backward: Label,
    },
    /// The path goes on.
    Swap {
        /// Where it leaves.
        out_link: LinkId,
        /// LSE 0 on the out link.
        out_label: Label,
        /// LSE 1 on the out link.
        backward_out: Label,
        /// What LSE 1 must be on arrival.
        expect_backward: Label,
        /// The egress flow; see [`transit_flow`].
        flow: u32,
    },
}

/// Direction of a transit row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Arrives at `a`, leaves at `b`.
    AToB,
    /// Arrives at `b`, leaves at `a`.
    BToA,
}

/// Number of the egress flow of transit row `index` (its position in the configuration) in one direction.
#[must_use]
pub const fn transit_flow(index: u32, direction: Direction) -> u32 {
    index * 2 + direction as u32
}

/// What follows the label stack of a path frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathBody {
    /// A control word and a payload.
    Payload(ControlWord),
    /// An OAM message.
    Channel(ChannelType),
}

/// What is to be done with a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// For a peer's connections or its path's OAM.
    Local {
        /// Whose path it came on.
        peer: PeerId,
        /// Its class.
        tc: Tc,
        /// What it is; a control word's sequence is for the link's [`SequenceMonitor`].
        body: PathBody,
        /// Where payload or message begins, bytes from LSE 0.
        offset: usize,
    },
    /// For this link's OAM.
    LinkOam {
        /// Which message.
        channel: ChannelType,
        /// Where it begins, bytes from LSE 0.
        offset: usize,
    },
    /// It goes on. Labels and TTL are rewritten already; the sequence is stamped at egress.
    Transit {
        /// Where it leaves; perhaps another worker's link.
        out_link: LinkId,
        /// Its egress flow at that link's owner.
        flow: u32,
        /// Its class.
        tc: Tc,
        /// The sequence it arrived with, for the in link's [`SequenceMonitor`]; none on OAM.
        sequence: Option<u16>,
    },
    /// Its TTL ended at this transit node. The bytes are as received, so that a trace request can be answered along
    /// its backward label; anything else is to be dropped and counted as [`DropReason::TtlExpired`].
    TtlExpired {
        /// Its egress flow, had it gone on.
        flow: u32,
        /// Its class.
        tc: Tc,
        /// What it is.
        body: PathBody,
        /// Where payload or message begins, bytes from LSE 0.
        offset: usize,
    },
    /// It is dropped.
    Drop(DropReason),
}

/// The rows of one link.
#[derive(Debug)]
enum Rows {
    /// Indexed by label − 16.
    Dense(Vec<Option<Row>>),
    /// By label.
    Sparse(FxHashMap<u32, Row>),
}

#[derive(Debug)]
struct LinkTable {
    mtu_payload: usize,
    rows: Rows,
}

/// The table of one worker.
#[derive(Debug)]
pub struct Fib {
    /// Indexed by link; `None` = not a link of this node. Another worker's has no rows.
    links: Vec<Option<LinkTable>>,
    rows: usize,
}

/// A link's name, MTU and rows while the table is being built.
struct Draft<'a> {
    name: &'a Arc<str>,
    mtu_payload: u16,
    /// Another worker's: its rows are in that worker's table.
    foreign: bool,
    rows: FxHashMap<u32, Row>,
}

impl Fib {
    /// Builds the table of the worker that owns `links`; `foreign` are the node's others. Flow numbers are those of
    /// [`transit_flow`] over the positions in `transits`, the same in every worker; a row between two foreign links is
    /// only counted.
    ///
    /// # Errors
    /// The first thing that is wrong; see [`FibError`].
    pub fn build<'a>(
        links: &[LinkConfig],
        foreign: &[ForeignLink],
        peers: impl IntoIterator<Item = &'a PeerConfig>,
        transits: &[TransitConfig],
    ) -> Result<Fib, FibError> {
        if transits.len() > (u32::MAX / 2) as usize {
            return Err(FibError::TooManyTransits(transits.len()));
        }
        let mut drafts: Vec<Option<Draft<'_>>> = Vec::new();
        let own = links.iter().map(|link| (link.id, &link.name, link.mtu_payload, false));
        let others = foreign.iter().map(|link| (link.id, &link.name, link.mtu_payload, true));
        for (id, name, mtu_payload, foreign) in own.chain(others) {
            let at = usize::from(id.0);
            if drafts.len() <= at {
                drafts.resize_with(at + 1, || None);
            }
            if drafts[at].is_some() {
                return Err(FibError::DuplicateLink { name: name.clone(), index: id.0 });
            }
            drafts[at] = Some(Draft { name, mtu_payload, foreign, rows: FxHashMap::default() });
        }

        let mut known = rustc_hash::FxHashSet::default();
        for peer in peers {
            if !known.insert(peer.id) {
                return Err(FibError::DuplicatePeer { name: peer.name.clone(), index: peer.id.0 });
            }
            let end = TransitEnd { link: peer.link, in_label: peer.in_label, out_label: peer.out_label };
            let row = Row::Pop { peer: peer.id, expect_backward: peer.out_label };
            add_row(&mut drafts, &Owner::Peer(peer.name.clone()), end, row)?;
        }

        for (index, TransitConfig { a, b, .. }) in transits.iter().enumerate() {
            let owner = Owner::Transit(index);
            let number = index as u32;
            add_row(&mut drafts, &owner, *a, swap_row(*a, *b, transit_flow(number, Direction::AToB)))?;
            if a.link == b.link && a.in_label == b.in_label {
                let link = drafts[usize::from(a.link.0)].as_ref().map_or_else(|| "?".into(), |d| d.name.clone());
                return Err(FibError::Hairpin { index, link });
            }
            add_row(&mut drafts, &owner, *b, swap_row(*b, *a, transit_flow(number, Direction::BToA)))?;
        }

        let rows = drafts.iter().flatten().map(|draft| draft.rows.len()).sum();
        let links = drafts
            .into_iter()
            .map(|draft| {
                draft
                    .map(|draft| LinkTable { mtu_payload: usize::from(draft.mtu_payload), rows: Rows::new(draft.rows) })
            })
            .collect();
        Ok(Fib { links, rows })
    }

    /// Says what becomes of a received link payload. On [`Verdict::Transit`] the bytes have been rewritten for the out
    /// link; otherwise they are as received.
    pub fn forward(&self, in_link: LinkId, bytes: &mut [u8]) -> Verdict {
        let frame = match link::parse(bytes) {
            Ok(frame) => frame,
            Err(error) => return Verdict::Drop(DropReason::Parse(error)),
        };
        let Some(table) = self.table(in_link) else {
            return Verdict::Drop(DropReason::UnknownLink);
        };
        let body = match frame.body {
            Body::Payload { cw, .. } => PathBody::Payload(cw),
            Body::Channel { ach, .. } => PathBody::Channel(ach.channel),
        };
        let Some(backward) = frame.backward else {
            return match body {
                PathBody::Channel(ChannelType::Liveness) => {
                    Verdict::LinkOam { channel: ChannelType::Liveness, offset: LINK_OAM_HEADER_BYTES }
                }
                _ => Verdict::Drop(DropReason::WrongScope),
            };
        };
        if body == PathBody::Channel(ChannelType::Liveness) {
            return Verdict::Drop(DropReason::WrongScope);
        }
        let forward = frame.forward;
        let Some(row) = table.rows.get(forward.label) else {
            return Verdict::Drop(DropReason::UnknownLabel);
        };
        let (Row::Pop { expect_backward, .. } | Row::Swap { expect_backward, .. }) = *row;
        if backward.label != expect_backward {
            return Verdict::Drop(DropReason::BackwardMismatch);
        }
        if forward.ttl == 0 {
            return Verdict::Drop(DropReason::TtlZero);
        }
        match *row {
            Row::Pop { peer, .. } => Verdict::Local { peer, tc: forward.tc, body, offset: PATH_HEADER_BYTES },
            Row::Swap { flow, .. } if forward.ttl == 1 => {
                Verdict::TtlExpired { flow, tc: forward.tc, body, offset: PATH_HEADER_BYTES }
            }
            Row::Swap { out_link, out_label, backward_out, flow, .. } => {
                if self.table(out_link).is_none_or(|out| bytes.len() > out.mtu_payload) {
                    return Verdict::Drop(DropReason::ExceedsMtu);
                }
                // The frame was parsed, so both entries are there; the TTL of LSE 1 means nothing and stays.
                let _ = mpls::swap_at(bytes, 0, out_label, forward.ttl - 1);
                let _ = mpls::swap_at(bytes, LSE_BYTES, backward_out, backward.ttl);
                let sequence = match body {
                    PathBody::Payload(cw) => Some(cw.sequence),
                    PathBody::Channel(_) => None,
                };
                Verdict::Transit { out_link, flow, tc: forward.tc, sequence }
            }
        }
    }

    /// The row of a label on a link.
    #[must_use]
    pub fn row(&self, link: LinkId, label: Label) -> Option<&Row> {
        self.table(link)?.rows.get(label)
    }

    /// How many rows there are; a transit path has two.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True without rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn table(&self, link: LinkId) -> Option<&LinkTable> {
        self.links.get(usize::from(link.0))?.as_ref()
    }
}

impl Rows {
    fn new(rows: FxHashMap<u32, Row>) -> Rows {
        let slots = rows.keys().max().map_or(0, |max| slot(*max) + 1);
        if slots > DENSE_SLOTS_MIN.max(rows.len() * DENSE_SLOTS_PER_ROW) {
            return Rows::Sparse(rows);
        }
        let mut dense = vec![None; slots];
        for (label, row) in rows {
            dense[slot(label)] = Some(row);
        }
        Rows::Dense(dense)
    }

    #[inline]
    fn get(&self, label: Label) -> Option<&Row> {
        match self {
            // A reserved label wraps to a slot far above any table.
            Rows::Dense(rows) => rows.get(slot(label.get()))?.as_ref(),
            Rows::Sparse(rows) => rows.get(&label.get()),
        }
    }
}

#[inline]
const fn slot(label: u32) -> usize {
    label.wrapping_sub(mpls::FIRST_UNRESERVED) as usize
}

const fn swap_row(from: TransitEnd, to: TransitEnd, flow: u32) -> Row {
    Row::Swap {
        out_link: to.link,
        out_label: to.out_label,
        backward_out: to.in_label,
        expect_backward: from.out_label,
        flow,
    }
}

fn add_row(drafts: &mut [Option<Draft<'_>>], owner: &Owner, end: TransitEnd, row: Row) -> Result<(), FibError> {
    let Some(draft) = drafts.get_mut(usize::from(end.link.0)).and_then(Option::as_mut) else {
        return Err(FibError::UnknownLink { owner: owner.clone(), index: end.link.0 });
    };
    for label in [end.in_label, end.out_label] {
        if label.is_reserved() {
            return Err(FibError::ReservedLabel { owner: owner.clone(), link: draft.name.clone(), label });
        }
    }
    if draft.foreign {
        return Ok(());
    }
    if draft.rows.insert(end.in_label.get(), row).is_some() {
        return Err(FibError::DuplicateLabel { owner: owner.clone(), link: draft.name.clone(), label: end.in_label });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
