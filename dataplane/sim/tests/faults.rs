//! Nodes with disks that fail, fill up and forget, and whose processes die in the middle of a call: every transfer ends once at each
//! end, whole or with a code that the disk explains; nothing that was called accepted or confirmed is lost; and nobody else is stopped.
//! The storage code is the dataplane's (`florelay_sim::disk`).
//!
//! More seeds: `FLORELAY_SEEDS=5000 cargo nextest run -p florelay-sim --test faults`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use florelay_engine::api::{FailCode, Failure, TransferId};
use florelay_engine::config::PeerId;
use florelay_engine::time::Nanos;
use florelay_sim::disk::{Behaviour, Death, DiskGateway};
use florelay_sim::gateway::{Pace, content};
use florelay_sim::link::Loss;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};
use florelay_spool::book::Book;
use florelay_spool::spooled::Limits;
use florelay_spool::storage::Faults;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const LIMIT: Nanos = Nanos(600 * SECOND);
const ENDS: [NodeId; 2] = [NodeId(0), NodeId(1)];
const PEER: PeerId = PeerId(0);
/// Orders, deaths and faults are in this time.
const BUSY: u64 = 2 * SECOND;

fn pick<'a, T>(rng: &mut SmallRng, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

fn disk(net: &Sim, end: NodeId) -> &DiskGateway {
    net.gateway(end).disk.as_deref().expect("has disks")
}

fn disk_mut(net: &mut Sim, end: NodeId) -> &mut DiskGateway {
    net.gateway_mut(end).disk.as_deref_mut().expect("has disks")
}

fn link(rng: &mut SmallRng) -> LinkSpec {
    // Slow ones, so that files are synced on their way, and streams are long enough to be cut.
    let rate = *pick(rng, &[1_500_000, 1_500_000, 10_000_000, 100_000_000]);
    let mut spec = LinkSpec::new(Some(rate), Duration::from_micros(*pick(rng, &[100, 1000, 5000, 40_000])));
    let (loss, duplicate, reorder) =
        (*pick(rng, &[0.0, 0.01, 0.05]), *pick(rng, &[0.0, 0.05]), *pick(rng, &[0.0, 0.05]));
    spec = spec.both(|mut model| {
        (model.loss, model.duplicate, model.reorder) = (Loss::Bernoulli(loss), duplicate, reorder);
        model.reorder_delay = Duration::from_millis(2);
        model
    });
    if rng.random_bool(0.3) {
        let start = Nanos(rng.random_range(0..BUSY));
        spec = spec.dark(start, start + Duration::from_millis(rng.random_range(10..2000)));
    }
    spec
}

/// Two nodes with disks, what they send each other, and what goes wrong; and that in words.
fn scenario(seed: u64) -> (Sim, String) {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0xfa17);
    let mut words = String::new();
    let spec = link(&mut rng);
    let mut net = Scenario::new(pair(spec)).seed(seed).build();
    for (way, end) in ENDS.into_iter().enumerate() {
        let stream_bytes = *pick(&mut rng, &[512 << 10, 4 << 20]);
        let behaviour = Behaviour {
            delay: Duration::from_micros(*pick(&mut rng, &[0, 1000, 10_000, 60_000])),
            short_writes_percent: *pick(&mut rng, &[0, 10, 50]),
            limits: Limits { stream_bytes, node_bytes: 2 * stream_bytes, sync: true },
        };
        let gateway = net.gateway_mut(end);
        gateway.disk = Some(Box::new(DiskGateway::new(2 * seed + way as u64, PEER, behaviour)));
        gateway.reading = Pace {
            bytes: *pick(&mut rng, &[5_000, 50_000, 1 << 20]),
            interval: Duration::from_millis(*pick(&mut rng, &[1, 3, 10])),
        };
        for number in 0..rng.random_range(1..=3_u128) {
            let id = TransferId(((way as u128 + 1) << 64) | number << 32 | u128::from(seed));
            let at = Nanos(rng.random_range(0..BUSY / 2));
            let stream = rng.random_bool(0.5);
            let most = *pick(&mut rng, &[0, 1, 1000, 70_000, 300_000]);
            let size = rng.random_range(0..=most);
            let bytes = *pick(&mut rng, &[1_000, 10_000, 100_000]);
            let pace = Pace { bytes, interval: Duration::from_millis(rng.random_range(5..20)) };
            net.at(at, move |net| {
                let mut commands = Vec::new();
                let now = net.now();
                if stream {
                    // What is small is not to take long.
                    let size = size.min(bytes * 100);
                    disk_mut(net, end).send_stream(now, id, size, pace, &mut commands);
                } else {
                    disk_mut(net, end).send_file(now, id, size, &mut commands);
                }
                commands.into_iter().for_each(|command| net.give(end, command));
            });
        }
        faults(&mut net, end, &mut rng, &mut words);
    }
    (net, words)
}

/// What goes wrong at one end.
fn faults(net: &mut Sim, end: NodeId, rng: &mut SmallRng, words: &mut String) {
    // Where a sync may have failed unheard, a kill before a power cut may lose what it was for (limits).
    let mut sync_faults = false;
    for _ in 0..rng.random_range(0..4) {
        let (at, n, inbox) = (Nanos(rng.random_range(0..BUSY)), rng.random_range(0..30), rng.random_bool(0.3));
        let until = at + Duration::from_millis(rng.random_range(100..3000));
        let kind = rng.random_range(0..4);
        let room = rng.random_range(0..60_000);
        sync_faults |= kind == 1 && !inbox;
        let _ = write!(words, "{end:?} at {at:?} fault {kind} n {n} inbox {inbox} room {room} until {until:?}; ");
        if kind == 3 {
            if rng.random_bool(0.5) {
                net.at(at, move |net| disk_mut(net, end).spoil(n as usize));
            }
            continue;
        }
        net.at(at, move |net| {
            let gateway = disk_mut(net, end);
            gateway.inbox_failed |= inbox;
            let disk = if inbox { &gateway.inbox } else { &gateway.state };
            let before = disk.faults();
            disk.set_faults(match kind {
                0 => Faults { fail_call: Some(n), ..before },
                1 => Faults { fail_sync: Some(n % 4), ..before },
                _ => Faults { room_bytes: Some(room), ..before },
            });
        });
        net.at(until, move |net| {
            let gateway = disk_mut(net, end);
            for disk in [&gateway.inbox, &gateway.state] {
                disk.set_faults(Faults { room_bytes: None, ..disk.faults() });
            }
        });
    }
    for _ in 0..*pick(rng, &[0, 1, 2, 3, 5]) {
        let (at, calls) = (Nanos(rng.random_range(0..BUSY)), *pick(rng, &[0, 1, 3, 10, 30]));
        let calls = rng.random_range(0..=calls);
        let death = if sync_faults || rng.random_bool(0.5) { Death::PowerCut } else { Death::Kill };
        let _ = write!(words, "{end:?} at {at:?} {death:?} in {calls} calls; ");
        net.at(at, move |net| match calls {
            0 => disk_mut(net, end).die(death),
            _ => disk_mut(net, end).arm(death, calls),
        });
    }
}

/// Who has died starts again.
fn revive(net: &mut Sim) {
    for end in ENDS {
        if disk(net, end).is_dead() {
            net.power_cut(end, PEER);
        }
    }
}

fn is_through(net: &Sim) -> bool {
    let mut programs = ENDS.into_iter().flat_map(|end| &disk(net, end).programs);
    ENDS.into_iter().all(|end| disk(net, end).is_through())
        && programs.all(|(id, program)| {
            // A reader at a node that was restarted too does not hear of a stream that its sender's disk has lost (limits).
            let failed = matches!(program.told.result(), Some(Err(_)));
            failed
                || ENDS
                    .into_iter()
                    .all(|end| net.gateway(end).streams_in.get(id).is_none_or(|sink| sink.result().is_some()))
        })
}

#[derive(Debug, Default)]
struct Counts {
    transfers: u64,
    failed: u64,
    forgotten: u64,
    held_back: u64,
    deaths_at_start: u64,
    restarts: u64,
    twice: u64,
}

/// What the ends were told, and what is there, after a last power cut of both.
fn check(net: &Sim, seed: u64, words: &str, counts: &mut Counts) {
    for (from, to) in [(ENDS[0], ENDS[1]), (ENDS[1], ENDS[0])] {
        let (sender, receiver) = (disk(net, from), disk(net, to));
        receiver.inbox.power_cut();
        receiver.state.power_cut();
        counts.deaths_at_start += sender.deaths_at_start;
        for (&id, program) in &sender.programs {
            counts.transfers += 1;
            counts.forgotten += program.forgotten;
            counts.held_back += u64::from(program.held_back > 0);
            let result = program.told.result().expect("it is through");
            // A file whose arrival the book refused may have to come a second time (limits); one that has failed begins anew.
            let failed = [sender, receiver].iter().any(|end| end.explains(id, FailCode::Storage));
            let excused = failed || receiver.unrecorded.contains(&id);
            assert!(!program.asked_again || excused, "seed {seed}, {id:?}: what was confirmed is asked for: {words}");
            let there = match program.is_stream() {
                true => net.gateway(to).streams_in.get(&id).and_then(|sink| sink.result()),
                false => receiver.received.get(&id).and_then(|told| told.result()),
            };
            match result {
                Ok(()) => assert_eq!(there, Some(&Ok(())), "seed {seed}, {id:?}: {words}"),
                Err(Failure { code, reason }) => {
                    counts.failed += 1;
                    let explained = sender.explains(id, *code) || receiver.explains(id, *code);
                    assert!(explained, "seed {seed}, {id:?}: {code:?}, {reason}: {words}");
                }
            }
            if program.is_stream() {
                if result.is_ok() {
                    assert_eq!(net.gateway(to).streams_in[&id].read_bytes(), program.size(), "seed {seed}, {id:?}");
                }
                continue;
            }
            let copies = receiver.copies(id);
            let whole = content(id, 0, program.size() as usize);
            assert!(copies.iter().all(|copy| *copy == whole), "seed {seed}, {id:?}: not whole: {words}");
            if result.is_ok() {
                counts.twice += u64::from(copies.len() > 1);
                let once = copies.len() == 1 || copies.len() > 1 && receiver.unrecorded.contains(&id);
                assert!(once, "seed {seed}, {id:?}: {} copies: {words}", copies.len());
            }
        }
        let (_, contents) = Book::open(Arc::new(receiver.state.clone()), "transfers.redb".into()).expect("a book");
        assert!(contents.own.is_empty(), "seed {seed}: {:?}", contents.own);
    }
}

#[test]
fn every_transfer_ends_once_and_nothing_that_was_said_is_lost_whatever_disks_do() {
    let mut counts = Counts::default();
    for_seeds(0..800, |seed| {
        let (mut net, words) = scenario(seed);
        let busy = Nanos(BUSY + SECOND);
        net.run_while(busy, |net| {
            counts.restarts += ENDS.into_iter().filter(|end| disk(net, *end).is_dead()).count() as u64;
            revive(net);
            true
        });
        let done = net.run_while(LIMIT, |net| {
            revive(net);
            !is_through(net)
        });
        if !done {
            for end in ENDS {
                eprintln!("{end:?}: {:#?}\n{:?}", disk(&net, end), net.gateway(end).streams_in);
                eprintln!("{}", net.node(end).debug());
            }
            panic!("seed {seed} is not through at {:?}: {words}", net.now());
        }
        // Nothing stays behind, and no second end comes.
        net.run_until(net.now() + Duration::from_secs(2));
        assert!(is_through(&net), "seed {seed}: {words}");
        check(&net, seed, &words, &mut counts);
    });
    println!("{counts:?}");
}

#[test]
fn streams_whose_writers_are_cut_off_in_the_middle_of_writes_arrive_whole() {
    let mut torn = 0;
    for_seeds(0..150, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let spec = LinkSpec::new(Some(1_500_000), Duration::from_millis(5));
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        for (way, end) in ENDS.into_iter().enumerate() {
            let limits = Limits { stream_bytes: 4 << 20, node_bytes: 4 << 20, sync: true };
            let delay = Duration::from_millis(3);
            let behaviour = Behaviour { delay, short_writes_percent: 30, limits };
            net.gateway_mut(end).disk = Some(Box::new(DiskGateway::new(seed + way as u64, PEER, behaviour)));
        }
        let mut commands = Vec::new();
        let pace = Pace { bytes: 90_000, interval: Duration::from_millis(10) };
        disk_mut(&mut net, ENDS[0]).send_stream(Nanos::ZERO, TransferId(9 << 64), 400_000, pace, &mut commands);
        commands.into_iter().for_each(|command| net.command(ENDS[0], command));
        for cut in 1..30 {
            let calls = rng.random_range(1..6);
            net.at(Nanos(cut * 60 * MS), move |net| disk_mut(net, ENDS[0]).arm(Death::PowerCut, calls));
        }
        let done = net.run_while(LIMIT, |net| {
            torn += u64::from(disk(net, ENDS[0]).is_dead());
            revive(net);
            !is_through(net)
        });
        assert!(done, "seed {seed} is not through");
        check(&net, seed, "", &mut Counts::default());
    });
    println!("{torn} power cuts");
}
