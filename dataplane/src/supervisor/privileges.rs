//! What the supervisor's children give up before they do anything: every capability, and the bounding set.
//!
//! The dataplane needs none: sockets are made, given their memory and bound by the supervisor's broker, whose
//! RLIMIT_MEMLOCK or CAP_IPC_LOCK that memory is charged to.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// Why privileges could not be dropped. The dataplane does not start then.
#[derive(Debug, thiserror::Error)]
#[error("cannot drop privileges ({what}): {source}")]
pub struct PrivilegeError {
    what: &'static str,
    source: io::Error,
}

/// Drop all capabilities for this thread and all it will start, for good. Call it before any thread is started.
///
/// # Errors
/// When the kernel refuses; see [`PrivilegeError`].
pub fn drop_privileges() -> Result<(), PrivilegeError> {
    let failed = |what| move |error: rustix::io::Errno| PrivilegeError { what, source: error.into() };
    let held = capabilities(None).map_err(failed("capget"))?;
    let none = CapabilitySet::empty();
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    // Without CAP_SETPCAP the bounding set stays; with `no_new_privs` nothing can be had out of it.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set().map_err(failed("bounding set"))?;
    }
    // The ambient set follows: it is never more than these (capabilities(7)).
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(failed("capset"))
}

fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) => remove_capability_from_bounding_set(one)?,
            Ok(false) => {}
            // One more than the kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the calling thread may do, in words: `none`, or which. Asked of the kernel, not remembered.
pub(crate) fn in_words() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let permitted = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapPrm:")?.trim(), 16).ok());
    match permitted {
        None => "not known".into(),
        Some(0) => "none".into(),
        Some(held) => format!("{held:#x} (capabilities(7), by bit)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities belong to threads: this one's end with it.
    #[test]
    fn nothing_is_kept() {
        std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            drop_privileges().unwrap();
            let now = capabilities(None).unwrap();
            assert!((now.permitted | now.effective | now.inheritable).is_empty());
            assert_eq!(in_words(), "none");
            if before.effective.contains(CapabilitySet::SETPCAP) {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
            }
        })
        .join()
        .unwrap();
    }
}
