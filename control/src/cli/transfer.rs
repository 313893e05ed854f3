//! `send` and `watch`: a file on its way, with a bar for people or lines of JSON for machines.
//!
//! The dataplane has the open file; this process only watches. Ctrl-C therefore ends the watching, not the transfer, and a
//! control process that dies is looked for again.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use florelay_dataplane::ipc::{Answer, RequestBody, TransferOrder, TransferStatus};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use super::args::{Target, inbox_name};
use super::client::{Client, Happening, PATIENCE, RETRY, on_interrupt, reconnect};
use super::out::{print, say, try_print};
use super::table::cut;
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report};
use crate::printable::printable;

/// A name's longest in front of a bar.
const NAME_COLUMNS: usize = 30;
const FILE_HINT: &str = "name a regular file that you may read; what has no end goes by florelay stream";

/// What `florelay send` was told.
pub(super) struct Order {
    pub(super) file: PathBuf,
    pub(super) to: String,
    pub(super) priority: u8,
    pub(super) id: Option<Uuid>,
    pub(super) name: Option<String>,
}

/// `florelay send`.
pub(super) fn send(target: &Target, order: Order, as_json: bool) -> anyhow::Result<ExitCode> {
    let Order { file: path, to, priority, id, name } = order;
    let shown = path.display().to_string();
    // Before it is opened: opening a pipe would wait for somebody to write to it.
    let metadata = std::fs::metadata(&path).map_err(|e| Exit::no_input(&path, e, FILE_HINT))?;
    if !metadata.is_file() {
        return Err(Exit::no_input(&path, "it is not a regular file", FILE_HINT));
    }
    let file = File::open(&path).map_err(|e| Exit::no_input(&path, e, FILE_HINT))?;
    let name = match name {
        Some(name) => name,
        None => {
            let own = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            inbox_name(own)
                .map_err(|e| Exit::failed(format!("{shown}: its name cannot be sent ({e}); use --name NAME")))?
        }
    };
    let id = id.unwrap_or_else(Uuid::new_v4);
    let again = go_on(target, &shown, &to, priority, id, &name);
    let mut watched = Watched::connect(target, id, Some(again), as_json)?;
    let body = RequestBody::SendFile { order: TransferOrder::new(to, id.as_u128(), name, priority), path: None };
    watched.client.ask(body, Some(file.as_fd()))?;
    drop(file);
    watched.follow()
}

/// The command line that goes on with a transfer after the node was restarted: it must mean the same file and name.
fn go_on(target: &Target, file: &str, to: &str, priority: u8, id: Uuid, name: &str) -> String {
    let mut text = format!("florelay send {} --to {to} --id {id} --name {}", quoted(file), quoted(name));
    if priority > 0 {
        text.push_str(&format!(" --priority {priority}"));
    }
    text.push_str(&node_option(target));
    text
}

/// The option that names the node, for a command line to copy.
pub(super) fn node_option(target: &Target) -> String {
    let (option, path) = target.socket.as_ref().map_or(("config", &target.config), |socket| ("socket", socket));
    format!(" --{option} {}", quoted(&path.display().to_string()))
}

/// `florelay watch`.
pub(super) fn watch(target: &Target, id: Uuid, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut watched = Watched::connect(target, id, None, as_json)?;
    watched.client.ask(RequestBody::Watch { id: id.as_u128() }, None)?;
    watched.follow()
}

/// A transfer that is watched to its end.
struct Watched<'a> {
    target: &'a Target,
    id: Uuid,
    /// The command line that goes on with it, at its sender.
    again: Option<String>,
    as_json: bool,
    client: Client,
    sender: SyncSender<Happening>,
    happenings: Receiver<Happening>,
    patience: Duration,
    bar: Option<ProgressBar>,
    /// Something was heard of it.
    begun: bool,
    /// Since when the control process, or behind it the dataplane, is looked for.
    lost: Option<Instant>,
}

impl<'a> Watched<'a> {
    fn connect(target: &'a Target, id: Uuid, again: Option<String>, as_json: bool) -> anyhow::Result<Self> {
        let client = Client::connect(target)?;
        let (sender, happenings) = sync_channel(16);
        on_interrupt(sender.clone())?;
        client.report_to(&sender)?;
        Ok(Self {
            target,
            id,
            again,
            as_json,
            client,
            sender,
            happenings,
            patience: PATIENCE,
            bar: None,
            begun: false,
            lost: None,
        })
    }

    fn follow(mut self) -> anyhow::Result<ExitCode> {
        loop {
            match self.happenings.recv() {
                Ok(Happening::Answer(Answer::Transfer(status))) => {
                    (self.begun, self.lost) = (true, None);
                    if self.as_json {
                        try_print(format_args!("{}\n", report::transfer_json(&status))).map_err(|e| self.unread(&e))?;
                    } else {
                        show(self.bar.get_or_insert_with(|| new_bar(&status)), &status);
                    }
                    if let Some(result) = &status.ended {
                        if let Some(bar) = &self.bar {
                            bar.finish_and_clear();
                        }
                        return ended(
                            &status,
                            result.as_ref().map_err(|failure| failure.reason.as_str()),
                            self.as_json,
                        );
                    }
                }
                // A control process that has just come back does not know its dataplane yet.
                Ok(Happening::Answer(Answer::Unavailable(_))) if self.may_come_back() => {
                    thread::sleep(RETRY);
                    self.ask_again();
                }
                Ok(Happening::Answer(Answer::Unavailable(reason))) => {
                    return Err(Exit::unavailable(format!("{reason}{}", self.hint())));
                }
                Ok(Happening::Answer(Answer::Failed(reason))) => {
                    return Err(Exit::failed(format!("{reason}{}", self.hint())));
                }
                Ok(Happening::Answer(other)) => bail!("unexpected answer: {other:?}"),
                Ok(Happening::Gone(reason)) => {
                    self.say(&format!("florelay: {reason}; the transfer goes on, looking for the control process"));
                    let since = *self.lost.get_or_insert_with(Instant::now);
                    match reconnect(self.target, &self.sender, self.patience.saturating_sub(since.elapsed())) {
                        Ok(Some(client)) => {
                            self.client = client;
                            self.ask_again();
                        }
                        Ok(None) => return Ok(self.leave()),
                        Err(error) => {
                            let (id, node) = (self.id, node_option(self.target));
                            return Err(Exit::unavailable(format!(
                                "{reason}, and is not back: {error}\n    hint: the transfer may go on; florelay watch {id}{node}"
                            )));
                        }
                    }
                }
                Ok(Happening::Interrupt) | Err(_) => return Ok(self.leave()),
            }
        }
    }

    fn may_come_back(&self) -> bool {
        self.lost.is_some_and(|since| since.elapsed() < self.patience)
    }

    /// A control process that is gone again is reported by the reader.
    fn ask_again(&mut self) {
        let _ = self.client.ask(RequestBody::Watch { id: self.id.as_u128() }, None);
    }

    /// What was refused at once has nothing to go on with.
    fn hint(&self) -> String {
        let again = self.again.as_ref().filter(|_| self.begun || self.lost.is_some());
        again.map_or(String::new(), |again| format!("\n    hint: to go on with this transfer: {again}"))
    }

    /// Nobody reads what is told any more, or it cannot be written.
    fn unread(&self, error: &std::io::Error) -> anyhow::Error {
        let (id, node) = (self.id, node_option(self.target));
        Exit::failed(format!("standard output: {error}\n    hint: the transfer goes on; florelay watch {id}{node}"))
    }

    /// Beside the bar, if one is drawn.
    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Ctrl-C.
    fn leave(&self) -> ExitCode {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        let (id, node) = (self.id, node_option(self.target));
        say(format_args!(
            "\nThe transfer goes on. To watch it:   florelay watch {id}{node}\nTo give it up:                       florelay cancel {id}{node}"
        ));
        if let Some(again) = &self.again {
            say(format_args!("If the node was restarted meanwhile: {again}"));
        }
        ExitCode::from(EXIT_INTERRUPTED)
    }
}

fn ended(status: &TransferStatus, result: Result<&[u8; 32], &str>, as_json: bool) -> anyhow::Result<ExitCode> {
    match result {
        Ok(digest) => {
            if !as_json {
                print(format_args!("{}\n", report::transfer_done(status, digest)))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            say(format_args!("florelay: {} to {}: {reason}", status.name, status.peer));
            Ok(ExitCode::from(EXIT_FAILED))
        }
    }
}

/// Without a terminal, indicatif draws nothing; the end is said in words anyhow.
pub(super) fn new_bar(status: &TransferStatus) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(status.size, ProgressDrawTarget::stderr());
    let template = if status.size.is_some() {
        "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta} {msg}"
    } else {
        "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec} {msg}"
    };
    // The templates are fixed; the default style is the answer to a mistake in them.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_prefix(cut(&printable(&status.name), NAME_COLUMNS));
    // What an earlier run has sent is neither rate nor ETA of this one.
    bar.set_position(status.confirmed);
    bar.reset_eta();
    // Redrawn while nothing comes, so that the rate falls and a stall shows.
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

pub(super) fn show(bar: &ProgressBar, status: &TransferStatus) {
    if let Some(size) = status.size {
        bar.set_length(size);
    }
    bar.set_position(status.confirmed);
    bar.set_message(if status.stalled { "STALLED: waiting for the link" } else { "" });
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use florelay_dataplane::ipc::TransferKind;

    use super::*;

    #[test]
    fn a_control_process_that_does_not_come_back_is_given_up_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target { socket: Some(folder.path().join("control.sock")), config: PathBuf::new() };
        let (sender, happenings) = sync_channel(16);
        sender.send(Happening::Gone("the control process has closed the connection".into())).unwrap();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let watched = Watched {
            target: &target,
            id: Uuid::from_u128(7),
            again: None,
            as_json: true,
            client: Client::over(ours).unwrap(),
            sender,
            happenings,
            patience: Duration::ZERO,
            bar: None,
            begun: true,
            lost: None,
        };
        let error = watched.follow().unwrap_err();
        let exit = error.downcast_ref::<Exit>().unwrap();
        assert_eq!(exit.code, super::super::EXIT_UNAVAILABLE);
        for part in ["has closed the connection, and is not back: no control process at", "florelay watch 0000"] {
            assert!(exit.message.contains(part), "{exit}");
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quoted("a/b.raw"), "a/b.raw");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn templates_are_right() {
        let mut status = TransferStatus {
            id: 1,
            peer: "b".into(),
            name: "f".into(),
            outgoing: true,
            priority: 0,
            kind: TransferKind::File,
            size: Some(10),
            confirmed: 4,
            spooled: 0,
            age_ns: 1,
            stalled: false,
            ended: None,
            ..TransferStatus::default()
        };
        for template in [Some(10), None] {
            status.size = template;
            let bar = new_bar(&status);
            show(&bar, &status);
            assert_eq!((bar.position(), bar.length()), (4, template));
        }
    }
}
