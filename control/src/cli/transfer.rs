//! `send` and `watch`: a file on its way, with a bar for people or lines of JSON for machines.
//!
//! The dataplane has the open file; this process only watches. Ctrl-C therefore ends the watching, not the transfer.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use florelay_dataplane::ipc::{Answer, RequestBody, TransferStatus};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use super::args::{Target, file_name};
use super::client::{Client, Happening};
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report};

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
            file_name(own)
                .map_err(|e| Exit::failed(format!("{shown}: its name cannot be sent ({e}); use --name NAME")))?
        }
    };
    let id = id.unwrap_or_else(Uuid::new_v4);
    let again = go_on(target, &shown, &to, priority, id, &name);
    let mut client = Client::connect(target)?;
    let happenings = client.happenings()?;
    let body = RequestBody::SendFile { to: to.clone(), id: id.as_u128(), name, priority, attributes: Vec::new() };
    client.ask(body, Some(file.as_fd()))?;
    drop(file);
    follow(&happenings, id, Some(&again), as_json)
}

/// The command line that goes on with a transfer after the node was restarted: it must mean the same file and name.
fn go_on(target: &Target, file: &str, to: &str, priority: u8, id: Uuid, name: &str) -> String {
    let mut text = format!("florelay send {} --to {to} --id {id} --name {}", quoted(file), quoted(name));
    if priority > 0 {
        text.push_str(&format!(" --priority {priority}"));
    }
    let (option, path) = target.socket.as_ref().map_or(("config", &target.config), |socket| ("socket", socket));
    text.push_str(&format!(" --{option} {}", quoted(&path.display().to_string())));
    text
}

/// `florelay watch`.
pub(super) fn watch(target: &Target, id: Uuid, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(target)?;
    let happenings = client.happenings()?;
    client.ask(RequestBody::Watch { id: id.as_u128() }, None)?;
    follow(&happenings, id, None, as_json)
}

fn follow(
    happenings: &std::sync::mpsc::Receiver<Happening>,
    id: Uuid,
    again: Option<&str>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut bar = None;
    let mut begun = false;
    loop {
        match happenings.recv() {
            Ok(Happening::Answer(Answer::Transfer(status))) => {
                begun = true;
                if as_json {
                    println!("{}", report::transfer_json(&status));
                } else {
                    show(bar.get_or_insert_with(|| new_bar(&status)), &status);
                }
                if let Some(result) = &status.ended {
                    if let Some(bar) = &bar {
                        bar.finish_and_clear();
                    }
                    return Ok(ended(&status, result.as_ref().map_err(String::as_str), as_json));
                }
            }
            Ok(Happening::Answer(Answer::Failed(reason))) => {
                // What was refused at once has nothing to go on with.
                let hint = again
                    .filter(|_| begun)
                    .map_or(String::new(), |a| format!("\n    hint: to go on with this transfer: {a}"));
                return Err(Exit::failed(format!("{reason}{hint}")));
            }
            Ok(Happening::Answer(other)) => bail!("unexpected answer: {other:?}"),
            Ok(Happening::Gone(reason)) => {
                return Err(Exit::unavailable(format!(
                    "{reason}\n    hint: the transfer may go on; florelay watch {id}"
                )));
            }
            Ok(Happening::Interrupt) | Err(_) => {
                if let Some(bar) = &bar {
                    bar.abandon();
                }
                eprintln!(
                    "\nThe transfer goes on. To watch it:   florelay watch {id}\nTo give it up:                       florelay cancel {id}"
                );
                if let Some(again) = again {
                    eprintln!("If the node was restarted meanwhile: {again}");
                }
                return Ok(ExitCode::from(EXIT_INTERRUPTED));
            }
        }
    }
}

fn ended(status: &TransferStatus, result: Result<&[u8; 32], &str>, as_json: bool) -> ExitCode {
    match result {
        Ok(digest) => {
            if !as_json {
                println!("{}", report::transfer_done(status, digest));
            }
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("florelay: {} to {}: {reason}", status.name, status.peer);
            ExitCode::from(EXIT_FAILED)
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
    bar.set_prefix(status.name.clone());
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
            waiting: false,
            age_ns: 1,
            stalled: false,
            ended: None,
        };
        for template in [Some(10), None] {
            status.size = template;
            let bar = new_bar(&status);
            show(&bar, &status);
            assert_eq!((bar.position(), bar.length()), (4, template));
        }
    }
}
