//! The command line: reads the arguments, does the verb, says what went wrong, ends with a code that scripts can use.
//!
//! [`args`] is what can be said; one module per group of verbs does it. All but `check`, `pki` and the internal verbs are
//! clients of the control process ([`client`]).

pub mod args;
mod client;
mod command;
mod contacts;
mod drops;
mod links;
mod listen;
mod local;
mod out;
mod progress;
mod recv;
mod report;
mod send;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transfer;
pub mod transfer_args;
mod values;

use std::path::Path;
use std::process::ExitCode;

use args::{Cli, LinkVerb, Verb};
use florelay_dataplane::ipc::RequestBody;
use florelay_dataplane::supervisor::SupervisorError;
use transfer_args::{SendArgs, StreamArgs, TransferVerb};

use crate::seam::Ended;

use crate::printable::{printable, printable_lines};

/// Refused or failed.
pub const EXIT_FAILED: u8 = 1;
/// A file to send, or one with contacts, cannot be read; EX_NOINPUT of sysexits.h.
pub const EXIT_NO_INPUT: u8 = 66;
/// Nobody there; EX_UNAVAILABLE of sysexits.h.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// An error inside florelay; EX_SOFTWARE.
pub const EXIT_INTERNAL: u8 = 70;
/// Configuration refused; EX_CONFIG.
pub const EXIT_CONFIG: u8 = 78;
/// Interrupted by Ctrl-C: 128 + SIGINT, as shells have it.
pub const EXIT_INTERRUPTED: u8 = 130;

/// An error with its own exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    fn failed(message: impl Into<String>) -> anyhow::Error {
        Self { code: EXIT_FAILED, message: message.into() }.into()
    }

    /// `file` is shown as it was given.
    fn no_input(file: &Path, reason: impl std::fmt::Display, hint: &str) -> anyhow::Error {
        let file = printable(&file.display().to_string());
        let message = format!("{file} cannot be read: {reason}\n    hint: {hint}");
        Self { code: EXIT_NO_INPUT, message }.into()
    }

    fn unavailable(message: impl Into<String>) -> anyhow::Error {
        Self { code: EXIT_UNAVAILABLE, message: message.into() }.into()
    }
}

/// Does what the arguments say.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            out::say(format_args!("florelay: {}", printable_lines(&explain(&error))));
            ExitCode::from(code_of(&error))
        }
    }
}

/// The error and its causes. Most errors of ours name their cause in their own text; it is not said twice.
fn explain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        exit.code
    } else if error.is::<crate::config::Refusal>()
        || matches!(error.downcast_ref(), Some(SupervisorError::NotStarted(_)))
    {
        EXIT_CONFIG
    } else if error.is::<crate::pki::PkiError>()
        || error.is::<crate::process::server::ListenError>()
        || error.is::<SupervisorError>()
        || error.is::<florelay_dataplane::supervisor::DataplaneError>()
    {
        EXIT_FAILED
    } else {
        EXIT_INTERNAL
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Check { config, strict, json } => local::check(&config, strict, json),
        Verb::Up { config } => local::up(&config),
        Verb::Dataplane => crate::seam::dataplane().map(|ended| match ended {
            Ended::Stopped => ExitCode::SUCCESS,
            Ended::NotStarted => ExitCode::from(EXIT_CONFIG),
        }),
        Verb::Control(args) => local::control(args),
        Verb::Pki(verb) => local::pki(verb),
        Verb::Send(args) => {
            let SendArgs { files, to, recursive, priority, deadline, attributes, id, name, detach, .. } = args;
            let cancel_on_interrupt = args.cancel_on_interrupt;
            let order = send::Order {
                files,
                to,
                recursive,
                priority,
                deadline,
                attributes,
                id,
                name,
                detach,
                cancel_on_interrupt,
            };
            send::send(&args.target, order, args.json)
        }
        Verb::Recv(args) => recv::recv(&args),
        Verb::Stream(args) => {
            let StreamArgs { to, name, priority, deadline, attributes, id, linger, resume, .. } = args;
            let declared = args.size;
            let order = stream::Order { to, name, priority, id, deadline, attributes, declared, linger, resume };
            stream::stream(&args.target, order, args.json)
        }
        Verb::Listen(args) => listen::listen(&args),
        Verb::Transfers { all, json, target } => transfer::list(&target, all, json),
        Verb::Transfer(verb) => transfer::change(verb),
        Verb::Watch { id, json, target } => transfer::watch(&target, id, json),
        Verb::Cancel(which) => transfer::change(TransferVerb::Cancel(which)),
        Verb::Status { json, target } => command::status(&target, json),
        Verb::Link(LinkVerb::Set { name, rate, burst, target }) => {
            command::done(&target, RequestBody::SetRate { link: name, rate_bps: rate.0, burst_bytes: burst })
        }
        Verb::Link(LinkVerb::Up { name, target }) => {
            command::done(&target, RequestBody::SetAdmin { link: name, up: true })
        }
        Verb::Link(LinkVerb::Down { name, target }) => {
            command::done(&target, RequestBody::SetAdmin { link: name, up: false })
        }
        Verb::Contacts(verb) => contacts::run(verb),
        Verb::C2 { to, count, interval, message, json, target } => {
            command::c2(&target, &command::Series { to, count, interval, message }, json)
        }
        Verb::Trace { node, json, target } => command::trace(&target, &node, json),
    }
}
