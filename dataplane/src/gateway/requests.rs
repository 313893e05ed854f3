//! What the control process asks for: each request is answered at once, or handed to the engine with the tag that its
//! answers will carry. A refusal names what this node knows instead.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::Command;
use florelay_engine::api::{MAX_MESSAGE_BYTES, TransferId};
use florelay_engine::config::LinkId;
use uuid::Uuid;

use super::orders::{Refused, in_use, is_repeated};
use super::outgoing::OutgoingFile;
use super::pipes::adopt;
use super::streams::Listener;
use super::{Gateway, Replies, peer_worker, reply};
use crate::ipc::{Answer, ContactsOfLink, Refusal, Request, RequestBody, TransferOrder, TransferState};
use crate::plan::ContactPlan;

/// Transfers in one answer at most.
const MAX_PAGE: u32 = 10_000;

impl Gateway {
    pub(super) fn request(&mut self, request: Request, descriptor: Option<OwnedFd>, replies: &Replies) {
        let tag = request.tag;
        let result = match request.body {
            RequestBody::Status => {
                self.status_waiters.push((tag, replies.clone()));
                self.ask_for_reports();
                Ok(())
            }
            RequestBody::SendFile { order, path } => {
                let refused = self.send_file(&order, path, descriptor, tag, replies).err();
                refused.into_iter().for_each(|refused| reply(replies, tag, refused.into_answer()));
                Ok(())
            }
            RequestBody::SendStream { order, declared, linger_ns } => {
                let linger = Duration::from_nanos(linger_ns);
                let refused = self.send_stream(&order, declared, linger, descriptor, tag, replies).err();
                refused.into_iter().for_each(|refused| reply(replies, tag, refused.into_answer()));
                Ok(())
            }
            RequestBody::EndStream { id, size } => {
                self.end_stream(TransferId(id), size).map(|()| reply(replies, tag, Answer::Done))
            }
            RequestBody::Listen { name, from, resume, reader, linger_ns } => {
                let from = from.map(|from| self.peer(&from)).transpose();
                from.and_then(|from| {
                    let pipe = adopt(descriptor)?;
                    let resume = resume.map(|(id, has)| (TransferId(id), has));
                    let (replies, linger) = (replies.clone(), Duration::from_nanos(linger_ns));
                    self.listen(Listener { tag, replies, pipe, name, from, resume, reader, linger })
                })
            }
            RequestBody::ReadUpTo { id, reader, offset } => {
                if let Err(reason) = self.read_up_to(TransferId(id), reader, offset) {
                    tracing::debug!(transfer = %Uuid::from_u128(id), reason, "a reader's word is not taken");
                }
                Ok(())
            }
            RequestBody::TakeStream { id, digest } => {
                self.take_stream(TransferId(id), &digest).map(|()| reply(replies, tag, Answer::Done))
            }
            RequestBody::Watch { id } => self.transfers.watch(TransferId(id), tag, replies),
            RequestBody::Cancel { id } => self.cancel(TransferId(id), tag, replies),
            RequestBody::Pause { id } => self.pause(TransferId(id)).map(|()| reply(replies, tag, Answer::Done)),
            RequestBody::Resume { id } => self.resume(TransferId(id)).map(|()| reply(replies, tag, Answer::Done)),
            RequestBody::SetPriority { id, priority } => {
                self.set_priority(TransferId(id), priority).map(|()| reply(replies, tag, Answer::Done))
            }
            RequestBody::Transfers { ended, after, limit } => {
                let limit = limit.clamp(1, MAX_PAGE) as usize;
                let (list, more) = self.transfers.page(ended, after, limit);
                reply(replies, tag, Answer::Transfers { list: self.with_positions(list), more });
                Ok(())
            }
            RequestBody::Queues => {
                reply(replies, tag, Answer::Queues(self.all_queues()));
                Ok(())
            }
            RequestBody::SetQueue { to, max_concurrent, max_pending } => {
                self.set_queue(to.as_deref(), max_concurrent, max_pending).map(|()| reply(replies, tag, Answer::Done))
            }
            RequestBody::Events => {
                self.subscribe(tag, replies);
                Ok(())
            }
            RequestBody::Forget { of } => {
                self.forget(of, replies);
                Ok(())
            }
            RequestBody::Message { to, payload } => self.message(&to, payload, tag, replies),
            RequestBody::SetRate { link, rate_bps, burst_bytes } => {
                self.set_rate(&link, rate_bps, burst_bytes).map(|()| reply(replies, tag, Answer::Done))
            }
            RequestBody::SetAdmin { link, up } => self.link(&link).map(|id| {
                self.tell_link(id, Command::SetAdmin { link: id, up });
                reply(replies, tag, Answer::Done);
            }),
            RequestBody::Contacts => {
                reply(replies, tag, Answer::Contacts(self.all_contacts()));
                Ok(())
            }
            RequestBody::SetContacts { link, plan } => {
                self.set_contacts(&link, plan).map(|()| reply(replies, tag, Answer::Done))
            }
            RequestBody::ResumeStream { id } => {
                let refused = self.resume_stream(TransferId(id), descriptor, tag, replies).err();
                refused.into_iter().for_each(|refused| reply(replies, tag, refused.into_answer()));
                Ok(())
            }
            RequestBody::Trace { to } => self.peer(&to).map(|peer| {
                let token = self.number();
                self.traces.insert(token, (tag, replies.clone()));
                self.tell_peer(peer, Command::Trace { peer, token });
            }),
        };
        if let Err(reason) = result {
            reply(replies, tag, Answer::Failed(reason));
        }
    }

    fn send_file(
        &mut self,
        order: &TransferOrder,
        path: Option<String>,
        descriptor: Option<OwnedFd>,
        tag: u64,
        replies: &Replies,
    ) -> Result<(), Refused> {
        let id = TransferId(order.id);
        let descriptor = descriptor.ok_or_else(|| Refused::invalid("the request carries no file"))?;
        let descriptor = File::from(descriptor);
        let again = descriptor.try_clone().map_err(|error| Refused::invalid(error.to_string()))?;
        let file = OutgoingFile::new(id, descriptor).map_err(Refused::invalid)?;
        let (size, path) = (Some(file.size()), path.map(PathBuf::from));
        if let Some(running) = self.transfers.running(id) {
            let other = self.outgoing.get(&id).is_some_and(|other| !other.is_same_file(&file));
            if other || !is_repeated(running, order, size) {
                return Err(Refused::new(Refusal::Duplicate, in_use(running)));
            }
            // The same command again: go on watching. If its file was not found after a restart, here it is.
            if matches!(running.state, TransferState::NoFile(_)) {
                let peer = self.peer(&order.to).map_err(Refused::invalid)?;
                self.give_back(id, peer, again, path).map_err(Refused::invalid)?;
            }
            return self.transfers.watch(id, tag, replies).map_err(Refused::invalid);
        }
        let peer = self.enter(order, size, None)?;
        self.book_order(id, file.source(path));
        self.outgoing.insert(id, file);
        self.start(peer, id);
        self.transfers.watch(id, tag, replies).map_err(Refused::invalid)
    }

    /// Nobody wants more answers to this request. What ends by itself soon (a message, a trace) may answer nobody.
    fn forget(&mut self, tag: u64, replies: &Replies) {
        self.transfers.forget(tag, replies);
        self.streams.forget(tag, replies);
        self.status_waiters.retain(|(other, whose)| (*other, whose.number()) != (tag, replies.number()));
    }

    fn message(&mut self, to: &str, payload: Vec<u8>, tag: u64, replies: &Replies) -> Result<(), String> {
        let peer = self.peer(to)?;
        if payload.len() > MAX_MESSAGE_BYTES {
            return Err(format!("the message has {} bytes; at most {MAX_MESSAGE_BYTES} are allowed", payload.len()));
        }
        let id = self.number();
        self.messages.insert(id, (tag, replies.clone()));
        let worker = peer_worker(&self.plan, peer);
        self.tell_urgently(worker, Command::Message { peer, id, payload: Bytes::from(payload) });
        Ok(())
    }

    fn set_rate(&mut self, name: &str, rate_bps: Option<u64>, burst_bytes: Option<u32>) -> Result<(), String> {
        let link = self.link(name)?;
        let plan = &self.plan.links[usize::from(link.0)];
        let mut rate = self.rates[usize::from(link.0)];
        rate.rate_bps = rate_bps;
        if let Some(burst) = burst_bytes {
            rate.burst_bytes = burst;
        }
        let frame = u32::from(plan.mtu) + u32::from(crate::daemon::layer2_overhead(plan));
        if rate_bps == Some(0) {
            return Err("a rate of 0 would stop the link; use `link down`".into());
        }
        plan.check_rate(rate_bps)?;
        if rate.burst_bytes < frame {
            return Err(format!("the burst of {} bytes is smaller than one frame of {frame}", rate.burst_bytes));
        }
        self.rates[usize::from(link.0)] = rate;
        self.tell_link(link, Command::SetRate { link, rate });
        Ok(())
    }

    fn all_contacts(&self) -> Vec<ContactsOfLink> {
        let of_link = |(id, name): (LinkId, &str)| {
            let plan = self.contacts.settings(id)?.plan.clone()?;
            Some(ContactsOfLink { link: name.to_owned(), plan, refused: self.contacts.refused(id) })
        };
        let names = self.plan.links.iter().map(|link| link.name.as_str());
        (0..).map(LinkId).zip(names).filter_map(of_link).collect()
    }

    fn set_contacts(&mut self, name: &str, plan: Option<Vec<ContactPlan>>) -> Result<(), String> {
        let link = self.link(name)?;
        let of = &self.plan.links[usize::from(link.0)];
        for contact in plan.iter().flatten() {
            of.check_contact(contact).map_err(|reason| format!("link {}: {reason}", of.name))?;
        }
        let command = self.contacts.set(link, plan)?;
        self.tell_link(link, command);
        Ok(())
    }
}
