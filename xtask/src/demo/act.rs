//! One run of the demo: start the nodes, send the file and the commands, measure, stop the nodes.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use florelay_e2e::{
    Deadline, LinkPlan, Node, Program, Rate, Sample, Sampler, Status, Topology, busiest_window_bps, mean_rate_bps,
};
use serde_json::Value;

use super::{CONNECT_TIME, payload};

/// Windows in which the cap may not be exceeded by more than the burst.
const WINDOW: Duration = Duration::from_millis(100);
/// Time between commands.
const COMMAND_INTERVAL_MS: u32 = 50;
const COMMAND: &str = "antenna: azimuth 182.4 elevation 31.0";
/// How long an uncapped transfer may take, and what is added to a capped one's own time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was measured.
pub(super) struct Measured {
    pub(super) links: Vec<LinkRung>,
    /// From starting `florelay send` to its end, all included.
    pub(super) took: Duration,
    pub(super) file_bytes: u64,
    /// Mean and busiest-window rate at layer 2 on the first link, and where they come from.
    pub(super) rate: Option<RateSeen>,
    pub(super) burst_bytes: Option<u64>,
    pub(super) commands: Value,
    /// The last thing that `send --json` said.
    pub(super) sent: Value,
    pub(super) intact: bool,
}

pub(super) struct RateSeen {
    pub(super) mean_bps: f64,
    pub(super) busiest_bps: Option<f64>,
    pub(super) source: Source,
}

/// Who counted the bytes.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// The kernel, on the interface.
    Interface,
    /// The node; loopback has no interface per node.
    Own,
}

/// What a link stands on.
pub(super) struct LinkRung {
    pub(super) node: String,
    pub(super) link: String,
    pub(super) rung: String,
    pub(super) reasons: Vec<(String, String)>,
}

pub(super) fn play(topology: &Topology, program: &Program, plan: &LinkPlan, megabytes: u64) -> Result<Measured> {
    topology.configure(plan)?;
    let nodes = topology.start_all(CONNECT_TIME)?;
    let statuses = nodes.iter().map(Node::status).collect::<Result<Vec<_>>>()?;

    let name = if plan.rate == Rate::Uncapped { "uncapped.bin" } else { "capped.bin" };
    let file = topology.folder().join(name);
    payload::write(&file, megabytes)?;
    let file_bytes = fs::metadata(&file)?.len();
    let expected = plan.rate.bps().map_or(Duration::ZERO, |bps| Duration::from_secs(file_bytes * 8 / bps));

    let ruler = Ruler::start(topology, &nodes[0])?;
    let (station_a, to) = (&topology.stations[0], topology.stations[2].name.as_str());
    let began = Instant::now();
    let mut send = Job::start(&program.send(&station_a.config, to, &file), topology.folder(), "send")?;
    let count = commands_within(expected);
    let commands = program.c2(&station_a.config, to, count, COMMAND_INTERVAL_MS, COMMAND);
    let mut commands = Job::start(&commands, topology.folder(), "c2")?;

    let deadline = Deadline::after(expected * 2 + PATIENCE);
    let mut ruler = ruler;
    deadline.wait("the file to arrive", || {
        ruler.look();
        send.ended()
    })?;
    let took = began.elapsed();
    let samples = ruler.finish()?;
    deadline.wait("the commands to be acknowledged", || commands.ended())?;

    let intact = topology.arrived_intact(&file)?;
    fs::remove_file(&file)?;
    fs::remove_file(topology.stations[2].inbox.join(name))?;
    let measured = Measured {
        links: topology
            .stations
            .iter()
            .zip(&statuses)
            .flat_map(|(station, status)| rungs(&station.name, status))
            .collect(),
        took,
        file_bytes,
        rate: rate_seen(&samples.0, samples.1),
        burst_bytes: statuses[0].links().first().and_then(|link| link["burst_bytes"].as_u64()),
        commands: commands.last_json(),
        sent: send.last_json(),
        intact,
    };
    for node in nodes {
        node.stop()?;
    }
    Ok(measured)
}

/// Enough commands to cover most of the transfer, so that they meet a saturated link.
fn commands_within(expected: Duration) -> u32 {
    let most = expected.as_millis() * 8 / 10 / u128::from(COMMAND_INTERVAL_MS);
    u32::try_from(most).unwrap_or(u32::MAX).clamp(20, 1000)
}

fn rungs(node: &str, status: &Status) -> Vec<LinkRung> {
    let named = |link: &Value| {
        let (rung, reasons) = Status::rung(link);
        LinkRung { node: short(node), link: link["name"].as_str().unwrap_or("?").to_owned(), rung, reasons }
    };
    status.links().iter().map(named).collect()
}

/// `station-a-4711-x7` is station-a.
fn short(node: &str) -> String {
    ["station-a", "station-b", "relay"].into_iter().find(|role| node.starts_with(role)).unwrap_or(node).to_owned()
}

fn rate_seen(samples: &[Sample], source: Source) -> Option<RateSeen> {
    let busiest_bps = match source {
        Source::Interface => busiest_window_bps(samples, WINDOW),
        // Each sample is an answer of the node, tens of milliseconds late: too coarse for a window of 100.
        Source::Own => None,
    };
    Some(RateSeen { mean_bps: mean_rate_bps(samples)?, busiest_bps, source })
}

/// Measures what station-a sends: the kernel's interface counters, or the node's own where there is no interface.
enum Ruler<'t> {
    Interface(Sampler),
    Own { node: &'t Node, began: Instant, first: u64, samples: Vec<Sample> },
}

impl<'t> Ruler<'t> {
    fn start(topology: &Topology, node: &'t Node) -> Result<Self> {
        let [a, relay, _] = topology.stations.each_ref().map(|station| station.namespace.as_ref());
        if let (Some(a), Some(relay), Some(wire)) = (a, relay, topology.wires.first()) {
            let [from, to] = wire.interfaces();
            return Ok(Self::Interface(Sampler::start((a, from), (relay, to))?));
        }
        let first = own_bytes(node).context("status has no counter tx_bytes")?;
        Ok(Self::Own { node, began: Instant::now(), first, samples: Vec::new() })
    }

    /// Called while waiting; the interface is sampled on a thread of its own.
    fn look(&mut self) {
        if let Self::Own { node, began, first, samples } = self
            && let Some(bytes) = own_bytes(node)
        {
            samples.push(Sample { at: began.elapsed(), bytes: bytes.saturating_sub(*first) });
        }
    }

    fn finish(self) -> Result<(Vec<Sample>, Source)> {
        match self {
            Self::Interface(sampler) => Ok((sampler.finish()?, Source::Interface)),
            Self::Own { samples, .. } => Ok((samples, Source::Own)),
        }
    }
}

fn own_bytes(node: &Node) -> Option<u64> {
    node.status().ok()?.link_counter("to-relay", "tx_bytes")
}

/// A client command that runs beside the demo. What it prints goes to a file: a pipe that nobody reads would stop it.
struct Job {
    name: &'static str,
    child: Child,
    output: PathBuf,
}

impl Job {
    fn start(client: &Command, folder: &Path, name: &'static str) -> Result<Self> {
        let output = folder.join(format!("{name}.json"));
        let said = File::create(&output)?;
        // Should the demo be killed, its jobs end with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(client.get_program()).args(client.get_args());
        // Out of the terminal's process group: Ctrl-C comes to the demo, which ends its jobs itself.
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot run florelay {name}"))?;
        Ok(Self { name, child, output })
    }

    /// `Some` once it has ended well.
    fn ended(&mut self) -> Result<Option<()>> {
        match self.child.try_wait()? {
            None => Ok(None),
            Some(status) if status.success() => Ok(Some(())),
            Some(status) => {
                let said = fs::read_to_string(&self.output).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(5).collect();
                bail!(
                    "florelay {} failed: {status}: {}",
                    self.name,
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                )
            }
        }
    }

    /// The whole output as JSON, or its last line that is.
    fn last_json(&self) -> Value {
        let said = fs::read_to_string(&self.output).unwrap_or_default();
        serde_json::from_str(&said)
            .ok()
            .or_else(|| said.lines().rev().find_map(|line| serde_json::from_str(line).ok()))
            .unwrap_or(Value::Null)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
