//! Finding out what runs on an interface, and putting our program there: the picture in the module above, step by step.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp};
use aya_log::EbpfLogger;
use florelay_wire::maps::{
    MALFORMED_MAP, OUTCOME_MAP, PROGRAM, STEER_KEY_BYTES, STEER_MAP, STEER_VALUE_BYTES, XSK_MAP,
};

use super::interface::{XdpState, foreign, xdp_state};
use super::pins::Pins;
use super::{AttachError, LINK_PIN, Mode, log, map_error};

/// Name of the pinned program.
const PROGRAM_PIN: &str = "program";
/// How long a detached program may stay visible: the kernel releases a pinned link after an RCU grace period.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// What has to happen to what already runs.
pub(super) enum Plan {
    /// Nothing runs.
    Fresh,
    /// Our pinned link runs in the wanted mode.
    TakeOver(FdLink),
    /// Our pinned link runs in the other mode, as this program.
    Replace(FdLink, u32),
}

/// What [`install`] makes.
pub(super) struct Parts {
    pub(super) link: FdLink,
    pub(super) program_id: u32,
    pub(super) took_over: bool,
    pub(super) xsks: XskMap<MapData>,
    pub(super) steer: HashMap<MapData, [u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES]>,
    pub(super) outcomes: PerCpuArray<MapData, u64>,
    pub(super) malformed: PerCpuArray<MapData, u64>,
    pub(super) logger: EbpfLogger<Arc<log::Sink>>,
    pub(super) sink: Arc<log::Sink>,
    pub(super) ebpf: Ebpf,
}

/// Compares what runs on the interface with what is pinned for it.
pub(super) fn plan(interface: &str, mode: Mode, pins: &Pins) -> Result<Plan, AttachError> {
    let XdpState { program, .. } = xdp_state(interface)?;
    let pinned = PinnedLink::from_pin(pins.path(LINK_PIN)).ok().map(FdLink::from);
    let pinned_id = pinned.as_ref().and_then(|link| link.info().ok()).map(|info| info.program_id());
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
pub(super) fn install(
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
    xdp_program(&mut ebpf)?.load().map_err(|error| AttachError::Load(Box::new(error)))?;

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
    let program_id = program.info().map_err(|error| AttachError::Load(Box::new(error)))?.id();
    pins.replace(PROGRAM_PIN, |path| program.pin(path))?;
    for name in [STEER_MAP, XSK_MAP, OUTCOME_MAP, MALFORMED_MAP] {
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
        malformed: take_map(&mut ebpf, MALFORMED_MAP)?,
        logger,
        sink,
        ebpf,
    })
}

/// Attaches where nothing runs, and pins the link at once: from then on a crash leaves something that can be taken over.
fn link_fresh(interface: &str, mode: Mode, ebpf: &mut Ebpf, pins: &Pins) -> Result<FdLink, AttachError> {
    let ifindex = xdp_state(interface)?.ifindex;
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| match xdp_state(interface) {
        // Somebody was quicker.
        Ok(XdpState { program: Some((id, _)), .. }) => foreign(interface, id),
        _ => AttachError::Refused { interface: interface.to_owned(), mode, source: error },
    };
    let program = xdp_program(ebpf)?;
    let id = program.attach_to_if_index(ifindex, mode.aya()).map_err(|error| refused(Box::new(error)))?;
    let link = program.take_link(id).map_err(|error| refused(Box::new(error)))?;
    // Fails for the netlink attachment that aya falls back to where bpf_link is refused: it would not survive as a pin.
    let link = FdLink::try_from(link).map_err(|error| refused(Box::new(error)))?;
    let path = pins.path(LINK_PIN);
    let pinned = link.pin(&path).map_err(|error| AttachError::Pin { path, source: io::Error::other(error) })?;
    Ok(FdLink::from(pinned))
}

/// Puts the new program into a link that is attached and pinned.
fn link_swap(interface: &str, mode: Mode, ebpf: &mut Ebpf, link: FdLink) -> Result<FdLink, AttachError> {
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| AttachError::Refused {
        interface: interface.to_owned(),
        mode,
        source: error,
    };
    let program = xdp_program(ebpf)?;
    let link = XdpLink::try_from(link).map_err(|error| refused(Box::new(error)))?;
    let id = program.attach_to_link(link).map_err(|error| refused(Box::new(error)))?;
    let link = program.take_link(id).map_err(|error| refused(Box::new(error)))?;
    FdLink::try_from(link).map_err(|error| refused(Box::new(error)))
}

fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, AttachError> {
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| wrong_object(PROGRAM))?;
    program.try_into().map_err(|error: ProgramError| AttachError::Load(Box::new(error)))
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

/// Waits until the kernel has let go of a link whose last pin and descriptor are gone.
pub(super) fn wait_until_gone(interface: &str, id: u32) -> Result<(), AttachError> {
    let deadline = Instant::now() + DETACH_PATIENCE;
    loop {
        match xdp_state(interface) {
            Err(AttachError::NoInterface { .. }) => return Ok(()),
            Err(error) => return Err(error),
            Ok(XdpState { program, .. }) if program.is_none_or(|(running, _)| running != id) => {
                return Ok(());
            }
            Ok(_) if Instant::now() >= deadline => {
                return Err(AttachError::StillThere { interface: interface.to_owned(), id });
            }
            // There is no notification for it.
            Ok(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Takes the pins away after a failure whose own error matters more.
pub(super) fn discard(pins: Pins) {
    if let Err(error) = pins.remove_all() {
        tracing::warn!(%error, "pins are left behind");
    }
}
