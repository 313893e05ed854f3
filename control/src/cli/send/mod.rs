//! `send`: files on their way.
//!
//! ```text
//!   to order ──► ordered (at most 512) ──► ended: done, or failed
//!      ▲              │
//!      └── full ◄─────┤   the peer's queue has no place: when one of ours has ended, or in a second
//!          lost ◄─────┘   control process or dataplane gone: ordered again, under the same id, once they are back
//! ```
//!
//! The dataplane has the open files; this process only watches. Ctrl-C therefore ends the watching, not the transfers.

mod ending;
mod files;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, Refusal, RequestBody, TransferOrder, TransferStatus};
use uuid::Uuid;

pub(super) use self::ending::node_option;
pub(super) use self::files::PATH_ATTRIBUTE;
use self::files::{Found, Item};
use super::args::Target;
use super::client::{Happening, Happenings, exit, node};
use super::out::try_print;
use super::progress::Bars;
use super::transfer_args::MAX_ATTRIBUTES;
use super::values::inbox_name;
use super::{Exit, report};
use crate::client::{ClientError, Heard, Node, PATIENCE, RETRY, Subscription};
use crate::printable::printable;

/// Transfers that are ordered and have not ended: enough to fill a long link with small files, and no flood of answers.
const MAX_ORDERED: usize = 512;
/// Orders that were not answered: fewer than wait in the control process for its dataplane.
const MAX_UNANSWERED: usize = 64;
/// Between two attempts at a queue that is full of others' transfers.
const FULL_RETRY: Duration = Duration::from_secs(1);
const FILE_HINT: &str = "name a regular file that you may read; what has no end goes by florelay stream";

/// What `florelay send` was told.
pub(super) struct Order {
    pub(super) files: Vec<PathBuf>,
    pub(super) to: String,
    pub(super) recursive: bool,
    pub(super) priority: u8,
    /// Nanoseconds since 1970.
    pub(super) deadline: Option<u64>,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) id: Option<Uuid>,
    pub(super) name: Option<String>,
    pub(super) detach: bool,
    pub(super) cancel_on_interrupt: bool,
}

/// `florelay send`.
pub(super) fn send(target: &Target, order: Order, as_json: bool) -> anyhow::Result<ExitCode> {
    if order.attributes.len() > MAX_ATTRIBUTES {
        return Err(Exit::failed(format!("{} attributes; at most {MAX_ATTRIBUTES}", order.attributes.len())));
    }
    let single = order.files.len() == 1 && !order.recursive;
    let found = if single { only(&order.files[0], order.name.as_ref())? } else { several(&order)? };
    let node = node(target)?;
    let bytes = found.items.iter().map(|item| item.size).sum();
    let mut sending = Sending {
        target,
        node,
        happenings: Happenings::new()?,
        single,
        as_json,
        count: found.items.len(),
        bars: Bars::new(found.items.len(), bytes, as_json),
        to_order: VecDeque::new(),
        ordered: HashMap::new(),
        unanswered: 0,
        full_until: None,
        said_full: false,
        lost: None,
        done: 0,
        done_bytes: 0,
        failed: 0,
        left_out: 0,
        begun: Instant::now(),
        met: false,
        order,
    };
    for (path, why) in found.left_out {
        sending.leave_out(&path, &why)?;
    }
    for item in found.items {
        let id = sending.order.id.unwrap_or_else(Uuid::new_v4);
        sending.to_order.push_back(Transfer { item, id, begun: false });
    }
    sending.run()
}

/// The file, as the only one that was named.
fn only(path: &Path, name: Option<&String>) -> anyhow::Result<Found> {
    // Before it is opened: opening a pipe would wait for somebody to write to it.
    let metadata = std::fs::metadata(path).map_err(|e| Exit::no_input(path, e, FILE_HINT))?;
    if metadata.is_dir() {
        return Err(Exit::no_input(path, "it is not a regular file", "-r sends a folder with all that is in it"));
    }
    if !metadata.is_file() {
        return Err(Exit::no_input(path, "it is not a regular file", FILE_HINT));
    }
    let name = match name {
        Some(name) => name.clone(),
        None => {
            let own = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            inbox_name(own).map_err(|e| {
                let file = printable(&path.display().to_string());
                Exit::failed(format!("{file}: its name cannot be sent ({e}); use --name NAME"))
            })?
        }
    };
    let item = Item { file: path.to_owned(), name, place: None, size: metadata.len() };
    Ok(Found { items: vec![item], left_out: Vec::new() })
}

fn several(order: &Order) -> anyhow::Result<Found> {
    if order.id.is_some() || order.name.is_some() {
        let option = if order.id.is_some() { "--id" } else { "--name" };
        return Err(Exit::failed(format!("{option} is for one file")));
    }
    let folder = order.files.iter().find(|path| path.is_dir());
    if let Some(folder) = folder.filter(|_| !order.recursive) {
        return Err(Exit::no_input(folder, "it is a folder", "-r sends a folder with all that is in it"));
    }
    Ok(Found::below(&order.files))
}

/// A file, and the id that it has from the first order on.
struct Transfer {
    item: Item,
    id: Uuid,
    /// Something was heard of it.
    begun: bool,
}

struct Ordered {
    transfer: Transfer,
    subscription: Subscription,
    answered: bool,
}

struct Sending<'a> {
    target: &'a Target,
    order: Order,
    node: Node,
    happenings: Happenings,
    /// One file was named: it is spoken of as such.
    single: bool,
    as_json: bool,
    count: usize,
    bars: Bars,
    to_order: VecDeque<Transfer>,
    /// By tag.
    ordered: HashMap<u64, Ordered>,
    unanswered: usize,
    /// The peer's queue has no place.
    full_until: Option<Instant>,
    /// That it waits for others' transfers was said.
    said_full: bool,
    /// Since when the node is looked for, when it is asked again, and why.
    lost: Option<(Instant, Instant, ClientError)>,
    done: usize,
    done_bytes: u64,
    failed: usize,
    left_out: usize,
    begun: Instant,
    /// The node was there: from now on it is waited for when it goes away.
    met: bool,
}

impl Sending<'_> {
    fn run(mut self) -> anyhow::Result<ExitCode> {
        loop {
            self.order_more()?;
            if self.ordered.is_empty() && self.to_order.is_empty() {
                return self.end();
            }
            match self.happenings.next(self.until()) {
                Some(Happening::Heard(tag, heard)) => self.hear(tag, heard)?,
                Some(Happening::Interrupt) => return self.interrupt(),
                Some(Happening::Local(())) | None => {}
            }
            self.bars.tick();
        }
    }

    fn until(&self) -> Option<Instant> {
        let waits = !self.to_order.is_empty();
        let again = self.lost.as_ref().map(|(_, again, _)| *again).filter(|_| waits);
        again.into_iter().chain(self.full_until.filter(|_| waits)).chain(self.bars.due()).min()
    }

    fn order_more(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.full_until.is_some_and(|until| now < until)
            || self.lost.as_ref().is_some_and(|(_, again, _)| now < *again)
        {
            return Ok(());
        }
        self.full_until = None;
        while self.ordered.len() < MAX_ORDERED && self.unanswered < MAX_UNANSWERED {
            let Some(transfer) = self.to_order.pop_front() else { break };
            if !self.order_one(transfer)? {
                break;
            }
        }
        Ok(())
    }

    /// `false`: no more at the moment.
    fn order_one(&mut self, transfer: Transfer) -> anyhow::Result<bool> {
        let item = &transfer.item;
        let file = match open(&item.file) {
            Ok(file) => file,
            Err(error) if self.single => return Err(Exit::no_input(&item.file, error, FILE_HINT)),
            Err(error) => {
                self.leave_out(&item.file.clone(), &format!("cannot be read: {error}"))?;
                self.bars.ended(transfer.id.as_u128(), item.size);
                return Ok(true);
            }
        };
        let mut order = TransferOrder::new(&self.order.to, transfer.id.as_u128(), &item.name, self.order.priority);
        order.attributes.clone_from(&self.order.attributes);
        order.attributes.extend(item.place.as_ref().map(|place| (PATH_ATTRIBUTE.to_owned(), place.clone())));
        order.deadline_unix_ns = self.order.deadline;
        // By which the dataplane finds it again after a restart.
        let path = std::fs::canonicalize(&item.file).ok().and_then(|path| path.to_str().map(str::to_owned));
        let body = RequestBody::SendFile { order, path };
        match self.node.subscribe_to(&self.happenings.post, body, Some(file.as_fd())) {
            Ok(subscription) => {
                self.unanswered += 1;
                self.ordered.insert(subscription.tag(), Ordered { transfer, subscription, answered: false });
                Ok(true)
            }
            Err(error) => {
                if !error.may_pass() {
                    return Err(exit(error));
                }
                self.lose(transfer, error)?;
                Ok(false)
            }
        }
    }

    fn hear(&mut self, tag: u64, heard: Heard) -> anyhow::Result<()> {
        let Some(ordered) = self.ordered.get_mut(&tag) else { return Ok(()) };
        if !std::mem::replace(&mut ordered.answered, true) {
            self.unanswered -= 1;
        }
        match heard.result() {
            Ok(Answer::Transfer(status)) => {
                ordered.transfer.begun = true;
                (self.met, self.lost) = (true, None);
                self.progress(tag, &status)
            }
            Ok(other) => anyhow::bail!("unexpected answer: {other:?}"),
            Err(error) => {
                let Some(Ordered { mut transfer, subscription, .. }) = self.ordered.remove(&tag) else { return Ok(()) };
                subscription.done();
                // What was lost on the way may have been taken.
                transfer.begun |= error.may_pass();
                match error {
                    ClientError::Refused { refusal: Refusal::QueueFull, reason } => {
                        // Places that ours take become free.
                        if self.ordered.is_empty() && !std::mem::replace(&mut self.said_full, true) {
                            self.bars.say(&format!("florelay: {}; waiting for a place", printable(&reason)));
                        }
                        self.full_until = Some(Instant::now() + FULL_RETRY);
                        self.bars.forget(transfer.id.as_u128());
                        self.to_order.push_front(transfer);
                        Ok(())
                    }
                    error if error.may_pass() => self.lose(transfer, error),
                    error => self.refused(&transfer, error),
                }
            }
        }
    }

    fn progress(&mut self, tag: u64, status: &TransferStatus) -> anyhow::Result<()> {
        if self.as_json {
            try_print(format_args!("{}\n", report::transfer_json(status))).map_err(|e| self.unread(&e))?;
        } else {
            self.bars.status(status);
        }
        if status.ended.is_none() && !self.order.detach {
            return Ok(());
        }
        let Some(Ordered { transfer, subscription, .. }) = self.ordered.remove(&tag) else { return Ok(()) };
        // There may be a place in the queue.
        self.full_until = None;
        match &status.ended {
            None => {
                drop(subscription);
                self.bars.ended(status.id, 0);
                self.detached(&transfer)
            }
            Some(result) => {
                subscription.done();
                self.bars.ended(status.id, status.size.unwrap_or(0));
                self.ended(&transfer, status, result)
            }
        }
    }

    /// The node has gone, with the orders of all; each is given again once it is back.
    fn lose(&mut self, transfer: Transfer, why: ClientError) -> anyhow::Result<()> {
        let now = Instant::now();
        // One that was never there is not waited for. That it was lost means that it was.
        self.met |= matches!(why, ClientError::Lost(_));
        if !self.met {
            return Err(exit(why));
        }
        match &mut self.lost {
            None => {
                let what = if self.count == 1 { "the transfer goes on" } else { "transfers go on" };
                let whom = if matches!(why, ClientError::Unavailable(_)) { "dataplane" } else { "control process" };
                self.bars.say(&format!("florelay: {why}; {what}, looking for the {whom}"));
                self.lost = Some((now, now, why));
            }
            Some((since, _, _)) if since.elapsed() >= PATIENCE => {
                let hint = self.hint(&transfer);
                return Err(match exit(why).downcast::<Exit>() {
                    Ok(gone) => Exit::unavailable(format!("{gone}{hint}")),
                    Err(other) => other,
                });
            }
            Some((_, again, _)) => *again = now + RETRY,
        }
        self.to_order.push_front(transfer);
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // It may have become another thing since it was looked at; and opening a pipe waits.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    File::open(path)
}
