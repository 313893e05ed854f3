//! `[[peer]]` and `[[transit]]`: the label-switched paths that end here and those that pass.

use std::collections::HashMap;

use florelay_dataplane::plan::{PeerPlan, QueuePlan, TransitEndPlan, TransitPlan};

use super::diagnostic::Source;
use super::link::{self, LinkDraft, check_mtu, duration, find, small};
use super::read::{Field, Table, integer, string, unit, word};
use super::{frame, names, units};

/// Labels 0 to 15 are reserved, RFC 3032 section 2.1 and RFC 7274; a label has 20 bits.
const LABEL_BOUNDS: std::ops::RangeInclusive<u64> = 16..=1_048_575;
/// RTT to assume where the link says no delay, RFC 9002 section 6.2.2.
const INITIAL_RTT_NS: u64 = 333_000_000;
/// Longest RTT that can be configured: twice the longest delay.
const MAX_RTT_NS: u64 = 7_200_000_000_000;

/// Who uses which label on which link; a label means one path per link and direction.
#[derive(Debug, Default)]
pub(super) struct Labels {
    taken: HashMap<(u16, &'static str, u32), usize>,
}

impl Labels {
    /// Records that a path uses this label, and refuses a second one.
    fn take(
        &mut self,
        source: &mut Source<'_>,
        link: u16,
        direction: &'static str,
        label: &Field<u32>,
        link_name: &str,
    ) {
        if let Some(first) = self.taken.insert((link, direction, label.value), label.span.start) {
            let (line, _) = source.position(first);
            label.error(
                source,
                format!("{direction} {} is used on link \"{link_name}\" already, in line {line}", label.value),
                "on one link, each path has its own labels in each direction",
            );
        }
    }
}

/// What peers have in common with the node.
#[derive(Debug)]
pub(super) struct Home<'h> {
    pub(super) node: Option<&'h str>,
    pub(super) realm: Option<&'h str>,
    pub(super) links: &'h [LinkDraft],
}

/// Reads one `[[peer]]`.
pub(super) fn read_peer(
    source: &mut Source<'_>,
    mut table: Table<'_>,
    home: &Home<'_>,
    labels: &mut Labels,
    seen: &mut HashMap<String, usize>,
) -> Option<PeerPlan> {
    let t = &mut table;
    let name = t.required(source, "name", "\"station-b\"", names::node);
    if let Some(name) = &name {
        if home.node == Some(name.value.as_str()) {
            let message = format!("\"{}\" is this node itself", name.value);
            name.error(source, message, "a peer is the node at the far end of a path");
        } else if let Some(first) = seen.insert(name.value.clone(), name.span.start) {
            let (line, _) = source.position(first);
            let message = format!("peer \"{}\" is defined already, in line {line}", name.value);
            name.error(source, message, "one [[peer]] for each node");
        }
    }
    let link_name = t.required(source, "link", "\"to-relay\"", string);
    let link = link_name.as_ref().and_then(|l| find(source, home.links, l));
    let pair = label_pair(source, t, link, labels);
    let role = t.optional(source, "role", word(&[("originator", true), ("acceptor", false)]));
    let rtt = duration(source, t, "rtt", "\"650 ms\"", 1_000..=MAX_RTT_NS);
    let path_rate = t.optional(source, "path-rate", unit(units::rate, "\"10 Mbit/s\" or \"uncapped\""));
    let return_rate = t.optional(source, "return-rate", unit(units::rate, "\"10 Mbit/s\" or \"uncapped\""));
    for rate in [&path_rate, &return_rate].into_iter().flatten() {
        if rate.value == Some(0) {
            rate.error(source, "a path of rate 0 carries nothing", "the rate of the slowest link of the path");
        }
    }
    let path_mtu = t.optional(source, "path-mtu", integer(1..=u64::from(u16::MAX)));
    let path_mtu = path_mtu.map(|f| f.map(|n| u16::try_from(n).unwrap_or(u16::MAX)));
    if let (Some(mtu), Some((_, LinkDraft { mtu: Some(of_link), local: Some(local), .. }))) = (&path_mtu, link) {
        if mtu.value > of_link.value {
            let message =
                format!("the path's MTU, {}, is larger than that of its first link, {}", mtu.value, of_link.value);
            mtu.error(source, message, "the smallest MTU of all links of the path");
        } else {
            check_mtu(source, mtu, &local.value, "the path's ");
        }
    }
    let weight = small(source, t, "weight", 1..=1000, 1);
    let queue = queue(source, t);
    table.close(source);

    let name = name?.value;
    let (index, link) = link?;
    let (out_label, in_label) = pair?;
    let plan = link.plan.as_ref()?;
    Some(PeerPlan {
        spiffe_id: names::spiffe_id(home.realm?, &name),
        link: index,
        out_label,
        in_label,
        originator: role.map_or_else(|| home.node.is_some_and(|own| own < name.as_str()), |r| r.value),
        quic_mtu: frame::quic_mtu(path_mtu.map_or(plan.mtu, |m| m.value), &plan.local)?,
        initial_rtt_ns: rtt.unwrap_or(if plan.delay_ns == 0 { INITIAL_RTT_NS } else { 2 * plan.delay_ns }),
        return_rate_bps: return_rate.as_ref().or(path_rate.as_ref()).map_or(plan.rate_bps, |r| r.value),
        path_rate_bps: path_rate.map_or(plan.rate_bps, |r| r.value),
        weight,
        queue,
        name,
    })
}

/// `max-concurrent` and `max-pending`: how many own transfers to a peer run and wait.
fn queue(source: &mut Source<'_>, t: &mut Table<'_>) -> QueuePlan {
    let default = QueuePlan::default();
    let mut limit = |name, most: u32, default| {
        let given = t.optional(source, name, integer(0..=u64::from(most)));
        given.map_or(default, |f| u32::try_from(f.value).unwrap_or(default))
    };
    QueuePlan {
        max_concurrent: limit("max-concurrent", QueuePlan::MAX_CONCURRENT, default.max_concurrent),
        max_pending: limit("max-pending", QueuePlan::MAX_PENDING, default.max_pending),
    }
}

/// Reads one `[[transit]]`.
pub(super) fn read_transit(
    source: &mut Source<'_>,
    mut table: Table<'_>,
    links: &[LinkDraft],
    labels: &mut Labels,
) -> Option<TransitPlan> {
    let a = transit_end(source, &mut table, "a", links, labels);
    let b = transit_end(source, &mut table, "b", links, labels);
    let weight = small(source, &mut table, "weight", 1..=1000, 1);
    table.close(source);
    Some(TransitPlan { a: a?, b: b?, weight })
}

fn transit_end(
    source: &mut Source<'_>,
    table: &mut Table<'_>,
    side: &'static str,
    links: &[LinkDraft],
    labels: &mut Labels,
) -> Option<TransitEndPlan> {
    if table.get(side).is_none() {
        table.missing(source, side, "{ link = \"to-a\", in-label = 100, out-label = 200 }");
        return None;
    }
    let mut t = table.table(source, side)?;
    let name = t.required(source, "link", "\"to-a\"", string);
    let link = name.as_ref().and_then(|l| link::find(source, links, l));
    let pair = label_pair(source, &mut t, link, labels);
    t.close(source);
    let (out_label, in_label) = pair?;
    Some(TransitEndPlan { link: link?.0, in_label, out_label })
}

/// `out-label` and `in-label`, each unique on its link.
fn label_pair(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    link: Option<(u16, &LinkDraft)>,
    labels: &mut Labels,
) -> Option<(u32, u32)> {
    let mut one = |source: &mut Source<'_>, name: &'static str, example: &str| {
        let label = t.required(source, name, example, integer(LABEL_BOUNDS))?;
        let label = label.map(|n| u32::try_from(n).unwrap_or_default());
        if let Some((index, LinkDraft { name: Some(link_name), .. })) = link {
            labels.take(source, index, name, &label, &link_name.value);
        }
        Some(label.value)
    };
    let out_label = one(source, "out-label", "100");
    let in_label = one(source, "in-label", "200");
    Some((out_label?, in_label?))
}
