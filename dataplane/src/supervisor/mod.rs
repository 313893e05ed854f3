//! The supervisor: the small process that alone holds privileges. It loads and attaches eBPF, makes and binds AF_XDP
//! sockets and those of the links' ports, and keeps the two other processes running.
//!
//! ```text
//!              florelay up ── attachments (aya), pins
//!     stdin socket │                      │ stdin socket
//!   Setup, broker  │                      │ `()` + a connected socket each time
//!                  ▼                      ▼
//!            dataplane ◄── dataplane.sock ── control ◄── command line
//! ```
//!
//! The dataplane's listening socket is made here and handed down, so that either child can be restarted and the other
//! finds it again. A child that dies is started again after a growing pause; attachments stay, so ordinary traffic of the
//! interfaces is not disturbed. A dataplane that says at the first start why it cannot (a port is taken, there is no such
//! core) ends the supervisor: somebody is there to read it. Later it is tried again. When the supervisor dies, both children see their standard input end, and finish.

mod broker;
mod children;
mod daemon;
mod privileges;
mod seccomp;
#[cfg(test)]
mod testing;
mod warrant;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use self::broker::RemoteBroker;
pub(crate) use self::broker::is_request;
use self::broker::{Office, lock};
use self::children::Child;
pub use self::daemon::{DataplaneError, Ended, dataplane};
pub(crate) use self::privileges::in_words as capabilities_in_words;
pub use self::privileges::{PrivilegeError, drop_privileges};
pub use self::seccomp::{SeccompError, confine};
use self::warrant::Warrant;
use crate::broker::LocalBroker;
use crate::ipc_codec::{IpcError, IpcStream};
use crate::plan::{AdapterPlan, LinkPlan, NodePlan, Rung};

/// Where the dataplane is spoken to, below the state directory.
pub const DATAPLANE_SOCKET: &str = "dataplane.sock";
/// First pause before a child that died is started again, doubled up to …
const RESTART_FIRST: Duration = Duration::from_millis(200);
/// … this. A child that ran for `STABLE` begins at the first pause again.
const RESTART_LIMIT: Duration = Duration::from_secs(10);
/// Longer than a start that fails takes. Not much more: a pause of ten seconds is a part of a pass, and whoever has worked
/// for a while had better be back at once.
const STABLE: Duration = Duration::from_secs(5);
/// Children have this long to finish; then they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// A dataplane whose supervisor was killed has this long to finish before a new supervisor takes it for another node.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(3);
const PREDECESSOR_LOOK: Duration = Duration::from_millis(10);
/// Logs of the XDP programs are looked at this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What the supervisor is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct SupervisorOptions {
    /// What to run.
    pub plan: NodePlan,
    /// The executable of the children: this one.
    pub executable: PathBuf,
    /// Arguments of the control process, without the executable.
    pub control_arguments: Vec<OsString>,
}

/// Why the supervisor cannot start or stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A directory or socket of the node cannot be made.
    #[error("{path}: {source}")]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another node runs with this state directory.
    #[error("{0}: another florelay runs with this state directory")]
    Running(PathBuf),
    /// A child cannot be started.
    #[error("cannot start the {name} process: {source}")]
    Spawn {
        /// Which.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The dataplane cannot start: the configuration does not fit this machine.
    #[error("the node cannot start: {0}")]
    NotStarted(String),
    /// A child did not take its instructions.
    #[error("a child process did not take its instructions: {0}")]
    Ipc(#[from] IpcError),
}

/// First message to the dataplane, with the listening socket as its descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// What to run.
    pub plan: NodePlan,
}

/// Run until SIGTERM or SIGINT.
///
/// # Errors
/// When the node cannot be started at all; nothing of it runs then. A child that dies later is restarted instead.
pub fn run(options: &SupervisorOptions) -> Result<(), SupervisorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for directory in [&options.plan.state_dir, &options.plan.inbox] {
        std::fs::create_dir_all(directory).map_err(path_error(directory))?;
    }
    if options.plan.links.iter().any(wants_af_xdp) {
        raise_memlock();
    }
    raise_open_files();
    let socket = options.plan.state_dir.join(DATAPLANE_SOCKET);
    let (listener, ports_free_by) = listen(&socket)?;
    let attachments = Arc::new(Mutex::new(LocalBroker::new(&options.plan.node)));
    let node = Node { options, socket: &socket, listener, attachments: attachments.clone(), ports_free_by };
    let result = runtime.block_on(supervise(&node));
    let detached = lock(&attachments).detach_all();
    let _ = std::fs::remove_file(&socket);
    result?;
    detached.map_err(|reason| SupervisorError::Io(io::Error::other(reason)))
}

/// What the children are started with.
struct Node<'a> {
    options: &'a SupervisorOptions,
    socket: &'a Path,
    listener: UnixListener,
    attachments: Arc<Mutex<LocalBroker>>,
    /// Until then a port may be held by the dataplane of a supervisor that was killed.
    ports_free_by: Instant,
}

async fn supervise(node: &Node<'_>) -> Result<(), SupervisorError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    let (told, mut starts) = unbounded_channel();
    let mut dataplane = Slot::new(node.start_dataplane(told.clone())?);
    let mut control = Slot::new(node.start_control()?);
    let mut ran = false;
    let mut result = Ok(());
    loop {
        tokio::select! {
            // What a dataplane says of its start comes before its end.
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(start) = starts.recv() => match start {
                Ok(()) => {
                    ran = true;
                    tracing::info!(node = node.options.plan.node, "running");
                }
                Err(reason) if ran => tracing::error!(reason, "the dataplane cannot start; it is tried again"),
                Err(reason) => {
                    result = Err(SupervisorError::NotStarted(reason));
                    break;
                }
            },
            _ = housekeeping.tick() => lock(&node.attachments).drain_logs(),
            () = dataplane.wanted() => {
                dataplane.fill(node.start_dataplane(told.clone())?);
                // Control learns of the new dataplane; without control there is nobody to tell.
                introduce(control.child.as_ref().and_then(Child::stdin), node.socket);
            }
            () = control.wanted() => control.fill(node.start_control()?),
        }
    }
    if result.is_ok() {
        tracing::info!("stopping");
    }
    for child in [&mut control.child, &mut dataplane.child].into_iter().flatten() {
        child.stop(STOP_PATIENCE).await;
    }
    result
}

/// A place for a child that is to run always.
struct Slot {
    child: Option<Child>,
    pause: Duration,
    restart_at: Instant,
}

impl Slot {
    fn new(child: Child) -> Self {
        Self { child: Some(child), pause: RESTART_FIRST, restart_at: Instant::now() }
    }

    fn fill(&mut self, child: Child) {
        self.child = Some(child);
    }

    /// Until the child has ended and its pause is over. May be dropped and called again: all is kept in the slot.
    async fn wanted(&mut self) {
        if let Some(child) = &mut self.child {
            let ended = child.wait().await;
            if child.since.elapsed() > STABLE {
                self.pause = RESTART_FIRST;
            }
            let ended = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::error!(process = child.name, ended, pause = ?self.pause, "a process ended; it is started again");
            self.child = None;
            self.restart_at = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(RESTART_LIMIT);
        }
        tokio::time::sleep_until(self.restart_at.into()).await;
    }
}

impl Node<'_> {
    /// `told` hears what the dataplane says of its start.
    fn start_dataplane(&self, told: UnboundedSender<Result<(), String>>) -> Result<Child, SupervisorError> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Child::start("dataplane", &self.options.executable, &["dataplane".into()], theirs)?;
        let stream = IpcStream::new(ours)?;
        let setup = Setup { plan: self.options.plan.clone() };
        let listener = self.listener.try_clone()?;
        let attachments = self.attachments.clone();
        let ports_free_by = self.ports_free_by;
        // A thread of its own: a child that dies at once must not hold up the supervisor.
        std::thread::Builder::new().name("broker".into()).spawn(move || {
            let (warrant, started) = (Warrant::new(&setup.plan, Instant::now()), |outcome| drop(told.send(outcome)));
            let (setup, listener, local) = (&setup, &listener, &*attachments);
            let office = Office { setup, listener, local, warrant, ports_free_by, started: &started };
            if let Err(error) = office.serve(&stream)
                && !error.is_disconnect()
            {
                tracing::warn!(%error, "the conversation with the dataplane ended");
            }
        })?;
        Ok(child)
    }

    fn start_control(&self) -> Result<Child, SupervisorError> {
        let (ours, theirs) = UnixStream::pair()?;
        let arguments = &self.options.control_arguments;
        let mut child = Child::start("control", &self.options.executable, arguments, theirs)?;
        let stream = IpcStream::new(ours)?;
        introduce(Some(&stream), self.socket);
        child.keep(stream);
        Ok(child)
    }
}

/// Hand control a fresh connection to the dataplane.
fn introduce(control: Option<&IpcStream>, socket: &Path) {
    use std::os::fd::AsFd;
    let Some(control) = control else { return };
    let sent = UnixStream::connect(socket)
        .map_err(IpcError::from)
        .and_then(|connected| control.send(&(), Some(connected.as_fd())));
    if let Err(error) = sent {
        tracing::warn!(%error, "control has no connection to the dataplane");
    }
}

/// The node's socket, and until when a killed predecessor's ports may still be taken.
fn listen(path: &Path) -> Result<(UnixListener, Instant), SupervisorError> {
    let began = Instant::now();
    while UnixStream::connect(path).is_ok() {
        if began.elapsed() > PREDECESSOR_PATIENCE {
            return Err(SupervisorError::Running(path.to_owned()));
        }
        std::thread::sleep(PREDECESSOR_LOOK);
    }
    // Left behind by a node that was killed.
    let patience = if std::fs::remove_file(path).is_ok() { PREDECESSOR_PATIENCE } else { Duration::ZERO };
    let listener = UnixListener::bind(path).map_err(path_error(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(path_error(path))?;
    Ok((listener, Instant::now() + patience))
}

/// Whether a link's ladder has a rung of AF_XDP.
fn wants_af_xdp(link: &LinkPlan) -> bool {
    matches!(&link.adapter, AdapterPlan::Xdp { highest_rung, .. } if *highest_rung != Rung::Socket)
}

/// The UMEMs that the broker registers count against RLIMIT_MEMLOCK without CAP_IPC_LOCK.
fn raise_memlock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        tracing::info!(%error, "the limit on locked memory stays; without CAP_IPC_LOCK AF_XDP may not get its frames");
    }
}

/// Every running transfer holds a file open, at both ends, and a soft limit is often 1024. Children inherit the limit.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::info!(%error, "the limit on open files stays; it bounds the transfers that run at once");
    }
}

fn path_error(path: &Path) -> impl FnOnce(io::Error) -> SupervisorError {
    let path = path.to_owned();
    move |source| SupervisorError::Path { path, source }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::wants_af_xdp;
    use crate::plan::{AdapterPlan, Rung, fixture};

    #[test]
    fn only_ladders_with_af_xdp_want_its_memory() {
        let sockets = AdapterPlan::Xdp { interface: "eth1".into(), highest_rung: Rung::Socket, fallback: true };
        for (adapter, wanted) in [(fixture::xdp("eth1"), true), (sockets, false), (AdapterPlan::Udp, false)] {
            assert_eq!(wants_af_xdp(&fixture::link("line", 0, "127.0.0.1:0", adapter.clone())), wanted, "{adapter:?}");
        }
    }

    #[test]
    fn open_files_may_reach_the_hard_limit() {
        let limit = getrlimit(Resource::Nofile);
        let Some(hard) = limit.maximum else { return };
        setrlimit(Resource::Nofile, Rlimit { current: Some(hard - 1), ..limit }).unwrap();
        super::raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(hard));
    }
}
