//! What commands print. The standard macros panic where the reader has gone, as `head` does, and where a disk is full.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use super::Exit;

/// To standard output, at once. That nobody reads any more is no error.
///
/// # Errors
/// It cannot be written.
pub(super) fn print(text: impl Display) -> anyhow::Result<()> {
    match try_print(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Exit::failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// The same, for those who have more to say: nobody reads any more is an error.
pub(super) fn try_print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// A line to standard error. Where that cannot be written either, there is nobody to tell.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
