//! The follower on a real kernel: what is published when links, addresses, routes and neighbours change. The topology is in
//! `netns/mod.rs`; the follower runs in namespace a.
#![forbid(unsafe_code)]

mod netns;

use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use florelay_dataplane::netlink::{Follower, LinkSpec, NextHop, Options};
use florelay_engine::config::LinkId;
use florelay_wire::eth::MacAddr;
use netns::{A, B, Net, in_netns, kernel_has, may_run};

/// Longer than the kernel takes to give a neighbour up (3 probes of 1 s); only a failure waits for all of it.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 6635;
const LINK: LinkId = LinkId(3);
const B_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0b]);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0c]);

type Published = Result<NextHop, Arc<str>>;

/// A follower with the socket of its link, as the daemon holds it.
struct Followed {
    follower: Follower,
    published: mpsc::Receiver<Published>,
}

impl Followed {
    /// Call it in the namespace.
    fn start(interface: &str, local: &str, remote: &str) -> Self {
        Self::start_with(interface, local, remote, local, Options::default())
    }

    /// `bind` is where the socket is bound, for links whose local address is not there yet.
    fn start_with(interface: &str, local: &str, remote: &str, bind: &str, options: Options) -> Self {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let spec = LinkSpec { interface: interface.to_owned(), local: parse(local), remote: parse(remote) };
        let socket = UdpSocket::bind((parse(bind), PORT)).expect("the port is free");
        let remote = spec.remote;
        let (sender, published) = mpsc::channel();
        let follower = Follower::start(
            vec![(LINK, spec)],
            options,
            move |link, next_hop| {
                assert_eq!(link, LINK);
                let _ = sender.send(next_hop);
            },
            // No route yet is nothing to worry about here.
            move |link| {
                assert_eq!(link, LINK);
                let _ = socket.send_to(b"", (remote, PORT));
            },
        );
        Self { follower: follower.expect("the follower starts"), published }
    }

    /// The first published next hop that is as wanted; each one in between is a true state, too.
    fn wait(&self, what: &str, wanted: impl Fn(&Published) -> bool) -> Published {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(next) = self.published.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if wanted(&next) {
                return next;
            }
            seen.push(next);
        }
        panic!("{what}: published was {seen:#?}");
    }

    fn wait_hop(&self, what: &str, wanted: impl Fn(&NextHop) -> bool) -> NextHop {
        self.wait(what, |next| next.as_ref().is_ok_and(&wanted)).expect("was checked")
    }

    fn wait_reason(&self, reason: &str) {
        let _ = self.wait(reason, |next| next.as_ref().is_err_and(|text| text.contains(reason)));
    }
}

fn mac_of(net: &Net, ns: &str, device: &str) -> MacAddr {
    let text = net.run_in(ns, "busybox", &["ip", "link", "show", "dev", device]);
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let mut bytes = words.next().expect("it is Ethernet").split(':');
    MacAddr(std::array::from_fn(|_| u8::from_str_radix(bytes.next().expect("six bytes"), 16).expect("hexadecimal")))
}

fn ifindex(net: &Net, ns: &str, device: &str) -> u32 {
    let text = net.ip(ns, &format!("-o link show dev {device}"));
    text.split(':').next().expect("a number").trim().parse().expect("a number")
}

/// A net whose end b has a MAC that the tests know.
fn net() -> Net {
    let net = Net::new();
    net.ip(&net.b, &format!("link set vb address {B_MAC}"));
    // Otherwise the kernel disbelieves a changed MAC within a second of the last change.
    net.sysctl(&net.a, "net/ipv4/neigh/va/locktime", "0");
    net
}

#[test]
fn a_neighbour_is_resolved_by_provoking_and_followed_when_its_mac_changes() {
    if !may_run("netlink: neighbour") {
        return;
    }
    for (local, remote, all) in [(A, B, "0.0.0.0"), ("fd77::1", "fd77::2", "::")] {
        let net = net();
        in_netns(&net.a, || {
            let link = Followed::start("va", local, remote);
            let hop = link.wait_hop("resolved", |_| true);
            let expected = NextHop {
                ifindex: ifindex(&net, &net.a, "va"),
                interface: "va".into(),
                src_mac: mac_of(&net, &net.a, "va"),
                dst_mac: B_MAC,
                vlan: None,
                mtu: 1500,
            };
            assert_eq!(hop, expected);

            net.ip(&net.b, &format!("link set vb address {OTHER_MAC}"));
            // b asks for a's address again, from its new MAC.
            net.ip(&net.b, "neigh flush dev vb");
            in_netns(&net.b, || {
                let socket = UdpSocket::bind((all, 0)).expect("a port is free");
                socket.send_to(b"", (local, PORT)).expect("b sends");
            });
            link.wait_hop("the new MAC", |hop| hop.dst_mac == OTHER_MAC);

            net.ip(&net.a, "link set va mtu 1400");
            link.wait_hop("the new MTU", |hop| hop.mtu == 1400);
            net.ip(&net.a, "link set va down");
            link.wait_reason("interface va is down");
            net.ip(&net.a, "link set va up");
            if local == A {
                link.wait_hop("up again", |hop| hop.dst_mac == OTHER_MAC);
            } else {
                // IPv6 addresses do not survive a link that goes down.
                link.wait_reason("no interface has the local address");
                net.ip(&net.a, &format!("addr add {local}/64 dev va nodad"));
                link.wait_hop("up again", |hop| hop.dst_mac == OTHER_MAC);
            }
            net.ip(&net.b, "link set vb down");
            link.wait_reason("interface va has no carrier");
            net.ip(&net.b, "link set vb up");
            if local != A {
                net.ip(&net.b, &format!("addr add {remote}/64 dev vb nodad"));
            }
            link.wait_hop("carrier again", |hop| hop.dst_mac == OTHER_MAC);
        });
    }
}

#[test]
fn a_neighbour_that_stops_answering_is_unresolved_and_found_again() {
    if !may_run("netlink: failure") {
        return;
    }
    let net = net();
    in_netns(&net.a, || {
        let link = Followed::start("va", A, B);
        link.wait_hop("resolved", |_| true);
        net.ip(&net.b, &format!("addr del {B}/24 dev vb"));
        // Invalidate what is known, as its timer would.
        net.ip(&net.a, "neigh flush dev va");
        link.wait_reason("does not answer");
        net.ip(&net.b, &format!("addr add {B}/24 dev vb"));
        link.wait_hop("it answers again", |hop| hop.dst_mac == B_MAC);
    });
}

#[test]
fn a_stale_entry_is_used_and_confirmed_by_provoking() {
    if !may_run("netlink: stale") {
        return;
    }
    let net = net();
    in_netns(&net.a, || {
        // A stale entry with a MAC that is not b's any more: it is used, then disproved.
        net.ip(&net.a, &format!("neigh replace {B} lladdr {OTHER_MAC} dev va nud stale"));
        net.sysctl(&net.a, "net/ipv4/neigh/va/delay_first_probe_time", "1");
        let link = Followed::start("va", A, B);
        link.wait_hop("the stale entry", |hop| hop.dst_mac == OTHER_MAC);
        link.wait_hop("the truth", |hop| hop.dst_mac == B_MAC);
    });
}

#[test]
fn routes_and_addresses_are_followed() {
    if !may_run("netlink: routes") {
        return;
    }
    let net = net();
    in_netns(&net.a, || {
        // The far address is behind b.
        let link = Followed::start("va", A, "192.0.2.7");
        link.wait_reason("no route to 192.0.2.7 over va");
        net.ip(&net.a, &format!("route add default via {B} dev va"));
        link.wait_hop("through the gateway", |hop| hop.dst_mac == B_MAC);

        // Another gateway on the same device, by replacement.
        net.ip(&net.b, "link add vx link vb type macvlan mode bridge");
        net.ip(&net.b, &format!("link set vx address {OTHER_MAC}"));
        net.ip(&net.b, "addr add 10.77.0.3/24 dev vx");
        net.ip(&net.b, "link set vx up");
        // vb and vx are in one network: each answers for its own address only.
        net.sysctl(&net.b, "net/ipv4/conf/all/arp_ignore", "1");
        net.ip(&net.a, "route replace default via 10.77.0.3 dev va");
        link.wait_hop("through the other gateway", |hop| hop.dst_mac == OTHER_MAC);
        net.ip(&net.a, "route del default");
        link.wait_reason("no route to 192.0.2.7 over va");
    });
}

#[test]
fn an_address_that_comes_and_goes_is_followed_and_others_do_not_matter() {
    if !may_run("netlink: addresses") {
        return;
    }
    let net = net();
    in_netns(&net.a, || {
        let link = Followed::start_with("va", "10.78.0.1", "10.78.0.2", "0.0.0.0", Options::default());
        link.wait_reason("no interface has the local address 10.78.0.1");
        net.ip(&net.b, "addr add 10.78.0.2/24 dev vb");
        net.ip(&net.a, "addr add 10.78.0.1/24 dev va");
        link.wait_hop("the second address", |hop| hop.dst_mac == B_MAC);
        net.ip(&net.a, &format!("addr del {A}/24 dev va"));
        net.ip(&net.a, "addr del 10.78.0.1/24 dev va");
        link.wait_reason("no interface has the local address 10.78.0.1");
        net.ip(&net.a, "addr add 10.78.0.1/24 dev va");
        link.wait_hop("the address is back", |hop| hop.dst_mac == B_MAC);
    });
}

#[test]
fn a_vlan_interface_is_reported_as_its_parent_and_tag() {
    if !may_run("netlink: VLAN") || !kernel_has("netlink: VLAN", "vlan id 100") {
        return;
    }
    let net = net();
    in_netns(&net.a, || {
        for (ns, device, address) in [(&net.a, "va", "10.79.0.1"), (&net.b, "vb", "10.79.0.2")] {
            net.ip(ns, &format!("link add link {device} name {device}.100 type vlan id 100"));
            net.ip(ns, &format!("addr add {address}/24 dev {device}.100"));
            net.ip(ns, &format!("link set {device}.100 up"));
        }
        let link = Followed::start("va.100", "10.79.0.1", "10.79.0.2");
        let hop = link.wait_hop("resolved over the VLAN", |_| true);
        let parent = ifindex(&net, &net.a, "va");
        assert_eq!((hop.ifindex, &*hop.interface, hop.vlan, hop.dst_mac), (parent, "va", Some(100), B_MAC));
        net.ip(&net.a, "link del va.100");
        link.wait_reason("interface va.100 does not exist");
    });
}

#[test]
fn a_flood_of_notifications_ends_in_the_right_state() {
    if !may_run("netlink: flood") {
        return;
    }
    let net = net();
    in_netns(&net.a, || {
        // Many more routes than the buffer holds, and the one that matters among them.
        let mut batch = format!("route add 192.0.2.0/24 via {B} dev va\n");
        for number in 0..20_000_u32 {
            let [_, high, middle, low] = number.to_be_bytes();
            let first = if number % 2 == 0 { 172 } else { 198 };
            batch.push_str(&format!("route add {first}.{}.{middle}.{low}/32 via {B} dev va\n", 16 + high));
        }
        let file = std::env::temp_dir().join(format!("{}-routes", net.a));
        std::fs::write(&file, batch).expect("can be written");
        net.run_in(&net.a, "ip", &["-batch", file.to_str().expect("is UTF-8")]);
        std::fs::remove_file(&file).expect("can be removed");
        let options = Options { rx_buffer_bytes: 2048, ..Options::default() };
        // Threads and processes started from here on have this core alone.
        assert!(core_affinity::set_for_current(core_affinity::get_core_ids().expect("cores")[0]));
        let link = Followed::start_with("va", A, "192.0.2.7", A, options);
        link.wait_hop("through the gateway", |hop| hop.dst_mac == B_MAC);

        // On the follower's own core and before it in line: it reads nothing while the kernel tells of all this.
        net.run_in(&net.a, "chrt", &["-f", "1", "ip", "route", "flush", "via", B, "dev", "va"]);
        link.wait_reason("no route to 192.0.2.7 over va");
        assert!(link.follower.overflows() > 0, "the buffer overflowed");
        net.ip(&net.a, &format!("route add 192.0.2.0/24 via {B} dev va"));
        link.wait_hop("through the gateway again", |hop| hop.dst_mac == B_MAC);
    });
}
