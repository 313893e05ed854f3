//! The verbs and their arguments, as clap reads them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;

use super::transfer_args::{ListenArgs, RecvArgs, SendArgs, StreamArgs, TransferVerb, Which};
pub(super) use super::values::Rate;
use super::values::{burst, duration, epoch, mapping, node_name, rate, uuid};
use crate::config::hdtn::Mapping;
use crate::pki;
use crate::services::ServicesPlan;

/// Exit codes, shown by `--help`.
pub const EXIT_CODES: &str = "Exit codes:
  0    done
  1    refused or failed; the reason is on standard error
  2    the command line is wrong
  66   a file to send, or with contacts, cannot be read
  69   the control process or the dataplane cannot be reached
  70   an error inside florelay
  78   the configuration is refused; the reasons are on standard error
  130  interrupted; what was ordered goes on, streams if their input had ended";

/// One program for the machine that stands between a network and a scarce, long, lossy link.
#[derive(Debug, Parser)]
#[command(name = "florelay", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// The dataplane starts its log itself, once it has given up its privileges: no thread may be older than that.
    #[must_use]
    pub fn logs_later(&self) -> bool {
        matches!(self.verb, Verb::Dataplane)
    }
}

/// Which control process to talk to.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The control socket; derived from the configuration if absent
    #[arg(long, value_name = "PATH", env = "FLORELAY_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The node's configuration: its state-dir has the control socket
    #[arg(long, value_name = "FILE", env = "FLORELAY_CONFIG", default_value = "/etc/florelay/florelay.toml")]
    pub config: PathBuf,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check a configuration and the files that it names
    ///
    /// Warns of cores, interfaces and addresses that this machine lacks: the configuration may be another machine's.
    #[command(
        after_help = "Examples:\n  florelay check --config station-a.toml\n  florelay check --strict --config station-a.toml   (on the machine it is for)"
    )]
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE", env = "FLORELAY_CONFIG")]
        config: PathBuf,
        /// What this machine lacks is an error
        #[arg(long)]
        strict: bool,
        /// Reasons, or the plan in brief, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Run the node: supervisor, dataplane and control process
    #[command(after_help = "Example:\n  florelay up --config station-a.toml")]
    Up {
        /// The configuration
        #[arg(long, value_name = "FILE", env = "FLORELAY_CONFIG")]
        config: PathBuf,
    },
    /// The dataplane; `up` starts it
    #[command(hide = true)]
    Dataplane,
    /// The control process; `up` starts it
    #[command(hide = true)]
    Control(ControlArgs),
    /// Send files to a node
    #[command(after_help = "Examples:
  florelay send image.raw --to station-b
  florelay send *.raw --to station-b --priority 80 --deadline 2h
  florelay send -r photos --to station-b --attribute pass=4711
  florelay send -r photos --to station-b --detach   (orders all and leaves)
  florelay send image.raw --to station-b --id UUID  (goes on where it was)

Priorities 64 to 127 go strictly before 0 to 63. A file of a folder has its path in the attribute `path`, by which \
`recv --out` puts it into a folder again; hidden files, symbolic links and special files are left out, and said. Where \
the node goes away, its files are ordered again once it is back.

Ctrl-C stops watching, not the transfers that were ordered: up to 512 at once. Files that were not ordered yet are not \
sent, and it is said how many; --detach orders all first. With --cancel-on-interrupt Ctrl-C gives up what was ordered.

Exit codes: 0 all were sent, with --detach ordered; 1 some were not, or were left out; 66 the only file cannot be read.")]
    Send(SendArgs),
    /// Wait for files that arrive, and print where they are
    #[command(after_help = "Examples:
  florelay recv --count 1
  florelay recv --from station-a --name '*.raw' --out images
  florelay recv --existing --timeout 10min --out . --json

With --out, a file is moved there whole, below the folders that its attribute `path` names, and never over another: \
the second of a name gets .1. A path that would lead out of the folder, or over a symbolic link, is refused, and the file \
stays in the inbox.

Exit codes: 0 all that were asked for have come, or --timeout without --count; 1 some could not be moved, or fewer \
than --count came in time; 130 Ctrl-C.")]
    Recv(RecvArgs),
    /// Send standard input to a node, as long as it lasts
    #[command(after_help = "Examples:
  tail -F telemetry.log | florelay stream --to station-b --name telemetry
  florelay stream --to station-b --priority 70 < /dev/ttyUSB0
  florelay stream --to station-b --id UUID --linger 1h < image.raw
  florelay stream --to station-b --id UUID --resume < image.raw

What the receiver has not read is kept, up to the node's limits; then input is not read. The command ends when the \
receiver has read everything. Ctrl-C gives the stream up, unless input had ended: then the rest goes on by itself. A \
stream whose command was killed waits for --resume as long as --linger says; standard input must then be a file.")]
    Stream(StreamArgs),
    /// Write streams that come to this node to standard output, one after the other, or one into a file
    #[command(after_help = "Examples:
  florelay listen --name telemetry | tee telemetry.log
  florelay listen --from station-a --once > image.raw
  florelay listen --name image --output image.raw --linger 1h
  florelay listen --resume UUID --output image.raw

A stream waits for a listener. A listener that ends before its stream gives the stream up, unless --linger lets it wait for \
--resume. What is in a file is synced before the sender forgets it, so --resume goes on behind what is there: after a kill, \
and after a power cut of this machine. Ctrl-C gives the stream up. Progress goes to standard error.")]
    Listen(ListenArgs),
    /// Show transfers that are under way
    #[command(after_help = "Examples:
  florelay transfers
  florelay transfers --all --json | jq '.[] | select(.error) | .name'")]
    Transfers {
        /// Those that have ended too
        #[arg(long)]
        all: bool,
        /// All that is known of them, as JSON
        #[arg(long)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Change transfers that are under way
    #[command(subcommand)]
    Transfer(TransferVerb),
    /// Watch a transfer of this node
    #[command(after_help = "Example:\n  florelay watch 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11")]
    Watch {
        /// The transfer's UUID, as `send` and `status` show it
        #[arg(value_parser = uuid)]
        id: Uuid,
        /// One JSON object per line: progress, and at last the end
        #[arg(long)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Give up transfers; the same as `transfer cancel`
    #[command(after_help = "Example:\n  florelay cancel 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11")]
    Cancel(Which),
    /// Show links with their rungs, peers, workers and transfers
    #[command(
        after_help = "Examples:\n  florelay status --config station-a.toml\n  florelay status --json | jq .links"
    )]
    Status {
        /// Everything, with all counters, as JSON
        #[arg(long)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Change a link
    #[command(subcommand)]
    Link(LinkVerb),
    /// When links may be used: their contact plans
    #[command(subcommand)]
    Contacts(ContactsVerb),
    /// Send a command message and wait until it is acknowledged
    #[command(after_help = "Examples:
  florelay c2 --to station-b 'antenna stow'
  florelay c2 --to station-b --count 100 --interval 1s ping

A series ends with the percentiles of its round trips.")]
    C2 {
        /// The receiving node
        #[arg(long, value_name = "NODE", value_parser = node_name)]
        to: String,
        /// How many times
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Pause after each acknowledgement
        #[arg(long, value_name = "T", default_value = "0 s", value_parser = duration)]
        interval: Duration,
        /// The message, at most 64 KiB
        message: String,
        /// Latencies as one JSON object
        #[arg(long)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Show the nodes on the path to a peer
    #[command(after_help = "Example:\n  florelay trace station-b")]
    Trace {
        /// The peer at the far end
        #[arg(value_parser = node_name)]
        node: String,
        /// One JSON object per hop
        #[arg(long)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Make keys and certificates
    #[command(subcommand)]
    Pki(PkiVerb),
}

/// `florelay control`.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Where clients connect
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Where the dataplane listens
    #[arg(long, value_name = "PATH", required_unless_present = "dataplane_stdin", conflicts_with = "dataplane_stdin")]
    pub dataplane: Option<PathBuf>,
    /// Standard input is a socket on which the supervisor passes connections to dataplanes
    #[arg(long)]
    pub dataplane_stdin: bool,
    /// What else is served, as the supervisor says it
    #[arg(long, value_name = "JSON", value_parser = ServicesPlan::from_json, default_value = "{}")]
    pub services: ServicesPlan,
}

/// `florelay link …`.
#[derive(Debug, Subcommand)]
pub enum LinkVerb {
    /// Change a link's rate while it runs
    #[command(after_help = "Examples:
  florelay link set to-relay --rate '2 Mbit/s'
  florelay link set to-relay --rate uncapped
  florelay link set to-relay --rate '10 Mbit/s' --burst '15 kB'")]
    Set {
        /// The link's name
        name: String,
        /// bit/s, kbit/s, Mbit/s, Gbit/s, or uncapped
        #[arg(long, value_name = "R", value_parser = rate)]
        rate: Rate,
        /// B, kB, MB, KiB, MiB; at least one frame; kept if absent
        #[arg(long, value_name = "B", value_parser = burst)]
        burst: Option<u32>,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Let a link carry traffic
    #[command(after_help = "Example:\n  florelay link up to-relay")]
    Up {
        /// The link's name
        name: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Stop a link; what uses it waits
    #[command(after_help = "Example:\n  florelay link down to-relay")]
    Down {
        /// The link's name
        name: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
}

/// `florelay contacts …`. What is set lasts until the dataplane ends; the configuration is for longer.
#[derive(Debug, Subcommand)]
pub enum ContactsVerb {
    /// Show the contact plans of all links, or of one
    #[command(after_help = "Example:\n  florelay contacts show to-relay")]
    Show {
        /// The link's name
        link: Option<String>,
        /// Everything as JSON
        #[arg(long)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Replace a link's contact plan while it runs
    #[command(after_help = "Examples:
  florelay contacts set to-relay passes.toml
  florelay contacts set to-relay --always

The file has a [[contact]] table for each contact: start, end, rate, and delay if it is not the link's.")]
    Set {
        /// The link's name
        link: String,
        /// File of [[contact]] tables
        #[arg(required_unless_present = "always", conflicts_with = "always")]
        file: Option<PathBuf>,
        /// The link has no plan any more and may be used at any time
        #[arg(long)]
        always: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Take the contact plans of links from HDTN's contact plan in JSON
    #[command(after_help = "Examples:
  florelay contacts import plan.json --map 1:10=to-relay
  florelay contacts import plan.json --map 1:10=up --epoch 2026-11-21T12:00:00Z
  florelay contacts import plan.json --map 1:10=to-relay --toml > passes.toml")]
    Import {
        /// HDTN's file
        file: PathBuf,
        /// Contacts from node number SOURCE to node number DEST are this link's; once per link
        #[arg(long = "map", value_name = "SOURCE:DEST=LINK", required = true, value_parser = mapping)]
        maps: Vec<Mapping>,
        /// What HDTN's time 0 is, or `now`; absent: its times are Unix times
        #[arg(long, value_name = "TIME", value_parser = epoch)]
        epoch: Option<u64>,
        /// Write the plan of one link in florelay's format instead of setting it
        #[arg(long)]
        toml: bool,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
}

/// `florelay pki …`.
#[derive(Debug, Subcommand)]
pub enum PkiVerb {
    /// Make a realm's CA: ca.key and ca.crt
    #[command(after_help = "Example:\n  florelay pki init --realm demo.rete --dir pki")]
    Init {
        /// The realm, e.g. demo.rete
        #[arg(long)]
        realm: String,
        /// Where ca.key and ca.crt go
        #[arg(long)]
        dir: PathBuf,
        /// Validity
        #[arg(long, default_value_t = pki::CA_DAYS)]
        days: u32,
        /// Replace existing files
        #[arg(long)]
        force: bool,
    },
    /// Issue a node's certificate: NODE.key and NODE.crt
    #[command(after_help = "Example:\n  florelay pki issue --node station-a --dir pki --days 90")]
    Issue {
        /// The node's name
        #[arg(long)]
        node: String,
        /// The realm; a check only, the CA knows it
        #[arg(long)]
        realm: Option<String>,
        /// Where ca.key and ca.crt are
        #[arg(long)]
        dir: PathBuf,
        /// Where NODE.key and NODE.crt go; beside the CA's if absent
        #[arg(long)]
        out: Option<PathBuf>,
        /// Validity
        #[arg(long, default_value_t = pki::NODE_DAYS)]
        days: u32,
        /// Replace existing files
        #[arg(long)]
        force: bool,
    },
    /// Make a link's liveness key, the same at both ends
    #[command(after_help = "Example:\n  florelay pki link-key to-relay.key")]
    LinkKey {
        /// The file to write
        file: PathBuf,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
}
