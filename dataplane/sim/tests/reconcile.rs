//! What one end has given up or forgotten while nothing got through, the other end gives up at the next session.

use std::time::Duration;

use florelay_engine::api::{Command, FailCode, Failure, PeerState, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::time::Nanos;
use florelay_sim::gateway::Pace;
use florelay_sim::link::Packet;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(9);
const OTHER: TransferId = TransferId(10);
const SECOND: u64 = 1_000_000_000;
const SIZE: u64 = 6 << 20;
/// Longer than QUIC's idle timeout.
const SILENCE: Duration = Duration::from_secs(100);

/// Two transfers on their way.
fn under_way(seed: u64) -> Sim {
    let spec = LinkSpec::new(Some(5_000_000), Duration::from_millis(5 + seed * 20)).both(|model| model.loss(0.01));
    let mut net = Scenario::new(pair(spec)).seed(seed).write_delay(Duration::from_millis(1)).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
    net.send_file(A, PEER, FILE, SIZE, 10);
    net.send_file(A, PEER, OTHER, SIZE, 10);
    net.run_until(net.now() + Duration::from_secs(4));
    for id in [FILE, OTHER] {
        assert!(net.gateway(B).sinks[&id].written_bytes() > 100_000, "not under way");
    }
    net
}

/// Liveness goes on, but no packet of QUIC gets through; `act` happens meanwhile.
fn silent(net: &mut Sim, act: impl FnOnce(&mut Sim)) {
    let liveness_only = |packet: &Packet| {
        // The label of link-scope OAM (RFC 5586 section 4).
        let label = packet.bytes.first_chunk().map_or(0, |lse| u32::from_be_bytes(*lse) >> 12);
        if label == 13 { vec![packet.clone()] } else { vec![] }
    };
    for end in [A, B] {
        net.meddle((end, LINK), Box::new(liveness_only));
    }
    act(net);
    for end in [A, B] {
        net.meddle((end, LINK), Box::new(|packet| vec![packet.clone()]));
    }
}

/// The same until the connections are lost.
fn cut(net: &mut Sim, act: impl FnOnce(&mut Sim)) {
    silent(net, |net| {
        act(net);
        let lost = net.node(A).status().peers[0].counters.lost;
        net.run_until(net.now() + SILENCE);
        assert!(net.node(A).status().peers[0].counters.lost > lost, "the connection was not lost");
    });
}

fn cancel(net: &mut Sim, at: NodeId) {
    net.command(
        at,
        Command::Cancel { id: FILE, failure: Failure::new(FailCode::Cancelled, "cancelled by the operator") },
    );
}

fn finish_other(net: &mut Sim) {
    let end = net.now() + Duration::from_secs(60);
    let done = net.run_while(end, |net| net.gateway(A).sources[&OTHER].result().is_none());
    assert!(done && net.gateway(A).sources[&OTHER].result() == Some(&Ok(())), "the other transfer");
}

#[test]
fn a_cancellation_by_the_sender_that_is_lost_with_the_connection_frees_the_receiver() {
    for_seeds(0..8, |seed| {
        let mut net = under_way(seed);
        cut(&mut net, |net| cancel(net, A));
        finish_other(&mut net);
        let ended = net.gateway(B).sinks[&FILE].result();
        assert!(
            matches!(ended, Some(Err(failure)) if failure.code == FailCode::Cancelled && failure.reason.contains("by the operator")),
            "{ended:?}"
        );
    });
}

#[test]
fn a_cancellation_by_the_receiver_that_is_lost_is_said_again_and_the_file_not_taken_anew() {
    for_seeds(0..8, |seed| {
        let mut net = under_way(seed);
        cut(&mut net, |net| cancel(net, B));
        finish_other(&mut net);
        let ended = net.gateway(A).sources[&FILE].result();
        assert!(
            matches!(ended, Some(Err(failure)) if failure.code == FailCode::Cancelled && failure.reason.contains("by the operator")),
            "{ended:?}"
        );
        // The gateway asserts that nothing is offered to it a second time. What the operator sends now is new.
        net.gateway_mut(A).sources.remove(&FILE);
        net.gateway_mut(B).sinks.remove(&FILE);
        net.send_file(A, PEER, FILE, SIZE, 10);
        let end = net.now() + Duration::from_secs(60);
        assert!(net.run_while(end, |net| !net.files_done()), "the new transfer");
    });
}

#[test]
fn a_cancellation_by_either_end_outlives_that_end() {
    for_seeds(0..8, |seed| {
        for (end, own) in [(A, true), (B, false)] {
            let mut net = under_way(seed);
            silent(&mut net, |net| {
                cancel(net, end);
                net.run_until(net.now() + Duration::from_secs(1));
                net.power_cut(end, PEER);
                let failure = Failure::new(FailCode::Cancelled, "cancelled by the operator");
                net.command(end, Command::GaveUp { peer: PEER, id: FILE, own, failure });
            });
            finish_other(&mut net);
            // The gateways assert that nothing is offered, and nothing ends, a second time.
            for ended in [net.gateway(A).sources[&FILE].result(), net.gateway(B).sinks[&FILE].result()] {
                assert!(
                    matches!(ended, Some(Err(failure)) if failure.code == FailCode::Cancelled && failure.reason.contains("by the operator")),
                    "{end:?}: {ended:?}"
                );
            }
            let sink = &net.gateway(B).sinks[&FILE];
            assert!(sink.shelved_at().is_none());
        }
    });
}

#[test]
fn what_a_restarted_sender_has_forgotten_is_shelved_and_goes_on_when_it_is_sent_again() {
    for_seeds(0..8, |seed| {
        let mut net = under_way(seed);
        net.gateway_mut(A).sources.remove(&FILE);
        net.power_cut(A, PEER);
        finish_other(&mut net);
        let sink = &net.gateway(B).sinks[&FILE];
        assert!(sink.shelved_at().is_some() && sink.result().is_none(), "{sink:?}");
        let (kept, before) = (sink.written_bytes(), sink.arrivals().len());
        assert!(kept > 100_000);
        net.send_file(A, PEER, FILE, SIZE, 10);
        let end = net.now() + Duration::from_secs(60);
        assert!(net.run_while(end, |net| !net.files_done()), "sent again");
        let again: u64 = net.gateway(B).sinks[&FILE].arrivals()[before..].iter().map(|(_, n)| u64::from(*n)).sum();
        assert_eq!(again, SIZE - kept);
    });
}

#[test]
fn a_stream_that_a_restarted_sender_has_forgotten_ends_at_the_reader_and_frees_its_place() {
    const STREAM: TransferId = TransferId(9 << 96);
    for_seeds(0..8, |seed| {
        let mut net = under_way(seed);
        net.send_stream(A, PEER, STREAM, 1 << 40, Pace { bytes: 1000, interval: Duration::from_millis(20) });
        let end = net.now() + Duration::from_secs(60);
        let read = |net: &Sim| net.gateway(B).streams_in.get(&STREAM).is_some_and(|stream| stream.read_bytes() > 5_000);
        assert!(net.run_while(end, |net| !read(net)), "the stream has begun");
        net.gateway_mut(A).streams_out.remove(&STREAM);
        net.power_cut(A, PEER);
        finish_other(&mut net);
        let ended = net.gateway(B).streams_in[&STREAM].result();
        assert!(matches!(ended, Some(Err(failure)) if failure.code == FailCode::Forgotten), "{ended:?}");
    });
}

#[test]
fn a_cancellation_by_the_receiver_before_the_offer_of_a_new_session_has_come_leaves_nothing_behind() {
    for_seeds(0..8, |seed| {
        for eighth in 0..8 {
            let mut net = under_way(seed);
            cut(&mut net, |_| {});
            let end = net.now() + Duration::from_secs(60);
            // Where a packet of the other connection's handshake was lost, bytes come before the peer is called connected.
            let before = net.gateway(B).sinks[&FILE].received_bytes();
            let ready = |net: &mut Sim| {
                net.node(B).status().peers[0].state == PeerState::Connected
                    || net.gateway(B).sinks[&FILE].received_bytes() > before
            };
            assert!(net.run_while(end, |net| !ready(net)), "connected again");
            // The sender's offer is on its way for some of these times.
            let round_trip = Duration::from_millis(2 * (5 + seed * 20));
            net.run_until(net.now() + round_trip * eighth / 8);
            // The gateway asserts that nothing is offered to it a second time.
            cancel(&mut net, B);
            finish_other(&mut net);
            for ended in [net.gateway(A).sources[&FILE].result(), net.gateway(B).sinks[&FILE].result()] {
                assert!(
                    matches!(ended, Some(Err(failure)) if failure.code == FailCode::Cancelled && failure.reason.contains("by the operator")),
                    "{ended:?}"
                );
            }
        }
    });
}

/// A small file that is whole at the receiver, which takes longer to sync it than QUIC keeps an idle connection.
fn syncing(seed: u64) -> Sim {
    const SMALL: u64 = 100_000;
    let spec = LinkSpec::new(Some(5_000_000), Duration::from_millis(5 + seed * 20)).both(|model| model.loss(0.01));
    let mut net = Scenario::new(pair(spec)).seed(seed).write_delay(SILENCE).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
    net.send_file(A, PEER, FILE, SMALL, 10);
    net.run_until(net.now() + Duration::from_secs(5));
    assert_eq!(net.gateway(B).sinks[&FILE].received_bytes(), SMALL);
    net
}

fn arrives(net: &mut Sim) {
    net.send_file(A, PEER, OTHER, 1000, 10);
    let end = net.now() + 3 * SILENCE;
    let done = net.run_while(end, |net| net.gateway(B).sinks[&FILE].result().is_none());
    let sink = &net.gateway(B).sinks[&FILE];
    assert!(done && sink.result() == Some(&Ok(())) && sink.shelved_at().is_none(), "{sink:?}");
}

#[test]
fn a_file_that_is_being_synced_arrives_although_its_sender_was_restarted() {
    for_seeds(0..8, |seed| {
        let mut net = syncing(seed);
        net.gateway_mut(A).sources.remove(&FILE);
        net.power_cut(A, PEER);
        arrives(&mut net);
    });
}

#[test]
fn a_file_that_is_being_synced_arrives_although_its_sender_gave_it_up_meanwhile() {
    for_seeds(0..8, |seed| {
        let mut net = syncing(seed);
        cut(&mut net, |net| cancel(net, A));
        arrives(&mut net);
    });
}
