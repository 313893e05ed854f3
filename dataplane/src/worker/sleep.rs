//! The worker's one `poll(2)`: everything that can bring it work, and nothing else.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Worker;

impl Worker {
    /// Wait for a descriptor, at most `limit`. Marks the UDP sockets that are readable. AF_XDP sockets need no mark: their
    /// rings are looked into anyway.
    pub(super) fn poll(&mut self, limit: Duration) {
        // Allocates: the worker has nothing to do.
        let mut fds = Vec::with_capacity(1 + self.ports.links.len() + 4 * self.ports.groups.len());
        fds.push(PollFd::from_borrowed_fd(self.rings.doorbell.fd(), PollFlags::IN));
        for link in &self.ports.links {
            let wanted = if link.socket.waits_for_room() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::from_borrowed_fd(link.socket.fd(), wanted));
        }
        for group in &self.ports.groups {
            fds.extend(group.queues.iter().map(|queue| PollFd::from_borrowed_fd(queue.socket().fd(), PollFlags::IN)));
        }
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        self.counters.syscalls += 1;
        // An interrupted `poll` is one that found nothing; the loop comes back.
        let found = poll(&mut fds, Some(&limit)).unwrap_or(0) > 0;
        let rung = found && fds[0].revents().contains(PollFlags::IN);
        let readable: Vec<bool> = fds[1..=self.ports.links.len()]
            .iter()
            .map(|fd| found && fd.revents().intersects(PollFlags::IN | PollFlags::ERR))
            .collect();
        drop(fds);
        for (link, readable) in self.ports.links.iter_mut().zip(readable) {
            link.readable |= readable;
        }
        self.counters.syscalls += u64::from(self.rings.doorbell.awake(rung));
    }
}
