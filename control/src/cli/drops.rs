//! Which counters say that something was lost, and what each means to a person.

use std::fmt::Write as _;

/// Counters that count losses without `drop_` in front of their name.
const LOSSES: &[&str] = &[
    "adapter_no_frame",
    "adapter_too_long",
    "adapter_tx_dropped",
    "socket_foreign",
    "socket_send_dropped",
    "xdp_bad_checksum",
    "xdp_drop_malformed",
    "xdp_malformed",
    "xdp_rx_dropped",
    "xdp_rx_ring_full",
    "xdp_unknown_remote",
];

/// What to look at, by counter. Those without an entry have a name that says it, or are florelay's own business.
const HINTS: &[(&str, &str)] = &[
    ("drop_backward_mismatch", "the labels of the path's nodes do not fit together"),
    ("drop_unknown_label", "the labels of the path's nodes do not fit together"),
    ("drop_ttl_expired", "a path leads round in a circle"),
    ("drop_liveness_tag", "the two ends of the link have different key files"),
    ("drop_liveness_reflected", "something sends this node's own frames back"),
    ("drop_liveness_replay", "something repeats frames"),
    ("drop_exceeds_mtu", "mtu of the link is larger at the neighbour"),
    ("drop_egress_flow_full", "more comes for a path than its next link carries"),
    ("drop_egress_pool_full", "more comes for all paths than the next link carries"),
    ("drop_frames_short", "more comes than the links carry on"),
    ("adapter_no_frame", "more comes than the links carry on"),
    ("adapter_too_long", "mtu of the link is larger at the neighbour"),
    ("socket_foreign", "somebody else sends to the link's port, or remote is not the neighbour's address"),
    ("xdp_unknown_remote", "somebody else sends to the link's port, or remote is not the neighbour's address"),
    ("xdp_drop_malformed", "what is no link frame comes to the link's port"),
    ("xdp_malformed", "what is no link frame comes to the link's port"),
    ("xdp_bad_checksum", "UDP checksums are wrong: on veth, switch transmit checksumming off"),
    ("xdp_rx_ring_full", "the worker does not keep up: give it a core of its own"),
];

/// Counters that count losses and are not zero.
pub(super) fn of(counters: &[(String, u64)]) -> impl Iterator<Item = (&str, u64)> {
    let lost = |name: &str| name.starts_with("drop_") || LOSSES.contains(&name);
    counters.iter().filter(move |(name, count)| *count > 0 && lost(name)).map(|(name, count)| (name.as_str(), *count))
}

/// One line for all drops, and one for each thing to look at; nothing if nothing was dropped.
pub(super) fn line(whose: &str, counters: &[(String, u64)]) -> String {
    let all: Vec<_> = of(counters).map(|(n, count)| format!("{} {count}", n.trim_start_matches("drop_"))).collect();
    if all.is_empty() {
        return String::new();
    }
    let mut text = format!("  {whose} drops: {}\n", all.join(", "));
    let mut said = Vec::new();
    for (name, _) in of(counters) {
        if let Some((_, hint)) = HINTS.iter().find(|(known, _)| *known == name)
            && !said.contains(hint)
        {
            said.push(hint);
            let _ = writeln!(text, "    hint: {hint}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_one_line_with_each_hint_once() {
        let counters: Vec<(String, u64)> = [
            ("tx_frames", 9),
            ("drop_unknown_label", 2),
            ("drop_backward_mismatch", 1),
            ("drop_transport", 0),
            ("xdp_drop_malformed", 5),
            ("xdp_malformed_too_short", 5),
            ("xdp_steered", 7),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into();
        assert_eq!(
            line("to-relay", &counters),
            "  to-relay drops: unknown_label 2, backward_mismatch 1, xdp_drop_malformed 5\n\
             \u{20}   hint: the labels of the path's nodes do not fit together\n\
             \u{20}   hint: what is no link frame comes to the link's port\n"
        );
        assert_eq!(line("to-relay", &counters[..1]), "");
        assert_eq!(of(&counters).map(|(_, count)| count).sum::<u64>(), 8, "malformed frames are counted once");
    }

    #[test]
    fn hints_are_of_counters_that_are_losses() {
        for (name, _) in HINTS {
            assert!(name.starts_with("drop_") || LOSSES.contains(name), "{name}");
        }
    }
}
