//! `transfers`, `transfer …`, `watch` and `cancel`: transfers that are there already.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use florelay_dataplane::ipc::{Answer, RequestBody, TransferStatus};
use serde_json::Value;
use uuid::Uuid;

use super::args::Target;
use super::client::{Happening, Happenings, exit, node};
use super::out::{print, say, try_print};
use super::progress::{new_bar, show};
use super::send::node_option;
use super::table::terminal_columns;
use super::transfer_args::{TransferVerb, Which};
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report};
use crate::client::{ClientError, Node, PATIENCE, RETRY};
use crate::printable::printable;

/// Transfers that are asked for at once: an answer of them stays below the largest message.
const PAGE: u32 = 1000;

/// All of them, in the order of the node.
fn all(node: &Node, ended: bool) -> Result<Vec<TransferStatus>, ClientError> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        match node.ask(RequestBody::Transfers { ended, after, limit: PAGE })? {
            Answer::Transfers { list, more } => {
                after = list.last().map(|last| (last.ended.is_some(), last.id));
                all.extend(list);
                if !more || after.is_none() {
                    return Ok(all);
                }
            }
            other => return Err(ClientError::Unexpected(format!("{other:?}"))),
        }
    }
}

/// Those that have ended and whose files are still where they arrived, for `recv --existing`.
pub(super) fn ended(node: &Node) -> Result<Vec<TransferStatus>, ClientError> {
    Ok(all(node, true)?.into_iter().filter(|transfer| transfer.ended.is_some()).collect())
}

/// `florelay transfers`.
pub(super) fn list(target: &Target, ended: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let list = all(&node(target)?, ended).map_err(exit)?;
    if as_json {
        print(format_args!("{:#}\n", Value::Array(list.iter().map(report::transfer_json).collect())))?;
    } else if list.is_empty() {
        print(if ended { "no transfers\n" } else { "no transfers are under way\n" })?;
    } else {
        print(report::transfers(&list, terminal_columns()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `florelay transfer …` and `florelay cancel`.
pub(super) fn change(verb: TransferVerb) -> anyhow::Result<ExitCode> {
    match verb {
        TransferVerb::Cancel(which) => each(&which, |id| RequestBody::Cancel { id }),
        TransferVerb::Pause(which) => each(&which, |id| RequestBody::Pause { id }),
        TransferVerb::Resume(which) => each(&which, |id| RequestBody::Resume { id }),
        TransferVerb::Priority { priority, which } => each(&which, |id| RequestBody::SetPriority { id, priority }),
    }
}

fn each(which: &Which, request: impl Fn(u128) -> RequestBody) -> anyhow::Result<ExitCode> {
    let node = node(&which.target)?;
    let ids = resolve(&which.ids, || all(&node, false).map_err(exit))?;
    let mut failed = None;
    for id in &ids {
        match node.ask(request(id.as_u128())) {
            // A cancelled transfer may report its own end.
            Ok(Answer::Done | Answer::Transfer(_)) => {}
            Ok(other) => bail!("unexpected answer: {other:?}"),
            // The others would not be answered either.
            Err(error) if error.may_pass() => return Err(exit(error)),
            Err(error) if ids.len() == 1 => return Err(exit(error)),
            Err(error) => {
                say(format_args!("florelay: {id}: {}", printable(&error.to_string())));
                failed = Some(EXIT_FAILED);
            }
        }
    }
    Ok(failed.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Whole UUIDs, or beginnings of those of transfers that are under way.
fn resolve(
    said: &[String],
    running: impl FnOnce() -> anyhow::Result<Vec<TransferStatus>>,
) -> anyhow::Result<Vec<Uuid>> {
    let whole: Vec<Option<Uuid>> = said.iter().map(|text| text.parse().ok()).collect();
    let running = if whole.contains(&None) { running()? } else { Vec::new() };
    let running: Vec<Uuid> = running.iter().map(|transfer| Uuid::from_u128(transfer.id)).collect();
    let find = |(text, whole): (&String, Option<Uuid>)| {
        if let Some(id) = whole {
            return Ok(id);
        }
        let beginning = text.to_ascii_lowercase();
        let mut those = running.iter().filter(|id| id.to_string().starts_with(&beginning));
        match (those.next(), those.next()) {
            (Some(id), None) => Ok(*id),
            (None, _) => Err(Exit::failed(format!("no transfer that is under way has an id that begins with {text}"))),
            (Some(one), Some(other)) => {
                Err(Exit::failed(format!("{text} is the beginning of {one}, of {other}, or more; say more of it")))
            }
        }
    };
    said.iter().zip(whole).map(find).collect()
}

/// `florelay watch`.
pub(super) fn watch(target: &Target, id: Uuid, as_json: bool) -> anyhow::Result<ExitCode> {
    let (node, happenings) = (node(target)?, Happenings::<()>::new()?);
    let body = || RequestBody::Watch { id: id.as_u128() };
    let mut subscription = Some(node.subscribe_to(&happenings.post, body(), None).map_err(exit)?);
    let (mut bar, mut lost, mut again) = (None, None, None);
    let beside = |bar: &Option<indicatif::ProgressBar>, text: &str| match bar {
        Some(bar) => bar.suspend(|| say(text)),
        None => say(text),
    };
    loop {
        if subscription.is_none() && again.is_none_or(|again| again <= Instant::now()) {
            match node.subscribe_to(&happenings.post, body(), None) {
                Ok(asked) => subscription = Some(asked),
                Err(error) if !error.may_pass() => return Err(exit(error)),
                Err(_) => again = Some(Instant::now() + RETRY),
            }
        }
        let until = if subscription.is_none() { again } else { None };
        let heard = match happenings.next(until) {
            Some(Happening::Heard(_, heard)) => heard,
            Some(Happening::Interrupt) => {
                bar.inspect(indicatif::ProgressBar::abandon);
                let node = node_option(target);
                say(format_args!(
                    "\nThe transfer goes on. To watch it:   florelay watch {id}{node}\nTo give it up:                       florelay cancel {id}{node}"
                ));
                return Ok(ExitCode::from(EXIT_INTERRUPTED));
            }
            Some(Happening::Local(())) | None => {
                give_up(lost.as_ref(), target, id)?;
                continue;
            }
        };
        match heard.result() {
            Ok(Answer::Transfer(status)) => {
                lost = None;
                if as_json {
                    try_print(format_args!("{}\n", report::transfer_json(&status))).map_err(|e| {
                        let node = node_option(target);
                        Exit::failed(format!(
                            "standard output: {e}\n    hint: the transfer goes on; florelay watch {id}{node}"
                        ))
                    })?;
                } else {
                    show(bar.get_or_insert_with(|| new_bar(&status)), &status);
                }
                if let Some(result) = &status.ended {
                    bar.inspect(indicatif::ProgressBar::finish_and_clear);
                    return over(&status, result.as_ref().map_err(|failure| failure.reason.as_str()), as_json);
                }
            }
            Ok(other) => bail!("unexpected answer: {other:?}"),
            Err(error) if error.may_pass() => {
                subscription = None;
                // At first it is asked again at once, if it was there at all.
                again = lost.as_ref().map(|_| Instant::now() + RETRY);
                if lost.is_none() {
                    if matches!(error, ClientError::Unavailable(_)) && bar.is_none() && !as_json {
                        return Err(exit(error));
                    }
                    beside(&bar, &format!("florelay: {error}; the transfer goes on, looking for the control process"));
                    lost = Some((Instant::now(), error));
                }
                give_up(lost.as_ref(), target, id)?;
            }
            Err(error) => return Err(exit(error)),
        }
    }
}

/// Patience is over.
fn give_up(lost: Option<&(Instant, ClientError)>, target: &Target, id: Uuid) -> anyhow::Result<()> {
    match lost {
        Some((since, why)) if since.elapsed() >= PATIENCE => {
            let node = node_option(target);
            Err(Exit::unavailable(format!(
                "{why}, and it is not back\n    hint: the transfer may go on; florelay watch {id}{node}"
            )))
        }
        _ => Ok(()),
    }
}

fn over(status: &TransferStatus, result: Result<&[u8; 32], &str>, as_json: bool) -> anyhow::Result<ExitCode> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_of_an_id_is_enough_if_there_is_one() {
        let running = || {
            let of = |id: u128| TransferStatus { id: id << 64, ..TransferStatus::default() };
            Ok(vec![of(0x6b1f_3f5e_8c64_4c43), of(0x6b1f_0000_0000_0000), of(7)])
        };
        let ids = |said: &[&str]| resolve(&said.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), running);
        let found = ids(&["6B1F3", "6b1f0000-0000-0000-0000-000000000000"]).unwrap();
        assert_eq!(found[0].as_u128() >> 64, 0x6b1f_3f5e_8c64_4c43);
        assert_eq!(found[1].as_u128() >> 64, 0x6b1f_0000_0000_0000);
        assert!(ids(&["6b1f"]).unwrap_err().to_string().contains("say more of it"));
        assert!(ids(&["ff"]).unwrap_err().to_string().contains("begins with ff"));
        // Who says whole ids need not ask which there are.
        let unasked = resolve(&["6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11".to_owned()], || bail!("asked"));
        assert_eq!(unasked.unwrap().len(), 1);
    }
}
