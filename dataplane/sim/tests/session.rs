//! The simulated crypto session under two bare quinn-proto endpoints: it shakes hands, moves data over a lossy link,
//! survives key updates and damage, refuses the wrong identity, and does the same thing for the same seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use florelay_sim::crypto::{Identity, PeerName, SimClientConfig, SimHmacKey, SimServerConfig, SimTokenKey};
use florelay_sim::link::{CorruptMode, Link, LinkModel, Packet};
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{
    ClientConfig, Connection, ConnectionEvent, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent,
    Dir, Endpoint, EndpointConfig, Event, ServerConfig, StreamId, TransportConfig,
};

const MEGABYTE: usize = 1 << 20;

/// Connection ids from a counter.
struct CountedIds {
    prefix: u8,
    next: u64,
}

impl ConnectionIdGenerator for CountedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.next += 1;
        let mut bytes = self.next.to_be_bytes();
        bytes[0] = self.prefix;
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// One endpoint with at most one connection.
struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    events: Vec<Event>,
    received: Vec<u8>,
}

impl End {
    fn new(name: &str, seed: u64, server: Option<Arc<ServerConfig>>) -> Self {
        let mut config = EndpointConfig::new(Arc::new(SimHmacKey::new([9; 32])));
        let prefix = name.as_bytes()[0];
        config
            .rng_seed(Some(blake3::derive_key(name, &seed.to_le_bytes())))
            .cid_generator(move || Box::new(CountedIds { prefix, next: 0 }));
        let endpoint = Endpoint::new(Arc::new(config), server, false, None);
        Self { endpoint, connection: None, events: Vec::new(), received: Vec::new() }
    }
}

/// When, in which order of equals, at which end, and what.
type Arrival = (Nanos, u64, usize, Vec<u8>);

struct World {
    epoch: Instant,
    now: Nanos,
    ends: [End; 2],
    links: [Link; 2],
    under_way: BinaryHeap<Reverse<Arrival>>,
    order: u64,
    trace: blake3::Hasher,
}

impl World {
    fn new(seed: u64, client: Identity, server: Identity, model: &LinkModel) -> Self {
        let epoch = Instant::now();
        let mut server_config =
            ServerConfig::new(Arc::new(SimServerConfig(server)), Arc::new(SimTokenKey::new([8; 32])));
        server_config.transport_config(Arc::new(transport()));
        let mut client_config = ClientConfig::new(Arc::new(SimClientConfig(client)));
        let counter = AtomicU64::new(0);
        client_config.transport_config(Arc::new(transport())).initial_dst_cid_provider(Arc::new(move || {
            ConnectionId::new(&(0xc000 + counter.fetch_add(1, Ordering::Relaxed)).to_be_bytes())
        }));
        let mut ends = [End::new("client", seed, None), End::new("server", seed, Some(Arc::new(server_config)))];
        let connection = ends[0].endpoint.connect(epoch, client_config, address(1), "server.invalid").unwrap();
        ends[0].connection = Some(connection);
        Self {
            epoch,
            now: Nanos::ZERO,
            ends,
            links: [Link::new(model.clone(), seed), Link::new(model.clone(), seed ^ 1)],
            under_way: BinaryHeap::new(),
            order: 0,
            trace: blake3::Hasher::new(),
        }
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.now.0)
    }

    /// Run until `done`, or until nothing is left to happen.
    fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..1_000_000 {
            for end in 0..2 {
                self.drive(end);
            }
            if done(self) {
                return;
            }
            let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
            let timeout = |end: &mut End| end.connection.as_mut().and_then(|(_, c)| c.poll_timeout());
            let epoch = self.epoch;
            let timeouts = self.ends.iter_mut().filter_map(timeout);
            let timeouts = timeouts.map(|at| Nanos((at - epoch).as_nanos() as u64));
            let Some(next) = timeouts.chain(arrival).min() else {
                return;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                self.deliver();
            } else {
                let now = self.instant();
                for (_, connection) in self.ends.iter_mut().filter_map(|end| end.connection.as_mut()) {
                    connection.handle_timeout(now);
                }
            }
        }
        panic!("no end in sight at {:?}", self.now);
    }

    fn deliver(&mut self) {
        let Reverse((_, _, to, bytes)) = self.under_way.pop().expect("something arrives");
        self.links[1 - to].arrived();
        self.trace.update(&self.now.0.to_le_bytes()).update(&bytes);
        let (now, data, mut answer) = (self.instant(), BytesMut::from(&bytes[..]), Vec::new());
        let end = &mut self.ends[to];
        match end.endpoint.handle(now, address(1 - to), None, None, data, &mut answer) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                match end.endpoint.accept(incoming, now, &mut answer, None) {
                    Ok(connection) => end.connection = Some(connection),
                    Err(_) => self.send(to, answer),
                }
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.hand(to, event),
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    fn hand(&mut self, to: usize, event: ConnectionEvent) {
        if let Some((_, connection)) = &mut self.ends[to].connection {
            connection.handle_event(event);
        }
    }

    fn drive(&mut self, from: usize) {
        let now = self.instant();
        let end = &mut self.ends[from];
        let Some((handle, connection)) = &mut end.connection else {
            return;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = end.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            end.events.push(event);
        }
        while let Some(id) = connection.streams().accept(Dir::Uni) {
            assert_eq!(id.index(), 0);
        }
        if connection.side().is_server() {
            let stream = StreamId::new(quinn_proto::Side::Client, Dir::Uni, 0);
            if let Ok(mut chunks) = connection.recv_stream(stream).read(true) {
                while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                    end.received.extend_from_slice(&chunk.bytes);
                }
                let _ = chunks.finalize();
            }
        }
        let (mut packets, mut buf) = (Vec::new(), Vec::new());
        while connection.poll_transmit(now, 1, &mut buf).is_some() {
            packets.push(std::mem::take(&mut buf));
        }
        for packet in packets {
            self.send(from, packet);
        }
    }

    fn send(&mut self, from: usize, bytes: Vec<u8>) {
        let packet = Packet { bytes: bytes.into(), ecn: Ecn::NotEct, l2_bytes: 1500 };
        self.links[from].offer(self.now, packet, |arrival, packet| {
            self.order += 1;
            self.under_way.push(Reverse((arrival, self.order, 1 - from, packet.bytes.to_vec())));
        });
    }

    fn connection(&mut self, end: usize) -> &mut Connection {
        &mut self.ends[end].connection.as_mut().expect("a connection").1
    }

    fn lost(&self, end: usize) -> Option<String> {
        self.ends[end].events.iter().find_map(|event| match event {
            Event::ConnectionLost { reason } => Some(reason.to_string()),
            _ => None,
        })
    }
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config.mtu_discovery_config(None);
    config
}

fn address(end: usize) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1000 + end as u16)
}

fn identities() -> (Identity, Identity) {
    (Identity::new("name:a", "name:b"), Identity::new("name:b", "name:a"))
}

/// Client to server, 1 MiB; the trace hash and what the client saw of the session.
fn transfer(seed: u64, model: &LinkModel) -> (blake3::Hash, World) {
    let (client, server) = identities();
    let mut world = World::new(seed, client, server, model);
    let payload: Vec<u8> = (0..MEGABYTE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut written = None;
    world.run(|world| {
        if written.is_none() && !world.connection(0).is_handshaking() {
            let stream = world.connection(0).streams().open(Dir::Uni).expect("a stream");
            written = Some((stream, 0));
        }
        if let Some((stream, offset)) = &mut written {
            let mut send = world.connection(0).send_stream(*stream);
            while *offset < payload.len()
                && let Ok(n) = send.write(&payload[*offset..])
            {
                *offset += n;
            }
            world.drive(0);
        }
        world.ends[1].received.len() == payload.len()
    });
    assert!(world.ends[1].received == payload, "other bytes arrived");
    let hash = world.trace.finalize();
    (hash, world)
}

fn lossy() -> LinkModel {
    LinkModel { jitter: Duration::from_millis(2), duplicate: 0.01, reorder: 0.01, ..LinkModel::default() }
        .loss(0.05)
        .rate(50_000_000, 200_000)
}

#[test]
fn a_megabyte_crosses_a_lossy_link_and_equal_seeds_have_equal_traces() {
    let (first, mut world) = transfer(1, &lossy());
    let (again, _) = transfer(1, &lossy());
    let (other, _) = transfer(2, &lossy());
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(world.links[0].counters().lost > 10, "the link lost next to nothing");

    let session = world.connection(1).crypto_session();
    let name = session.peer_identity().expect("authenticated").downcast::<PeerName>().expect("our type");
    assert_eq!(name.0, "name:a");
    let data = session.handshake_data().expect("ready").downcast::<HandshakeData>().expect("as with rustls");
    assert_eq!((data.protocol.as_deref(), data.server_name.as_deref()), (Some(Identity::ALPN), Some("server.invalid")));
    let export = |world: &mut World, end| {
        let mut out = [0; 32];
        world.connection(end).crypto_session().export_keying_material(&mut out, b"label", b"").unwrap();
        out
    };
    assert_eq!(export(&mut world, 0), export(&mut world, 1));
}

#[test]
fn damaged_packets_are_no_worse_than_lost_ones() {
    let model = LinkModel { corrupt: 0.05, corrupt_mode: CorruptMode::Deliver, ..LinkModel::default() };
    let (_, world) = transfer(3, &model);
    assert!(world.links[0].counters().corrupt_delivered > 10);
    assert_eq!(world.lost(0), None);
}

#[test]
fn keys_are_updated_on_the_way() {
    let (client, server) = identities();
    let mut world = World::new(4, client, server, &LinkModel::default());
    world.run(|world| world.ends.iter().all(|end| end.connection.as_ref().is_some_and(|(_, c)| !c.is_handshaking())));
    let stream = world.connection(0).streams().open(Dir::Uni).unwrap();
    for i in 1..=5 {
        world.connection(0).send_stream(stream).write(&[i; 1000]).unwrap();
        world.run(|world| world.ends[1].received.len() == usize::from(i) * 1000);
        world.connection(0).force_key_update();
        // an update must be confirmed before the next: let the acknowledgement come back
        let sent = world.connection(0).stats().frame_rx.acks;
        world.connection(0).ping();
        world.run(|world| world.connection(0).stats().frame_rx.acks > sent);
    }
    assert_eq!(world.lost(0), None);
    assert_eq!(world.lost(1), None);
}

#[test]
fn the_wrong_server_is_refused_by_the_client() {
    let (client, _) = identities();
    let mut world = World::new(5, client, Identity::new("name:c", "name:a"), &LinkModel::default());
    world.run(|world| world.lost(0).is_some() && world.lost(1).is_some());
    assert!(world.lost(0).unwrap().contains("peer is name:c, expected name:b"), "{:?}", world.lost(0));
}

#[test]
fn the_wrong_client_is_refused_by_the_server() {
    let (_, server) = identities();
    let mut world = World::new(6, Identity::new("name:c", "name:b"), server, &LinkModel::default());
    world.run(|world| world.lost(0).is_some() && world.lost(1).is_some());
    assert!(world.lost(1).unwrap().contains("peer is name:c, expected name:a"), "{:?}", world.lost(1));
}

#[test]
fn another_protocol_is_refused() {
    let (mut client, server) = identities();
    client.alpn = (*b"other/1").into();
    let mut world = World::new(7, client, server, &LinkModel::default());
    world.run(|world| world.lost(0).is_some());
    assert!(world.lost(0).unwrap().contains("no application protocol"), "{:?}", world.lost(0));
}
