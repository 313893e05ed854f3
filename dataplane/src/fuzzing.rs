//! Ways in for the fuzz targets (`fuzz/targets`): parsers and compilers that have no other public caller. Not an
//! interface; nothing else may use it.

use florelay_engine::config::{EngineConfig, PeerCrypto};

use crate::plan::NodePlan;

/// The datagrams of a GRO train, as a socket link takes them apart.
pub fn segments(buffer: &[u8], len: usize, stride: usize) -> impl Iterator<Item = &[u8]> {
    crate::adapter::udp::segments(buffer, len, stride)
}

/// Whether these bytes are a request of the dataplane to the supervisor.
#[must_use]
pub fn is_broker_request(body: &[u8]) -> bool {
    crate::supervisor::is_request(body)
}

/// What the workers' engines would start with.
///
/// # Errors
/// What the daemon says of the plan.
pub fn engine_configs(plan: &NodePlan, crypto: &PeerCrypto) -> Result<Vec<EngineConfig>, String> {
    crate::daemon::engine_configs(plan, crypto).map_err(|error| error.to_string())
}

pub use crate::netlink::fuzzing as netlink;
