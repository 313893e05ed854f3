//! What an impaired link does to frames, as a model without I/O: the simulation, the `sim` adapter and the link emulator
//! of `bench` all use this one.
//!
//! ```text
//!   offer ─► queue (bounded) ─► serialiser (rate, rate steps) ─► medium: outage, loss, corruption,
//!                                                                duplication, delay, jitter, reorder ─► due
//!
//!   LinkModel ── what the link is like          Channel ── the fate of each frame, decided when it is offered
//!                                               Line ── a channel that also holds the frames until they are due
//! ```
//!
//! Time is an argument ([`Nanos`]) and chance comes from a seed: same seed, same offers,
//! same fates. Every frame draws the same number of random values whatever its fate, so that changing one probability
//! leaves the other faults where they were.
//!
//! Invariant: offered + duplicated = delivered + in flight + every kind of drop ([`LinkCounters::conserved`]).
//!
//! Limits: each frame's serialisation is rounded up to a whole nanosecond, so a rate is never exceeded, and falls short of
//! itself by less than a nanosecond per frame. Faults are independent of each other and of a frame's length.
#![forbid(unsafe_code)]

mod channel;
mod line;
mod model;
mod schedule;

/// The engine's clock, which this model runs on.
pub use florelay_engine::time::Nanos;

pub use channel::{Channel, Damage, Fate, LinkCounters, LinkDrop};
pub use line::{Due, Line, Refused};
pub use model::{CorruptMode, LinkModel, Loss, ModelError};
