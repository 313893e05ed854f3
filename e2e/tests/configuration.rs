//! What the harness writes, the program accepts: keys, certificates and configurations of a line of three.

use florelay_e2e::{Adapter, LinkPlan, Options, Program, Rate, Topology, root_or_skip};

fn accepted(options: &Options) {
    let program = Program::for_tests().unwrap();
    let topology = Topology::line3(&program, options).unwrap();
    let capped = LinkPlan { rate: Rate::Bps(10_000_000), burst_bytes: Some(15_000), ..LinkPlan::default() };
    for plan in [capped, LinkPlan::default()] {
        topology.configure(&plan).unwrap();
    }
    let folder = topology.folder().to_path_buf();
    drop(topology);
    assert!(!folder.exists(), "the temporary folder stays behind");
}

#[test]
fn sockets_on_loopback_are_accepted() {
    accepted(&Options { namespaces: false, adapter: Adapter::Udp, queues: 1, mtu: 1500 });
}

#[test]
fn af_xdp_between_namespaces_is_accepted() {
    if !root_or_skip("af_xdp_between_namespaces_is_accepted") {
        return;
    }
    accepted(&Options { namespaces: true, adapter: Adapter::Xdp, queues: 2, mtu: 1500 });
}

#[test]
fn a_refusal_comes_through_with_its_reason() {
    let program = Program::for_tests().unwrap();
    let options = Options { namespaces: false, adapter: Adapter::Udp, queues: 1, mtu: 1000 };
    let topology = Topology::line3(&program, &options).unwrap();
    let refused = format!("{:#}", topology.configure(&LinkPlan::default()).unwrap_err());
    assert!(refused.contains("mtu"), "{refused}");
}
