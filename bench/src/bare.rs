//! The transport as a node has it, without the node's work: two dataplanes of one worker each over one veth hop, whose
//! gateways have no files ([`florelay_dataplane::bare`] says what that leaves out).
//!
//! ```text
//!   core 0: source ─► worker A ──── veth, AF_XDP, uncapped ────► worker B ─► sink :core 1
//! ```
//!
//! Configured as the nodes of [`end_to_end`](crate::end_to_end), a transfer as long, timed the same way: from the offer to
//! the sender's hearing that the receiver has it all. Both dataplanes are threads of this process, without supervisor, system
//! call filter and control process. Not free of the gateway: its thread is there, and takes its turns on the worker's core.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use florelay_dataplane::bare::{self, Moved, Work};
use florelay_dataplane::broker::LocalBroker;
use florelay_dataplane::daemon::{Control, DaemonOptions};

use crate::bed::{Bed, Offloads, Side};
use crate::end_to_end::{TMPFS, Transfer, config_of, prepare};
use crate::node_config::Store;
use crate::payload::Payload;

/// From the start of the nodes to the end of the transfer; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Moves so many bytes (10^6) out of memory. `program` makes keys and certificates.
///
/// # Errors
/// A dataplane does not start, or the bytes do not arrive.
pub fn run(program: &Path, megabytes: u64) -> Result<Transfer> {
    let bytes = megabytes * 1_000_000;
    let bed = Bed::new(Offloads::Off)?;
    let folder = tempfile::Builder::new().prefix("florelay-bench-").tempdir_in(TMPFS).context(TMPFS)?;
    prepare(program, &bed, folder.path(), &Store::default())?;
    let payload = Payload::default();
    let source = Work::Source(bytes, Box::new(move |offset, end| payload.piece(offset, end)));

    thread::scope(|scope| {
        let (bed, folder) = (&bed, folder.path());
        let mut ends = Vec::new();
        for (side, work) in [(Side::B, Work::Sink), (Side::A, source)] {
            let (say, outcome) = mpsc::channel();
            let (stop, stopped) = mpsc::channel::<()>();
            let thread = scope.spawn(move || node(bed, side, folder, work, say, &stopped));
            ends.push((outcome, stop, thread));
        }
        let outcomes: Vec<Result<Moved>> = ends.iter().rev().map(|(outcome, ..)| wait(outcome)).collect();
        for (_, stop, thread) in ends {
            drop(stop);
            // Why it did not start says more than that nothing came of it.
            thread.join().map_err(|_| anyhow!("the thread of a dataplane panicked"))??;
        }
        let [sent, received] = <[_; 2]>::try_from(outcomes).map_err(|_| anyhow!("two ends"))?;
        let (sent, received) = (sent.context("source")?, received.context("sink")?);
        if (sent.bytes, received.bytes) != (bytes, bytes) {
            bail!("{} of {bytes} bytes left and {} arrived", sent.bytes, received.bytes);
        }
        Ok(Transfer {
            goodput_bps: bytes as f64 * 8.0 / sent.took.as_secs_f64(),
            frames_lost: received.frames_lost as f64,
            rung: serde_json::to_value(sent.rung)?.as_str().unwrap_or("?").to_owned(),
        })
    })
}

fn wait(outcome: &Receiver<Result<Moved, String>>) -> Result<Moved> {
    outcome.recv_timeout(PATIENCE).context("no end of the transfer")?.map_err(anyhow::Error::msg)
}

/// Runs a dataplane until `stop` is dropped: all its threads in the side's namespace and on its core.
fn node(
    bed: &Bed,
    side: Side,
    folder: &Path,
    work: Work,
    outcome: Sender<Result<Moved, String>>,
    stop: &Receiver<()>,
) -> Result<()> {
    bed.settle(side)?;
    let plan = florelay::config::load(&config_of(folder, side))?;
    // Nobody asks it anything; the other end stays open as long as it runs.
    let (control, _nobody) = UnixStream::pair()?;
    let options =
        DaemonOptions { plan, control: Control::Stream(control), broker: Box::new(LocalBroker::new(&bed.node(side))) };
    let _daemon = bare::start(options, work, outcome)?;
    // Ends with the sender being dropped: nothing is ever sent.
    let _ = stop.recv();
    Ok(())
}
