//! The control process's broker: any order of requests, answers, and clients and dataplanes that come and go.
//!
//! Invariants: every request of a client that stays is answered to its end exactly once, under its own tag; nobody is
//! told what he did not ask; a tag towards the dataplane is used once; when the dataplane goes, nothing is left waiting.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use florelay::process::broker::{Broker, ClientId, Generation, Input as Happening, Output, Timing};
use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response};

use crate::input::Input;
use crate::ipc::{answers, requests};

/// What a client waits for: requests under way by tag (a client may use one twice).
#[derive(Default)]
struct Expected {
    waiting: HashMap<(ClientId, u64), usize>,
    gone: HashSet<ClientId>,
    asked: HashSet<u64>,
    /// Tags that the present dataplane was given, newest last.
    given: Vec<u64>,
}

impl Expected {
    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::ToDataplane(request, fd) => {
                    assert!(self.asked.insert(request.tag), "a tag was used twice");
                    assert_eq!(fd.is_some(), request.body.carries_descriptor());
                    self.given.push(request.tag);
                }
                Output::ToClient(client, response) => {
                    assert!(!self.gone.contains(&client), "an answer to nobody");
                    let waiting = self.waiting.get_mut(&(client, response.tag)).filter(|count| **count > 0);
                    let waiting = waiting.expect("an answer that nobody asked for");
                    *waiting -= usize::from(ends(&response.body));
                }
            }
        }
    }
}

fn ends(answer: &Answer) -> bool {
    match answer {
        Answer::Transfer(transfer) => transfer.ended.is_some(),
        Answer::Hop { last, .. } => *last,
        _ => true,
    }
}

/// One input: what happens, step by step.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (bodies, answers) = (requests(), answers());
    let mut now = Instant::now();
    let mut broker = Broker::new(now, Timing::default());
    let mut expected = Expected::default();
    let mut generation = 0;
    while !input.is_empty() {
        let op = input.byte();
        let outputs = match op % 8 {
            0..=2 => {
                let client = ClientId(u64::from(input.byte() % 4));
                if expected.gone.contains(&client) {
                    continue;
                }
                let tag = u64::from(input.byte() % 8);
                let body = bodies[usize::from(input.byte()) % bodies.len()].clone();
                let file = body.carries_descriptor() != (op & 0x80 != 0);
                let fd = if file { File::open("/dev/null").ok().map(OwnedFd::from) } else { None };
                // What a reader has is not answered, unless it comes with what does not belong to it.
                if fd.is_some() || !matches!(body, RequestBody::ReadUpTo { .. }) {
                    *expected.waiting.entry((client, tag)).or_default() += 1;
                }
                broker.handle(now, Happening::Request(client, Request { tag, body }, fd))
            }
            3 => {
                let client = ClientId(u64::from(input.byte() % 4));
                expected.gone.insert(client);
                broker.handle(now, Happening::ClientGone(client))
            }
            4 => {
                generation += 1;
                expected.given.clear();
                broker.handle(now, Happening::DataplaneUp(Generation(generation)))
            }
            5 => {
                let which = u64::from(input.byte() % 3);
                let body = answers[usize::from(input.byte()) % answers.len()].clone();
                let back = usize::from(input.byte());
                let tag = match expected.given.len() {
                    0 => back as u64,
                    count => expected.given[count - 1 - back % count],
                };
                let generation = Generation(generation.saturating_sub(which));
                broker.handle(now, Happening::Answer(generation, Response { tag, body }))
            }
            6 => {
                let of = Generation(generation.saturating_sub(u64::from(input.byte() % 2)));
                broker.handle(now, Happening::DataplaneDown(of, "gone".to_owned()))
            }
            _ => {
                now += Duration::from_millis(u64::from(input.byte()) * 20);
                broker.poll(now)
            }
        };
        expected.take(outputs);
        if op % 8 == 7 {
            assert!(broker.next_deadline().is_none_or(|at| at > now), "what was due is not done");
        }
    }
    expected.take(broker.handle(now, Happening::DataplaneUp(Generation(generation + 1))));
    expected.take(broker.handle(now, Happening::DataplaneDown(Generation(generation + 1), "the end".to_owned())));
    for ((client, tag), count) in &expected.waiting {
        assert!(*count == 0 || expected.gone.contains(client), "tag {tag} of {client:?} was never answered");
    }
}

/// A request answered, one that outlives its dataplane, one that times out.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        vec![4, 0, 1, 1, 0, 5, 0, 2, 0, 0, 1, 2, 1, 5, 0, 3, 0, 5, 0, 4, 0],
        vec![4, 0, 1, 1, 2, 0, 2, 1, 5, 3, 1, 6, 0, 7, 200, 0, 2, 1, 0],
        vec![4, 0, 1, 1, 0, 7, 255, 4, 0, 3, 3, 7, 5, 1, 6, 0, 6, 1],
        vec![4, 0, 1, 1, 12, 0, 1, 1, 12, 0x80, 1, 1, 12, 6, 0, 0, 1, 1, 12],
        vec![0, 1, 1, 0, 4, 0x80, 1, 2, 1, 1, 1, 2, 1, 5, 0, 0, 0],
    ]
}
