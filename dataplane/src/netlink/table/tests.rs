use super::*;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VLAN_OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn device(ifindex: u32, name: &str) -> Device {
    Device { ifindex, name: name.into(), mac: Some(OWN), mtu: 1500, up: true, carrier: true, vlan: None }
}

fn address(ifindex: u32, address: &str) -> Update {
    Update::Address(Address { ifindex, address: ip(address), tentative: false })
}

fn route(ifindex: u32, network: &str, prefix: u8, gateway: Option<&str>) -> Route {
    Route { network: ip(network), prefix, gateway: gateway.map(ip), ifindex, metric: 0, mtu: None }
}

fn neighbour(ifindex: u32, address: &str, mac: MacAddr, state: Reachability) -> Update {
    Update::Neighbour(Neighbour { ifindex, address: ip(address), mac: Some(mac), state })
}

fn spec(interface: &str, local: &str, remote: &str) -> LinkSpec {
    LinkSpec { interface: interface.to_owned(), local: ip(local), remote: ip(remote) }
}

/// eth0 with two IPv4 addresses and one IPv6 address, and a neighbour in each network.
fn table() -> Table {
    let mut table = Table::default();
    for update in [
        Update::Device(device(2, "eth0")),
        address(2, "10.0.0.1"),
        address(2, "10.9.0.1"),
        address(2, "fd00::1"),
        Update::Route(route(2, "10.0.0.0", 24, None)),
        Update::Route(route(2, "10.9.0.0", 24, None)),
        Update::Route(route(2, "fd00::", 64, None)),
        neighbour(2, "10.0.0.2", PEER, Reachability::Good),
        neighbour(2, "10.9.0.2", PEER, Reachability::Good),
        neighbour(2, "fd00::2", PEER, Reachability::Good),
    ] {
        table.apply(update);
    }
    table
}

fn found(table: &Table, spec: &LinkSpec) -> NextHop {
    let resolution = table.resolve(spec);
    resolution.next_hop.unwrap_or_else(|reason| panic!("{spec:?}: {reason}"))
}

/// The reason, and whether provoking is asked for.
fn lost(table: &Table, spec: &LinkSpec) -> (String, bool) {
    let resolution = table.resolve(spec);
    (resolution.next_hop.expect_err("there is no next hop").to_string(), resolution.provoke)
}

#[test]
fn an_on_link_neighbour_is_found_over_every_address_and_family() {
    let table = table();
    let expected = NextHop { ifindex: 2, interface: "eth0".into(), src_mac: OWN, dst_mac: PEER, vlan: None, mtu: 1500 };
    for (local, remote) in [("10.0.0.1", "10.0.0.2"), ("10.9.0.1", "10.9.0.2"), ("fd00::1", "fd00::2")] {
        let spec = spec("eth0", local, remote);
        assert_eq!(table.resolve(&spec), Resolution { next_hop: Ok(expected.clone()), provoke: false });
    }
}

#[test]
fn a_gateway_is_taken_by_longest_prefix_then_metric_and_replaced_on_change() {
    let mut table = table();
    let spec = spec("eth0", "10.0.0.1", "192.0.2.7");
    assert_eq!(lost(&table, &spec), ("no route to 192.0.2.7 over eth0".into(), false));

    table.apply(Update::Route(route(2, "0.0.0.0", 0, Some("10.0.0.2"))));
    assert_eq!(found(&table, &spec).dst_mac, PEER);

    let closer = Route { metric: 20, mtu: Some(1400), ..route(2, "192.0.2.0", 24, Some("10.0.0.3")) };
    table.apply(Update::Route(closer));
    assert_eq!(lost(&table, &spec), ("gateway 10.0.0.3 on eth0 is not resolved yet".into(), true));
    table.apply(neighbour(2, "10.0.0.3", GATEWAY, Reachability::Good));
    let hop = found(&table, &spec);
    assert_eq!((hop.dst_mac, hop.mtu), (GATEWAY, 1400));

    // The same prefix with a lower metric wins; another device's route never counts.
    table.apply(Update::Route(Route { metric: 10, ..route(2, "192.0.2.0", 24, Some("10.0.0.2")) }));
    table.apply(Update::Route(route(3, "192.0.2.7", 32, None)));
    assert_eq!(found(&table, &spec).dst_mac, PEER);

    // `ip route replace` sends no removal of the old route.
    table.apply(Update::RoutesReplaced { network: ip("192.0.2.0"), prefix: 24, metric: 10 });
    table.apply(Update::Route(Route { metric: 10, ..route(2, "192.0.2.0", 24, Some("10.0.0.3")) }));
    assert_eq!(found(&table, &spec).dst_mac, GATEWAY);

    table.apply(Update::RouteGone(Route { metric: 10, ..route(2, "192.0.2.0", 24, Some("10.0.0.3")) }));
    table.apply(Update::RouteGone(Route { mtu: None, ..closer }));
    assert_eq!(found(&table, &spec).dst_mac, PEER, "back to the default route");
}

#[test]
fn a_vlan_interface_gives_tag_and_parent_whichever_of_both_is_named() {
    let mut table = table();
    let tagged = Device { vlan: Some((2, 100)), mac: Some(VLAN_OWN), mtu: 1496, ..device(5, "eth0.100") };
    table.apply(Update::Device(tagged.clone()));
    table.apply(address(5, "10.1.0.1"));
    table.apply(Update::Route(route(5, "10.1.0.0", 24, None)));
    table.apply(neighbour(5, "10.1.0.2", PEER, Reachability::Good));
    let expected =
        NextHop { ifindex: 2, interface: "eth0".into(), src_mac: VLAN_OWN, dst_mac: PEER, vlan: Some(100), mtu: 1496 };
    for interface in ["eth0", "eth0.100"] {
        assert_eq!(found(&table, &spec(interface, "10.1.0.1", "10.1.0.2")), expected);
    }
    // The parent decides too.
    let spec = spec("eth0.100", "10.1.0.1", "10.1.0.2");
    table.apply(Update::Device(Device { carrier: false, ..device(2, "eth0") }));
    assert_eq!(lost(&table, &spec).0, "interface eth0 has no carrier");
    table.apply(Update::Device(device(2, "eth0")));
    for vlan in [Some((5, 7)), Some((2, 0)), Some((2, 4095)), Some((2, u16::MAX))] {
        table.apply(Update::Device(Device { vlan, ..tagged.clone() }));
        let reason = "VLAN interface eth0.100 needs more than one 802.1Q tag, or another kind of tag";
        assert_eq!(lost(&table, &spec).0, reason);
    }
    table.apply(Update::Device(Device { vlan: Some((0, 100)), ..tagged }));
    assert_eq!(lost(&table, &spec).0, "the parent of VLAN interface eth0.100 is not in this network namespace");
}

#[test]
fn what_is_missing_below_is_named_and_not_provoked() {
    let link = spec("eth0", "10.0.0.1", "10.0.0.2");
    let check = |update: Update, reason: &str| {
        let mut table = table();
        table.apply(update);
        assert_eq!(lost(&table, &link), (reason.to_owned(), false));
    };
    check(Update::DeviceGone(2), "interface eth0 does not exist");
    check(Update::Device(Device { up: false, ..device(2, "eth0") }), "interface eth0 is down");
    check(Update::Device(Device { carrier: false, ..device(2, "eth0") }), "interface eth0 has no carrier");
    check(Update::Device(Device { mac: None, ..device(2, "eth0") }), "interface eth0 is not Ethernet");
    check(Update::AddressGone(2, ip("10.0.0.1")), "no interface has the local address 10.0.0.1");
    check(
        Update::Address(Address { ifindex: 2, address: ip("10.0.0.1"), tentative: true }),
        "duplicate address detection for 10.0.0.1 has not succeeded",
    );
    check(Update::RouteGone(route(2, "10.0.0.0", 24, None)), "no route to 10.0.0.2 over eth0");

    let mut table = table();
    table.apply(Update::Device(device(3, "eth1")));
    let elsewhere = spec("eth1", "10.0.0.1", "10.0.0.2");
    assert_eq!(lost(&table, &elsewhere).0, "the local address 10.0.0.1 is on eth0, another interface");
}

#[test]
fn a_neighbour_that_fails_is_lost_a_stale_one_is_used_and_both_are_provoked() {
    let mut table = table();
    let spec = spec("eth0", "fd00::1", "fd00::2");
    table.apply(neighbour(2, "fd00::2", GATEWAY, Reachability::Stale));
    let resolution = table.resolve(&spec);
    assert!(resolution.provoke);
    assert_eq!(resolution.next_hop.expect("is used").dst_mac, GATEWAY);

    table.apply(neighbour(2, "fd00::2", GATEWAY, Reachability::Failed));
    assert_eq!(lost(&table, &spec), ("neighbour fd00::2 on eth0 does not answer".into(), true));
    table.apply(neighbour(2, "fd00::2", GATEWAY, Reachability::Incomplete));
    assert_eq!(lost(&table, &spec), ("neighbour fd00::2 on eth0 is not resolved yet".into(), true));
    table.apply(Update::NeighbourGone(2, ip("fd00::2")));
    assert!(lost(&table, &spec).1);
}

#[test]
fn a_device_that_went_down_or_away_takes_what_was_on_it_along() {
    let mut table = table();
    let spec = spec("eth0", "10.0.0.1", "10.0.0.2");
    table.apply(Update::Device(Device { up: false, ..device(2, "eth0") }));
    table.apply(Update::Device(device(2, "eth0")));
    assert_eq!(lost(&table, &spec).0, "no route to 10.0.0.2 over eth0", "the kernel flushed it silently");
    table.apply(Update::DeviceGone(2));
    // Another device with the same name and index starts from nothing.
    table.apply(Update::Device(device(2, "eth0")));
    assert_eq!(lost(&table, &spec).0, "no interface has the local address 10.0.0.1");
}

#[test]
fn prefixes_cover_what_they_should_at_both_extremes() {
    let covers = |network: &str, prefix: u8, address: &str| route(1, network, prefix, None).covers(ip(address));
    assert!(covers("0.0.0.0", 0, "255.255.255.255") && covers("::", 0, "ffff::1"));
    assert!(covers("10.0.0.1", 32, "10.0.0.1") && !covers("10.0.0.1", 32, "10.0.0.0"));
    assert!(covers("fd00::1", 128, "fd00::1") && !covers("fd00::1", 128, "fd00::"));
    assert!(covers("10.0.0.128", 25, "10.0.0.200") && !covers("10.0.0.128", 25, "10.0.0.127"));
    assert!(!covers("0.0.0.0", 0, "::1"), "families do not mix");
}
