//! The demo's report.

use florelay_e2e::{Program, Rate, Topology};
use serde_json::Value;

use super::act::{LinkRung, Measured, Source};

pub(super) fn act(rate: Rate, measured: &Measured) {
    println!(
        "\n--- {}",
        match rate {
            Rate::Bps(_) => format!("cap {rate} at layer 2"),
            Rate::Uncapped => "uncapped".to_owned(),
        }
    );
    // The rungs do not depend on the cap: once is enough.
    if rate != Rate::Uncapped {
        println!("links:");
        measured.links.iter().for_each(rung);
    }
    let seconds = measured.took.as_secs_f64();
    let goodput = measured.file_bytes as f64 * 8.0 / seconds / 1e6;
    println!("file:      {} MB in {seconds:.2} s, goodput {goodput:.1} Mbit/s", measured.file_bytes / 1_000_000);
    match &measured.rate {
        Some(seen) => {
            let source = match seen.source {
                Source::Interface => "the kernel's interface counters",
                Source::Own => "the node's own counters: loopback has none per node",
            };
            println!("layer 2:   mean {:.2} Mbit/s ({source})", seen.mean_bps / 1e6);
            if let Some(cap) = rate.bps() {
                println!("cap error: {:+.3} % of the mean", (seen.mean_bps / cap as f64 - 1.0) * 100.0);
                if let (Some(busiest), Some(burst)) = (seen.busiest_bps, measured.burst_bytes) {
                    let allowed = cap as f64 + burst as f64 * 8.0 / 0.1;
                    let verdict = if busiest <= allowed { "within" } else { "ABOVE" };
                    println!(
                        "           busiest 100 ms {:.2} Mbit/s, {verdict} cap + burst ({:.2})",
                        busiest / 1e6,
                        allowed / 1e6
                    );
                }
            }
        }
        None => println!("layer 2:   not measured: nothing was counted, or too short a transfer"),
    }
    println!("commands:  {}", latencies(&measured.commands));
    let digest = find_text(&measured.sent, &["blake3", "digest", "hash"])
        .map(|hex| format!(", BLAKE3 {hex}"))
        .unwrap_or_default();
    println!("content:   {}{digest}", if measured.intact { "identical, byte by byte" } else { "DIFFERENT" });
}

fn rung(link: &LinkRung) {
    println!("  {:<10} {:<9} stands on {}", link.node, link.link, link.rung);
    for (higher, why) in &link.reasons {
        println!("  {:<10} {:<9}   not {higher}: {why}", "", "");
    }
}

/// How to look around while the nodes run.
pub(super) fn exploring(topology: &Topology, program: &Program) {
    let florelay = program.path().display();
    println!("\n--- the nodes run until Ctrl-C; in another terminal, for example:\n");
    for station in &topology.stations {
        println!("  {florelay} status --config {}", station.config.display());
    }
    let (a, b) = (&topology.stations[0], &topology.stations[2]);
    let config = a.config.display();
    println!("  {florelay} send FILE --to {} --config {config}", b.name);
    println!("  {florelay} c2 --to {} --config {config} hello", b.name);
    println!("  {florelay} link set to-relay --rate '10 Mbit/s' --config {config}");
    println!("  {florelay} trace {} --config {config}", b.name);
    if let Some(namespace) = &a.namespace {
        println!("  nsenter --net={} tcpdump -ni w0 -c 5", namespace.path().display());
    }
    println!("\n  received files: {}", b.inbox.display());
}

/// Every latency that `c2 --json` reports, in milliseconds, by rank: the JSON object has them by name.
fn latencies(report: &Value) -> String {
    let mut found = Vec::new();
    collect(report, "", &mut found);
    if found.is_empty() {
        return format!("no latencies in {report}");
    }
    found.sort_by(|a, b| rank(&a.0).total_cmp(&rank(&b.0)));
    let parts: Vec<String> = found.iter().map(|(name, ms)| format!("{name} {ms:.2} ms")).collect();
    match report["count"].as_u64().or_else(|| report["acknowledged"].as_u64()).or_else(|| report["acked"].as_u64()) {
        Some(count) => format!("{count} acknowledged, round trip {}", parts.join(", ")),
        None => format!("round trip {}", parts.join(", ")),
    }
}

/// The percentile that a name means: `min` 0, `p50` 50, `p99.9` and `p999` 99.9, `max` 100.
fn rank(name: &str) -> f64 {
    let last = name.rsplit('_').next().unwrap_or(name);
    match last.strip_prefix('p').map(|digits| (digits.parse::<f64>(), digits)) {
        Some((Ok(rank), digits)) if rank > 100.0 && !digits.contains('.') => rank / 10.0,
        Some((Ok(rank), _)) => rank,
        _ if last == "min" => 0.0,
        _ => 100.0,
    }
}

/// Numbers whose key is a percentile with a unit of time: `p99_ns`, `rtt_p50_us`, `max_ms`.
fn collect(value: &Value, prefix: &str, found: &mut Vec<(String, f64)>) {
    const UNITS: [(&str, f64); 3] = [("_ns", 1e-6), ("_us", 1e-3), ("_ms", 1.0)];
    let Some(object) = value.as_object() else {
        return;
    };
    for (key, value) in object {
        let full = format!("{prefix}{key}");
        if let Some(number) = value.as_f64() {
            let is_rank = ["p50", "p90", "p95", "p99", "p999", "min", "max"].iter().any(|rank| full.contains(rank));
            if let Some((unit, factor)) = UNITS.iter().find(|(unit, _)| full.ends_with(unit)).filter(|_| is_rank) {
                let name = full.trim_end_matches(unit).trim_start_matches("rtt_").to_owned();
                found.push((name, number * factor));
            }
        } else {
            collect(value, &format!("{full}_"), found);
        }
    }
}

fn find_text<'v>(value: &'v Value, keys: &[&str]) -> Option<&'v str> {
    let object = value.as_object()?;
    object.iter().find_map(|(key, inner)| {
        let wanted = keys.iter().any(|wanted| key.contains(wanted));
        inner.as_str().filter(|_| wanted).or_else(|| find_text(inner, keys))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentiles_are_found_with_their_units() {
        let report =
            json!({"count": 3, "rtt": {"p50_ns": 1_500_000, "p99_ns": 2_000_000}, "max_ms": 2.5, "interval_ms": 50});
        assert_eq!(latencies(&report), "3 acknowledged, round trip p50 1.50 ms, p99 2.00 ms, max 2.50 ms");
        // As `c2 --json` really writes them, where two are equal or a cold start makes the mean odd.
        let report = json!({"count": 9, "max_ns": 4_000_000, "mean_ns": 1, "min_ns": 1_000_000, "p50_ns": 2_000_000,
            "p90_ns": 4_000_000, "p99.9_ns": 4_000_000, "p99_ns": 4_000_000});
        assert_eq!(
            latencies(&report),
            "9 acknowledged, round trip min 1.00 ms, p50 2.00 ms, p90 4.00 ms, p99 4.00 ms, p99.9 4.00 ms, max 4.00 ms"
        );
        assert!(latencies(&Value::Null).contains("no latencies"));
    }
}
