//! What tests of whole nodes on AF_XDP have in common.
#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(unreachable_pub, reason = "shared between test binaries by `mod xdp`")]

use std::path::Path;

use florelay_dataplane::plan::{AdapterPlan, Rung};

use crate::netns::{self, A, B, Net, unique};

/// A node whose pins go away even if the test fails.
pub struct Pins(pub String);

impl Pins {
    pub fn new() -> Self {
        Self(unique("n"))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new("/sys/fs/bpf/florelay").join(&self.0));
    }
}

/// The namespaces, without the offload that leaves checksums unfinished on a veth.
pub fn net() -> Net {
    let net = Net::new();
    for (ns, interface) in [(&net.a, "va"), (&net.b, "vb")] {
        net.run_in(ns, "ethtool", &["-K", interface, "tx", "off"]);
    }
    net
}

pub fn adapter(interface: &str, highest_rung: Rung, fallback: bool) -> AdapterPlan {
    AdapterPlan::Xdp { interface: interface.into(), highest_rung, fallback }
}

/// The same with two queues at both ends.
pub fn two_queues() -> Net {
    let net = Net::new();
    make_two_queues(&net);
    net
}

/// The pair made anew, with two queues.
pub fn make_two_queues(net: &Net) {
    net.ip(&net.a, "link del va");
    let queues = ["numrxqueues", "2", "numtxqueues", "2"];
    let mut make = vec!["link", "add", "va", "netns", &net.a];
    make.extend(queues);
    make.extend(["type", "veth", "peer", "name", "vb", "netns", &net.b]);
    make.extend(queues);
    netns::run("ip", &make);
    for (ns, interface, address) in [(&net.a, "va", A), (&net.b, "vb", B)] {
        net.run_in(ns, "ethtool", &["-K", interface, "tx", "off"]);
        net.ip(ns, &format!("addr add {address}/24 dev {interface}"));
        net.ip(ns, &format!("link set {interface} up"));
    }
}
