//! The dataplane as the supervisor's child: takes its instructions, gives up privileges, runs until it is told to stop or
//! the supervisor is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::{PrivilegeError, RemoteBroker, drop_privileges};
use crate::daemon::{self, Control, DaemonError, DaemonOptions};
use crate::ipc_codec::{IpcError, IpcStream};

/// Why the dataplane ended.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// It was not started by a supervisor.
    #[error("standard input is not a supervisor's socket ({0}); start a node with `florelay up`")]
    NoSupervisor(IpcError),
    /// See [`PrivilegeError`].
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// See [`DaemonError`].
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Run as the supervisor's child. Must be called before any thread is started.
///
/// # Errors
/// See [`DataplaneError`].
pub fn dataplane() -> Result<(), DataplaneError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let watched = stdin.try_clone()?;
    let stream = IpcStream::new(UnixStream::from(stdin)).map_err(DataplaneError::NoSupervisor)?;
    let (broker, plan, listener) = RemoteBroker::connect(stream).map_err(DataplaneError::NoSupervisor)?;
    drop_privileges()?;
    let (stop, stopped) = channel();
    watch_supervisor(watched, stop.clone())?;
    watch_signals(stop)?;
    let options = DaemonOptions { plan, control: Control::Listener(listener), broker: Box::new(broker) };
    Ok(daemon::run(options, stopped)?)
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
