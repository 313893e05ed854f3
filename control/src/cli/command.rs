//! Short requests: one question, a few answers.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use florelay_dataplane::ipc::{Answer, RequestBody};
use hdrhistogram::Histogram;
use serde_json::json;

use super::args::Target;
use super::client::{self, Happening, Happenings, ask, exit};
use super::out::{print, say};
use super::table::terminal_columns;
use super::{EXIT_INTERRUPTED, Exit, report};
use crate::client::ClientError;
use crate::config::units::show_duration;

/// Largest command message, as the engine has it (`florelay_engine::api::MAX_MESSAGE_BYTES`).
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Longer than a round trip of any link this is for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request that is answered by `Done`.
pub(super) fn done(target: &Target, body: RequestBody) -> anyhow::Result<ExitCode> {
    match ask(target, body)? {
        Answer::Done => Ok(ExitCode::SUCCESS),
        // A cancelled transfer may report its own end.
        Answer::Transfer(transfer) if transfer.ended.is_some() => Ok(ExitCode::SUCCESS),
        other => bail!("unexpected answer: {other:?}"),
    }
}

/// `florelay status`.
pub(super) fn status(target: &Target, as_json: bool) -> anyhow::Result<ExitCode> {
    let Answer::Status(status) = ask(target, RequestBody::Status)? else { bail!("not a status") };
    if as_json {
        print(format_args!("{:#}\n", report::status_json(&status)))?;
    } else {
        print(report::status(&status, terminal_columns()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `florelay trace`.
pub(super) fn trace(target: &Target, node: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let answers = client::node(target)?.subscribe(RequestBody::Trace { to: node.to_owned() }, None).map_err(exit)?;
    loop {
        let Answer::Hop { hop, node: answered, rtt_ns, last } = answers.recv().map_err(exit)? else {
            bail!("not a hop")
        };
        if as_json {
            let rtt_ns = answered.is_some().then_some(rtt_ns);
            print(format_args!("{}\n", json!({ "hop": hop, "node": answered, "rtt_ns": rtt_ns, "last": last })))?;
        } else if let Some(name) = &answered {
            print(format_args!("{hop:3}  {name}  {}\n", show_duration(rtt_ns)))?;
        } else {
            print(format_args!("{hop:3}  no answer\n"))?;
        }
        if last {
            return if answered.as_deref() == Some(node) {
                Ok(ExitCode::SUCCESS)
            } else {
                Err(Exit::failed(format!("the path to {node} does not reach it")))
            };
        }
    }
}

/// What `florelay c2` sends.
pub(super) struct Series {
    pub(super) to: String,
    pub(super) count: u32,
    pub(super) interval: Duration,
    pub(super) message: String,
}

/// `florelay c2`: one message after the other, each when the one before is acknowledged.
pub(super) fn c2(target: &Target, series: &Series, as_json: bool) -> anyhow::Result<ExitCode> {
    if series.message.len() > MAX_MESSAGE_BYTES {
        return Err(Exit::failed(format!(
            "the message has {} bytes; at most {MAX_MESSAGE_BYTES} are possible",
            series.message.len()
        )));
    }
    let node = client::node(target)?;
    let happenings: Happenings = Happenings::new()?;
    // Three digits are enough for percentiles, and need no upper bound.
    let mut latencies: Histogram<u64> = Histogram::new(3)?;
    let (mut interrupted, mut outstanding) = (false, false);
    for number in 1..=series.count {
        let body = RequestBody::Message { to: series.to.clone(), payload: series.message.clone().into_bytes() };
        let _asked = node.subscribe_to(&happenings.post, body, None).map_err(exit)?;
        match patient(&happenings, &series.to) {
            Some(Happening::Heard(_, heard)) => match heard.result() {
                Ok(Answer::Message { rtt_ns }) => latencies.record(rtt_ns.max(1))?,
                Ok(other) => bail!("unexpected answer: {other:?}"),
                Err(ClientError::Failed(reason)) => {
                    return Err(Exit::failed(format!("message {number} of {}: {reason}", series.count)));
                }
                Err(error) => return Err(exit(error)),
            },
            _ => (interrupted, outstanding) = (true, true),
        }
        interrupted = interrupted || (number < series.count && pause(&happenings, series.interval));
        if interrupted {
            break;
        }
    }
    if outstanding {
        say("florelay: the message is with the node and goes when the path is there; it cannot be taken back");
    }
    if !latencies.is_empty() {
        print(format_args!("{}\n", report::latencies(&latencies, as_json)))?;
    }
    Ok(if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The next happening, however long it takes; who waits is told why after [`PATIENCE`].
fn patient(happenings: &Happenings, to: &str) -> Option<Happening> {
    happenings.next(Some(Instant::now() + PATIENCE)).or_else(|| {
        say(format_args!("florelay: {to} has not acknowledged yet; `florelay status` shows the path's state"));
        happenings.next(None)
    })
}

/// Waits; `true` if Ctrl-C came.
fn pause(happenings: &Happenings, interval: Duration) -> bool {
    let until = Instant::now() + interval;
    loop {
        match happenings.next(Some(until)) {
            Some(Happening::Interrupt) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}
