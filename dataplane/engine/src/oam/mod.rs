//! Operations, administration and maintenance: is the link alive, is the path dark, who is on the path.
//!
//! Pure state machines over `(now, bytes)`: bodies in, complete link payloads out. Nothing here forwards or queues.
//!
//! | machine | where | speaks |
//! |---|---|---|
//! | [`Liveness`] | each link | link-scope frames, MAC and replay protection (RFC 5880 semantics) |
//! | [`Measure`] | each link | listens to liveness and to sequence numbers: delays, loss, clock error |
//! | [`Quality`] | each link | is a link that is up normal or degraded |
//! | [`Alarms`] | transit nodes | alarms along the backward labels when a link is lost or regained (RFC 6427 shape) |
//! | [`PathAlarm`] | path ends, per peer | listens to them; heals when an Up is lost |
//! | [`Trace`] | path ends | requests with rising TTL; [`trace_reply`] answers at every node |
//!
//! Only liveness is authenticated. Alarms and traces are advice: believing a forged one stops a clock for a few
//! seconds and loses nothing.

mod alarm;
mod condition;
mod link_state;
mod liveness;
mod measure;
mod tag;
mod trace;

pub use alarm::{
    ALARM_EDGE_REPEATS, ALARM_EDGE_SPACING, ALARM_FRAME_BYTES, ALARM_HOLD, ALARM_INTERVAL, Alarms, PathAlarm,
    PathState, alarm_node_id,
};
pub use condition::{Condition, Quality, Trouble, Usual, troubles};
pub use link_state::{DownReason, Exchange, LinkChange, LivenessError, LivenessEvent, LivenessState};
pub use liveness::{LIVENESS_FRAME_BYTES, Liveness};
pub use measure::{
    ClockError, ClockUnknown, Direction, Figures, LONG_SECONDS, Measure, RoundTrip, SHORT_SECONDS, Seen, Totals,
};
pub use trace::{MAX_HOPS, MAX_SILENT_HOPS, TRACE_REPLY_BYTES, TRACE_REQUEST_BYTES, Trace, TraceHop, trace_reply};
