//! What the supervisor's children give up before they do anything.
//!
//! The control process keeps nothing. The dataplane keeps CAP_NET_RAW, because it creates its AF_XDP sockets itself, and the kernel asks
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

/// What a process may keep of the capabilities it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None: the control process.
    Nothing,
    /// Those that AF_XDP sockets need: the dataplane.
    AfXdp,
}

/// Drop all other capabilities for this thread and all it will start, for good. Call it before any thread is started.
/// Returns what was kept.
///
/// # Errors
/// When the kernel refuses; see [`PrivilegeError`].
pub fn drop_privileges(keep: Keep) -> Result<CapabilitySet, PrivilegeError> {
    let failed = |what| move |error: rustix::io::Errno| PrivilegeError { what, source: error.into() };
    let held = capabilities(None).map_err(failed("capget"))?;
    let wanted = match keep {
        Keep::Nothing => CapabilitySet::empty(),
        Keep::AfXdp if getrlimit(Resource::Memlock).current.is_some() => {
            CapabilitySet::NET_RAW | CapabilitySet::IPC_LOCK
        }
        Keep::AfXdp => CapabilitySet::NET_RAW,
    };
    let kept = held.permitted & wanted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    set_capabilities(None, sets).map_err(failed("capset"))?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities belong to threads: this one's end with it.
    #[test]
    fn a_process_keeps_at_most_what_it_names() {
        for (keep, most) in
            [(Keep::AfXdp, CapabilitySet::NET_RAW | CapabilitySet::IPC_LOCK), (Keep::Nothing, CapabilitySet::empty())]
        {
            std::thread::spawn(move || {
                let before = capabilities(None).unwrap().permitted;
                let kept = drop_privileges(keep).unwrap();
                let now = capabilities(None).unwrap();
                assert!((now.permitted | now.effective | now.inheritable | kept).difference(most).is_empty());
                assert_eq!(now.permitted.contains(CapabilitySet::NET_RAW), {
                    keep == Keep::AfXdp && before.contains(CapabilitySet::NET_RAW)
                });
            })
            .join()
            .unwrap();
        }
    }
}
