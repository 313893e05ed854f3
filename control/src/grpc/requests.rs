//! Messages of the API as requests to the node. What is wrong with one is said by field: `order.to: …`.
//!
//! Invariants: no message, however strange, makes this panic; what comes out is within the limits that the node states,
//! except for what only the node knows (names of peers and links, ids in use).

use std::time::Duration;

use bytes::Bytes;
use florelay_dataplane::contacts::MAX_CONTACTS;
use florelay_dataplane::ipc::{RequestBody, TransferOrder};
use florelay_dataplane::plan::ContactPlan;
use uuid::Uuid;

use super::proto;
use crate::config::names;

/// Longest piece of a stream in a message.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Largest command message.
pub const MAX_COMMAND_BYTES: usize = 64 << 10;
/// Most attributes, and most bytes of each key and value.
const MAX_ATTRIBUTES: (usize, usize) = (64, 1024);
/// Longest wait for a lost client.
pub const MAX_LINGER: Duration = Duration::from_secs(24 * 3600);
/// Most transfers of a page, and how many unless said otherwise.
const PAGE: (u32, u32) = (1000, 100);

/// What is wrong with a message: the field, and why. INVALID_ARGUMENT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Path of the field.
    pub field: &'static str,
    /// For people.
    pub reason: String,
}

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { field, reason: reason.into() })
}

/// The answer to the first message of `Streams.Write`.
#[derive(Debug, Clone, PartialEq)]
pub enum Writing {
    /// A new stream.
    Open {
        /// What and whom to.
        order: TransferOrder,
        /// Its size, if it is known.
        declared: Option<u64>,
        /// How long it waits for its writer.
        linger: Duration,
    },
    /// One whose call was lost.
    Resume(u128),
}

/// What the first message of `Streams.Read` asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Only this stream.
    pub id: Option<u128>,
    /// Only of this name.
    pub name: Option<String>,
    /// Only from this peer.
    pub from: Option<String>,
    /// First byte that is wanted.
    pub offset: u64,
    /// How long it waits for another call.
    pub linger: Duration,
}

/// A UUID.
///
/// # Errors
/// It is none; `field` says where.
pub fn id(field: &'static str, text: &str) -> Result<u128, Invalid> {
    match Uuid::try_parse(text) {
        Ok(id) => Ok(id.as_u128()),
        Err(_) if text.is_empty() => invalid(field, "a UUID is missing"),
        Err(error) => invalid(field, format!("not a UUID: {error}")),
    }
}

/// The name of a node.
fn node(field: &'static str, name: String) -> Result<String, Invalid> {
    match names::check_node(&name) {
        Ok(()) => Ok(name),
        Err(reason) => invalid(field, reason),
    }
}

fn link(name: String) -> Result<String, Invalid> {
    if name.is_empty() { invalid("link", "the name of a link is missing") } else { Ok(name) }
}

fn priority(field: &'static str, priority: u32) -> Result<u8, Invalid> {
    match u8::try_from(priority) {
        Ok(priority @ 0..=127) => Ok(priority),
        _ => invalid(field, format!("{priority} is out of range, 0 to 127")),
    }
}

/// As the engine's `TransferMeta` wants it, and no terminal is to be moved by.
fn stream_name(field: &'static str, name: String) -> Result<String, Invalid> {
    if name.is_empty() || name.len() > 255 || name.contains('/') || name == "." || name == ".." {
        return invalid(field, "a name without a directory, 1 to 255 bytes");
    }
    if name.chars().any(char::is_control) {
        return invalid(field, "a name without control characters");
    }
    Ok(name)
}

fn linger(field: &'static str, ns: u64) -> Result<Duration, Invalid> {
    let linger = Duration::from_nanos(ns);
    if linger > MAX_LINGER { invalid(field, "longer than 24 hours") } else { Ok(linger) }
}

/// An order; `new_id` is taken if it has none.
///
/// # Errors
/// What is wrong with it.
pub fn order(order: Option<proto::Order>, new_id: impl FnOnce() -> u128) -> Result<TransferOrder, Invalid> {
    let Some(order) = order else { return invalid("order", "it is missing") };
    let proto::Order { to, id: text, name, priority: wanted, attributes, deadline_unix_ns } = order;
    let to = node("order.to", to)?;
    let id = if text.is_empty() { new_id() } else { id("order.id", &text)? };
    let name = stream_name("order.name", name)?;
    let (most, bytes) = MAX_ATTRIBUTES;
    if attributes.len() > most {
        return invalid("order.attributes", format!("{} of them; at most {most}", attributes.len()));
    }
    if attributes.iter().any(|(key, value)| key.len() > bytes || value.len() > bytes) {
        return invalid("order.attributes", format!("a key or a value with more than {bytes} bytes"));
    }
    let priority = priority("order.priority", wanted)?;
    Ok(TransferOrder { to, id, name, priority, attributes: attributes.into_iter().collect(), deadline_unix_ns })
}

/// `Transfers.SendFile`: the order, and the path.
///
/// # Errors
/// What is wrong with it.
pub fn send_file(
    request: proto::SendFileRequest,
    new_id: impl FnOnce() -> u128,
) -> Result<(TransferOrder, String), Invalid> {
    let proto::SendFileRequest { order: wanted, path } = request;
    if !path.starts_with('/') || path.contains('\0') {
        return invalid("path", "an absolute path is expected");
    }
    let mut wanted = wanted;
    if let Some(order) = wanted.as_mut().filter(|order| order.name.is_empty()) {
        path.rsplit('/').next().unwrap_or_default().clone_into(&mut order.name);
    }
    let order = order(wanted, new_id)?;
    if order.name.starts_with('.') {
        return invalid("order.name", "a leading dot: the receiver's inbox takes no hidden files");
    }
    Ok((order, path))
}

/// `Transfers.List`.
///
/// # Errors
/// What is wrong with it.
pub fn list(request: &proto::ListTransfersRequest) -> Result<RequestBody, Invalid> {
    let (most, usual) = PAGE;
    let limit = match request.page_size {
        0 => usual,
        size if size <= most => size,
        size => return invalid("page_size", format!("{size} is out of range, 1 to {most}")),
    };
    let after = match request.page_token.as_str() {
        "" => None,
        token => {
            let (running, ended) = (token.strip_prefix("r."), token.strip_prefix("e."));
            let place = running.or(ended).and_then(|id| Uuid::try_parse(id).ok());
            let Some(place) = place else { return invalid("page_token", "it is none of this node's") };
            if ended.is_some() && !request.ended {
                return invalid("page_token", "it belongs to a list with `ended`");
            }
            Some((ended.is_some(), place.as_u128()))
        }
    };
    Ok(RequestBody::Transfers { ended: request.ended, after, limit })
}

/// The token with which [`list`] goes on after this transfer.
#[must_use]
pub fn page_token(ended: bool, id: u128) -> String {
    format!("{}.{}", if ended { 'e' } else { 'r' }, Uuid::from_u128(id))
}

/// `Transfers.SetPriority`.
///
/// # Errors
/// What is wrong with it.
pub fn set_priority(request: &proto::SetPriorityRequest) -> Result<RequestBody, Invalid> {
    Ok(RequestBody::SetPriority { id: id("id", &request.id)?, priority: priority("priority", request.priority)? })
}

/// `Transfers.SetQueue`.
///
/// # Errors
/// What is wrong with it.
pub fn set_queue(request: proto::SetQueueRequest) -> Result<RequestBody, Invalid> {
    let proto::SetQueueRequest { to, max_concurrent, max_pending } = request;
    if max_concurrent.is_none() && max_pending.is_none() {
        return invalid("max_concurrent", "nothing is to be changed; give this or max_pending");
    }
    let to = if to.is_empty() { None } else { Some(node("to", to)?) };
    Ok(RequestBody::SetQueue { to, max_concurrent, max_pending })
}

/// The first message of `Streams.Write`.
///
/// # Errors
/// What is wrong with it.
pub fn writing(request: proto::WriteRequest, new_id: impl FnOnce() -> u128) -> Result<Writing, Invalid> {
    use proto::write_request::Message;
    match request.message {
        Some(Message::Open(proto::WriteOpen { order: wanted, declared_bytes, linger_ns })) => Ok(Writing::Open {
            order: order(wanted, new_id)?,
            declared: declared_bytes,
            linger: linger("open.linger_ns", linger_ns)?,
        }),
        Some(Message::Resume(resume)) => Ok(Writing::Resume(id("resume.id", &resume.id)?)),
        _ => invalid("message", "the first one must be `open` or `resume`"),
    }
}

/// The first message of `Streams.Read`.
///
/// # Errors
/// What is wrong with it.
pub fn reading(request: proto::ReadRequest) -> Result<Reading, Invalid> {
    let Some(proto::read_request::Message::Open(open)) = request.message else {
        return invalid("message", "the first one must be `open`");
    };
    let proto::ReadOpen { id: text, name, from, offset_bytes, linger_ns } = open;
    let id = if text.is_empty() { None } else { Some(id("open.id", &text)?) };
    if id.is_none() && offset_bytes > 0 {
        return invalid("open.offset_bytes", "it belongs to a stream that was read before: give its id");
    }
    let name = if name.is_empty() { None } else { Some(stream_name("open.name", name)?) };
    let from = if from.is_empty() { None } else { Some(node("open.from", from)?) };
    Ok(Reading { id, name, from, offset: offset_bytes, linger: linger("open.linger_ns", linger_ns)? })
}

/// A piece of a stream of which `at` bytes have come.
///
/// # Errors
/// What is wrong with it.
pub fn chunk(chunk: proto::Chunk, at: u64) -> Result<Bytes, Invalid> {
    if chunk.offset_bytes != at {
        let reason = format!("the piece begins with byte {}, where byte {at} is next", chunk.offset_bytes);
        return invalid("chunk.offset_bytes", reason);
    }
    if chunk.data.len() > MAX_CHUNK_BYTES {
        return invalid("chunk.data", format!("{} bytes; at most {MAX_CHUNK_BYTES}", chunk.data.len()));
    }
    if at.checked_add(chunk.data.len() as u64).is_none() {
        return invalid("chunk.offset_bytes", "no stream is so long");
    }
    Ok(chunk.data)
}

/// `Commands.Send`.
///
/// # Errors
/// What is wrong with it.
pub fn command(request: proto::CommandRequest) -> Result<RequestBody, Invalid> {
    let proto::CommandRequest { to, payload } = request;
    if payload.is_empty() || payload.len() > MAX_COMMAND_BYTES {
        return invalid("payload", format!("{} bytes; 1 to {MAX_COMMAND_BYTES} are possible", payload.len()));
    }
    Ok(RequestBody::Message { to: node("to", to)?, payload })
}

/// `Links.SetRate`.
///
/// # Errors
/// What is wrong with it.
pub fn set_rate(request: proto::SetRateRequest) -> Result<RequestBody, Invalid> {
    let proto::SetRateRequest { link: name, rate_bps, burst_bytes } = request;
    if rate_bps == Some(0) {
        return invalid("rate_bps", "a rate of 0 would stop the link; use SetAdmin");
    }
    Ok(RequestBody::SetRate { link: link(name)?, rate_bps, burst_bytes })
}

/// `Links.SetAdmin`.
///
/// # Errors
/// What is wrong with it.
pub fn set_admin(request: proto::SetAdminRequest) -> Result<RequestBody, Invalid> {
    Ok(RequestBody::SetAdmin { link: link(request.link)?, up: request.up })
}

/// `Links.SetContacts`.
///
/// # Errors
/// What is wrong with it.
pub fn set_contacts(request: proto::SetContactsRequest) -> Result<RequestBody, Invalid> {
    let link = link(request.link)?;
    let Some(list) = request.plan else { return Ok(RequestBody::SetContacts { link, plan: None }) };
    if list.contacts.len() > MAX_CONTACTS {
        return invalid("plan.contacts", format!("{} are too many; at most {MAX_CONTACTS}", list.contacts.len()));
    }
    let plan = list.contacts.into_iter().map(|contact| {
        let proto::Contact { start_unix_ns, end_unix_ns, rate_bps, delay_ns } = contact;
        if end_unix_ns <= start_unix_ns {
            return invalid("plan.contacts", format!("one that begins at {start_unix_ns} ends at {end_unix_ns}"));
        }
        Ok(ContactPlan { start_unix_ns, end_unix_ns, rate_bps, delay_ns })
    });
    Ok(RequestBody::SetContacts { link, plan: Some(plan.collect::<Result<_, _>>()?) })
}

/// `Links.Trace`.
///
/// # Errors
/// What is wrong with it.
pub fn trace(request: proto::TraceRequest) -> Result<RequestBody, Invalid> {
    Ok(RequestBody::Trace { to: node("to", request.to)? })
}
