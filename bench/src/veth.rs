//! One veth hop, one core a side, 1500-byte MTU: florelay beside its bounds and beside quinn, in one run.
//!
//! Each round measures every row once, in the same order; a row that fails is not tried again and says why.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::bound::Bound;
use crate::clock::PacketCost;
use crate::context::{Machine, load};
use crate::report::{Ratio, Report, Row, Sample, Unit};
use crate::{FULL_FRAME_BYTES, QUIC_PACKET_BYTES, SHORT_FRAME_BYTES};
use crate::{bed, blast, end_to_end, engine_memory, quic_memory, quinn_sockets};

/// Cap of the contracted engine, bit/s: above what one core reaches, so that it costs but does not bind.
const CONTRACTED_BPS: u64 = 10_000_000_000;
const FRAME_CPU: &str = "sender_cpu_ns_per_frame";
const SEND_CPU: &str = "send_cpu_ns";
const RECEIVE_NS: &str = "receive_ns";
const RECEIVE_CPU: &str = "receive_cpu_ns";
const STREAM_BYTES: &str = "stream_bytes_per_packet";
const PACKETS: &str = "packets";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many times everything is measured.
    pub rounds: u32,
    /// How long each measurement takes, set-up not counted.
    pub duration: Duration,
    /// Size of the file that the nodes send, 10^6 bytes.
    pub file_mb: u64,
    /// The `florelay` program; `None` = `$FLORELAY_BIN`, or the one beside this program.
    pub program: Option<PathBuf>,
}

/// What a measurement gives.
struct Measured {
    value: f64,
    details: Vec<(&'static str, f64)>,
    /// Driver and mode as they really were.
    driver: String,
}

type Measure = Box<dyn Fn(&Options) -> Result<Measured>>;

/// Measures everything; progress goes to standard error.
///
/// # Errors
/// No root. What fails later is in the report.
pub fn run(options: &Options) -> Result<Report> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "network namespaces, XDP and AF_XDP need root");
    bed::sweep_stale();
    let machine = Machine::look();
    // What is measured in memory stands on one core, and so do the programs that A's side calls. Threads and nodes
    // settle themselves.
    bed::pin(bed::Side::A.core())?;
    let mut rows = rows();
    for round in 1..=options.rounds {
        for (row, measure) in rows.iter_mut().filter(|(row, _)| row.failure.is_none()) {
            eprintln!("round {round} of {}: {}", options.rounds, row.key);
            match measure(options) {
                Ok(measured) => {
                    row.samples.push(Sample { value: measured.value, load: load(), details: measured.details });
                    row.driver = measured.driver;
                }
                Err(error) => row.failure = Some(format!("round {round}: {error:#}")),
            }
        }
    }
    let rows: Vec<Row> = rows.into_iter().map(|(row, _)| row).collect();
    let bound = bound(&rows);
    let ratios = ratios(&rows, bound.as_ref());
    let bound_on_idle_cores = bound_on_idle_cores(&rows);
    Ok(Report { machine, rounds: options.rounds, rows, bound, bound_on_idle_cores, ratios })
}

fn rows() -> Vec<(Row, Measure)> {
    let blast = |key, bytes: usize| {
        let what = format!("raw AF_XDP blast, no QUIC, {bytes} bytes");
        let row = row(key, &what, Unit::FramesPerSecond, &format!("{bytes} at layer 2"), "1 a side");
        let measure: Measure = Box::new(move |options| {
            let seen = blast::run(bytes, options.duration)?;
            let details = vec![
                ("sent_per_s", seen.sent_per_s),
                (FRAME_CPU, seen.sender_cpu_ns),
                ("kicks_per_frame", seen.kicks_per_frame),
            ];
            Ok(Measured { value: seen.received_per_s, details, driver: format!("veth, driver XDP, {}", seen.mode) })
        });
        (row, measure)
    };
    let memory = |key, what: &str, run: fn(Duration) -> Result<PacketCost>| {
        let row = row(key, what, Unit::NanosecondsPerPacket, &format!("{QUIC_PACKET_BYTES} QUIC"), "1 for both sides");
        let measure: Measure = Box::new(move |options| {
            let cost = run(options.duration)?;
            let details = vec![
                (RECEIVE_NS, cost.receive_ns),
                (SEND_CPU, cost.send_cpu_ns),
                (RECEIVE_CPU, cost.receive_cpu_ns),
                (STREAM_BYTES, cost.stream_bytes),
                (PACKETS, cost.packets as f64),
            ];
            Ok(Measured { value: cost.send_ns, details, driver: "none, in memory".to_owned() })
        });
        (row, measure)
    };
    let quinn = |key, offload: bool| {
        let what = format!("quinn over UDP sockets, segmentation offload {}", if offload { "on" } else { "off" });
        let packet = format!("{} QUIC", quinn_sockets::PACKET_BYTES);
        let row = row(key, &what, Unit::BitsPerSecond, &packet, "1 a side");
        let measure: Measure = Box::new(move |options| {
            let seen = quinn_sockets::run(offload, options.duration)?;
            let details = vec![("datagrams_per_call", seen.datagrams_per_call), ("lost", seen.lost)];
            Ok(Measured { value: seen.bps, details, driver: "veth, UDP sockets".to_owned() })
        });
        (row, measure)
    };
    let packet = format!("{QUIC_PACKET_BYTES} QUIC, {FULL_FRAME_BYTES} at layer 2");
    let what = "florelay, two nodes, a file, uncapped";
    let nodes = row("florelay", what, Unit::BitsPerSecond, &packet, "1 a side");
    let measure_nodes: Measure = Box::new(|options| {
        let program = end_to_end::find_program(options.program.as_deref())?;
        let seen = end_to_end::run(&program, options.file_mb)?;
        Ok(Measured { value: seen.goodput_bps, details: Vec::new(), driver: format!("veth, {}", seen.rung) })
    });
    vec![
        blast("blast_1514", FULL_FRAME_BYTES),
        blast("blast_64", SHORT_FRAME_BYTES),
        memory("quic_memory", "bare quinn-proto in memory, sender", quic_memory::run),
        memory("engine_memory", "engine in memory, sender, uncapped", |duration| engine_memory::run(None, duration)),
        memory("engine_memory_contracted", "engine in memory, sender, contracted 10 Gbit/s", |duration| {
            engine_memory::run(Some(CONTRACTED_BPS), duration)
        }),
        quinn("quinn_offload", true),
        quinn("quinn_plain", false),
        (nodes, measure_nodes),
    ]
}

fn row(key: &'static str, what: &str, unit: Unit, packet: &str, cores: &'static str) -> Row {
    Row {
        key,
        what: what.to_owned(),
        unit,
        packet: packet.to_owned(),
        driver: "veth".to_owned(),
        cores,
        samples: Vec::new(),
        failure: None,
    }
}

fn find<'r>(rows: &'r [Row], key: &str) -> Option<&'r Row> {
    rows.iter().find(|row| row.key == key)
}

/// A row of the memory kind as a cost, from medians.
fn cost(row: &Row) -> Option<PacketCost> {
    Some(PacketCost {
        send_ns: row.median()?,
        receive_ns: row.detail(RECEIVE_NS)?,
        send_cpu_ns: row.detail(SEND_CPU)?,
        receive_cpu_ns: row.detail(RECEIVE_CPU)?,
        stream_bytes: row.detail(STREAM_BYTES)?,
        packets: row.detail(PACKETS)? as u64,
    })
}

fn bound(rows: &[Row]) -> Option<Bound> {
    Some(Bound::new(find(rows, "blast_1514")?.median()?, &cost(find(rows, "quic_memory")?)?))
}

fn bound_on_idle_cores(rows: &[Row]) -> Option<Bound> {
    Some(Bound::on_idle_cores(find(rows, "blast_1514")?.detail(FRAME_CPU)?, &cost(find(rows, "quic_memory")?)?))
}

fn ratios(rows: &[Row], bound: Option<&Bound>) -> Vec<Ratio> {
    let median = |key: &str| find(rows, key).and_then(Row::median);
    let costs = |key: &str| find(rows, key).and_then(cost);
    let bound_bps = bound.map(|bound| bound.goodput_bps);
    let (florelay, quic, engine) = (median("florelay"), costs("quic_memory"), costs("engine_memory"));
    let contracted = costs("engine_memory_contracted");
    // Packets of the two are not equally full: time for a byte of the stream.
    let of = |cost: &Option<PacketCost>, part: fn(&PacketCost) -> f64| cost.as_ref().map(|c| part(c) / c.stream_bytes);
    let engine_bound = median("blast_1514").zip(engine.as_ref()).map(|(fps, cost)| Bound::new(fps, cost).goodput_bps);
    vec![
        Ratio::new("florelay / bound (aim 0.85)", florelay, bound_bps),
        Ratio::new("florelay / quinn over sockets, offload on", florelay, median("quinn_offload")),
        Ratio::new("florelay / quinn over sockets, offload off", florelay, median("quinn_plain")),
        Ratio::new("quinn over sockets, offload on / bound", median("quinn_offload"), bound_bps),
        Ratio::new("quinn over sockets, offload off / bound", median("quinn_plain"), bound_bps),
        Ratio::new(
            "engine / bare quinn-proto, time per byte at the sender",
            of(&engine, |c| c.send_ns),
            of(&quic, |c| c.send_ns),
        ),
        Ratio::new(
            "engine / bare quinn-proto, CPU time per byte at the sender",
            of(&engine, |c| c.send_cpu_ns),
            of(&quic, |c| c.send_cpu_ns),
        ),
        Ratio::new(
            "engine / bare quinn-proto, time per byte at the receiver",
            of(&engine, |c| c.receive_ns),
            of(&quic, |c| c.receive_ns),
        ),
        Ratio::new(
            "engine / bare quinn-proto, CPU time per byte at the receiver",
            of(&engine, |c| c.receive_cpu_ns),
            of(&quic, |c| c.receive_cpu_ns),
        ),
        Ratio::new(
            "contracted engine / uncapped engine, time per byte at the sender",
            of(&contracted, |c| c.send_ns),
            of(&engine, |c| c.send_ns),
        ),
        Ratio::new("computed, no measurement: engine's time in the bound's formula / bound", engine_bound, bound_bps),
    ]
}
