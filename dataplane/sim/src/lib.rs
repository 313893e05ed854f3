//! Any number of engines, joined by simulated links, under virtual time: same seed, same bytes, same trace.
//!
//! ```text
//!   random ── scenarios out of a seed                seeds ── runs a test over many seeds, names the one that fails
//!    │
//!   scenario ── networks of engines
//!    │
//!   topo ── EngineConfigs, labels
//!    │
//!   net ── the event heap: (time, order) ─► one node, one link or one gateway at a time
//!    ├── node ── what is simulated: the engine's driver calls
//!    ├── port ── frames and transmit rings of one node; every frame accounted for
//!    ├── ring ── between two workers of a node; every frame accounted for
//!    ├── link ── one direction of a link: rate, delay, loss … outages; every packet accounted for
//!    ├── window ── checks the cap from outside: bytes in any window ≤ rate × window + burst
//!    └── gateway ── files and messages at the ends; every byte checked, in order, exactly once
//!         └── disk ── the storage code of the dataplane's gateway, on disks that fail
//!   suite ── the project's scenarios with their figures and bars
//!   crypto ── a session for quinn-proto without randomness
//! ```
//!
//! A broken invariant panics with the time and the place: in a simulation there is nobody to return an error to.
#![forbid(unsafe_code)]

pub mod crypto;
pub mod disk;
pub mod gateway;
pub mod link;
pub mod net;
pub mod node;
pub mod port;
pub mod random;
pub mod ring;
pub mod scenario;
pub mod seeds;
pub mod suite;
pub mod topo;
pub mod window;
