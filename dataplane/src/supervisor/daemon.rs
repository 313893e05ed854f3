//! The dataplane as the supervisor's child: takes its instructions, gives up privileges, runs until it is told to stop or
//! the supervisor is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::privileges::in_words;
use super::{RemoteBroker, confine, drop_privileges};
use crate::broker::Broker as _;
use crate::daemon::{Control, Daemon, DaemonError, DaemonOptions, Prepared};
use crate::ipc_codec::{IpcError, IpcStream};

/// Why the dataplane ended.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// It was not started by a supervisor.
    #[error("standard input is not a supervisor's socket ({0}); start a node with `florelay up`")]
    NoSupervisor(IpcError),
    /// See [`DaemonError`].
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a dataplane ended that did what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// It could not start, and has told the supervisor why, who says it.
    NotStarted,
}

/// Run as the supervisor's child. Must be called before any thread is started: privileges and filter are per thread.
/// `start_logging` is called once they are set, because a log that does not hold up workers has a thread of its own.
///
/// # Errors
/// See [`DataplaneError`].
pub fn dataplane(start_logging: impl FnOnce()) -> Result<Ended, DataplaneError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let watched = stdin.try_clone()?;
    let stream = IpcStream::new(UnixStream::from(stdin)).map_err(DataplaneError::NoSupervisor)?;
    let (mut broker, plan, listener) = RemoteBroker::connect(stream).map_err(DataplaneError::NoSupervisor)?;
    if let Err(error) = drop_privileges() {
        broker.started(Err(error.to_string()));
        return Ok(Ended::NotStarted);
    }
    // Between the privileges and the filter: whoever makes use of this moment has no privilege any more.
    let options = DaemonOptions { plan, control: Control::Listener(listener), broker: Box::new(broker) };
    let Ok(prepared) = Prepared::new(options) else { return Ok(Ended::NotStarted) };
    if let Err(error) = confine() {
        prepared.give_up(&error.to_string());
        return Ok(Ended::NotStarted);
    }
    start_logging();
    tracing::info!(capabilities = in_words(), "privileges dropped");
    let (stop, stopped) = channel();
    watch_supervisor(watched, stop.clone())?;
    watch_signals(stop)?;
    let Ok(daemon) = Daemon::start_prepared(prepared) else { return Ok(Ended::NotStarted) };
    daemon.run(stopped)?;
    Ok(Ended::Stopped)
}

/// A dataplane without its supervisor could neither be stopped nor recycle a socket: it finishes too.
fn watch_supervisor(socket: OwnedFd, stop: Sender<()>) -> io::Result<()> {
    let watch = move || {
        let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
        while poll(&mut fds, None).is_err() {}
        tracing::warn!("the supervisor is gone");
        let _ = stop.send(());
    };
    std::thread::Builder::new().name("supervisor".into()).spawn(watch).map(drop)
}

fn watch_signals(stop: Sender<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let watch = move || {
        let received = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            terminate.recv().await;
            io::Result::Ok(())
        });
        if let Err(error) = received {
            tracing::error!(%error, "signals are not seen");
        }
        let _ = stop.send(());
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
}
