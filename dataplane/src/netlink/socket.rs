//! One rtnetlink request and its answers, synchronously. For dumps and for single questions; what the kernel says by itself
//! comes through the follower.

use std::io;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// How often a dump that the kernel reports as inconsistent (something changed meanwhile) is asked for again. The last
/// one is used as it is: what changed is also in the notifications.
const DUMP_TRIES: usize = 4;

/// All objects of a kind, e.g. `GetLink` with a default message.
///
/// # Errors
/// What the kernel answers, or a datagram that cannot be parsed.
pub(crate) fn dump(body: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut tries = 1;
    loop {
        let (messages, consistent) = exchange(body.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
        if consistent || tries == DUMP_TRIES {
            return Ok(messages);
        }
        tries += 1;
    }
}

/// The answer to one request that is not a dump.
///
/// # Errors
/// What the kernel answers, or a datagram that cannot be parsed.
pub(crate) fn request(body: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    exchange(body, flags).map(|(messages, _)| messages)
}

fn exchange(body: RouteNetlinkMessage, flags: u16) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(body);
    message.header.flags = flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let multipart = flags & NLM_F_DUMP != 0;
    let mut answers = Vec::new();
    let mut consistent = true;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            let message = message?;
            consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => {
                    return Ok((answers, consistent));
                }
                _ => {}
            }
        }
        if !multipart {
            return Ok((answers, consistent));
        }
    }
}

/// The messages of one datagram. A message whose content cannot be parsed (an attribute newer than the parser) is skipped
/// with a log line; a broken length ends the datagram with an error.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>> + '_ {
    /// `struct nlmsghdr`, linux/netlink.h: u32 length, u16 type, u16 flags, u32 sequence, u32 port.
    const HEADER_BYTES: usize = 16;
    let mut rest = datagram;
    std::iter::from_fn(move || {
        while rest.len() >= HEADER_BYTES {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if length < HEADER_BYTES || length > rest.len() {
                rest = &[];
                return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message has a wrong length")));
            }
            let (one, _) = rest.split_at(length);
            // NLMSG_ALIGN: messages start at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                Ok(message) => return Some(Ok(message)),
                Err(error) => {
                    tracing::debug!(%error, "skipped a netlink message that cannot be parsed");
                }
            }
        }
        None
    })
}
