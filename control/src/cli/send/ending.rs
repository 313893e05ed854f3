//! How transfers of `send` end, and how the command does.

use std::path::Path;
use std::process::ExitCode;

use florelay_dataplane::ipc::{Failure, RequestBody, TransferStatus};
use serde_json::json;
use uuid::Uuid;

use super::super::args::Target;
use super::super::client::exit;
use super::super::out::{print, say, try_print};
use super::super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report};
use super::{Sending, Transfer};
use crate::client::ClientError;
use crate::config::units::{show_bytes, show_duration, show_rate};
use crate::printable::printable;

impl Sending<'_> {
    /// What is not sent is said, and counts as a failure.
    pub(super) fn leave_out(&mut self, path: &Path, why: &str) -> anyhow::Result<()> {
        self.left_out += 1;
        let shown = printable(&path.display().to_string());
        if self.as_json {
            let line = json!({ "left_out": path.to_string_lossy(), "reason": why });
            return try_print(format_args!("{line}\n")).map_err(|e| self.unread(&e));
        }
        self.bars.say(&format!("florelay: {shown} is not sent: {}", printable(why)));
        Ok(())
    }

    pub(super) fn detached(&mut self, transfer: &Transfer) -> anyhow::Result<()> {
        self.done += 1;
        self.done_bytes += transfer.item.size;
        if self.as_json {
            return Ok(());
        }
        let name = printable(&transfer.item.name);
        self.bars.suspended(|| print(format_args!("{}  {name}\n", transfer.id)))
    }

    pub(super) fn ended(
        &mut self,
        transfer: &Transfer,
        status: &TransferStatus,
        result: &Result<[u8; 32], Failure>,
    ) -> anyhow::Result<()> {
        match result {
            Ok(digest) => {
                self.done += 1;
                self.done_bytes += status.size.unwrap_or(0);
                if self.single && !self.as_json {
                    self.bars.clear();
                    print(format_args!("{}\n", report::transfer_done(status, digest)))?;
                }
            }
            Err(failure) => {
                self.failed += 1;
                let name = printable(&transfer.item.place.clone().unwrap_or_else(|| status.name.clone()));
                self.bars.say(&format!("florelay: {name} to {}: {}", status.peer, printable(&failure.reason)));
            }
        }
        Ok(())
    }

    /// The node does not take one of them.
    pub(super) fn refused(&mut self, transfer: &Transfer, error: ClientError) -> anyhow::Result<()> {
        // It concerns all: there is no such peer.
        let all = matches!(error, ClientError::Refused { refusal: florelay_dataplane::ipc::Refusal::NoSuchPeer, .. });
        if self.single || all {
            let hint = self.hint(transfer);
            return Err(match exit(error).downcast::<Exit>() {
                Ok(refused) => Exit::failed(format!("{refused}{hint}")),
                Err(other) => other,
            });
        }
        self.failed += 1;
        self.bars.ended(transfer.id.as_u128(), transfer.item.size);
        if self.as_json {
            let file = transfer.item.file.to_string_lossy();
            let line = json!({ "refused": file, "id": transfer.id.to_string(), "reason": error.to_string() });
            return try_print(format_args!("{line}\n")).map_err(|e| self.unread(&e));
        }
        let file = printable(&transfer.item.file.display().to_string());
        self.bars.say(&format!("florelay: {file} is refused: {}", printable(&error.to_string())));
        Ok(())
    }

    /// All have ended.
    pub(super) fn end(self) -> anyhow::Result<ExitCode> {
        self.bars.clear();
        let missed = self.failed + self.left_out;
        if !self.single {
            let took = self.begun.elapsed();
            let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            if self.as_json {
                let summary = json!({
                    "done": self.done, "failed": self.failed, "left_out": self.left_out,
                    "bytes": self.done_bytes, "time_ns": took_ns,
                });
                print(format_args!("{}\n", json!({ "summary": summary })))?;
            } else {
                let what = if self.order.detach { "ordered" } else { "sent" };
                let rate = (u128::from(self.done_bytes) * 8_000_000_000).checked_div(u128::from(took_ns));
                let rate = rate.and_then(|rate| u64::try_from(rate).ok()).filter(|_| !self.order.detach);
                let rate = rate.map_or(String::new(), |rate| format!(", {}", show_rate(Some(rate))));
                let missed = match (self.failed, self.left_out) {
                    (0, 0) => String::new(),
                    (failed, left_out) => format!("; {failed} failed, {left_out} left out"),
                };
                print(format_args!(
                    "{} {} {what} to {}: {} in {}{rate}{missed}\n",
                    self.done,
                    if self.done == 1 { "file" } else { "files" },
                    self.order.to,
                    show_bytes(self.done_bytes),
                    show_duration(took_ns),
                ))?;
            }
        }
        Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
    }

    /// Ctrl-C.
    pub(super) fn interrupt(self) -> anyhow::Result<ExitCode> {
        self.bars.abandon();
        let node = node_option(self.target);
        let begun = |transfer: &&Transfer| transfer.begun;
        let under_way: Vec<Uuid> = self.ordered.values().map(|ordered| ordered.transfer.id).collect();
        if self.order.cancel_on_interrupt {
            let lost: Vec<Uuid> = self.to_order.iter().filter(begun).map(|transfer| transfer.id).collect();
            let mut cancelled = 0;
            for id in under_way.iter().chain(&lost) {
                match self.node.ask(RequestBody::Cancel { id: id.as_u128() }) {
                    Ok(_) => cancelled += 1,
                    Err(error) => say(format_args!("florelay: {id}: {error}")),
                }
            }
            say(format_args!("\n{cancelled} cancelled, {} not ordered.", self.to_order.len() - lost.len()));
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
        let transfer = self.ordered.values().map(|ordered| &ordered.transfer).chain(&self.to_order).next();
        if let Some(transfer) = transfer.filter(|_| self.single) {
            let id = transfer.id;
            say(format_args!(
                "\nThe transfer goes on. To watch it:   florelay watch {id}{node}\nTo give it up:                       florelay cancel {id}{node}\nIf the node was restarted meanwhile: {}",
                self.go_on(transfer)
            ));
        } else {
            let waiting = self.to_order.iter().filter(|transfer| !transfer.begun).count();
            let going = under_way.len() + self.to_order.len() - waiting;
            say(format_args!("\n{} sent, {going} go on. To see them:  florelay transfers{node}", self.done));
            if waiting > 0 {
                say(format_args!(
                    "{waiting} were not ordered yet, and are not sent. (--detach orders all, and leaves.)"
                ));
                for transfer in self.to_order.iter().filter(|transfer| !transfer.begun).take(5) {
                    say(format_args!("    {}", printable(&transfer.item.file.display().to_string())));
                }
            }
        }
        Ok(ExitCode::from(EXIT_INTERRUPTED))
    }

    /// Nobody reads what is told any more, or it cannot be written.
    pub(super) fn unread(&self, error: &std::io::Error) -> anyhow::Error {
        let node = node_option(self.target);
        let on = match self.ordered.values().next().filter(|_| self.single) {
            Some(ordered) => format!("the transfer goes on; florelay watch {}{node}", ordered.transfer.id),
            None => format!("what was ordered goes on; florelay transfers{node}"),
        };
        Exit::failed(format!("standard output: {error}\n    hint: {on}"))
    }

    /// What was refused at once has nothing to go on with.
    pub(super) fn hint(&self, transfer: &Transfer) -> String {
        if !transfer.begun {
            return String::new();
        }
        if self.single {
            return format!("\n    hint: to go on with this transfer: {}", self.go_on(transfer));
        }
        format!("\n    hint: what was ordered may go on; florelay transfers{}", node_option(self.target))
    }

    /// The command line that goes on with a transfer after the node was restarted: it must mean the same file and name.
    fn go_on(&self, transfer: &Transfer) -> String {
        let (to, id) = (&self.order.to, transfer.id);
        let (mut file, name) = (transfer.item.file.display().to_string(), &transfer.item.name);
        if file.starts_with('-') {
            file.insert_str(0, "./");
        }
        let mut text = format!("florelay send {} --to {to} --id {id} --name {}", quoted(&file), quoted(name));
        if self.order.priority > 0 {
            text.push_str(&format!(" --priority {}", self.order.priority));
        }
        for (key, value) in &self.order.attributes {
            text.push_str(&format!(" --attribute {}", quoted(&format!("{key}={value}"))));
        }
        text.push_str(&node_option(self.target));
        text
    }
}

/// The option that names the node, for a command line to copy.
pub(in crate::cli) fn node_option(target: &Target) -> String {
    let (option, path) = target.socket.as_ref().map_or(("config", &target.config), |socket| ("socket", socket));
    format!(" --{option} {}", quoted(&path.display().to_string()))
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else if text.chars().any(char::is_control) {
        // As bash, ksh and zsh read it, so that nothing in it reaches the terminal.
        let escaped = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if c.is_control() => c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
            c => c.to_string(),
        };
        format!("$'{}'", text.chars().map(escaped).collect::<String>())
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_means_the_same_and_moves_no_terminal() {
        assert_eq!(quoted("a/b.raw"), "a/b.raw");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a\u{1b}[2J'\\\u{9b}\nä"), r"$'a\x1b[2J\'\\\xc2\x9b\x0aä'");
    }
}
