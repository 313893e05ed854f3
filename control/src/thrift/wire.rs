//! Bytes in and out: Thrift's binary protocol, without frames, over the `thrift` crate's reader and writer.
//!
//! The crate's reader is bounded by its configuration (lengths of strings and containers, depth), but does not count the
//! bytes of a message; [`Limited`] does. So a message costs at most [`MAX_MESSAGE_BYTES`] of reading, and no length that
//! it claims is believed beyond [`MAX_STRING_BYTES`]. Both message headers are read, with a version (*strict*) and
//! without; the answer has that of the question.

use std::io::{self, Read};

use ::thrift::TConfiguration;
use ::thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TFieldIdentifier, TInputProtocol, TListIdentifier, TMapIdentifier,
    TOutputProtocol, TStructIdentifier, TType,
};

use super::types::StreamInfo;

/// Largest message that is read, bytes. 64 attributes of at most 1024 bytes are half of it.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Longest string that is read, bytes.
const MAX_STRING_BYTES: usize = 64 << 10;
/// Most entries of a container that is read.
const MAX_ENTRIES: usize = 4096;
/// Deepest nesting that is read; ours is 2.
const MAX_DEPTH: usize = 16;

/// A reader that ends after so much of a message.
#[derive(Debug)]
pub(super) struct Limited<R> {
    inner: R,
    left: usize,
    first: Option<u8>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(self.left);
        if most == 0 && !buf.is_empty() {
            let message = format!("a message of more than {MAX_MESSAGE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let n = self.inner.read(&mut buf[..most])?;
        if let (None, Some(byte)) = (self.first, buf[..n].first()) {
            self.first = Some(*byte);
        }
        self.left -= n;
        Ok(n)
    }
}

/// Messages from a client.
pub(super) type Input<R> = TBinaryInputProtocol<Limited<R>>;

/// Reads messages from `inner`.
pub(super) fn input<R: Read>(inner: R) -> Input<R> {
    // The frame size must not exceed the message size; frames are not used.
    let limits = TConfiguration::builder()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .max_string_size(Some(MAX_STRING_BYTES))
        .max_container_size(Some(MAX_ENTRIES))
        .max_recursion_depth(Some(MAX_DEPTH))
        .build()
        .unwrap_or_default();
    TBinaryInputProtocol::with_config(Limited { inner, left: MAX_MESSAGE_BYTES, first: None }, false, limits)
}

/// Another message may begin.
pub(super) fn begin<R>(input: &mut Input<R>)
where
    R: Read,
{
    input.transport.left = MAX_MESSAGE_BYTES;
    input.transport.first = None;
}

/// What is below.
pub(super) fn source<R: Read>(input: &mut Input<R>) -> &mut R {
    &mut input.transport.inner
}

/// The message under way has a version in its header.
pub(super) fn is_strict<R: Read>(input: &Input<R>) -> bool {
    input.transport.first.is_some_and(|byte| byte & 0x80 != 0)
}

/// Messages into memory.
pub(super) fn output(strict: bool) -> TBinaryOutputProtocol<Vec<u8>> {
    TBinaryOutputProtocol::new(Vec::new(), strict)
}

/// Reads a struct: `field` takes the fields that it knows, and says `false` for another one, which is passed over.
pub(super) fn read_struct(
    i: &mut dyn TInputProtocol,
    mut field: impl FnMut(&mut dyn TInputProtocol, i16, TType) -> ::thrift::Result<bool>,
) -> ::thrift::Result<()> {
    i.read_struct_begin()?;
    loop {
        let TFieldIdentifier { field_type, id, .. } = i.read_field_begin()?;
        if field_type == TType::Stop {
            break;
        }
        if !field(i, id.unwrap_or_default(), field_type)? {
            i.skip(field_type)?;
        }
        i.read_field_end()?;
    }
    i.read_struct_end()
}

/// Reads a `StreamInfo`.
pub(super) fn read_info(i: &mut dyn TInputProtocol) -> ::thrift::Result<StreamInfo> {
    let mut info = StreamInfo::default();
    read_struct(i, |i, id, kind| {
        match (id, kind) {
            (1, TType::I64) => info.size_bytes = Some(i.read_i64()?),
            (2, TType::Map) => {
                let TMapIdentifier { key_type, value_type, size } = i.read_map_begin()?;
                for _ in 0..size {
                    match (key_type, value_type) {
                        (Some(TType::String), Some(TType::String)) => {
                            let key = i.read_string()?;
                            info.attrs.insert(key, i.read_string()?);
                        }
                        (key, value) => {
                            i.skip(key.unwrap_or(TType::Stop))?;
                            i.skip(value.unwrap_or(TType::Stop))?;
                        }
                    }
                }
                i.read_map_end()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(info)
}

/// Writes a struct of these fields.
pub(super) fn write_struct(
    o: &mut dyn TOutputProtocol,
    name: &str,
    fields: impl FnOnce(&mut dyn TOutputProtocol) -> ::thrift::Result<()>,
) -> ::thrift::Result<()> {
    o.write_struct_begin(&TStructIdentifier::new(name))?;
    fields(o)?;
    o.write_field_stop()?;
    o.write_struct_end()
}

/// Writes one field.
pub(super) fn write_field(
    o: &mut dyn TOutputProtocol,
    id: i16,
    kind: TType,
    value: impl FnOnce(&mut dyn TOutputProtocol) -> ::thrift::Result<()>,
) -> ::thrift::Result<()> {
    // The binary protocol does not write names.
    o.write_field_begin(&TFieldIdentifier::new("", kind, id))?;
    value(o)?;
    o.write_field_end()
}

pub(super) fn write_i32(o: &mut dyn TOutputProtocol, id: i16, value: i32) -> ::thrift::Result<()> {
    write_field(o, id, TType::I32, |o| o.write_i32(value))
}

pub(super) fn write_i64(o: &mut dyn TOutputProtocol, id: i16, value: i64) -> ::thrift::Result<()> {
    write_field(o, id, TType::I64, |o| o.write_i64(value))
}

pub(super) fn write_string(o: &mut dyn TOutputProtocol, id: i16, value: &str) -> ::thrift::Result<()> {
    write_field(o, id, TType::String, |o| o.write_string(value))
}

/// Writes a `StreamInfo`.
pub(super) fn write_info(o: &mut dyn TOutputProtocol, info: &StreamInfo) -> ::thrift::Result<()> {
    write_struct(o, "StreamInfo", |o| {
        if let Some(size) = info.size_bytes {
            write_i64(o, 1, size)?;
        }
        write_field(o, 2, TType::Map, |o| {
            o.write_map_begin(&TMapIdentifier::new(TType::String, TType::String, length(info.attrs.len())))?;
            for (key, value) in &info.attrs {
                o.write_string(key)?;
                o.write_string(value)?;
            }
            o.write_map_end()
        })
    })
}

/// Writes a list of strings.
pub(super) fn write_strings(o: &mut dyn TOutputProtocol, id: i16, list: &[String]) -> ::thrift::Result<()> {
    write_field(o, id, TType::List, |o| {
        o.write_list_begin(&TListIdentifier::new(TType::String, length(list.len())))?;
        for text in list {
            o.write_string(text)?;
        }
        o.write_list_end()
    })
}

fn length(entries: usize) -> i32 {
    i32::try_from(entries).unwrap_or(i32::MAX)
}
