//! Where the command line hands over to the dataplane crate: `up` starts the supervisor here, `dataplane` the daemon.
//!
//! The two functions are all that the rest of this crate knows of them. The supervisor starts the control process with
//! [`control_arguments`] and one end of a unix socket pair as its standard input; on the other end it sends a `()` with
//! one connected unix socket (see `florelay_dataplane::ipc_codec`) each time it has started a dataplane.

use std::ffi::OsString;

use florelay_dataplane::plan::NodePlan;

use crate::services::ServicesPlan;

pub use florelay_dataplane::supervisor::{Ended, SupervisorOptions};

/// Runs the supervisor until it is told to stop.
///
/// # Errors
/// When it cannot start, or a child failed for good.
pub fn start(options: &SupervisorOptions) -> anyhow::Result<()> {
    Ok(florelay_dataplane::supervisor::run(options)?)
}

/// Runs the dataplane, as the supervisor started it. [`Ended::NotStarted`]: the supervisor says why.
///
/// # Errors
/// When it cannot go on, or has no supervisor.
pub fn dataplane() -> anyhow::Result<Ended> {
    let mut guard = None;
    Ok(florelay_dataplane::supervisor::dataplane(|| guard = Some(crate::logging::start_queued()))?)
}

/// How the supervisor starts the control process of this plan.
#[must_use]
pub fn control_arguments(plan: &NodePlan, services: &ServicesPlan) -> Vec<OsString> {
    let socket = plan.state_dir.join(crate::config::CONTROL_SOCKET);
    let mut arguments = vec!["control".into(), "--socket".into(), socket.into(), "--dataplane-stdin".into()];
    if !services.is_empty() {
        arguments.extend(["--services".into(), services.to_json().into()]);
    }
    arguments
}
