//! Bytes back from segments, each record checked.

use super::format::{HEADER_BYTES, RECORD_HEADER_BYTES, parse_record, record_sum};
use super::{SegmentError, Segments};
use crate::storage::{FileRef, Open};

/// Where the next record begins, so that who reads on does not seek from the segment's beginning.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Index of its segment.
    segment: usize,
    file: FileRef,
    /// Offset of the record in the stream, and its place in the file.
    offset: u64,
    at: u64,
}

impl Segments {
    /// The bytes from `offset` on, at most `most` of them, perhaps fewer; none at `head` and beyond.
    ///
    /// # Errors
    /// They were confirmed, or they are damaged, or the disk refused.
    pub fn read(&mut self, offset: u64, most: usize) -> Result<Vec<u8>, SegmentError> {
        let mut bytes = Vec::new();
        let head = self.head();
        if offset < self.base() {
            return Err(SegmentError::Gone { offset, base: self.base() });
        }
        let mut body = Vec::new();
        while bytes.len() < most && offset + (bytes.len() as u64) < head {
            let next = offset + bytes.len() as u64;
            let result = self.record_at(next, &mut body);
            match result {
                Ok(from) => bytes.extend_from_slice(&body[from..body.len().min(from + most - bytes.len())]),
                // What is right goes first; the next call begins at what is not.
                Err(_) if !bytes.is_empty() => return Ok(bytes),
                Err(error) => {
                    self.cursor = None;
                    return Err(error);
                }
            }
        }
        Ok(bytes)
    }

    /// Read the record that has this byte; says where in it the byte is.
    pub(super) fn record_at(&mut self, wanted: u64, body: &mut Vec<u8>) -> Result<usize, SegmentError> {
        let damaged = SegmentError::Damaged { offset: wanted };
        let Some(segment) = self.segments.partition_point(|segment| segment.base <= wanted).checked_sub(1) else {
            return Err(damaged);
        };
        let near = self.cursor.take().filter(|cursor| cursor.segment == segment && cursor.offset <= wanted);
        let mut cursor = match near {
            Some(cursor) => cursor,
            None => {
                let base = self.segments[segment].base;
                let file = match &self.file {
                    Some(file) if segment + 1 == self.segments.len() => file.clone(),
                    _ => self.storage.open(&self.path(base), Open::Existing)?,
                };
                Cursor { segment, file, offset: base, at: HEADER_BYTES as u64 }
            }
        };
        let end = self.segments[segment].bytes;
        loop {
            let mut header = [0; RECORD_HEADER_BYTES];
            if cursor.at + RECORD_HEADER_BYTES as u64 > end {
                return Err(damaged);
            }
            cursor.file.read_exact_at(&mut header, cursor.at)?;
            let Some((length, sum)) = parse_record(&header) else { return Err(damaged) };
            let body_at = cursor.at + RECORD_HEADER_BYTES as u64;
            let (offset, next) = (cursor.offset, cursor.offset + length as u64);
            if wanted < next {
                if body_at + length as u64 > end {
                    return Err(damaged);
                }
                body.resize(length, 0);
                cursor.file.read_exact_at(body, body_at)?;
                if record_sum(self.id, offset, body) != sum {
                    return Err(damaged);
                }
                self.cursor = Some(cursor);
                return Ok((wanted - offset) as usize);
            }
            (cursor.offset, cursor.at) = (next, body_at + length as u64);
        }
    }
}
