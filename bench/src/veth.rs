//! One veth hop, one core a side, 1500-byte MTU: florelay beside its bounds and beside quinn, in one run.
//!
//! Each round measures every row once, in the same order; a row that fails is not tried again and says why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::bound::Bound;
use crate::clock::PacketCost;
use crate::context::{Machine, load};
use crate::end_to_end::{Spread, Transfer};
use crate::report::{Ratio, Report, Row, Sample, Unit};
use crate::streams::Spool;
use crate::{FULL_FRAME_BYTES, QUIC_PACKET_BYTES, SHORT_FRAME_BYTES};
use crate::{bare, bed, blast, end_to_end, engine_memory, quic_memory, quinn_sockets, streams};

/// Cap of the contracted engine, bit/s: above what one core reaches, so that it costs but does not bind.
const CONTRACTED_BPS: u64 = 10_000_000_000;
const FRAME_CPU: &str = "sender_cpu_ns_per_frame";
const SEND_CPU: &str = "send_cpu_ns";
const RECEIVE_NS: &str = "receive_ns";
const RECEIVE_CPU: &str = "receive_cpu_ns";
const STREAM_BYTES: &str = "stream_bytes_per_packet";
const PACKETS: &str = "packets";

/// Shares of the bare transport that a file, and a stream with its spool on a disk, are to reach.
const FILE_BAR: f64 = 0.90;
const SPOOLED_BAR: f64 = 0.75;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many times everything is measured.
    pub rounds: u32,
    /// How long each measurement takes, set-up not counted.
    pub duration: Duration,
    /// Size of the file that the nodes send, 10^6 bytes.
    pub file_mb: u64,
    /// Keys of the rows to measure; none = all.
    pub only: Vec<String>,
    /// A folder on a real disk, for the spool.
    pub disk: PathBuf,
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
    for key in &options.only {
        anyhow::ensure!(rows.iter().any(|(row, _)| row.key == key), "there is no row `{key}`");
    }
    rows.retain(|(row, _)| options.only.is_empty() || options.only.iter().any(|key| row.key == key));
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
    let rounds = Rounds { rows: &rows, count: options.rounds as usize };
    let (bounds, on_idle) = (rounds.bounds(), rounds.bounds_on_idle_cores());
    let ratios = rounds.ratios(&bounds);
    let [bounds, bounds_on_idle_cores] = [bounds, on_idle].map(|all| all.into_iter().flatten().collect());
    Ok(Report { machine, rounds: options.rounds, rows, bounds, bounds_on_idle_cores, ratios })
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
    let nodes = |key, what: &str, cores, run: fn(&Path, &Options) -> Result<Transfer>| {
        let packet = format!("{QUIC_PACKET_BYTES} QUIC, {FULL_FRAME_BYTES} at layer 2");
        let row = row(key, what, Unit::BitsPerSecond, &packet, cores);
        let measure: Measure = Box::new(move |options| {
            let program = end_to_end::find_program(options.program.as_deref())?;
            let seen = run(&program, options)?;
            let details = vec![("frames_lost", seen.frames_lost)];
            Ok(Measured { value: seen.goodput_bps, details, driver: format!("veth, {}", seen.rung) })
        });
        (row, measure)
    };
    let disk = || {
        let what = "the spool's disk alone, 1 MiB written and synced at a time";
        let row = row("disk", what, Unit::BitsPerSecond, "none", "1");
        let measure: Measure = Box::new(|options| {
            let value = streams::disk_bps(&options.disk)?;
            Ok(Measured { value, details: Vec::new(), driver: "none".to_owned() })
        });
        (row, measure)
    };
    let spread = "florelay, the same, gateways on any core";
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
        nodes("bare", "bare transport: florelay without files, hashes and control", "1 a side", |program, options| {
            bare::run(program, options.file_mb)
        }),
        nodes("florelay", "florelay, two nodes, a file, uncapped", "1 a side", |program, options| {
            end_to_end::run(program, options.file_mb, Spread::OneCore)
        }),
        nodes("florelay_spread", spread, "workers 1 a side, gateways any", |program, options| {
            end_to_end::run(program, options.file_mb, Spread::WorkerOnly)
        }),
        nodes("stream_memory", "florelay, a stream by pipe, spool in memory", "1 a side", |program, options| {
            streams::run(program, options.file_mb, &Spool::Memory)
        }),
        nodes("stream_disk", "florelay, a stream by pipe, disk spool on", "1 a side", |program, options| {
            streams::run(program, options.file_mb, &Spool::Disk(options.disk.clone()))
        }),
        disk(),
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

/// The rows, looked at round by round.
struct Rounds<'r> {
    rows: &'r [Row],
    count: usize,
}

impl Rounds<'_> {
    /// One figure of a row in each round; `None` where it was not measured.
    fn of(&self, key: &str, part: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
        let row = self.rows.iter().find(|row| row.key == key);
        (0..self.count).map(|round| row.and_then(|row| part(row.samples.get(round)?))).collect()
    }

    fn value(&self, key: &str) -> Vec<Option<f64>> {
        self.of(key, |sample| Some(sample.value))
    }

    /// A figure of a memory row, for a byte of the stream: packets of two rows are not equally full.
    fn per_byte(&self, key: &str, part: fn(&PacketCost) -> f64) -> Vec<Option<f64>> {
        self.of(key, |sample| cost(sample).map(|cost| part(&cost) / cost.stream_bytes))
    }

    fn bounds(&self) -> Vec<Option<Bound>> {
        self.bounds_with("quic_memory", |sample| Some(sample.value), Bound::new)
    }

    fn bounds_on_idle_cores(&self) -> Vec<Option<Bound>> {
        self.bounds_with("quic_memory", |sample| sample.detail(FRAME_CPU), Bound::on_idle_cores)
    }

    fn bounds_with(
        &self,
        quic: &str,
        blast: impl Fn(&Sample) -> Option<f64>,
        bound: fn(f64, &PacketCost) -> Bound,
    ) -> Vec<Option<Bound>> {
        let quic = self.rows.iter().find(|row| row.key == quic);
        let of_round = |(round, blast): (usize, Option<f64>)| {
            let quic = quic.and_then(|row| cost(row.samples.get(round)?))?;
            Some(bound(blast?, &quic))
        };
        self.of("blast_1514", blast).into_iter().enumerate().map(of_round).collect()
    }

    fn ratios(&self, bounds: &[Option<Bound>]) -> Vec<Ratio> {
        let goodput = |bounds: &[Option<Bound>]| -> Vec<_> {
            bounds.iter().map(|bound| bound.as_ref().map(|bound| bound.goodput_bps)).collect()
        };
        let bound = goodput(bounds);
        let engine_bound = goodput(&self.bounds_with("engine_memory", |sample| Some(sample.value), Bound::new));
        let rows = |what, of, to| Ratio::new(what, &self.value(of), &self.value(to));
        let to_bound = |what, of| Ratio::new(what, &self.value(of), &bound);
        let memory =
            |what, part| Ratio::new(what, &self.per_byte("engine_memory", part), &self.per_byte("quic_memory", part));
        let capped = self.per_byte("engine_memory_contracted", |cost| cost.send_ns);
        let uncapped = self.per_byte("engine_memory", |cost| cost.send_ns);
        vec![
            rows("florelay / bare transport", "florelay", "bare").with_bar(FILE_BAR),
            rows("stream, disk spool on / bare transport", "stream_disk", "bare").with_bar(SPOOLED_BAR),
            rows("stream, spool in memory / bare transport", "stream_memory", "bare"),
            rows("stream, disk spool on / spool in memory", "stream_disk", "stream_memory"),
            rows("florelay, gateways on any core / bare transport", "florelay_spread", "bare"),
            to_bound("bare transport / bound", "bare"),
            to_bound("florelay / bound (aim 0.85)", "florelay"),
            to_bound("florelay, gateways on any core / bound", "florelay_spread"),
            rows("florelay / quinn over sockets, offload on", "florelay", "quinn_offload"),
            rows("florelay / quinn over sockets, offload off", "florelay", "quinn_plain"),
            to_bound("quinn over sockets, offload on / bound", "quinn_offload"),
            to_bound("quinn over sockets, offload off / bound", "quinn_plain"),
            memory("engine / bare quinn-proto, time per byte at the sender", |cost| cost.send_ns),
            memory("engine / bare quinn-proto, CPU time per byte at the sender", |cost| cost.send_cpu_ns),
            memory("engine / bare quinn-proto, time per byte at the receiver", |cost| cost.receive_ns),
            memory("engine / bare quinn-proto, CPU time per byte at the receiver", |cost| cost.receive_cpu_ns),
            Ratio::new("contracted engine / uncapped engine, time per byte at the sender", &capped, &uncapped),
            Ratio::new("computed, not measured: engine's time in the bound's formula / bound", &engine_bound, &bound),
        ]
    }
}

/// A sample of the memory kind as a cost.
fn cost(sample: &Sample) -> Option<PacketCost> {
    Some(PacketCost {
        send_ns: sample.value,
        receive_ns: sample.detail(RECEIVE_NS)?,
        send_cpu_ns: sample.detail(SEND_CPU)?,
        receive_cpu_ns: sample.detail(RECEIVE_CPU)?,
        stream_bytes: sample.detail(STREAM_BYTES)?,
        packets: sample.detail(PACKETS)? as u64,
    })
}
