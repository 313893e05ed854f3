//! The dataplane's process: threads, and who is told what when they start and stop.
//!
//! ```text
//!   start: UDP sockets ─► gateway ─► workers (adapters, engines) ─► netlink ─► control socket
//!   stop:  control socket, netlink ─► gateway ─► workers drain ─► sockets close ─► XDP detached
//! ```
//!
//! Owner: [`Daemon`] owns the threads. Everything starts in the network namespace of the thread that calls
//! [`Daemon::start`]; stop it in the same one, or the detached programs are not waited for. A worker that ends by itself ends the daemon: its links are down, and nobody else may run them.
//!
//! Workers start one after the other, in order: the first on an interface decides its rung for all (`adapter::share`).

mod engines;
mod front;
mod secrets;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use florelay_engine::config::{EngineConfig, LinkId, PeerCrypto};
use florelay_engine::transport::tls::peer_crypto;

use self::engines::Secrets;
pub(crate) use self::engines::{layer2_overhead, rate_plan};
pub(crate) use self::front::Front;
use self::front::Surroundings;
use crate::adapter::sim::SimLink;
use crate::adapter::socket::SocketLink;
use crate::adapter::udp::{Prober, UdpLink};
use crate::broker::{Broker, SharedBroker};
use crate::contacts::Contacts;
use crate::gateway::{Input, KnownPaths, ipc_server};
use crate::ipc_codec::IpcStream;
use crate::netlink::{Follower, LinkSpec, Options};
use crate::plan::{AdapterPlan, NodePlan};
use crate::ring::{GatewayBell, Rings, ToWorker};
use crate::worker::{self, ports::Sharing};
use crate::{adapter, crossing};

/// For [`crate::fuzzing`]: what the engines of all workers would start with, every peer with the same crypto.
pub(crate) fn engine_configs(plan: &NodePlan, crypto: &PeerCrypto) -> Result<Vec<EngineConfig>, DaemonError> {
    engines::check(plan)?;
    let crypto = vec![crypto.clone(); plan.peers.len()];
    let secrets = Secrets { boot_id: 1, reset_key: [0; 32], seed: [0; 32], crypto };
    (0..plan.workers.len()).map(|worker| engines::engine_config(plan, worker, &secrets)).collect()
}

/// Why a dataplane does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The plan cannot be carried out.
    #[error("{0}")]
    Plan(String),
    /// A file cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A peer's credentials do not work.
    #[error("peer {peer}: {source}")]
    Crypto {
        /// Its name.
        peer: String,
        /// Why.
        source: florelay_engine::transport::tls::TlsError,
    },
    /// A link's UDP socket cannot be had.
    #[error("link {link}: cannot bind {local}: {reason}")]
    Socket {
        /// Its name.
        link: String,
        /// Its address.
        local: std::net::SocketAddr,
        /// Why.
        reason: String,
    },
    /// A worker did not start.
    #[error("{0}")]
    Worker(String),
    /// A thread ended that should not.
    #[error("worker {0} has ended by itself")]
    WorkerEnded(usize),
    /// The system refuses something.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Where the control process is.
#[derive(Debug)]
pub enum Control {
    /// A connected socket, inherited from the supervisor.
    Stream(UnixStream),
    /// A socket on which control processes may connect.
    Listener(UnixListener),
}

/// What a dataplane is to do.
pub struct DaemonOptions {
    /// Its plan.
    pub plan: NodePlan,
    /// Where requests come from.
    pub control: Control,
    /// Who does what needs privileges.
    pub broker: Box<dyn Broker>,
}

/// What the daemon's owner waits for.
enum Notice {
    Stop,
    WorkerEnded(usize),
}

/// Stops a daemon, from any thread or a signal's.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Notice>);

impl std::fmt::Debug for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stop => "Stop",
            Self::WorkerEnded(_) => "WorkerEnded",
        })
    }
}

impl Stopper {
    /// Ask it to stop; [`Daemon::wait`] returns when it has. No error if it has already.
    pub fn stop(&self) {
        let _ = self.0.send(Notice::Stop);
    }
}

/// Says that a worker's thread has ended.
struct Alive(usize, Sender<Notice>);

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = self.1.send(Notice::WorkerEnded(self.0));
    }
}

/// A running dataplane. Dropping it stops it.
pub struct Daemon {
    notices: Receiver<Notice>,
    notify: Sender<Notice>,
    to_gateway: Sender<Input>,
    bell: GatewayBell,
    gateway: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    rings: Vec<Arc<Rings>>,
    follower: Option<Follower>,
    control: Option<UnixStream>,
    broker: SharedBroker,
    interfaces: Vec<String>,
}

/// A checked plan and its UDP sockets: what is done before the system call filter, because it binds. No thread yet.
pub struct Prepared {
    plan: NodePlan,
    control: Control,
    broker: SharedBroker,
    sockets: Sockets,
}

impl Prepared {
    /// Check the plan and take its ports.
    ///
    /// # Errors
    /// [`DaemonError::Plan`], [`DaemonError::Socket`].
    pub fn new(options: DaemonOptions) -> Result<Self, DaemonError> {
        let DaemonOptions { plan, control, broker } = options;
        let broker = SharedBroker::new(broker);
        let ready = engines::check(&plan).and_then(|()| open_sockets(&plan, &broker));
        match ready {
            Ok(sockets) => Ok(Self { plan, control, broker, sockets }),
            Err(error) => {
                broker.lock().started(Err(error.to_string()));
                Err(error)
            }
        }
    }

    /// It will not be started after all.
    pub(crate) fn give_up(self, reason: &str) {
        self.broker.lock().started(Err(reason.to_owned()));
    }
}

impl Daemon {
    /// [`Prepared::new`] and [`Self::start_prepared`] in one.
    ///
    /// # Errors
    /// Any [`DaemonError`]; what was started is stopped again.
    pub fn start(options: DaemonOptions) -> Result<Self, DaemonError> {
        Self::start_prepared(Prepared::new(options)?)
    }

    /// Start everything. Returns when all links have their adapters and requests are taken.
    ///
    /// # Errors
    /// Any [`DaemonError`]; what was started is stopped again.
    pub fn start_prepared(prepared: Prepared) -> Result<Self, DaemonError> {
        Self::start_behind(prepared, Front::Gateway)
    }

    /// The same, with this between control and workers.
    pub(crate) fn start_behind(prepared: Prepared, front: Front) -> Result<Self, DaemonError> {
        let broker = prepared.broker.clone();
        let outcome = Self::start_threads(prepared, front);
        broker.lock().started(outcome.as_ref().map(drop).map_err(ToString::to_string));
        outcome
    }

    fn start_threads(prepared: Prepared, front: Front) -> Result<Self, DaemonError> {
        let Prepared { plan, control, broker, sockets: (mut sockets, probers) } = prepared;
        let epoch = Instant::now();
        std::fs::create_dir_all(&plan.inbox)
            .map_err(|error| DaemonError::File { path: plan.inbox.clone(), reason: error.to_string() })?;
        let secrets = make_secrets(&plan)?;
        let rings = (0..plan.workers.len()).map(|_| Rings::new()).collect::<std::io::Result<Vec<_>>>();
        let rings = rings.map_err(|source| DaemonError::System { what: "eventfd", source })?;
        let plan = Arc::new(plan);
        let contacts = Contacts::new(&plan, epoch);
        let paths = KnownPaths::open(&plan, crate::wall::now_unix_ns());
        let memories = paths.memories();
        let (to_gateway, inputs) = channel();
        let (gateway, bell) = front.start(Surroundings {
            plan: plan.clone(),
            contacts: contacts.clone(),
            paths,
            rings: rings.clone(),
            inputs,
            to_self: to_gateway.clone(),
            boot_id: secrets.boot_id,
            broker: broker.clone(),
        })?;
        let (notify, notices) = channel();
        let mut interfaces: Vec<_> = plan.links.iter().filter_map(|link| interface(&link.adapter)).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        // From here on a drop undoes what was done.
        let mut daemon = Self {
            notices,
            notify,
            to_gateway,
            bell,
            gateway: Some(gateway),
            workers: Vec::new(),
            rings,
            follower: None,
            control: None,
            broker,
            interfaces,
        };
        let mut shares = adapter::share::shares(&plan);
        let ends = crossing::connect(&plan, &daemon.rings, crossing::RING_FRAMES);
        for ((index, worker_plan), across) in plan.workers.iter().enumerate().zip(ends) {
            let mut engine = engines::engine_config(&plan, index, &secrets)?;
            engines::recall(&mut engine, &memories);
            let shares = std::mem::take(&mut shares[index]);
            let beside = engines::links_beside(&plan, index);
            let links = engines::owned_links(&plan, index);
            let links =
                links.filter_map(|(id, link)| Some((id, link.clone(), sockets[usize::from(id.0)].take()?))).collect();
            let setup = worker::Setup {
                index,
                plan: worker_plan.clone(),
                engine,
                links,
                sharing: Sharing { across, shares, beside },
                first: engines::owned_links(&plan, index).filter_map(|(id, _)| contacts.first_command(id)).collect(),
                rings: daemon.rings[index].clone(),
                bell: daemon.bell.clone(),
                broker: daemon.broker.clone(),
                epoch,
            };
            daemon.start_worker(setup)?;
        }
        daemon.follow(&plan, probers)?;
        daemon.listen(control)?;
        tracing::info!(node = plan.node, snapshot = plan.snapshot, "dataplane runs");
        Ok(daemon)
    }

    /// Something that can stop it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.notify.clone())
    }

    /// Until it is stopped, or a worker ends by itself.
    ///
    /// # Errors
    /// [`DaemonError::WorkerEnded`].
    pub fn wait(self) -> Result<(), DaemonError> {
        match self.notices.recv() {
            Ok(Notice::WorkerEnded(index)) => Err(DaemonError::WorkerEnded(index)),
            Ok(Notice::Stop) | Err(_) => Ok(()),
        }
    }

    /// Until `stop` brings something or is closed.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn run(self, stop: Receiver<()>) -> Result<(), DaemonError> {
        let stopper = self.stopper();
        std::thread::Builder::new()
            .name("stop".into())
            .spawn(move || {
                let _ = stop.recv();
                stopper.stop();
            })
            .map_err(|source| DaemonError::System { what: "a thread", source })?;
        self.wait()
    }

    fn start_worker(&mut self, setup: worker::Setup) -> Result<(), DaemonError> {
        let index = setup.index;
        let (ready, answer) = channel();
        let handle = worker::start(setup, ready, Alive(index, self.notify.clone()))
            .map_err(|source| DaemonError::System { what: "a worker's thread", source })?;
        self.workers.push(handle);
        match answer.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(DaemonError::Worker(reason)),
            Err(_) => Err(DaemonError::WorkerEnded(index)),
        }
    }

    /// Follow the next hops of AF_XDP links.
    fn follow(&mut self, plan: &NodePlan, probers: Vec<Option<Prober>>) -> Result<(), DaemonError> {
        let specs: Vec<_> = (0..)
            .map(LinkId)
            .zip(&plan.links)
            .filter_map(|(id, link)| {
                let interface = interface(&link.adapter)?;
                Some((id, LinkSpec { interface, local: link.local.ip(), remote: link.remote.ip() }))
            })
            .collect();
        if specs.is_empty() {
            return Ok(());
        }
        let (to_gateway, bell) = (self.to_gateway.clone(), self.bell.clone());
        let publish = move |link: LinkId, hop| {
            // A gateway that has gone needs no news.
            if to_gateway.send(Input::NextHop(link.0, hop)).is_ok() {
                bell.ring();
            }
        };
        let provoke = move |link: LinkId| {
            if let Some(Some(prober)) = probers.get(usize::from(link.0)) {
                prober.provoke();
            }
        };
        let follower = Follower::start(specs, Options::default(), publish, provoke);
        self.follower = Some(follower.map_err(|source| DaemonError::System { what: "rtnetlink", source })?);
        Ok(())
    }

    fn listen(&mut self, control: Control) -> Result<(), DaemonError> {
        let refused = |error: String| DaemonError::Worker(format!("control socket: {error}"));
        match control {
            Control::Stream(stream) => {
                // Kept to end the conversation at the stop: its thread waits for requests.
                self.control = stream.try_clone().ok();
                let stream = IpcStream::new(stream).map_err(|error| refused(error.to_string()))?;
                ipc_server::converse(stream, self.to_gateway.clone(), self.bell.clone())
                    .map_err(|error| refused(error.to_string()))
            }
            Control::Listener(listener) => ipc_server::listen(listener, self.to_gateway.clone(), self.bell.clone())
                .map_err(|error| refused(error.to_string())),
        }
    }

    fn shut_down(&mut self) {
        drop(self.follower.take());
        if let Some(control) = self.control.take() {
            let _ = control.shutdown(std::net::Shutdown::Read);
        }
        if let Some(gateway) = self.gateway.take() {
            let _ = self.to_gateway.send(Input::Stop);
            self.bell.ring();
            if gateway.join().is_err() {
                tracing::error!("the gateway panicked");
            }
        }
        for (worker, rings) in self.workers.drain(..).zip(&self.rings) {
            // The gateway has said it already, if its ring had room.
            while !worker.is_finished() && rings.commands.push(ToWorker::Stop).is_err() {
                rings.doorbell.ring();
                std::thread::yield_now();
            }
            rings.doorbell.ring();
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        for interface in self.interfaces.drain(..) {
            if let Err(reason) = self.broker.lock().detach(&interface) {
                tracing::error!(interface, reason, "XDP program not detached");
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn interface(adapter: &AdapterPlan) -> Option<String> {
    match adapter {
        AdapterPlan::Xdp { interface, .. } => Some(interface.clone()),
        AdapterPlan::Udp | AdapterPlan::Sim(_) => None,
    }
}

fn make_secrets(plan: &NodePlan) -> Result<Secrets, DaemonError> {
    let credentials = secrets::credentials(plan)?;
    let crypto = plan.peers.iter().map(|peer| {
        peer_crypto(&credentials, &peer.spiffe_id)
            .map_err(|source| DaemonError::Crypto { peer: peer.name.clone(), source })
    });
    Ok(Secrets {
        crypto: crypto.collect::<Result<_, _>>()?,
        boot_id: u64::from_ne_bytes(secrets::random()?),
        reset_key: secrets::reset_key(&plan.state_dir)?,
        seed: secrets::random()?,
    })
}

type Sockets = (Vec<Option<SocketLink>>, Vec<Option<Prober>>);

/// The socket of every link, and a second handle of it for netlink's thread where the link is on an interface.
fn open_sockets(plan: &NodePlan, broker: &SharedBroker) -> Result<Sockets, DaemonError> {
    let (mut sockets, mut probers) = (Vec::new(), Vec::new());
    for link in &plan.links {
        if let AdapterPlan::Sim(sim) = &link.adapter {
            let socket = SimLink::open(sim, layer2_overhead(link))
                .map_err(|(path, reason)| DaemonError::File { path, reason })?;
            sockets.push(Some(SocketLink::Sim(socket.into())));
            probers.push(None);
            continue;
        }
        let error = |reason| DaemonError::Socket { link: link.name.clone(), local: link.local, reason };
        let socket = broker.lock().udp_socket(link.local).map_err(error)?;
        let io_error = |source: std::io::Error| error(source.to_string());
        let socket = UdpLink::new(socket, link.remote).map_err(io_error)?;
        probers.push(interface(&link.adapter).map(|_| socket.prober()).transpose().map_err(io_error)?);
        sockets.push(Some(SocketLink::Udp(socket)));
    }
    Ok((sockets, probers))
}
