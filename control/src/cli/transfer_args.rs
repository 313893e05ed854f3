//! Arguments of the verbs that move files and streams.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::args::Target;
use super::values::{attribute, deadline, duration, file_name, inbox_name, node_name, size, uuid};

/// Most attributes of a transfer that a person may give: one is `send -r`'s own.
pub(super) const MAX_ATTRIBUTES: usize = 63;

/// `florelay send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Files, which may not change until they are sent; with -r folders, too
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The receiving node
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    pub to: String,
    /// Send folders with all that is in them
    #[arg(long, short)]
    pub recursive: bool,
    /// 0 to 127; 64 and more go before all bulk
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=127))]
    pub priority: u8,
    /// Fail what has not arrived by then: how long from now, or a time
    #[arg(long, value_name = "TIME", value_parser = deadline)]
    pub deadline: Option<u64>,
    /// Goes with each file; may be said more than once
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// The transfer's UUID; give the same one to go on with a transfer
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    pub id: Option<Uuid>,
    /// File name at the receiver; the file's own if absent
    #[arg(long, value_name = "NAME", value_parser = inbox_name)]
    pub name: Option<String>,
    /// Order all, print their UUIDs, and leave
    #[arg(long)]
    pub detach: bool,
    /// On Ctrl-C, give up what was ordered
    #[arg(long)]
    pub cancel_on_interrupt: bool,
    /// One JSON object per line: progress and ends, and at last a summary if there are several
    #[arg(long)]
    pub json: bool,
    /// Where to ask.
    #[command(flatten)]
    pub target: Target,
}

/// `florelay recv`.
#[derive(Debug, Args)]
pub struct RecvArgs {
    /// Only files from this node
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    pub from: Option<String>,
    /// Only files of this name; * and ? stand for other characters
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Move them into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Those, too, that arrived before and are still in the inbox
    #[arg(long)]
    pub existing: bool,
    /// End when nothing has arrived for so long
    #[arg(long, value_name = "T", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// One JSON object per file
    #[arg(long)]
    pub json: bool,
    /// Where to ask.
    #[command(flatten)]
    pub target: Target,
}

/// `florelay stream`.
#[derive(Debug, Args)]
pub struct StreamArgs {
    /// The receiving node
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    pub to: String,
    /// Its name, by which `listen` may choose
    #[arg(long, value_name = "NAME", default_value = "stream", value_parser = file_name)]
    pub name: String,
    /// 0 to 127; 64 and more go before all bulk
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=127))]
    pub priority: u8,
    /// Fail it if it has not ended by then: how long from now, or a time
    #[arg(long, value_name = "TIME", value_parser = deadline)]
    pub deadline: Option<u64>,
    /// Goes with it; may be said more than once
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// The stream's UUID, a new one
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    pub id: Option<Uuid>,
    /// How long it will be; more or less fails it
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub size: Option<u64>,
    /// How long it waits for --resume when this command is killed
    #[arg(long, value_name = "T", default_value = "0 s", value_parser = duration)]
    pub linger: Duration,
    /// Go on with a stream whose command was killed; standard input is a file, from its beginning
    #[arg(long, requires = "id")]
    pub resume: bool,
    /// One JSON object per line: progress, and at last the end
    #[arg(long)]
    pub json: bool,
    /// Where to ask.
    #[command(flatten)]
    pub target: Target,
}

/// `florelay listen`.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Only streams of this name
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    pub name: Option<String>,
    /// Only streams from this node
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    pub from: Option<String>,
    /// Only this stream, and end after it
    #[arg(long, value_name = "UUID", value_parser = uuid, conflicts_with_all = ["name", "from"])]
    pub id: Option<Uuid>,
    /// End after one stream
    #[arg(long)]
    pub once: bool,
    /// Write one stream into this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Go on with this stream behind what the file has of it
    #[arg(long, value_name = "UUID", value_parser = uuid, requires = "output", conflicts_with_all = ["name", "from", "id"])]
    pub resume: Option<Uuid>,
    /// How long the stream waits for --resume when this command is killed; 1 min if it is not said
    #[arg(long, value_name = "T", value_parser = duration, requires = "output")]
    pub linger: Option<Duration>,
    /// Progress on standard error as one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Where to ask.
    #[command(flatten)]
    pub target: Target,
}

/// `florelay transfer …`.
#[derive(Debug, Subcommand)]
pub enum TransferVerb {
    /// Give up transfers, at either end
    #[command(after_help = "Example:\n  florelay transfer cancel 6b1f 77a0")]
    Cancel(Which),
    /// Stop sending transfers of this node until they are resumed
    #[command(after_help = "Example:\n  florelay transfer pause 6b1f")]
    Pause(Which),
    /// Go on with paused transfers
    #[command(after_help = "Example:\n  florelay transfer resume 6b1f")]
    Resume(Which),
    /// Change the priority of transfers of this node
    #[command(after_help = "Example:\n  florelay transfer priority 80 6b1f")]
    Priority {
        /// 0 to 127; 64 and more go before all bulk
        #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(0..=127))]
        priority: u8,
        /// Which.
        #[command(flatten)]
        which: Which,
    },
}

/// Which transfers, and where to ask.
#[derive(Debug, Args)]
pub struct Which {
    /// Their UUIDs, or as much of the beginning as tells them apart
    #[arg(required = true, value_name = "UUID", value_parser = beginning)]
    pub ids: Vec<String>,
    /// Where to ask.
    #[command(flatten)]
    pub target: Target,
}

fn beginning(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("write a UUID, or the beginning of one, for example 6b1f3f5e".to_owned())
    }
}
