//! An open-ended stream between the two nodes of [`end_to_end`](crate::end_to_end), by pipes.
//!
//! ```text
//!   core 0: FILE (tmpfs) ─► florelay stream ─ pipe ─► node A ─── veth ───► node B ─ pipe ─► florelay listen ─► /dev/null :core 1
//!                                                       └ spool: memory, or segments on a disk
//! ```
//!
//! Both programs stand on their node's core: with two cores there is no other place for them. So what they cost (copying
//! into and out of the pipes, and the listener's BLAKE3) is in the figure.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::bed::{self, Side};
use crate::end_to_end::{Nodes, Spread, Transfer, config_of, goodput_bps, log_tail, wait_for, with_nodes};
use crate::node_config::Store;

/// How long the listener may take to be there. It gives no notice, and a stream that waits for it has its clock running.
const LISTENER_TIME: Duration = Duration::from_millis(300);
/// Bytes of the disk's own measurement, and of each write of it: a burst's worth of what a spool writes at once.
const DISK_BYTES: usize = 256 << 20;
const DISK_WRITE_BYTES: usize = 1 << 20;

/// Where the sender keeps what is not confirmed.
#[derive(Debug, Clone)]
pub enum Spool {
    /// In memory alone.
    Memory,
    /// In synced segments in a folder below this one.
    Disk(PathBuf),
}

/// Sends a stream of so many bytes (10^6).
///
/// # Errors
/// A node does not start or connect, the stream does not arrive; with what the program said.
pub fn run(program: &Path, megabytes: u64, spool: &Spool) -> Result<Transfer> {
    // Goes away with everything in it when the nodes have ended.
    let mut on_disk = None;
    let store = match spool {
        Spool::Memory => Store { disk_spool: Some("0 B".to_owned()), ..Store::default() },
        Spool::Disk(folder) => {
            let folder = tempfile::Builder::new().prefix("florelay-bench-").tempdir_in(folder)?;
            let state_dir = folder.path().to_owned();
            on_disk = Some(folder);
            Store { state_dir, disk_spool: None }
        }
    };
    let transfer = with_nodes(program, megabytes, Spread::OneCore, &store, stream);
    drop(on_disk);
    transfer
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

/// What a folder's disk takes, bit/s: one file, written in pieces that are each synced before the next.
///
/// # Errors
/// The disk's.
pub fn disk_bps(folder: &Path) -> Result<f64> {
    use std::io::Write as _;
    let mut file = tempfile::tempfile_in(folder).with_context(|| folder.display().to_string())?;
    let mut piece = vec![0; DISK_WRITE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut piece);
    let began = Instant::now();
    for _ in 0..DISK_BYTES / DISK_WRITE_BYTES {
        file.write_all(&piece)?;
        file.sync_data()?;
    }
    Ok(DISK_BYTES as f64 * 8.0 / began.elapsed().as_secs_f64())
}
