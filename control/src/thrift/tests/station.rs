//! Two nodes without a network, as far as this API sees them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use florelay_dataplane::ipc::{
    Answer, FailCode, Failure, NodeEvent, QueueStatus, Refusal, RequestBody, TransferKind, TransferOrder,
    TransferState, TransferStatus,
};

use crate::thrift::relay::{Events, Reader, Relay, RelayError, Writer};

/// What a node takes of a writer before somebody reads.
const SPOOL: usize = 1 << 20;

/// Both nodes.
#[derive(Debug, Default)]
pub(crate) struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    streams: BTreeMap<u128, Stream>,
    listeners: [Vec<Sender<NodeEvent>>; 2],
    max_concurrent: u32,
    max_pending: u32,
    admin: Vec<(String, bool)>,
    /// Stops handing bytes over.
    dark: bool,
}

#[derive(Debug)]
struct Stream {
    from: usize,
    order: TransferOrder,
    declared: Option<u64>,
    running: bool,
    data: Vec<u8>,
    /// Bytes before `data`.
    taken: u64,
    said: bool,
    reader: bool,
    ended: Option<Result<[u8; 32], Failure>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Station(Arc<Line>, usize);

impl Line {
    pub(crate) fn pair(max_concurrent: u32, max_pending: u32) -> [Station; 2] {
        let line = Arc::new(Self::default());
        (line.lock().max_concurrent, line.lock().max_pending) = (max_concurrent, max_pending);
        [Station(line.clone(), 0), Station(line, 1)]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wait<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap()
    }
}

impl State {
    fn status(&self, id: u128, at: usize) -> TransferStatus {
        let stream = &self.streams[&id];
        let outgoing = stream.from == at;
        let state = match (outgoing, stream.running, stream.reader) {
            (true, false, _) => TransferState::Pending { position: 1 },
            (false, _, false) => TransferState::NoReader,
            _ => TransferState::Running,
        };
        TransferStatus {
            id,
            peer: ["a", "b"][1 - at].into(),
            name: stream.order.name.clone(),
            outgoing,
            priority: stream.order.priority,
            attributes: stream.order.attributes.clone(),
            kind: TransferKind::Stream,
            state,
            size: stream.said.then(|| stream.taken + stream.data.len() as u64),
            declared: stream.declared,
            confirmed: stream.taken,
            ended: stream.ended.clone(),
            ..TransferStatus::default()
        }
    }

    fn tell(&mut self, at: usize, event: &NodeEvent) {
        self.listeners[at].retain(|listener| listener.send(event.clone()).is_ok());
    }

    fn changed(&mut self, id: u128) {
        for at in [0, 1] {
            let stream = &self.streams[&id];
            if stream.from == at || stream.running {
                let event = NodeEvent::Transfer(Box::new(self.status(id, at)));
                self.tell(at, &event);
            }
        }
    }

    fn queue(&self, at: usize) -> QueueStatus {
        let own = self.streams.iter().filter(|(_, s)| s.from == at && s.ended.is_none());
        let mut pending: Vec<_> =
            own.clone().filter(|(_, s)| !s.running).map(|(id, s)| (*id, s.order.priority)).collect();
        pending.sort_by_key(|(_, priority)| std::cmp::Reverse(*priority));
        QueueStatus {
            peer: ["a", "b"][1 - at].into(),
            active: u32::try_from(own.filter(|(_, s)| s.running).count()).unwrap(),
            max_concurrent: self.max_concurrent,
            max_pending: self.max_pending,
            pending: pending.into_iter().map(|(id, _)| id).collect(),
        }
    }

    fn promote(&mut self, at: usize) {
        loop {
            let queue = self.queue(at);
            self.tell(at, &NodeEvent::Queue(queue.clone()));
            let free = queue.max_concurrent == 0 || queue.active < queue.max_concurrent;
            let Some(next) = queue.pending.first().filter(|_| free) else { return };
            self.streams.get_mut(next).unwrap().running = true;
            self.changed(*next);
        }
    }

    fn end(&mut self, id: u128, result: Result<[u8; 32], Failure>) {
        let stream = self.streams.get_mut(&id).unwrap();
        if stream.ended.is_some() {
            return;
        }
        stream.ended = Some(result);
        let from = stream.from;
        self.changed(id);
        self.promote(from);
    }

    fn fail(&mut self, id: u128, code: FailCode, reason: &str) {
        self.end(id, Err(Failure::new(code, reason)));
    }

    fn check(&self, id: u128) -> Result<(), RelayError> {
        match &self.streams[&id].ended {
            Some(Err(failure)) => Err(RelayError::Failed(failure.reason.clone())),
            _ => Ok(()),
        }
    }
}

impl Station {
    /// Nothing crosses any more, or again.
    pub(crate) fn dark(&self, dark: bool) {
        let mut state = self.0.lock();
        state.dark = dark;
        let is = if dark { "dark" } else { "connected" };
        for at in [0, 1] {
            let peer = ["a", "b"][1 - at].to_owned();
            state.tell(at, &NodeEvent::Peer { peer, state: is.into(), reason: None });
        }
        self.0.changed.notify_all();
    }

    /// Whoever listens to it hears it no more, as after a restart.
    pub(crate) fn silence(&self) {
        self.0.lock().listeners[self.1].clear();
    }

    pub(crate) fn fail(&self, id: u128, code: FailCode, reason: &str) {
        self.0.lock().fail(id, code, reason);
        self.0.changed.notify_all();
    }

    pub(crate) fn admin(&self) -> Vec<(String, bool)> {
        self.0.lock().admin.clone()
    }

    pub(crate) fn order(&self, id: u128) -> TransferOrder {
        self.0.lock().streams[&id].order.clone()
    }
}

impl Relay for Station {
    fn ask(&self, body: RequestBody) -> Result<Answer, RelayError> {
        let mut state = self.0.lock();
        match body {
            RequestBody::Queues => return Ok(Answer::Queues(vec![state.queue(self.1)])),
            RequestBody::SetQueue { max_concurrent, .. } => {
                state.max_concurrent = max_concurrent.unwrap();
                state.promote(self.1);
            }
            RequestBody::SetAdmin { link, up } => state.admin.push((link, up)),
            RequestBody::Cancel { id } => state.fail(id, FailCode::Cancelled, "cancelled"),
            other => return Err(RelayError::Failed(format!("not here: {other:?}"))),
        }
        self.0.changed.notify_all();
        Ok(Answer::Done)
    }

    fn open(
        &self,
        order: TransferOrder,
        declared: Option<u64>,
    ) -> Result<(Box<dyn Writer>, TransferStatus), RelayError> {
        let mut state = self.0.lock();
        let id = order.id;
        let refused = |refusal, reason: &str| RelayError::Refused { refusal, reason: reason.into() };
        if state.streams.contains_key(&id) {
            return Err(refused(Refusal::Duplicate, "it was here"));
        }
        let queue = state.queue(self.1);
        let free = queue.max_concurrent == 0 || queue.active < queue.max_concurrent;
        if !free && queue.pending.len() >= queue.max_pending as usize {
            return Err(refused(Refusal::QueueFull, "the queue is full"));
        }
        let (data, ended) = (Vec::new(), None);
        let stream =
            Stream { from: self.1, order, declared, running: free, data, taken: 0, said: false, reader: false, ended };
        state.streams.insert(id, stream);
        state.changed(id);
        let queue = state.queue(self.1);
        state.tell(self.1, &NodeEvent::Queue(queue));
        let status = state.status(id, self.1);
        Ok((Box::new(End(self.0.clone(), id, false)), status))
    }

    fn read(&self, id: u128) -> Result<Box<dyn Reader>, RelayError> {
        let mut state = self.0.lock();
        state.check(id)?;
        state.streams.get_mut(&id).unwrap().reader = true;
        state.changed(id);
        Ok(Box::new(End(self.0.clone(), id, false)))
    }

    fn status(&self, id: u128) -> Result<TransferStatus, RelayError> {
        let state = self.0.lock();
        if !state.streams.contains_key(&id) {
            return Err(RelayError::Failed("no such transfer".into()));
        }
        Ok(state.status(id, self.1))
    }

    fn events(&self) -> Result<Box<dyn Events>, RelayError> {
        let mut state = self.0.lock();
        let (listener, events) = channel();
        let peer = ["a", "b"][1 - self.1].to_owned();
        let is = if state.dark { "dark" } else { "connected" };
        listener.send(NodeEvent::Peer { peer, state: is.into(), reason: None }).unwrap();
        for (id, stream) in &state.streams {
            if stream.ended.is_none() && (stream.from == self.1 || stream.running) {
                listener.send(NodeEvent::Transfer(Box::new(state.status(*id, self.1)))).unwrap();
            }
        }
        listener.send(NodeEvent::Present).unwrap();
        state.listeners[self.1].push(listener);
        Ok(Box::new(Heard(events)))
    }
}

struct Heard(Receiver<NodeEvent>);

impl Events for Heard {
    fn next(&mut self, wait: Duration) -> Result<Option<NodeEvent>, RelayError> {
        match self.0.recv_timeout(wait) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RelayError::Unavailable("gone".into())),
        }
    }
}

/// Either end of a stream; dropped before it was `.2` done with, it gives it up.
struct End(Arc<Line>, u128, bool);

impl End {
    fn ended(&self) -> TransferStatus {
        let mut state = self.0.lock();
        while state.streams[&self.1].ended.is_none() {
            state = self.0.wait(state);
        }
        state.status(self.1, state.streams[&self.1].from)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.2 {
            self.0.lock().fail(self.1, FailCode::SenderClosed, "a program went away");
            self.0.changed.notify_all();
        }
    }
}

impl Writer for End {
    fn write_all(&mut self, data: &[u8]) -> Result<(), RelayError> {
        let mut state = self.0.lock();
        let head = |s: &Stream| s.taken + s.data.len() as u64 + data.len() as u64;
        if state.streams[&self.1].declared.is_some_and(|declared| head(&state.streams[&self.1]) > declared) {
            state.fail(self.1, FailCode::Size, "more bytes than declared");
            self.0.changed.notify_all();
        }
        while state.streams[&self.1].data.len() >= SPOOL && state.check(self.1).is_ok() {
            state = self.0.wait(state);
        }
        state.check(self.1)?;
        state.streams.get_mut(&self.1).unwrap().data.extend_from_slice(data);
        self.0.changed.notify_all();
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<TransferStatus, RelayError> {
        self.2 = true;
        let mut state = self.0.lock();
        let stream = state.streams.get_mut(&self.1).unwrap();
        stream.said = true;
        if stream.declared.is_some_and(|declared| declared != stream.taken + stream.data.len() as u64) {
            state.fail(self.1, FailCode::Size, "fewer bytes than declared");
        }
        drop(state);
        self.0.changed.notify_all();
        Ok(self.ended())
    }
}

impl Reader for End {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, RelayError> {
        let mut state = self.0.lock();
        loop {
            state.check(self.1)?;
            let dark = state.dark;
            let stream = state.streams.get_mut(&self.1).unwrap();
            if !stream.data.is_empty() && !dark {
                let n = buf.len().min(stream.data.len());
                buf[..n].copy_from_slice(&stream.data[..n]);
                stream.data.drain(..n);
                stream.taken += n as u64;
                state.changed(self.1);
                self.0.changed.notify_all();
                return Ok(n);
            }
            if stream.said && !dark {
                return Ok(0);
            }
            state = self.0.wait(state);
        }
    }

    fn take(mut self: Box<Self>) -> Result<TransferStatus, RelayError> {
        self.2 = true;
        self.0.lock().end(self.1, Ok([0; 32]));
        self.0.changed.notify_all();
        Ok(self.ended())
    }
}
