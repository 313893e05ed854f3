//! A file on its way out, as the dataplane's gateway reads it.

use florelay_engine::api::{Command, Event, Failure, TransferId};
use florelay_spool::outgoing::Outgoing;

/// A file that is sent.
#[derive(Debug)]
pub(super) struct FileOut {
    pub(super) file: Outgoing,
    next: u64,
    limit: u64,
    end_said: bool,
    pub(super) flowing: bool,
}

impl FileOut {
    pub(super) fn new(file: Outgoing) -> Self {
        Self { file, next: 0, limit: 0, end_said: false, flowing: false }
    }

    pub(super) fn event(&mut self, event: &Event) {
        match *event {
            Event::SupplyFrom { offset, .. } => {
                (self.next, self.limit, self.end_said, self.flowing) = (offset, offset, false, true);
            }
            Event::SupplyUpTo { limit, .. } => self.limit = limit,
            _ => {}
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.flowing && !self.end_said && self.file.piece_end(self.next) <= self.limit.max(self.next)
    }

    pub(super) fn step(&mut self, id: TransferId) -> Result<Option<Command>, Failure> {
        if self.next >= self.file.size() {
            self.file.hash_towards(self.file.size()).map_err(|error| error.failure())?;
            let Some(digest) = self.file.digest() else { return Ok(None) };
            self.file.check_unchanged().map_err(|error| error.failure())?;
            self.end_said = true;
            return Ok(Some(Command::SupplyEnd { id, size: self.file.size(), digest }));
        }
        let offset = self.next;
        let mut data = vec![0; (self.file.piece_end(offset) - offset) as usize];
        self.file.read(&mut data, offset).map_err(|error| error.failure())?;
        self.next += data.len() as u64;
        Ok(Some(Command::Supply { id, offset, data: data.into() }))
    }
}
