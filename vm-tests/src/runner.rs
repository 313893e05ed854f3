//! One boot: starts QEMU, shows the console with a prefix, watches for death and the time limit, and never leaves QEMU behind.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::console::Console;
use crate::qemu::{NicPair, Qemu};

/// Longest a boot may take from start to end. A healthy one needs 5 to 25 s.
pub const LIMIT: Duration = Duration::from_secs(120);

/// After a death line the rest of the report is still read for this long, for the person who looks at it.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What one boot came to.
#[derive(Debug)]
pub struct Boot {
    /// What the guest said.
    pub console: Console,
    /// QEMU's exit code; `None` if it was killed.
    pub exit_code: Option<i32>,
    /// From start to end of QEMU.
    pub wall: Duration,
    /// It was killed at [`LIMIT`].
    pub timed_out: bool,
}

/// Boots a kernel once.
///
/// # Errors
/// If QEMU cannot be started or waited for; a guest that fails is not an error here.
pub fn boot(qemu: &Qemu, kernel: &Path, initramfs: &Path, nics: &[NicPair], prefix: &str) -> Result<Boot> {
    run(qemu.boot(kernel, initramfs, nics), LIMIT, prefix)
}

fn run(mut command: Command, limit: Duration, prefix: &str) -> Result<Boot> {
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut guest = Guest(child.context("cannot start QEMU (through setpriv, from util-linux)")?);
    let (sender, lines) = mpsc::channel();
    if let Some(out) = guest.0.stdout.take() {
        forward(out, sender.clone());
    }
    if let Some(err) = guest.0.stderr.take() {
        forward(err, sender);
    }

    let mut console = Console::default();
    let mut deadline = start + limit;
    let mut timed_out = false;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{prefix} {line}");
                let alive = console.death.is_none();
                console.line(&line);
                if alive && console.death.is_some() {
                    deadline = deadline.min(Instant::now() + LAST_WORDS);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                timed_out = console.death.is_none();
                break;
            }
        }
    }
    let status = guest.end(timed_out || console.death.is_some())?;
    Ok(Boot { console, exit_code: status.code(), wall: start.elapsed(), timed_out })
}

/// Sends a stream's lines; ends with the stream. Bytes that are not UTF-8 (firmware prints some) are replaced.
fn forward(stream: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = printable(&line);
            line.clear();
            if !text.is_empty() && lines.send(text).is_err() {
                break;
            }
        }
    });
}

/// A console line without carriage returns and terminal control sequences (the firmware clears the screen).
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // ESC c, or ESC [ … letter.
            if characters.next() == Some('[') {
                characters.by_ref().find(char::is_ascii_alphabetic);
            }
        } else if !character.is_control() {
            shown.push(character);
        }
    }
    shown.trim_end().to_owned()
}

/// The QEMU process; killed and reaped when this goes out of scope, whatever the way.
struct Guest(Child);

impl Guest {
    fn end(mut self, kill: bool) -> Result<ExitStatus> {
        if kill {
            let _ = self.0.kill();
        }
        self.0.wait().context("cannot wait for QEMU")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Boot {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit, "test|").unwrap()
    }

    #[test]
    fn reads_lines_and_the_exit_code() {
        let boot = shell("printf '\\033[2J\\033cok a\\r\\nvm-guest end 0\\n'; exit 33", LIMIT);
        assert_eq!(boot.console.objection(boot.exit_code), None);
    }

    /// `exec`, so that the process that hangs is the one that is known.
    #[test]
    fn a_guest_that_hangs_is_killed_at_the_limit() {
        let boot = shell("echo ok a; exec sleep 600", Duration::from_millis(200));
        assert!(boot.timed_out && boot.exit_code.is_none());
        assert!(boot.console.objection(boot.exit_code).is_some());
    }

    #[test]
    fn a_guest_that_dies_is_not_waited_for() {
        let boot = shell("echo 'Kernel panic - not syncing'; exec sleep 600", LIMIT);
        assert!(!boot.timed_out && boot.exit_code.is_none());
        assert!(boot.console.death.is_some());
    }
}
