//! `QueLayAgent`: its calls as values, read from a client and answered.

use std::io::Read;

use ::thrift::protocol::{TInputProtocol as _, TMessageIdentifier, TMessageType, TOutputProtocol, TType};
use ::thrift::{ApplicationError, ApplicationErrorKind};

use super::types::{ConnStats, LinkState, StartReturn, StreamInfo};
use super::wire::{self, Input};

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Which version the service speaks.
    GetVersion,
    /// Begin a stream.
    StreamStart {
        /// As the client gave it.
        uuid: String,
        /// What it says of it.
        info: StreamInfo,
        /// 0–127.
        priority: i8,
    },
    /// Where the client wants to be called.
    SetCallback(
        /// `HOST:PORT`.
        String,
    ),
    /// How the link does.
    GetLinkState,
    /// The cap in Mbit/s.
    GetBandwidthCapMbps,
    /// The cap in bit/s.
    GetBandwidthCapBps,
    /// How the connection does.
    GetConnStats,
    /// Test hook: link down or up.
    LinkEnable(bool),
    /// Test hook: streams at once.
    SetMaxConcurrent(i32),
    /// Test hook: bytes of a chunk.
    SetChunkSizeBytes(i32),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing to say.
    Void,
    /// A text.
    Text(String),
    /// Of `stream_start`.
    Start(StartReturn),
    /// State of the link.
    Link(LinkState),
    /// A number.
    I32(i32),
    /// A larger one.
    I64(i64),
    /// Statistics.
    Stats(ConnStats),
}

/// Why a call was not carried out: Thrift's own exception, which every client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// What kind.
    pub kind: ApplicationErrorKind,
    /// For people.
    pub reason: String,
}

impl Exception {
    /// The arguments are wrong, or the node does not take the order.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        // The kind that Quelay's own agent uses for a UUID that is none.
        Self { kind: ApplicationErrorKind::InvalidTransform, reason: reason.into() }
    }

    /// The node cannot do it at the moment.
    pub(super) fn unavailable(reason: impl Into<String>) -> Self {
        Self { kind: ApplicationErrorKind::InternalError, reason: reason.into() }
    }

    /// There is no such call, or it is not allowed here.
    pub(super) fn unknown(reason: impl Into<String>) -> Self {
        Self { kind: ApplicationErrorKind::UnknownMethod, reason: reason.into() }
    }
}

/// One message from a client.
#[derive(Debug)]
pub(super) struct Question {
    name: String,
    sequence: i32,
    strict: bool,
    /// Nobody waits for an answer.
    pub(super) oneway: bool,
    /// The call, or why it is none.
    pub(super) call: Result<Call, Exception>,
}

/// Reads one message to its end.
///
/// # Errors
/// The connection has ended, or is of no more use: what comes is not Thrift, or beyond a limit.
pub(super) fn read<R: Read>(i: &mut Input<R>) -> ::thrift::Result<Question> {
    let TMessageIdentifier { name, message_type, sequence_number: sequence } = i.read_message_begin()?;
    let strict = wire::is_strict(i);
    let oneway = match message_type {
        TMessageType::Call => false,
        TMessageType::OneWay => true,
        TMessageType::Reply | TMessageType::Exception => {
            return Err(::thrift::new_application_error(
                ApplicationErrorKind::InvalidMessageType,
                "an answer where a call is expected",
            ));
        }
    };
    let mut arguments = Arguments::default();
    wire::read_struct(i, |i, id, kind| {
        match (id, kind) {
            (1, TType::String) => arguments.text = Some(i.read_string()?),
            (1, TType::Bool) => arguments.boolean = Some(i.read_bool()?),
            (1, TType::I32) => arguments.number = Some(i.read_i32()?),
            (2, TType::Struct) => arguments.info = Some(wire::read_info(i)?),
            (3, TType::I08) => arguments.priority = Some(i.read_i8()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    i.read_message_end()?;
    let call = arguments.call(&name);
    Ok(Question { name, sequence, strict, oneway, call })
}

/// Those of all calls: none has two of the same place and type.
#[derive(Default)]
struct Arguments {
    text: Option<String>,
    boolean: Option<bool>,
    number: Option<i32>,
    info: Option<StreamInfo>,
    priority: Option<i8>,
}

impl Arguments {
    fn call(self, name: &str) -> Result<Call, Exception> {
        let missing = |what: &str| Exception {
            kind: ApplicationErrorKind::ProtocolError,
            reason: format!("{name}: argument {what} is missing"),
        };
        Ok(match name {
            "get_version" => Call::GetVersion,
            "stream_start" => Call::StreamStart {
                uuid: self.text.ok_or_else(|| missing("uuid"))?,
                info: self.info.unwrap_or_default(),
                priority: self.priority.unwrap_or_default(),
            },
            "set_callback" => Call::SetCallback(self.text.ok_or_else(|| missing("endpoint"))?),
            "get_link_state" => Call::GetLinkState,
            "get_bandwidth_cap_mbps" => Call::GetBandwidthCapMbps,
            "get_bandwidth_cap_bps" => Call::GetBandwidthCapBps,
            "get_conn_stats" => Call::GetConnStats,
            "link_enable" => Call::LinkEnable(self.boolean.ok_or_else(|| missing("enabled"))?),
            "set_max_concurrent" => Call::SetMaxConcurrent(self.number.ok_or_else(|| missing("n"))?),
            "set_chunk_size_bytes" => Call::SetChunkSizeBytes(self.number.ok_or_else(|| missing("n"))?),
            _ => return Err(Exception::unknown(format!("there is no call {name:?}"))),
        })
    }
}

impl Question {
    /// The whole answer as bytes.
    pub(super) fn answer(&self, result: &Result<Reply, Exception>) -> ::thrift::Result<Vec<u8>> {
        let mut o = wire::output(self.strict);
        let kind = if result.is_ok() { TMessageType::Reply } else { TMessageType::Exception };
        o.write_message_begin(&TMessageIdentifier::new(self.name.as_str(), kind, self.sequence))?;
        match result {
            Ok(reply) => wire::write_struct(&mut o, "result", |o| write(o, reply))?,
            Err(Exception { kind, reason }) => {
                let error = ApplicationError::new(*kind, reason.clone());
                ::thrift::Error::write_application_error_to_out_protocol(&error, &mut o)?;
            }
        }
        o.write_message_end()?;
        Ok(o.transport)
    }
}

/// Field 0 of the result.
fn write(o: &mut dyn TOutputProtocol, reply: &Reply) -> ::thrift::Result<()> {
    match reply {
        Reply::Void => Ok(()),
        Reply::Text(text) => wire::write_string(o, 0, text),
        Reply::I32(number) => wire::write_i32(o, 0, *number),
        Reply::I64(number) => wire::write_i64(o, 0, *number),
        Reply::Link(state) => wire::write_i32(o, 0, *state as i32),
        Reply::Start(start) => wire::write_field(o, 0, TType::Struct, |o| {
            wire::write_struct(o, "StartStreamReturn", |o| {
                wire::write_i32(o, 1, start.status as i32)?;
                start.queue_position.map_or(Ok(()), |position| wire::write_i32(o, 2, position))
            })
        }),
        Reply::Stats(stats) => wire::write_field(o, 0, TType::Struct, |o| {
            let ConnStats { sent_packets, lost_packets, congestion_events, rtt_ms, cwnd, lost_bytes } = *stats;
            wire::write_struct(o, "ConnStats", |o| {
                let fields = [sent_packets, lost_packets, congestion_events, rtt_ms, cwnd, lost_bytes];
                (1..).zip(fields).try_for_each(|(id, number)| wire::write_i64(o, id, number))
            })
        }),
    }
}
