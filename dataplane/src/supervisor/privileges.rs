//! The dataplane gives up what it does not need before it touches a packet.
//!
//! It keeps CAP_NET_RAW, because xsk-rs creates AF_XDP sockets itself and cannot adopt a descriptor, and the kernel asks
//! for NET_RAW at creation (net/xdp/xsk.c, `xsk_create`). Everything else is the supervisor's.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// Why privileges could not be dropped. The dataplane does not start then.
#[derive(Debug, thiserror::Error)]
#[error("cannot drop privileges ({what}): {source}")]
pub struct PrivilegeError {
    what: &'static str,
    source: io::Error,
}

/// Keep CAP_NET_RAW if it is there, drop all other capabilities for this thread and all it will start, for good.
/// Call it before any thread is started.
///
/// # Errors
/// When the kernel refuses; see [`PrivilegeError`].
pub fn drop_privileges() -> Result<(), PrivilegeError> {
    let failed = |what| move |error: rustix::io::Errno| PrivilegeError { what, source: error.into() };
    let held = capabilities(None).map_err(failed("capget"))?;
    let kept = held.permitted & CapabilitySet::NET_RAW;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    set_capabilities(None, sets).map_err(failed("capset"))?;
    tracing::info!(kept = ?kept, "privileges dropped");
    Ok(())
}
