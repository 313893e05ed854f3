//! The dataplane gives up what it does not need before it touches a packet.
//!
//! It keeps CAP_NET_RAW, because xsk-rs creates AF_XDP sockets itself and cannot adopt a descriptor, and the kernel asks
//! for NET_RAW at creation (net/xdp/xsk.c, `xsk_create`). UMEM counts against RLIMIT_MEMLOCK; where the supervisor could
//! not lift that limit (a container without CAP_SYS_RESOURCE), the dataplane keeps CAP_IPC_LOCK too, which exempts it
//! (net/xdp/xdp_umem.c, `xdp_umem_account_pages`). Everything else is the supervisor's.

use std::io;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// Why privileges could not be dropped. The dataplane does not start then.
#[derive(Debug, thiserror::Error)]
#[error("cannot drop privileges ({what}): {source}")]
pub struct PrivilegeError {
    what: &'static str,
    source: io::Error,
}

/// Keep what the module says if it is there, drop all other capabilities for this thread and all it will start, for good.
/// Call it before any thread is started.
///
/// # Errors
/// When the kernel refuses; see [`PrivilegeError`].
pub fn drop_privileges() -> Result<(), PrivilegeError> {
    let failed = |what| move |error: rustix::io::Errno| PrivilegeError { what, source: error.into() };
    let held = capabilities(None).map_err(failed("capget"))?;
    let mut wanted = CapabilitySet::NET_RAW;
    if getrlimit(Resource::Memlock).current.is_some() {
        wanted |= CapabilitySet::IPC_LOCK;
    }
    let kept = held.permitted & wanted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    set_capabilities(None, sets).map_err(failed("capset"))?;
    tracing::info!(kept = ?kept, "privileges dropped");
    Ok(())
}
