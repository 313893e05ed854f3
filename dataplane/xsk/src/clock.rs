//! What the kernel thinks of its wall clock. Has nothing to do with AF_XDP; it is here because `unsafe` is.

use std::io;

/// Whether the wall clock is synchronised: `STA_UNSYNC` is not set (adjtimex(2); set at boot, cleared by whoever
/// disciplines the clock, set again when nobody has for some hours).
///
/// # Errors
/// The kernel, or a filter of system calls, refuses to say.
pub fn synchronised() -> io::Result<bool> {
    // SAFETY: `timex` is plain data, and all zeroes is a valid one: `modes` = 0 asks and changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `timex` of our own, which the call fills.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timex.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_one_or_the_other() {
        // Which one is this machine's affair.
        super::synchronised().unwrap();
    }
}
