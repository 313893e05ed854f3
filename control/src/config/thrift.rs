//! `[thrift]`: Quelay's Thrift API.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use florelay_dataplane::plan::NodePlan;
use toml::de::DeValue;

use super::diagnostic::Source;
use super::names;
use super::read::{Field, Table, Wrong, boolean, string, unit};
use super::units;
use crate::thrift::{ThriftPlan, VERSIONS};

/// What a waiting time may be.
const WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
/// A client compares it with its own; nothing longer has been seen.
const MAX_VERSION_BYTES: usize = 64;

/// The table, and where in it the peer is named.
#[derive(Debug)]
pub(super) struct Draft {
    plan: ThriftPlan,
    peer: Option<Field<String>>,
}

/// Reads the table.
pub(super) fn read(source: &mut Source<'_>, mut table: Table<'_>) -> Draft {
    let t = &mut table;
    let listen = t.optional(source, "listen", parsed::<SocketAddr>("an address and a port", "\"127.0.0.1:9090\""));
    let version = t.optional(source, "version", version);
    let peer = t.optional(source, "peer", names::node);
    let data_bind = t.optional(source, "data-bind", parsed::<IpAddr>("an address", "\"127.0.0.1\""));
    let test_hooks = t.optional(source, "test-hooks", boolean).is_some_and(|f| f.value);
    let connect_timeout = wait(source, t, "connect-timeout");
    let ping = wait(source, t, "ping");
    if let Some(listen) = listen.as_ref().filter(|f| !f.value.ip().is_loopback()) {
        let message = "whoever reaches this address can send and receive: Thrift clients are not authenticated";
        source.warn(
            &listen.span,
            listen.key.clone(),
            message,
            "listen on 127.0.0.1, or let a firewall say who may come",
        );
    }
    table.close(source);
    let default = ThriftPlan::default();
    let plan = ThriftPlan {
        listen: listen.map_or(default.listen, |f| f.value),
        version: version.map_or(default.version, |f| f.value),
        peer: peer.as_ref().map(|f| f.value.clone()),
        data_bind: data_bind.map_or(default.data_bind, |f| f.value),
        test_hooks,
        connect_timeout: connect_timeout.unwrap_or(default.connect_timeout),
        ping: ping.unwrap_or(default.ping),
        peers: Vec::new(),
    };
    Draft { plan, peer }
}

/// With what the rest of the configuration says: the peers, and the first link to each.
pub(super) fn finish(source: &mut Source<'_>, draft: Draft, node: &NodePlan) -> ThriftPlan {
    let Draft { mut plan, peer } = draft;
    let link = |index: u16| node.links.get(usize::from(index)).map(|link| link.name.clone()).unwrap_or_default();
    plan.peers = node.peers.iter().map(|peer| (peer.name.clone(), link(peer.link))).collect();
    if let Some(field) = peer.filter(|f| !plan.peers.iter().any(|(name, _)| *name == f.value)) {
        let known: Vec<_> = plan.peers.iter().map(|(name, _)| name.as_str()).collect();
        field.error(
            source,
            format!("there is no peer \"{}\"", field.value),
            format!("the peers: {}", known.join(", ")),
        );
    }
    plan
}

fn wait(source: &mut Source<'_>, t: &mut Table<'_>, name: &'static str) -> Option<Duration> {
    let field = t.optional(source, name, unit(units::duration, "\"60 s\""))?;
    if !WAIT.contains(&field.value) {
        field.error(source, "out of range", "100 ms to 24 h");
    }
    Some(field.value)
}

fn version(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = string(value)?;
    if text.is_empty() || text.len() > MAX_VERSION_BYTES || text.chars().any(char::is_control) {
        return Err((
            "this is no version".to_owned(),
            format!("what the clients expect, known are {}", VERSIONS.join(", ")),
        ));
    }
    Ok(text)
}

fn parsed<T: std::str::FromStr>(
    what: &'static str,
    example: &'static str,
) -> impl FnOnce(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let text = string(value)?;
        text.parse().map_err(|_| (format!("\"{text}\" is not {what}"), format!("for example {example}")))
    }
}
