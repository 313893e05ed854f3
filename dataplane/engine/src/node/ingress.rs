//! What a frame does on arrival.

use florelay_wire::cw::PayloadType;
use florelay_wire::mpls::Tc;
use florelay_wire::oam::Role as TraceRole;

use super::Engine;
use crate::config::{LinkId, PeerId};
use crate::egress::Class;
use crate::fib::{DropReason, PathBody, Verdict};
use crate::port::{Crossing, Ecn, FrameBuf, Port};
use crate::time::Nanos;
use crate::transport::{Handled, Lane};

impl<F: FrameBuf> Engine<F> {
    /// A frame arrived on `link`. It is consumed, queued for transit, handed to the out link's worker, or dropped and counted; in each case the
    /// engine gives it back to the port in time.
    pub fn handle_frame<P: Port<Frame = F>>(&mut self, now: Nanos, link: LinkId, mut frame: F, ecn: Ecn, port: &mut P) {
        let Some(index) = self.index(link) else {
            port.free(frame);
            return;
        };
        let runtime = &mut self.links[index];
        runtime.rx_frames += 1;
        runtime.rx_ecn_ce += u64::from(ecn == Ecn::Ce);
        runtime.rx_bytes += (frame.bytes().len() + usize::from(runtime.config.overhead_bytes)) as u64;
        match self.fib.forward(link, frame.bytes_mut()) {
            Verdict::Transit { out_link, flow, tc, sequence } => {
                self.heard(now, index);
                if let Some(sequence) = sequence {
                    self.links[index].sequence.observe(sequence);
                }
                let Some(to) = self.index(out_link) else {
                    if !port.cross(Crossing { link: out_link, flow, tc }, frame, ecn) {
                        self.count_drop(index, DropReason::RingFull);
                    }
                    return;
                };
                if port.spare_frames() == 0 {
                    self.count_drop(index, DropReason::FramesShort);
                    port.free(frame);
                    return;
                }
                // A refusal has been counted by the egress, by name.
                if let Err(frame) = self.links[to].egress.enqueue_transit(flow, Class::from_tc(tc), frame, ecn) {
                    port.free(frame);
                }
                return;
            }
            Verdict::Local { peer, tc, body, offset } => {
                self.heard(now, index);
                self.local(now, index, peer, tc, body, ecn, frame.bytes(), offset);
            }
            Verdict::LinkOam { offset, .. } => self.link_oam(now, index, &frame.bytes()[offset..]),
            Verdict::TtlExpired { .. } => {
                self.heard(now, index);
                if !self.answer_trace(index, frame.bytes(), TraceRole::Transit) {
                    self.count_drop(index, DropReason::TtlExpired);
                }
            }
            Verdict::Drop(reason) => self.count_drop(index, reason),
        }
        port.free(frame);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one verdict; a struct would be made to be taken apart")]
    fn local(
        &mut self,
        now: Nanos,
        index: usize,
        peer: PeerId,
        tc: Tc,
        body: PathBody,
        ecn: Ecn,
        bytes: &[u8],
        offset: usize,
    ) {
        match body {
            PathBody::Payload(cw) => {
                self.links[index].sequence.observe(cw.sequence);
                if cw.payload != PayloadType::Quic {
                    self.count_drop(index, DropReason::UnwantedPayload);
                    return;
                }
                let lane = if Class::from_tc(tc) == Class::Bulk { Lane::Bulk } else { Lane::Control };
                match self.transport.handle(now, peer, lane, ecn, &bytes[offset..]) {
                    Handled::Taken => {}
                    Handled::Answered => self.mark_ready(peer, Lane::Control),
                    Handled::Refused => self.count_drop(index, DropReason::Transport),
                }
            }
            PathBody::Channel(channel) => self.path_oam(now, index, peer, channel, bytes, offset),
        }
    }

    pub(super) fn count_drop(&mut self, index: usize, reason: DropReason) {
        self.links[index].drops[reason.index()] += 1;
    }
}
