//! What the engines are told when the wall clock is set: contact plans, which follow it, and the clock itself.

use super::Gateway;
use crate::ring::ToWorker;

impl Gateway {
    /// To be called several times a second.
    pub(super) fn follow_wall_clock(&mut self) {
        for (link, command) in self.contacts.poll() {
            self.tell_link(link, command);
        }
        if let Some(command) = self.contacts.wall_clock() {
            for worker in 0..self.workers.len() {
                self.tell_worker(worker, ToWorker::Engine(command.clone()));
            }
        }
    }
}
