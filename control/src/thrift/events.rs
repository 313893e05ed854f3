//! `QueLayCallback`: what a client is told, as bytes; and its only answer.

use std::io::Read;

use ::thrift::ApplicationErrorKind;
use ::thrift::protocol::{TInputProtocol as _, TMessageIdentifier, TMessageType, TOutputProtocol, TType};

use super::types::Event;
use super::wire::{self, Input};

/// The whole message as bytes.
pub(super) fn write(event: &Event, sequence: i32) -> ::thrift::Result<Vec<u8>> {
    let (name, kind) = match event {
        Event::Ping => ("ping", TMessageType::Call),
        Event::Started { .. } => ("stream_started", TMessageType::OneWay),
        Event::Progress { .. } => ("stream_progress", TMessageType::OneWay),
        Event::Done { .. } => ("stream_done", TMessageType::OneWay),
        Event::Failed { .. } => ("stream_failed", TMessageType::OneWay),
        Event::Link(_) => ("link_status_update", TMessageType::OneWay),
        Event::Queue(_) => ("queue_status_update", TMessageType::OneWay),
    };
    let mut o = wire::output(true);
    o.write_message_begin(&TMessageIdentifier::new(name, kind, sequence))?;
    wire::write_struct(&mut o, "args", |o| arguments(o, event))?;
    o.write_message_end()?;
    Ok(o.transport)
}

fn arguments(o: &mut dyn TOutputProtocol, event: &Event) -> ::thrift::Result<()> {
    match event {
        Event::Ping => Ok(()),
        Event::Started { uuid, info, port } => {
            wire::write_string(o, 1, uuid)?;
            wire::write_field(o, 2, TType::Struct, |o| wire::write_info(o, info))?;
            wire::write_i32(o, 3, i32::from(*port))
        }
        Event::Progress { uuid, bytes, size } => {
            wire::write_string(o, 1, uuid)?;
            wire::write_field(o, 2, TType::Struct, |o| {
                wire::write_struct(o, "ProgressInfo", |o| {
                    wire::write_i64(o, 1, *bytes)?;
                    let Some(size) = *size else { return Ok(()) };
                    wire::write_i64(o, 2, size)?;
                    wire::write_field(o, 3, TType::Double, |o| o.write_double(percent(*bytes, size)))
                })
            })
        }
        Event::Done { uuid, bytes, wire: on_wire } => {
            wire::write_string(o, 1, uuid)?;
            wire::write_i64(o, 2, *bytes)?;
            wire::write_i64(o, 3, *on_wire)
        }
        Event::Failed { uuid, code, reason } => {
            wire::write_string(o, 1, uuid)?;
            wire::write_i32(o, 2, *code as i32)?;
            wire::write_string(o, 3, reason)
        }
        Event::Link(state) => wire::write_i32(o, 1, *state as i32),
        Event::Queue(queue) => wire::write_field(o, 1, TType::Struct, |o| {
            wire::write_struct(o, "QueueStatus", |o| {
                wire::write_i32(o, 1, queue.active_count)?;
                wire::write_i32(o, 2, queue.max_concurrent)?;
                wire::write_i32(o, 3, queue.max_pending)?;
                wire::write_strings(o, 4, &queue.pending)
            })
        }),
    }
}

/// 0 to 100.
fn percent(bytes: i64, size: i64) -> f64 {
    if size <= 0 { 100.0 } else { (bytes as f64 / size as f64 * 100.0).clamp(0.0, 100.0) }
}

/// Reads the answer to the ping of this number.
///
/// # Errors
/// It is something else, or nothing comes any more.
pub(super) fn read_pong<R: Read>(i: &mut Input<R>, sequence: i32) -> ::thrift::Result<()> {
    wire::begin(i);
    let header = i.read_message_begin()?;
    wire::read_struct(i, |_, _, _| Ok(false))?;
    i.read_message_end()?;
    // A client that cannot carry it out is there all the same.
    let answers = matches!(header.message_type, TMessageType::Reply | TMessageType::Exception);
    if answers && header.sequence_number == sequence {
        return Ok(());
    }
    Err(::thrift::new_application_error(
        ApplicationErrorKind::BadSequenceId,
        format!("not the answer to ping {sequence}"),
    ))
}
