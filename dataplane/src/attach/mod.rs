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
//! - A takeover that fails leaves a program running that passes everything, and its link pinned, to be taken over.
//!
//! Limits: everything happens in the caller's network and mount namespace (`ip netns exec` mounts a fresh /sys and so
//! hides bpffs; use `nsenter --net`). Steering and counters start empty at a takeover. Needs CAP_BPF, CAP_NET_ADMIN, and
//! CAP_SYS_ADMIN where bpffs has to be mounted; bpf_link for XDP needs Linux 5.9, the program itself 5.18.

mod error;
mod install;
mod interface;
mod log;
mod object;
mod pins;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::XdpMode;
use aya::programs::links::FdLink;
use aya_log::EbpfLogger;
use florelay_wire::ParseError;
use florelay_wire::maps::{
    MALFORMED_MAP, OUTCOME_MAP, Outcome, STEER_KEY_BYTES, STEER_MAP, STEER_VALUE_BYTES, SteerKey, SteerValue, XSK_MAP,
};

use install::{Parts, Plan, discard, install, plan, wait_until_gone};
use interface::xdp_state;
use pins::Pins;

pub use error::AttachError;
pub use object::OBJECT;
pub use pins::ensure_bpffs;

/// Name of the pinned link.
const LINK_PIN: &str = "link";

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
    malformed: PerCpuArray<MapData, u64>,
    logger: EbpfLogger<Arc<log::Sink>>,
    sink: Arc<log::Sink>,
    throttle: log::Throttle,
    /// Keeps the program and the remaining maps.
    _ebpf: Ebpf,
}

impl Attachment {
    /// Loads `object` (usually [`OBJECT`]) and attaches its program to `interface`, taking over from a dead process of
    /// the same `node`.
    ///
    /// # Errors
    /// Any [`AttachError`] but `Map` and `StillThere`; nothing of ours is left behind, except that what ran before a failed
    /// takeover still runs.
    pub fn attach(interface: &str, node: &str, mode: Mode, object: &[u8]) -> Result<Self, AttachError> {
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
        let Parts { link, program_id, took_over, xsks, steer, outcomes, malformed, logger, sink, ebpf } = parts;
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
            malformed,
            logger,
            sink,
            throttle: log::Throttle::default(),
            _ebpf: ebpf,
        }
    }

    /// From now on, link frames that arrive on RX queue `queue` go into this AF_XDP socket. The kernel removes it when the
    /// socket is closed by its last holder. Bind the socket to the same queue, after attaching; it needs its RX ring by
    /// now (Linux 7.2 refuses it with ENOBUFS otherwise).
    ///
    /// # Errors
    /// [`AttachError::Map`] for a queue above the map's size or a descriptor that is no AF_XDP socket.
    pub fn register_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), AttachError> {
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
        let wanted: Vec<_> = entries.iter().map(|(key, value)| (key.to_bytes(), value.to_bytes())).collect();
        let present = self.steer.keys().collect::<Result<Vec<_>, _>>().map_err(map_error(STEER_MAP))?;
        for key in present.iter().filter(|key| wanted.iter().all(|(other, _)| other != *key)) {
            match self.steer.remove(key) {
                Ok(()) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(map_error(STEER_MAP)(error)),
            }
        }
        for (key, value) in wanted {
            self.steer.insert(key, value, 0).map_err(map_error(STEER_MAP))?;
        }
        Ok(())
    }

    /// Frames by outcome since the program was loaded, summed over CPUs; names are `Outcome::NAMES`.
    ///
    /// # Errors
    /// [`AttachError::Map`].
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, AttachError> {
        sums(&self.outcomes, OUTCOME_MAP, Outcome::NAMES)
    }

    /// What `drop_malformed` consists of: frames by reason, in the same way; names are those of [`ParseError`].
    ///
    /// # Errors
    /// [`AttachError::Map`].
    pub fn malformed(&self) -> Result<Vec<(&'static str, u64)>, AttachError> {
        sums(&self.malformed, MALFORMED_MAP, ParseError::ALL.iter().map(|reason| reason.name()))
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
        let Self { interface, pins, link, program_id, .. } = self;
        pins.remove(LINK_PIN)?;
        drop(link);
        wait_until_gone(&interface, program_id)?;
        pins.remove_all()?;
        tracing::info!(interface, program_id, "XDP program detached");
        Ok(())
    }
}

/// The counters of a per-CPU array, summed over CPUs, with their names.
fn sums(
    map: &PerCpuArray<MapData, u64>,
    map_name: &'static str,
    names: impl IntoIterator<Item = &'static str>,
) -> Result<Vec<(&'static str, u64)>, AttachError> {
    (0_u32..)
        .zip(names)
        .map(|(index, name)| Ok((name, map.get(&index, 0).map_err(map_error(map_name))?.iter().sum())))
        .collect()
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> AttachError {
    move |source| AttachError::Map { map, source: Box::new(source) }
}

fn is_not_found(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
