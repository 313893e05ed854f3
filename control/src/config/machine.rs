//! What a configuration names and this machine lacks: cores, interfaces, addresses.
//!
//! Warnings, not errors: a configuration may be checked on another machine than the one it is for, and an interface may
//! come later. Invariant: looking changes nothing; an address is tried with a port of the kernel's choice, so that a
//! node that runs is not disturbed.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::path::Path;

use florelay_dataplane::plan::{AdapterPlan, NodePlan};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Source};

/// What this machine lacks of an accepted plan, in the order of the text that it was compiled from.
pub(super) fn lacks(path: &Path, text: &str, plan: &NodePlan) -> Vec<Diagnostic> {
    let mut source = Source::new(path, text);
    let (document, _) = DeTable::parse_recoverable(text);
    let document = document.get_ref();
    let workers = document.get("node").and_then(|node| child(node, "workers"));
    for (index, worker) in plan.workers.iter().enumerate() {
        let Some(core) = worker.core.filter(|core| !may_run_on(*core)) else { continue };
        let span = workers.and_then(|list| item(list, index)).and_then(|worker| child(worker, "core"));
        source.error(
            &place(span),
            format!("node.workers[{index}].core"),
            format!("this machine has no core {core}, or this process may not use it"),
            "the cores that it may use: taskset -cp $$",
        );
    }
    let links = document.get("link");
    let mut seen = HashSet::new();
    for (index, link) in plan.links.iter().enumerate() {
        let table = links.and_then(|list| item(list, index));
        let at = |key| place(table.and_then(|table| child(table, key)));
        if let AdapterPlan::Xdp { interface, .. } = &link.adapter
            && seen.insert(interface)
            && !has_interface(interface)
        {
            let key = format!("link[{}].interface", link.name);
            let message = format!("this machine has no interface {interface}, or not in this network namespace");
            source.error(&at("interface"), key, message, "the ones it has: ip link");
        }
        if !has_address(link.local) {
            let key = format!("link[{}].local", link.name);
            let message = format!("no interface of this machine has the address {}", link.local.ip());
            source.error(&at("local"), key, message, "the ones it has: ip address");
        }
    }
    match source.refuse::<()>() {
        Ok(()) => Vec::new(),
        Err(refusal) => refusal.0,
    }
}

fn child<'d>(value: &'d Spanned<DeValue<'d>>, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
    value.get_ref().as_table()?.get(key)
}

fn item<'d>(value: &'d Spanned<DeValue<'d>>, index: usize) -> Option<&'d Spanned<DeValue<'d>>> {
    value.get_ref().as_array()?.get(index)
}

/// Where a value stands; the plan was made of this text, so it is there.
fn place(value: Option<&Spanned<DeValue<'_>>>) -> Range<usize> {
    value.map_or(0..0, Spanned::span)
}

fn may_run_on(core: usize) -> bool {
    // What cannot be found out is not complained of; a set holds so many and no more.
    rustix::thread::sched_getaffinity(None)
        .map_or(true, |set| core < rustix::thread::CpuSet::MAX_CPU && set.is_set(core))
}

fn has_interface(name: &str) -> bool {
    let Ok(any) = socket(AddressFamily::UNIX, SocketType::DGRAM, None) else { return true };
    netdevice::name_to_index(any, name) != Err(rustix::io::Errno::NODEV)
}

fn has_address(mut local: SocketAddr) -> bool {
    local.set_port(0);
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::AddrNotAvailable;
    UdpSocket::bind(local).err().is_none_or(|e| !missing(&e))
}
