//! An open-ended stream between the two nodes of [`end_to_end`](crate::end_to_end), by pipes.
//!
//! ```text
//!   core 0: FILE (tmpfs) ─► florelay stream ─ pipe ─► node A ─── veth ───► node B ─ pipe ─► florelay listen ─► /dev/null :core 1
//!                                                       └ spool: memory
//! ```
//!
//! Both programs stand on their node's core: with two cores there is no other place for them. So what they cost (copying
//! into and out of the pipes, and the listener's BLAKE3) is in the figure.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::bed::{self, Side};
use crate::end_to_end::{Nodes, Spread, Transfer, config_of, goodput_bps, log_tail, wait_for, with_nodes};

/// How long the listener may take to be there. It gives no notice, and a stream that waits for it has its clock running.
const LISTENER_TIME: Duration = Duration::from_millis(300);

/// Sends a stream of so many bytes (10^6).
///
/// # Errors
/// A node does not start or connect, the stream does not arrive; with what the program said.
pub fn run(program: &Path, megabytes: u64) -> Result<Transfer> {
    with_nodes(program, megabytes, Spread::OneCore, stream)
}

fn stream(nodes: &Nodes<'_>) -> Result<f64> {
    let (sent, heard) = (nodes.folder.join("stream.json"), nodes.folder.join("listen.log"));
    thread::scope(|scope| {
        let listener = scope.spawn(|| -> Result<()> {
            bed::pin(Side::B.core())?;
            let mut child = Command::new(nodes.program)
                .args(["listen", "--once", "--json", "--config"])
                .arg(config_of(nodes.folder, Side::B))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&heard)?)
                .spawn()?;
            let status = wait_for(&mut child, "listen")?;
            ensure!(status.success(), "florelay listen: {status}: {}", log_tail(&heard));
            Ok(())
        });
        thread::sleep(LISTENER_TIME);
        let output = File::create(&sent)?;
        let mut child = Command::new(nodes.program)
            .args(["stream", "--to", &nodes.bed.node(Side::B), "--json", "--config"])
            .arg(config_of(nodes.folder, Side::A))
            .stdin(File::open(nodes.file)?)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let status = wait_for(&mut child, "stream");
        listener.join().map_err(|_| anyhow!("the listener's thread panicked"))??;
        let status = status?;
        ensure!(status.success(), "florelay stream: {status}: {}", log_tail(&sent));
        goodput_bps(&fs::read_to_string(&sent)?)
    })
}
