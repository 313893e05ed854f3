//! Running other programs: shown before they run, failing with what they said.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, bail};

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        if !argument.is_empty() && argument.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:,+@".contains(c)) {
            let _ = write!(text, " {argument}");
        } else {
            let _ = write!(text, " '{}'", argument.replace('\'', r"'\''"));
        }
    }
    text
}

/// Runs with the terminal attached; an error if it does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    let status = command.status().with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs quietly and returns what it wrote to stdout; stderr goes into the error.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}\n{}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs with stdout and stderr passed through line by line, and hands every line to `look` as well.
pub(crate) fn tee(command: &mut Command, mut look: impl FnMut(&str)) -> Result<()> {
    eprintln!("$ {}", line(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", line(command)))?;
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take().map(|pipe| pass_on(pipe, std::io::stdout(), sender.clone()));
    let err = child.stderr.take().map(|pipe| pass_on(pipe, std::io::stderr(), sender));
    // Ends when both pipes are closed and their senders dropped.
    for text in lines {
        look(&text);
    }
    for reader in [out, err].into_iter().flatten() {
        let _ = reader.join();
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

fn pass_on(
    pipe: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    lines: mpsc::Sender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut raw = Vec::new();
        while reader.read_until(b'\n', &mut raw).is_ok_and(|count| count > 0) {
            let _ = to.write_all(&raw);
            let _ = lines.send(String::from_utf8_lossy(&raw).trim_end().to_owned());
            raw.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted() {
        let mut command = Command::new("printf");
        command.args(["%s", "it's", "", "plain-1.2"]);
        assert_eq!(line(&command), r"printf '%s' 'it'\''s' '' plain-1.2");
    }

    #[test]
    fn tee_sees_both_streams_and_the_status() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let result = tee(&mut command, |line| seen.push(line.to_owned()));
        seen.sort();
        assert_eq!(seen, ["one", "two"]);
        assert!(result.unwrap_err().to_string().contains("exit status: 3"));
    }
}
