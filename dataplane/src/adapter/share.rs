//! Interfaces on which several workers own links: who has which queue, and what they must agree on.
//!
//! Queue q belongs to the worker at place q mod n among the n workers that own links there, in order of their numbers: the
//! first worker has queue 0, which every interface has. Each receives frames of all links on its queues and hands on those
//! of others; each sends on its own queues only. The program is attached once and in one mode, so the first worker climbs
//! the ladder and the others stand where it stands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::plan::{AdapterPlan, NodePlan, Rung};

/// A worker's place among those of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// From 0.
    pub(crate) place: u32,
    /// How many there are.
    pub(crate) of: u32,
}

impl Turn {
    /// All queues are one worker's.
    pub(crate) const ALONE: Self = Self { place: 0, of: 1 };

    /// Is this queue one of the worker's?
    pub(crate) fn has(self, queue: u32) -> bool {
        queue % self.of == self.place
    }
}

/// What the workers of an interface agree on.
#[derive(Debug, Default)]
pub(crate) struct Agreed {
    /// Where the first worker stands, and why not higher.
    pub(crate) standing: Option<(Rung, Vec<(Rung, String)>)>,
    /// The interface for which the program was attached again, after one of the same name had gone.
    pub(crate) restored: Option<u32>,
}

/// One worker's part of an interface.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) turn: Turn,
    agreed: Arc<Mutex<Agreed>>,
}

impl Share {
    pub(crate) fn agreed(&self) -> MutexGuard<'_, Agreed> {
        // Consistent after every statement.
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For each worker its interfaces and its part of each.
pub(crate) fn shares(plan: &NodePlan) -> Vec<HashMap<String, Share>> {
    let mut shares: Vec<HashMap<String, Share>> = plan.workers.iter().map(|_| HashMap::new()).collect();
    for (at, link) in plan.links.iter().enumerate() {
        let AdapterPlan::Xdp { interface, .. } = &link.adapter else { continue };
        let workers = workers_on(plan, at);
        if shares.iter().any(|of| of.contains_key(interface)) {
            continue;
        }
        let agreed = Arc::<Mutex<Agreed>>::default();
        for (place, worker) in (0..).zip(&workers) {
            let turn = Turn { place, of: workers.len() as u32 };
            if let Some(of) = shares.get_mut(*worker) {
                of.insert(interface.clone(), Share { turn, agreed: agreed.clone() });
            }
        }
    }
    shares
}

/// The workers that own links on the interface of this link, in order; its own alone where it is a socket's.
pub(crate) fn workers_on(plan: &NodePlan, link: usize) -> Vec<usize> {
    let Some(link) = plan.links.get(link) else { return Vec::new() };
    let AdapterPlan::Xdp { interface, .. } = &link.adapter else { return vec![link.worker] };
    let there = plan
        .links
        .iter()
        .filter(|other| matches!(&other.adapter, AdapterPlan::Xdp { interface: its, .. } if its == interface));
    let mut workers: Vec<_> = there.map(|other| other.worker).collect();
    workers.sort_unstable();
    workers.dedup();
    workers
}
