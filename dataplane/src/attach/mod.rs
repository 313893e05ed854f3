//! Attaching the XDP program to an interface, and letting go of it without a trace.
//!
//! ```text
//!                    ┌─ nothing runs ───────────────► attach a new bpf_link, pin it
//!  look at the  ─────┼─ our pinned link, same mode ─► update the link: the new program replaces the old one atomically
//!  interface         ├─ our pinned link, other mode ► detach, attach (modes cannot be swapped; meanwhile no program: all passes)
//!                    └─ anything else ──────────────► refuse, and name it
//! ```
//!
//! One [`Attachment`] owns program, maps, link and pins of one interface for one process; a lock on the pin folder, which
//! dies with the process, keeps a second one away. Dropping an `Attachment` without [`detach`](Attachment::detach) is what
//! a crash does: the program stays, the kernel empties the socket map as the sockets close, and everything passes until
//! the next [`attach`](Attachment::attach) takes over.
//!
//! Invariants
//! - What was not attached by a florelay of the same node is never replaced or detached.
//! - After `detach` there is no program on the interface, no pin and no folder.
//! - A takeover that fails leaves the running program and its pins as they were.
//!
//! Limits: everything happens in the caller's network and mount namespace (`ip netns exec` mounts a fresh /sys and so
//! hides bpffs; use `nsenter --net`). Steering and counters start empty at a takeover. Needs CAP_BPF, CAP_NET_ADMIN, and
//! CAP_SYS_ADMIN where bpffs has to be mounted; bpf_link for XDP needs Linux 5.9, the program itself 5.18.

mod interface;
mod log;
mod object;
mod pins;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya_log::EbpfLogger;
use florelay_wire::maps::{
    OUTCOME_MAP, Outcome, PROGRAM, STEER_KEY_BYTES, STEER_MAP, STEER_VALUE_BYTES, SteerKey,
    SteerValue, XSK_MAP,
};

use interface::{XdpState, foreign, xdp_state};
use pins::Pins;

pub use object::OBJECT;
pub use pins::ensure_bpffs;

/// Name of the pinned link.
const LINK_PIN: &str = "link";
/// Name of the pinned program.
const PROGRAM_PIN: &str = "program";
/// How long a detached program may stay visible: the kernel releases a pinned link after an RCU grace period.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// Where in the receive path the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel makes a socket buffer.
    Native,
    /// In the stack, on socket buffers: every interface can do it, and it is slower.
    Generic,
}

impl Mode {
    fn aya(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// Why an interface was not attached, or an attachment did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// `build.rs` did not find its tools.
    #[error("this build has no eBPF program: run `cargo xtask setup` and build again")]
    NoProgram,
    /// No such interface in this network namespace.
    #[error("interface {interface} does not exist in this network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Somebody else's program runs there.
    #[error(
        "interface {interface} already runs the XDP program `{program}` (id {id}), which is not this node's: {owner}"
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Name of the program.
        program: String,
        /// Its id.
        id: u32,
        /// Whose it is, or how to find out.
        owner: String,
    },
    /// A living process holds the same node and interface.
    #[error("another process holds {path}: this node already runs on that interface")]
    InUse {
        /// The locked folder.
        path: PathBuf,
    },
    /// bpffs is neither there nor can it be mounted.
    #[error(
        "/sys/fs/bpf is not a bpffs and cannot be made one (`mount -t bpf bpf /sys/fs/bpf` as root): {source}"
    )]
    Bpffs {
        /// What the kernel said.
        source: io::Error,
    },
    /// Something with a pin.
    #[error("pin {path}: {source}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program was not loaded: the verifier refused it, or a privilege is missing.
    #[error("the eBPF program cannot be loaded: {0}")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The driver or the kernel refused the program.
    #[error("interface {interface} does not take an XDP program in {mode:?} mode: {source}")]
    Refused {
        /// The interface.
        interface: String,
        /// The mode that was asked for.
        mode: Mode,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// rtnetlink did not answer.
    #[error("rtnetlink: {source}")]
    Netlink {
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is still there after it was detached.
    #[error("interface {interface} still runs XDP program {id} after it was detached")]
    StillThere {
        /// The interface.
        interface: String,
        /// The program.
        id: u32,
    },
}

/// The program on one interface. See the module for what a drop means.
pub struct Attachment {
    interface: String,
    mode: Mode,
    pins: Pins,
    link: FdLink,
    program_id: u32,
    took_over: bool,
    xsks: XskMap<MapData>,
    steer: HashMap<MapData, [u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES]>,
    outcomes: PerCpuArray<MapData, u64>,
    logger: EbpfLogger<Arc<log::Sink>>,
    sink: Arc<log::Sink>,
    throttle: log::Throttle,
    /// Keeps the program and the remaining maps.
    _ebpf: Ebpf,
}

/// What has to happen to what already runs.
enum Plan {
    /// Nothing runs.
    Fresh,
    /// Our pinned link runs in the wanted mode.
    TakeOver(FdLink),
    /// Our pinned link runs in the other mode, as this program.
    Replace(FdLink, u32),
}

impl Attachment {
    /// Loads `object` (usually [`OBJECT`]) and attaches its program to `interface`, taking over from a dead process of
    /// the same `node`.
    ///
    /// # Errors
    /// Any [`AttachError`] but `Map` and `StillThere`; nothing of ours is left behind, except that what ran before a failed
    /// takeover still runs.
    pub fn attach(
        interface: &str,
        node: &str,
        mode: Mode,
        object: &[u8],
    ) -> Result<Self, AttachError> {
        if object.is_empty() {
            return Err(AttachError::NoProgram);
        }
        // Before anything is made: a wrong name should not leave folders.
        xdp_state(interface)?;
        pins::ensure_bpffs()?;
        let pins = Pins::open(node, interface)?;
        let plan = match plan(interface, mode, &pins) {
            Ok(plan) => plan,
            Err(error) => {
                discard(pins);
                return Err(error);
            }
        };
        let in_place = matches!(plan, Plan::TakeOver(_));
        match install(interface, mode, object, &pins, plan) {
            Ok(parts) => Ok(Self::assemble(interface, mode, pins, parts)),
            Err(error) => {
                if !in_place {
                    discard(pins);
                }
                Err(error)
            }
        }
    }

    fn assemble(interface: &str, mode: Mode, pins: Pins, parts: Parts) -> Self {
        let Parts {
            link,
            program_id,
            took_over,
            xsks,
            steer,
            outcomes,
            logger,
            sink,
            ebpf,
        } = parts;
        tracing::info!(interface, ?mode, program_id, took_over, pins = %pins.folder().display(), "XDP program attached");
        Self {
            interface: interface.to_owned(),
            mode,
            pins,
            link,
            program_id,
            took_over,
            xsks,
            steer,
            outcomes,
            logger,
            sink,
            throttle: log::Throttle::default(),
            _ebpf: ebpf,
        }
    }

    /// From now on, link frames that arrive on RX queue `queue` go into this AF_XDP socket. The kernel removes it when the
    /// socket is closed by its last holder. Bind the socket to the same queue, and after attaching.
    ///
    /// # Errors
    /// [`AttachError::Map`] for a queue above the map's size or a descriptor that is no AF_XDP socket.
    pub fn register_socket(
        &mut self,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), AttachError> {
        self.xsks.set(queue, socket, 0).map_err(map_error(XSK_MAP))
    }

    /// Link frames on `queue` pass to the kernel again. A queue without a socket is no error.
    ///
    /// # Errors
    /// [`AttachError::Map`].
    pub fn unregister_socket(&mut self, queue: u32) -> Result<(), AttachError> {
        match self.xsks.unset(queue) {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(map_error(XSK_MAP)(error)),
        }
    }

    /// Makes `entries` the whole steering table. Entries that stay are not disturbed; each single change is atomic.
    ///
    /// # Errors
    /// [`AttachError::Map`], e.g. for more than `wire::maps::STEER_MAP_ENTRIES`; the table is then between old and new.
    pub fn set_steering(&mut self, entries: &[(SteerKey, SteerValue)]) -> Result<(), AttachError> {
        let wanted: Vec<_> = entries
            .iter()
            .map(|(key, value)| (key.to_bytes(), value.to_bytes()))
            .collect();
        let present = self
            .steer
            .keys()
            .collect::<Result<Vec<_>, _>>()
            .map_err(map_error(STEER_MAP))?;
        for key in present
            .iter()
            .filter(|key| wanted.iter().all(|(other, _)| other != *key))
        {
            match self.steer.remove(key) {
                Ok(()) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(map_error(STEER_MAP)(error)),
            }
        }
        for (key, value) in wanted {
            self.steer
                .insert(key, value, 0)
                .map_err(map_error(STEER_MAP))?;
        }
        Ok(())
    }

    /// Frames by outcome since the program was loaded, summed over CPUs; names are `Outcome::NAMES`.
    ///
    /// # Errors
    /// [`AttachError::Map`].
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, AttachError> {
        (0_u32..)
            .zip(Outcome::NAMES)
            .map(|(index, name)| {
                let per_cpu = self
                    .outcomes
                    .get(&index, 0)
                    .map_err(map_error(OUTCOME_MAP))?;
                Ok((name, per_cpu.iter().sum()))
            })
            .collect()
    }

    /// Passes what the program has logged to `tracing`, at a bounded rate. Does not block; call it in housekeeping.
    pub fn drain_log(&mut self) {
        self.throttle.refill(&self.sink, Instant::now());
        self.logger.flush();
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// How the program is attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The kernel's id of the program.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The program replaced that of a dead process without a gap.
    #[must_use]
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Detaches the program and removes pins and folders. Returns when the program is gone from the interface.
    ///
    /// # Errors
    /// [`AttachError::Pin`], [`AttachError::Netlink`], [`AttachError::StillThere`].
    pub fn detach(self) -> Result<(), AttachError> {
        let Self {
            interface,
            pins,
            link,
            program_id,
            ..
        } = self;
        pins.remove(LINK_PIN)?;
        drop(link);
        wait_until_gone(&interface, program_id)?;
        pins.remove_all()?;
        tracing::info!(interface, program_id, "XDP program detached");
        Ok(())
    }
}

/// What [`install`] makes.
struct Parts {
    link: FdLink,
    program_id: u32,
    took_over: bool,
    xsks: XskMap<MapData>,
    steer: HashMap<MapData, [u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES]>,
    outcomes: PerCpuArray<MapData, u64>,
    logger: EbpfLogger<Arc<log::Sink>>,
    sink: Arc<log::Sink>,
    ebpf: Ebpf,
}

/// Compares what runs on the interface with what is pinned for it.
fn plan(interface: &str, mode: Mode, pins: &Pins) -> Result<Plan, AttachError> {
    let XdpState { program, .. } = xdp_state(interface)?;
    let pinned = PinnedLink::from_pin(pins.path(LINK_PIN))
        .ok()
        .map(FdLink::from);
    let pinned_id = pinned
        .as_ref()
        .and_then(|link| link.info().ok())
        .map(|info| info.program_id());
    match (program, pinned) {
        (None, None) => Ok(Plan::Fresh),
        (None, Some(_)) => {
            // Its interface was deleted, or is in another network namespace; its owner is dead (we hold the lock).
            pins.remove(LINK_PIN)?;
            Ok(Plan::Fresh)
        }
        (Some((id, running)), Some(link)) if pinned_id == Some(id) => {
            if running == Some(mode) {
                Ok(Plan::TakeOver(link))
            } else {
                Ok(Plan::Replace(link, id))
            }
        }
        (Some((id, _)), _) => Err(foreign(interface, id)),
    }
}

/// Loads, attaches and pins.
fn install(
    interface: &str,
    mode: Mode,
    object: &[u8],
    pins: &Pins,
    plan: Plan,
) -> Result<Parts, AttachError> {
    let mut ebpf = Ebpf::load(object).map_err(|error| AttachError::Load(Box::new(error)))?;
    let sink = Arc::new(log::Sink::new(interface));
    // Before the maps are taken, and kept: the program does not load without its log.
    let logger = EbpfLogger::init_with_logger(&mut ebpf, Arc::clone(&sink))
        .map_err(|error| AttachError::Load(Box::new(error)))?;
    xdp_program(&mut ebpf)?
        .load()
        .map_err(|error| AttachError::Load(Box::new(error)))?;

    let took_over = matches!(plan, Plan::TakeOver(_));
    let link = match plan {
        Plan::Fresh => link_fresh(interface, mode, &mut ebpf, pins)?,
        Plan::TakeOver(link) => link_swap(interface, mode, &mut ebpf, link)?,
        Plan::Replace(link, id) => {
            pins.remove(LINK_PIN)?;
            drop(link);
            wait_until_gone(interface, id)?;
            link_fresh(interface, mode, &mut ebpf, pins)?
        }
    };
    let program = xdp_program(&mut ebpf)?;
    let program_id = program
        .info()
        .map_err(|error| AttachError::Load(Box::new(error)))?
        .id();
    pins.replace(PROGRAM_PIN, |path| program.pin(path))?;
    for name in [STEER_MAP, XSK_MAP, OUTCOME_MAP] {
        let map = ebpf.map(name).ok_or_else(|| wrong_object(name))?;
        pins.replace(name, |path| map.pin(path))?;
    }
    Ok(Parts {
        link,
        program_id,
        took_over,
        xsks: take_map(&mut ebpf, XSK_MAP)?,
        steer: take_map(&mut ebpf, STEER_MAP)?,
        outcomes: take_map(&mut ebpf, OUTCOME_MAP)?,
        logger,
        sink,
        ebpf,
    })
}

/// Attaches where nothing runs, and pins the link at once: from then on a crash leaves something that can be taken over.
fn link_fresh(
    interface: &str,
    mode: Mode,
    ebpf: &mut Ebpf,
    pins: &Pins,
) -> Result<FdLink, AttachError> {
    let ifindex = xdp_state(interface)?.ifindex;
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| match xdp_state(interface) {
        // Somebody was quicker.
        Ok(XdpState {
            program: Some((id, _)),
            ..
        }) => foreign(interface, id),
        _ => AttachError::Refused {
            interface: interface.to_owned(),
            mode,
            source: error,
        },
    };
    let program = xdp_program(ebpf)?;
    let id = program
        .attach_to_if_index(ifindex, mode.aya())
        .map_err(|error| refused(Box::new(error)))?;
    let link = program
        .take_link(id)
        .map_err(|error| refused(Box::new(error)))?;
    // Fails for the netlink attachment that aya falls back to where bpf_link is refused: it would not survive as a pin.
    let link = FdLink::try_from(link).map_err(|error| refused(Box::new(error)))?;
    let path = pins.path(LINK_PIN);
    let pinned = link.pin(&path).map_err(|error| AttachError::Pin {
        path,
        source: io::Error::other(error),
    })?;
    Ok(FdLink::from(pinned))
}

/// Puts the new program into a link that is attached and pinned.
fn link_swap(
    interface: &str,
    mode: Mode,
    ebpf: &mut Ebpf,
    link: FdLink,
) -> Result<FdLink, AttachError> {
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| AttachError::Refused {
        interface: interface.to_owned(),
        mode,
        source: error,
    };
    let program = xdp_program(ebpf)?;
    let link = XdpLink::try_from(link).map_err(|error| refused(Box::new(error)))?;
    let id = program
        .attach_to_link(link)
        .map_err(|error| refused(Box::new(error)))?;
    let link = program
        .take_link(id)
        .map_err(|error| refused(Box::new(error)))?;
    FdLink::try_from(link).map_err(|error| refused(Box::new(error)))
}

fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, AttachError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| wrong_object(PROGRAM))?;
    program
        .try_into()
        .map_err(|error: ProgramError| AttachError::Load(Box::new(error)))
}

fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, AttachError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| wrong_object(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn wrong_object(missing: &str) -> AttachError {
    AttachError::Load(format!("the object has no `{missing}`").into())
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> AttachError {
    move |source| AttachError::Map {
        map,
        source: Box::new(source),
    }
}

fn is_not_found(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Waits until the kernel has let go of a link whose last pin and descriptor are gone.
fn wait_until_gone(interface: &str, id: u32) -> Result<(), AttachError> {
    let deadline = Instant::now() + DETACH_PATIENCE;
    loop {
        match xdp_state(interface) {
            Err(AttachError::NoInterface { .. }) => return Ok(()),
            Err(error) => return Err(error),
            Ok(XdpState { program, .. }) if program.is_none_or(|(running, _)| running != id) => {
                return Ok(());
            }
            Ok(_) if Instant::now() >= deadline => {
                return Err(AttachError::StillThere {
                    interface: interface.to_owned(),
                    id,
                });
            }
            // There is no notification for it.
            Ok(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Takes the pins away after a failure whose own error matters more.
fn discard(pins: Pins) {
    if let Err(error) = pins.remove_all() {
        tracing::warn!(%error, "pins are left behind");
    }
}
