//! The spool's thread: it appends what programs have written to their streams' segments, syncs them, and reads back what is not
//! in memory any more. What came while one sync was on its way to the disk goes with the next; what the receiver has confirmed
//! by then is not written at all.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use florelay_engine::api::TransferId;
use florelay_spool::segments::Segments;
use florelay_spool::spooled::{Limits, News, Next, Place, Spooled};
use florelay_spool::storage::RealStorage;
use uuid::Uuid;

use super::Input;
use crate::plan::SpoolPlan;
use crate::ring::GatewayBell;

/// Orders taken before anything is written.
const MAX_ORDERS: usize = 1024;

/// What the gateway wants of a stream's segments.
pub(super) enum Order {
    /// A new stream.
    New(TransferId),
    /// One that was found at the start.
    Found(TransferId, Box<Segments>),
    /// The next bytes.
    Append(TransferId, Bytes),
    /// The receiver has everything below this.
    Confirmed(TransferId, u64),
    /// Give back bytes from here on, so many at most.
    Read(TransferId, u64, usize),
    /// There are no more bytes.
    End(TransferId),
    /// The stream is over.
    Remove(TransferId),
    /// Say when everything before this is done, as far as the disk lets.
    Flush(Sender<()>),
}

/// Where streams' segments are by the node's plan.
pub(super) fn place(state_dir: PathBuf, plan: &SpoolPlan) -> Place {
    let limits = Limits { stream_bytes: plan.stream_disk_bytes, node_bytes: plan.node_disk_bytes, sync: plan.sync };
    Place::new(Arc::new(RealStorage::new(state_dir)), limits)
}

/// Start the thread; it ends with its sender.
pub(super) fn start(place: Place, to_gateway: Sender<Input>, bell: GatewayBell) -> io::Result<Sender<Order>> {
    let (sender, orders) = channel();
    let spooler = Spooler { place, streams: BTreeMap::new(), flushing: Vec::new(), to_gateway, bell };
    std::thread::Builder::new().name("spool".into()).spawn(move || spooler.run(&orders))?;
    Ok(sender)
}

struct Spooler {
    place: Place,
    streams: BTreeMap<TransferId, Spooled>,
    flushing: Vec<Sender<()>>,
    to_gateway: Sender<Input>,
    bell: GatewayBell,
}

impl Spooler {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut again: Option<Duration> = None;
        loop {
            let first = match again {
                Some(after) => orders.recv_timeout(after),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(first) => {
                    self.take(first);
                    orders.try_iter().take(MAX_ORDERS).for_each(|order| self.take(order));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            again = None;
            let ids: Vec<TransferId> = self.streams.keys().copied().collect();
            for id in ids {
                let wait = self.serve(id);
                again = [again, wait].into_iter().flatten().min();
            }
            for done in self.flushing.drain(..) {
                let _ = done.send(());
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::New(id) => {
                self.streams.insert(id, Spooled::new(id, None));
            }
            Order::Found(id, segments) => {
                self.streams.insert(id, Spooled::new(id, Some(*segments)));
            }
            Order::Flush(done) => self.flushing.push(done),
            Order::Append(id, bytes) => self.with(id, |stream| stream.append(bytes)),
            Order::Confirmed(id, offset) => self.with(id, |stream| stream.confirm(offset)),
            Order::Read(id, offset, most) => self.with(id, |stream| stream.read(offset, most)),
            Order::End(id) => self.with(id, Spooled::end),
            Order::Remove(id) => {
                if let Some(stream) = self.streams.remove(&id)
                    && let Err(error) = stream.remove()
                {
                    tracing::warn!(transfer = %Uuid::from_u128(id.0), %error, "spool of an ended stream not removed");
                }
            }
        }
    }

    fn with(&mut self, id: TransferId, change: impl FnOnce(&mut Spooled)) {
        if let Some(stream) = self.streams.get_mut(&id) {
            change(stream);
        }
    }

    /// Do what is to be done of a stream; says when to look again, if something is left.
    fn serve(&mut self, id: TransferId) -> Option<Duration> {
        let Self { place, streams, to_gateway, bell, .. } = self;
        let stream = streams.get_mut(&id)?;
        let tell = |news: News| {
            // The gateway is there as long as its orders come.
            let _ = to_gateway.send(Input::Spool(id, news));
            bell.ring();
        };
        match stream.serve(place, Instant::now(), tell) {
            Next::Idle => None,
            Next::After(wait) => Some(wait),
            Next::Over => {
                streams.remove(&id);
                None
            }
        }
    }
}
