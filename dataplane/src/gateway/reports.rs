//! What workers say of themselves when they are asked: for a status of the node, and for those who follow its links and peers.

use super::{Gateway, reply};
use crate::ipc::Answer;
use crate::ring::ToWorker;
use crate::worker::WorkerReport;

impl Gateway {
    pub(super) fn report(&mut self, worker: usize, report: Box<WorkerReport>) {
        self.reports[worker] = Some(report);
        if self.reports.iter().all(Option::is_some) {
            self.reports_asked = false;
            let reports: Vec<_> = self.reports.iter_mut().filter_map(Option::take).collect();
            let uptime = self.started.elapsed();
            let mut status = crate::status::assemble(&self.plan, uptime, &reports, &self.contacts);
            self.conditions(&status.links, &status.peers);
            if self.status_waiters.is_empty() {
                return;
            }
            status.transfers = self.with_positions(self.transfers.list());
            status.transfers_running = self.transfers.count() as u64;
            crate::status::add_untaken(&self.plan, &mut status, &self.untaken);
            crate::status::add_node_counters(&mut status, self.paths.counters().chain(self.streams.counters()));
            crate::status::add_program_counters(&self.plan, &mut status, |interface| self.broker.counters(interface));
            for (tag, replies) in self.status_waiters.drain(..) {
                reply(&replies, tag, Answer::Status(Box::new(status.clone())));
            }
        }
    }

    /// Have the workers report, unless they were asked already.
    pub(super) fn ask_for_reports(&mut self) {
        if !std::mem::replace(&mut self.reports_asked, true) {
            for worker in 0..self.workers.len() {
                self.reports[worker] = None;
                self.tell_worker(worker, ToWorker::Report);
            }
        }
    }
}
