//! `recv`: waits for files that arrive.
//!
//! What arrives is told by the node's events; what arrived while the node was not heard is found in its list of transfers.

mod place;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use florelay_dataplane::ipc::{Answer, NodeEvent, RequestBody, TransferKind, TransferStatus};
use serde_json::json;

use super::client::{Happening, Happenings, exit, node};
use super::out::{say, try_print};
use super::send::PATH_ATTRIBUTE;
use super::transfer_args::RecvArgs;
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report, transfer};
use crate::client::{ClientError, Node, PATIENCE, RETRY, Subscription};
use crate::printable::printable;

/// `florelay recv`.
pub(super) fn recv(args: &RecvArgs) -> anyhow::Result<ExitCode> {
    if let Some(out) = args.out.as_ref().filter(|out| !out.is_dir()) {
        return Err(Exit::failed(format!("--out {}: there is no such folder", out.display())));
    }
    let (node, happenings) = (node(&args.target)?, Happenings::new()?);
    let (mut receiving, before) = Receiving::begin(args, node, &happenings)?;
    for status in before {
        receiving.arrives(&status)?;
    }
    receiving.run(&happenings)
}

struct Receiving<'a> {
    args: &'a RecvArgs,
    node: Node,
    /// `None`: the node is looked for.
    events: Option<Subscription>,
    /// Since when it is looked for, when it is asked again, and why.
    lost: Option<(Instant, Instant, ClientError)>,
    /// Transfers that were looked at.
    seen: HashSet<u128>,
    /// When something arrived last.
    last: Instant,
    arrived: u64,
    failed: u64,
}

impl<'a> Receiving<'a> {
    /// And what arrived before, if that is wanted.
    fn begin(args: &'a RecvArgs, node: Node, happenings: &Happenings) -> anyhow::Result<(Self, Vec<TransferStatus>)> {
        let (seen, last) = (HashSet::new(), Instant::now());
        let mut receiving = Self { args, node, events: None, lost: None, seen, last, arrived: 0, failed: 0 };
        let before = receiving.listen(happenings).map_err(exit)?;
        if args.existing {
            let is_there = |status: &TransferStatus| status.path.as_ref().is_some_and(|path| Path::new(path).exists());
            return Ok((receiving, before.into_iter().filter(is_there).collect()));
        }
        receiving.seen.extend(before.iter().map(|status| status.id));
        Ok((receiving, Vec::new()))
    }

    /// Hears of what happens from now on; returns what has ended before.
    fn listen(&mut self, happenings: &Happenings) -> Result<Vec<TransferStatus>, ClientError> {
        self.events = Some(self.node.subscribe_to(&happenings.post, RequestBody::Events, None)?);
        transfer::ended(&self.node)
    }

    fn run(mut self, happenings: &Happenings) -> anyhow::Result<ExitCode> {
        loop {
            self.look_for_it(happenings)?;
            if self.args.count.is_some_and(|count| self.arrived >= count) {
                return Ok(self.code());
            }
            let timeout = self.args.timeout.map(|timeout| self.last + timeout);
            if timeout.is_some_and(|timeout| timeout <= Instant::now()) {
                return Ok(self.timed_out());
            }
            let again = self.lost.as_ref().map(|(_, again, _)| *again);
            match happenings.next(again.into_iter().chain(timeout).min()) {
                Some(Happening::Heard(tag, heard)) if self.events.as_ref().is_some_and(|e| e.tag() == tag) => {
                    match heard.result() {
                        Ok(Answer::Event(NodeEvent::Transfer(status))) => self.arrives(&status)?,
                        Ok(Answer::Event(_)) => {}
                        Ok(other) => anyhow::bail!("unexpected answer: {other:?}"),
                        Err(why) => self.lose(why)?,
                    }
                }
                Some(Happening::Interrupt) => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
                Some(Happening::Heard(..) | Happening::Local(())) | None => {}
            }
        }
    }

    fn lose(&mut self, why: ClientError) -> anyhow::Result<()> {
        let now = Instant::now();
        let since = self.lost.as_ref().map(|(since, ..)| *since);
        if !why.may_pass() || since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            return Err(exit(why));
        }
        if since.is_none() {
            say(format_args!("florelay: {why}; looking for the node"));
        }
        self.events = None;
        self.lost = Some((since.unwrap_or(now), if since.is_some() { now + RETRY } else { now }, why));
        Ok(())
    }

    /// Once it is found, what arrived meanwhile has arrived.
    fn look_for_it(&mut self, happenings: &Happenings) -> anyhow::Result<()> {
        if self.events.is_some() || self.lost.as_ref().is_some_and(|(_, again, _)| Instant::now() < *again) {
            return Ok(());
        }
        match self.listen(happenings) {
            Ok(meanwhile) => {
                self.lost = None;
                meanwhile.iter().try_for_each(|status| self.arrives(status))
            }
            Err(why) => self.lose(why),
        }
    }

    /// A transfer, which may be a file that has arrived and is wanted.
    fn arrives(&mut self, status: &TransferStatus) -> anyhow::Result<()> {
        let (Some(Ok(_)), Some(path)) = (&status.ended, &status.path) else { return Ok(()) };
        let wanted = !status.outgoing
            && status.kind == TransferKind::File
            && self.args.from.as_ref().is_none_or(|from| *from == status.peer)
            && self.args.name.as_ref().is_none_or(|name| matches(name, &status.name))
            && self.args.count.is_none_or(|count| self.arrived < count);
        if !wanted || !self.seen.insert(status.id) {
            return Ok(());
        }
        self.last = Instant::now();
        self.arrived += 1;
        let (at, error) = match &self.args.out {
            None => (PathBuf::from(path), None),
            Some(out) => match moved(status, Path::new(path), out) {
                Ok(at) => (at, None),
                Err(why) => (PathBuf::from(path), Some(why)),
            },
        };
        if let Some(why) = &error {
            self.failed += 1;
            say(format_args!("florelay: {} stays in the inbox: {}", printable(path), printable(why)));
        }
        let told = if self.args.json {
            let mut line = report::transfer_json(status);
            line["path"] = json!(at.to_string_lossy());
            line["not_moved"] = json!(error);
            try_print(format_args!("{line}\n"))
        } else if error.is_some() {
            Ok(())
        } else {
            try_print(format_args!("{}\n", at.display()))
        };
        told.map_err(|error| Exit::failed(format!("standard output: {error}")))
    }

    fn code(&self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
    }

    fn timed_out(&self) -> ExitCode {
        match self.args.count {
            None => self.code(),
            Some(count) => {
                say(format_args!("florelay: {} of {count} files have arrived in time", self.arrived));
                ExitCode::from(EXIT_FAILED)
            }
        }
    }
}

/// Into the folder, where its sender had it.
fn moved(status: &TransferStatus, from: &Path, out: &Path) -> Result<PathBuf, String> {
    let place = status.attributes.iter().find(|(key, _)| key == PATH_ATTRIBUTE).map_or(&status.name, |(_, path)| path);
    place::put(from, out, &place::parts(place)?).map_err(|error| error.to_string())
}

/// `*` stands for any characters, `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` was, and what it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, covered)) = star {
            star = Some((at, covered + 1));
            (p, n) = (at + 1, covered + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name) in
            [("*.raw", "a.raw"), ("a?c", "aäc"), ("*", ""), ("**x*", "abxc"), ("a*b*c", "a1b2b3c"), ("f.raw", "f.raw")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.raw", "a.raw2"), ("a?c", "ac"), ("", "a"), ("a*b", "a1b2"), ("F.raw", "f.raw")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // Not in exponential time.
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
    }
}
